// SPDX-License-Identifier: Apache-2.0
//! A Prometheus on a host of the fabric, which is no part of the mesh: Debian's, scraping both nodes as in a cluster.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Cluster,
    cluster::{Host, Program},
    eventually, http,
    net::addresses,
};
use serde::Deserialize;
use std::collections::BTreeMap;

const PORT: u16 = 9090;
const ZTUNNEL_METRICS: u16 = 15020;
const CONTROL_METRICS: u16 = 15014;
const START: Duration = Duration::from_secs(30);

/// A running Prometheus.
pub(crate) struct Prometheus {
    host: Host,
    /// What it scrapes: name and address.
    targets: Vec<(String, SocketAddr)>,
}

/// One row of a query's result.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    /// Labels.
    pub(crate) metric: BTreeMap<String, String>,
    /// Time and value.
    value: (f64, String),
}

impl Row {
    /// A label; `-` without it.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.metric.get(name).map_or("-", String::as_str)
    }

    /// The value.
    pub(crate) fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Vector,
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Row>,
}

/// Starts it.
pub(crate) async fn start(cluster: &Cluster, server: &Path) -> Result<Prometheus> {
    let host = cluster.host("prometheus", addresses::PROMETHEUS).await?;
    let mut targets = Vec::new();
    for node in cluster.nodes() {
        targets.push((
            format!("ztunnel-{}", node.name()),
            SocketAddr::from((node.addresses().v4, ZTUNNEL_METRICS)),
        ));
    }
    let control = addresses::fabric(addresses::CONTROL).v4;
    targets.push(("control".to_owned(), SocketAddr::from((control, CONTROL_METRICS))));
    let folder = cluster.state().join("prometheus");
    fs::create_dir_all(&folder).context("making prometheus' folder")?;
    let configuration = folder.join("prometheus.yml");
    fs::write(&configuration, text(&targets)).context("writing prometheus' configuration")?;
    let program = Program {
        path: server.to_path_buf(),
        arguments: vec![
            format!("--config.file={}", configuration.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address=:{PORT}"),
        ],
        ..Program::default()
    };
    let process = cluster.start_on(&host, "prometheus", program)?;
    let prometheus = Prometheus { host, targets };
    process.ready(START, async || prometheus.read("/-/ready").await.map(drop)).await?;
    Ok(prometheus)
}

impl Prometheus {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host.addresses.v4, PORT))
    }

    /// Asks it a question of its query language.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<Row>> {
        let text = self.read(&format!("/api/v1/query?query={}", escaped(query))).await?;
        let answer: Answer = serde_json::from_str(&text).with_context(|| format!("the answer to {query}"))?;
        Ok(answer.data.result)
    }

    /// Waits until it knows anything about a metric.
    pub(crate) async fn wait_for(&self, metric: &str, deadline: Duration) -> Result<()> {
        eventually(deadline, &format!("{metric} in prometheus"), async || {
            ensure!(!self.query(metric).await?.is_empty(), "it has not seen that yet");
            Ok(())
        })
        .await
    }

    /// One of its targets as it is scraped.
    pub(crate) async fn scrape(&self, target: &str) -> Result<String> {
        let known = self.targets.iter().find(|(name, _)| name == target);
        let (_, address) = *known.as_ref().with_context(|| format!("no target {target}"))?;
        let address = *address;
        self.host.namespace.run(async move || http::get(address, "/metrics").await).await
    }

    async fn read(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        self.host.namespace.run(async move || http::get(address, &path).await).await
    }
}

fn text(targets: &[(String, SocketAddr)]) -> String {
    let mut text = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
    for (name, address) in targets {
        let line = format!("- {{job_name: {name}, static_configs: [{{targets: ['{address}']}}]}}");
        // Writing into a String cannot fail.
        writeln!(text, "{line}").unwrap_or_default();
    }
    text
}

/// A query in a URL (RFC 3986, section 2.1).
fn escaped(query: &str) -> String {
    let mut out = String::new();
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_its_way_through_a_url() {
        assert_eq!(escaped("sum by (a) (b{c=\"d\"})"), "sum%20by%20%28a%29%20%28b%7Bc%3D%22d%22%7D%29");
    }
}
