// SPDX-License-Identifier: Apache-2.0
//! `ambit explain`: one answer from a pod to a destination over all hops. Every proxy on the way is asked what it would do,
//! by its `/explain`; nothing is decided here, and nothing is sent to the destination.

mod said;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use kubernetes::{Api, PodPort, Resource};
use serde_json::Value;

use self::said::{Story, hops};
use crate::{
    arguments::To,
    exit::Outcome,
    facts::{Facts, Pod, Role},
    gather::{self, WAYPOINT, ZTUNNEL},
    output::show,
    reach, tree,
};

const SERVICES: Resource = Resource::core("services");
/// Endpoints whose nodes are asked.
const ENDPOINTS: usize = 5;

/// `ambit explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainCommand {
    /// The client: a pod, [NAMESPACE/]POD
    #[arg(value_name = "SRC")]
    source: String,
    /// The server: [NAMESPACE/]SERVICE[:PORT], [NAMESPACE/]POD:PORT, or an address or name with a port
    #[arg(value_name = "DST[:PORT]")]
    destination: String,
    /// Path of the request, with its query
    #[arg(long, default_value = "/", value_name = "PATH")]
    path: String,
    /// Its method
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    method: String,
    /// Its host; else the destination's name
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// One of its headers; may be given again
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    /// For people.
    name: String,
    /// As a client dials it.
    address: String,
    /// What a client calls it.
    host: String,
}

/// What is asked, and of whom.
struct Asking<'a> {
    api: &'a Api,
    facts: &'a Facts,
    command: &'a ExplainCommand,
}

impl ExplainCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let facts = gather::cluster(&api, to.home()).await?;
        let asking = Asking { api: &api, facts: &facts, command: self };
        let source = asking.pod(&self.source)?;
        let destination = asking.destination(&source.object.namespace).await?;
        let mut story = Story::new(&source.full_name(), &destination.name);
        asking.walk(source, &destination, &mut story).await;
        show(to.output, &story, Story::text)?;
        Ok(if story.arrives { Outcome::Well } else { Outcome::Wrong })
    }
}

impl Asking<'_> {
    fn pod(&self, text: &str) -> anyhow::Result<&Pod> {
        let (namespace, name) = self.full(text, self.api.namespace());
        let found =
            self.facts.pods.iter().find(|pod| pod.object.namespace == namespace && pod.object.name == name);
        found.with_context(|| format!("there is no pod {namespace}/{name}"))
    }

    fn full<'a>(&self, text: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
        text.split_once('/').unwrap_or((namespace, text))
    }

    /// A service or pod by its name, else what is written.
    async fn destination(&self, namespace: &str) -> anyhow::Result<Destination> {
        let text = self.command.destination.as_str();
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse::<u16>().context("the port is none")?)),
            None => (text, None),
        };
        let (space, short) = self.full(name, namespace);
        let service: Option<Value> = self.api.find(&SERVICES.object(space, short)).await.unwrap_or_default();
        if let Some(service) = service {
            return of_service(&service, port);
        }
        let pods = &self.facts.pods;
        let pod = pods.iter().find(|pod| pod.object.namespace == space && pod.object.name == short);
        if let Some(pod) = pod {
            let port = port.with_context(|| format!("{name} is a pod: write {name}:PORT"))?;
            let ip = pod.object.ips.first().with_context(|| format!("{name} has no address yet"))?;
            let address = std::net::SocketAddr::new(*ip, port).to_string();
            return Ok(Destination {
                name: format!("{space}/{short}:{port}"),
                host: address.clone(),
                address,
            });
        }
        if text.contains('/') || !name.contains(['.', ':']) {
            bail!("there is neither a service nor a pod {space}/{short}");
        }
        let port = port.with_context(|| format!("write {name}:PORT"))?;
        let address = format!("{name}:{port}");
        Ok(Destination { name: address.clone(), host: name.to_owned(), address })
    }

    /// From the source's node to the endpoints.
    async fn walk(&self, source: &Pod, destination: &Destination, story: &mut Story) {
        let judged = self.facts.judged(Timestamp::now()).into_iter();
        let mut judged = judged.filter(|judged| judged.pod.full_name() == source.full_name());
        let out = judged.next().and_then(|judged| judged.out.map(|reason| reason.to_string()));
        story.capture(&source.node, out.as_deref());
        if out.is_some() {
            return;
        }
        let question = query(&[
            ("direction", "outbound"),
            ("source", &source.full_name()),
            ("destination", &destination.address),
        ]);
        let Some((at, answer)) = self.of_node(&source.node, &question, story).await else { return };
        story.outbound(at, &answer);
        let Some(hop) = answer.get("hop").filter(|hop| hop.get("failure").is_none()).cloned() else { return };
        if hop["to"] == "waypoint" {
            self.waypoint(source, destination, &hop, story).await;
        } else {
            self.inbound(&hop, story).await;
        }
    }

    /// What the waypoint makes of the request, and each endpoint's node of what it sends.
    async fn waypoint(&self, source: &Pod, destination: &Destination, hop: &Value, story: &mut Story) {
        let pod = (tree::text(hop, "/next/namespace"), tree::text(hop, "/next/name"));
        let at = PodPort { namespace: pod.0.clone(), pod: pod.1.clone(), port: WAYPOINT };
        let ip = source.object.ips.first().map(ToString::to_string).unwrap_or_default();
        let host = self.command.host.as_deref().unwrap_or(&destination.host);
        let (authority, identity) = (tree::text(hop, "/authority"), tree::text(hop, "/source/identity"));
        let mut said = vec![
            ("destination", authority.as_str()),
            ("identity", &identity),
            ("source", &ip),
            ("method", &self.command.method),
            ("path", &self.command.path),
            ("host", host),
        ];
        let headers: Vec<_> =
            self.command.headers.iter().map(|(name, value)| (format!("header.{name}"), value)).collect();
        said.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match gather::ask::<Value>(self.api, &at, &format!("/explain?{}", query(&said))).await {
            Ok(answer) => {
                story.waypoint(&format!("{}/{}", pod.0, pod.1), &answer);
                for hop in hops(&answer) {
                    self.inbound(&hop, story).await;
                }
            }
            Err(why) => story.silent(&format!("waypoint {}/{}", pod.0, pod.1), &why),
        }
    }

    /// Whether the node of an endpoint lets it in.
    async fn inbound(&self, hop: &Value, story: &mut Story) {
        if story.asked >= ENDPOINTS || hop["to"] != "workload" {
            return;
        }
        story.asked += 1;
        let (node, address) = (tree::text(hop, "/next/node"), tree::text(hop, "/authority"));
        let address = if address.is_empty() { tree::text(hop, "/address") } else { address };
        let port = address.rsplit_once(':').map(|(_ip, port)| port.to_owned()).unwrap_or_default();
        let pod = format!("{}/{}", tree::text(hop, "/next/namespace"), tree::text(hop, "/next/name"));
        let source = tree::text(hop, "/source/addresses/0");
        let identity = tree::text(hop, "/source/identity");
        let mut said = vec![
            ("direction", "inbound"),
            ("destination", pod.as_str()),
            ("port", &port),
            ("source", &source),
        ];
        if hop["transport"] == "hbone" {
            said.push(("identity", &identity));
        } else {
            story.unenrolled(&pod, &address);
            return;
        }
        if let Some((at, answer)) = self.of_node(&node, &query(&said), story).await {
            story.inbound(at, &pod, &answer);
        }
    }

    /// What the ztunnel of a node answers.
    async fn of_node(&self, node: &str, question: &str, story: &mut Story) -> Option<(String, Value)> {
        let mut all = self.facts.pods_of(Role::Ztunnel).into_iter();
        let Some(ztunnel) = all.find(|pod| pod.node == node) else {
            story.silent(&format!("ztunnel of node {node}"), "there is none: ambit check");
            return None;
        };
        let name = ztunnel.object.name.clone();
        let at = PodPort { namespace: self.facts.home.clone(), pod: name.clone(), port: ZTUNNEL };
        match gather::ask::<Value>(self.api, &at, &format!("/explain?{question}")).await {
            Ok(answer) => Some((format!("{name} on {node}"), answer)),
            Err(why) => {
                story.silent(&format!("ztunnel {name} on {node}"), &why);
                None
            }
        }
    }
}

fn of_service(service: &Value, port: Option<u16>) -> anyhow::Result<Destination> {
    let (namespace, name) =
        (tree::text(service, "/metadata/namespace"), tree::text(service, "/metadata/name"));
    let ports: Vec<u64> =
        tree::list(service, "/spec/ports").iter().map(|port| tree::number(port, "/port")).collect();
    let port = match port {
        Some(port) if ports.contains(&port.into()) => u64::from(port),
        Some(port) => bail!("service {namespace}/{name} has no port {port}, only {ports:?}"),
        None => *ports.first().with_context(|| format!("service {namespace}/{name} has no port"))?,
    };
    let ip = tree::text(service, "/spec/clusterIP");
    let host = format!("{name}.{namespace}.svc.cluster.local");
    let address = match ip.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Ok(std::net::IpAddr::V4(ip)) => format!("{ip}:{port}"),
        // Without an address of its own it is asked for by name.
        Err(_none) => format!("{host}:{port}"),
    };
    Ok(Destination { name: format!("{namespace}/{name}:{port}"), address, host })
}

/// Pairs as a query.
fn query(pairs: &[(&str, &str)]) -> String {
    let all: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    all.join("&")
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_asked_for_by_its_address_and_one_without_by_its_name() {
        let service = |ip: &str| {
            json!({"metadata": {"namespace": "shop", "name": "web"},
                   "spec": {"clusterIP": ip, "ports": [{"port": 80}, {"port": 81}]}})
        };
        let address = |ip, port| of_service(&service(ip), port).map(|found| found.address).ok();
        assert_eq!(address("10.1.0.1", None).as_deref(), Some("10.1.0.1:80"));
        assert_eq!(address("fd00::1", Some(81)).as_deref(), Some("[fd00::1]:81"));
        assert_eq!(address("None", None).as_deref(), Some("web.shop.svc.cluster.local:80"));
        assert_eq!(address("10.1.0.1", Some(82)), None);
    }

    #[test]
    fn what_is_asked_survives_the_way() {
        assert_eq!(query(&[("path", "/a?b=c&d"), ("header.x", "1 2")]), "path=/a%3Fb%3Dc%26d&header.x=1%202");
        assert_eq!(header("X-Who: me"), Ok(("x-who".to_owned(), "me".to_owned())));
        assert!(header("nothing").is_err());
    }
}
