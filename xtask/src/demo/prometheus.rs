// SPDX-License-Identifier: Apache-2.0
//! A Prometheus that is no part of the mesh, Debian's: on a host of the lab's fabric, scraping both nodes, or on this
//! machine, scraping the pods of a cluster that ask for it.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Cluster,
    cluster::Program,
    eventually, http,
    kube::{KubeCluster, addresses::MACHINE, mesh},
    net::{Namespace, addresses},
    process::{Launch, Process},
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const PORT: u16 = 9090;
const ZTUNNEL_METRICS: u16 = 15020;
const CONTROL_METRICS: u16 = 15014;
const START: Duration = Duration::from_secs(30);

/// A running Prometheus.
pub(crate) struct Prometheus {
    /// Where it runs; none: on this machine.
    namespace: Option<Namespace>,
    address: SocketAddr,
    /// What it was told to scrape: name and address.
    targets: Vec<(String, SocketAddr)>,
    /// Where nothing else keeps it alive.
    process: Option<Process>,
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
    let files = Files::write(cluster.state(), &text(&targets))?;
    let arguments = files.arguments(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
    let program = Program { path: server.to_path_buf(), arguments, ..Program::default() };
    let process = cluster.start_on(&host, "prometheus", program)?;
    let namespace = Some(host.namespace.clone());
    let address = SocketAddr::from((host.addresses.v4, PORT));
    let prometheus = Prometheus { namespace, address, targets, process: None };
    prometheus.ready(&process).await?;
    Ok(prometheus)
}

/// Starts one on this machine that scrapes the mesh's pods. Debian's cannot ask an API server, so this asks which they are.
pub(crate) async fn start_beside(cluster: &KubeCluster, server: &Path) -> Result<Prometheus> {
    let shape = cluster.shape();
    let pods = cluster.api().get(&format!("/api/v1/namespaces/{}/pods", mesh::NAMESPACE)).await?;
    let pods = pods.get("items").and_then(Value::as_array).context("no pods")?;
    let targets: Vec<(String, SocketAddr)> = pods.iter().filter_map(target).collect();
    let files = Files::write(&shape.state, &text(&targets))?;
    // The machine's end of the cluster's network: nobody else has this address.
    let address = SocketAddr::from((shape.block.fabric(MACHINE).v4, PORT));
    let process = cluster.start_program(Launch {
        name: "prometheus".to_owned(),
        program: server.to_path_buf(),
        arguments: files.arguments(address),
        environment: Vec::new(),
        namespace: None,
        resolv_conf: None,
        log: shape.log("prometheus"),
    })?;
    let mut prometheus = Prometheus { namespace: None, address, targets, process: None };
    prometheus.ready(&process).await?;
    prometheus.process = Some(process);
    Ok(prometheus)
}

/// A pod that asks to be scraped, by the annotations that people use for that: its name and where.
fn target(pod: &Value) -> Option<(String, SocketAddr)> {
    let text = |field: &str| pod.pointer(field).and_then(Value::as_str);
    let asked = |what: &str| text(&format!("/metadata/annotations/prometheus.io~1{what}"));
    if asked("scrape") != Some("true") || text("/status/phase") != Some("Running") {
        return None;
    }
    let address = SocketAddr::new(text("/status/podIP")?.parse().ok()?, asked("port")?.parse().ok()?);
    Some((text("/metadata/name")?.to_owned(), address))
}

/// Its folder.
struct Files(PathBuf);

impl Files {
    fn write(state: &Path, configuration: &str) -> Result<Self> {
        let folder = state.join("prometheus");
        fs::create_dir_all(&folder).context("making prometheus' folder")?;
        fs::write(folder.join("prometheus.yml"), configuration)
            .context("writing prometheus' configuration")?;
        Ok(Self(folder))
    }

    fn arguments(&self, address: SocketAddr) -> Vec<String> {
        vec![
            format!("--config.file={}", self.0.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", self.0.join("data").display()),
            format!("--web.listen-address={address}"),
        ]
    }
}

impl Prometheus {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    async fn ready(&self, process: &Process) -> Result<()> {
        process.ready(START, async || self.read("/-/ready").await.map(drop)).await
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
        self.get(*address, "/metrics").await
    }

    async fn read(&self, path: &str) -> Result<String> {
        self.get(self.address, path).await
    }

    /// Asks from where it runs.
    async fn get(&self, address: SocketAddr, path: &str) -> Result<String> {
        let Some(namespace) = &self.namespace else { return http::get(address, path).await };
        let path = path.to_owned();
        namespace.run(async move || http::get(address, &path).await).await
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
