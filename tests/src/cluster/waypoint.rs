// SPDX-License-Identifier: Apache-2.0
//! A waypoint of a lab: a pod outside of capture that runs the L7 proxy, its service, and the Gateway that names it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Cluster, Node, Pod, Service, control::Token, host::environment};
use crate::{
    http,
    observe::{Access, Samples},
    process::Process,
};

const START: Duration = Duration::from_secs(20);
const HBONE: u16 = 15008;
const METRICS: u16 = 15020;
const READINESS: u16 = 15021;
/// The label by which a pod is an instance of a waypoint.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// A waypoint that is to be started.
#[derive(Clone, Debug)]
#[must_use = "a waypoint begins with `start`"]
pub struct WaypointBuilder {
    nodes: Vec<Node>,
    name: String,
    namespace: String,
    traffic: &'static str,
    environment: Vec<(String, String)>,
}

/// A waypoint. Its instances are pods like others; they stay until `delete`.
#[derive(Clone, Debug)]
pub struct Waypoint {
    /// Its instances.
    pub instances: Vec<Instance>,
    /// The service in front of them.
    pub service: Service,
    cluster: Cluster,
    name: String,
    namespace: String,
}

/// One instance of a waypoint.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its pod.
    pub pod: Pod,
    /// Its program.
    pub process: Arc<Process>,
}

impl WaypointBuilder {
    pub(super) fn new(node: &Node, name: &str) -> Self {
        Self {
            nodes: vec![node.clone()],
            name: name.to_owned(),
            namespace: "default".to_owned(),
            traffic: "service",
            environment: Vec::new(),
        }
    }

    /// In another Kubernetes namespace than `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// For other traffic than that to services (`istio.io/waypoint-for`).
    pub fn traffic(mut self, traffic: &'static str) -> Self {
        self.traffic = traffic;
        self
    }

    /// With another instance, on this node.
    pub fn and_on(mut self, node: &Node) -> Self {
        self.nodes.push(node.clone());
        self
    }

    /// With a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it is ready and the mesh knows it.
    ///
    /// # Errors
    /// When any of that fails.
    pub async fn start(self) -> Result<Waypoint> {
        let Self { nodes, name, namespace, traffic, environment } = self;
        let first = nodes.first().context("a waypoint without a node")?;
        let cluster = first.cluster.clone();
        let mut instances = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let name = (name.as_str(), number);
            instances.push(Instance::start(node, name, &namespace, &environment).await?);
        }
        let service = announce(&cluster, &name, &namespace, traffic).await?;
        Ok(Waypoint { instances, service, cluster, name, namespace })
    }
}

/// Publishes the service and the Gateway of a waypoint. Its instances are the pods whose label [`GATEWAY_NAME`] says so,
/// whatever program runs in them.
///
/// # Errors
/// When the mesh does not take notice.
pub async fn announce(cluster: &Cluster, name: &str, namespace: &str, traffic: &str) -> Result<Service> {
    let service = cluster.service(name).namespace(namespace).selector(GATEWAY_NAME, name);
    let service = service.port(HBONE, HBONE).create().await?;
    let gateway = gateway(name, namespace, traffic, &service.host());
    cluster.manifests().write_objects(&format!("gateway-{namespace}.{name}"), &[gateway])?;
    cluster.settle().await?;
    Ok(service)
}

fn gateway(name: &str, namespace: &str, traffic: &str, host: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio.io/waypoint-for": traffic}},
        "spec": {
            "gatewayClassName": "ambit-waypoint",
            "listeners": [{
                "name": "mesh", "port": HBONE, "protocol": "HBONE",
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }],
        },
        "status": {"addresses": [{"type": "Hostname", "value": host}]},
    })
}

impl Instance {
    async fn start(
        node: &Node,
        (name, number): (&str, usize),
        namespace: &str,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let pod = node.pod(&format!("{name}-{number}")).namespace(namespace).service_account(name);
        let pod = pod.labels(&[(GATEWAY_NAME, name)]).not_ready().start().await?;
        let control = node.cluster.control();
        let secret = format!("{:032x}", rand::random::<u128>());
        let token = Token {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
            node: Some(node.name().to_owned()),
            secret: secret.clone(),
        };
        control.admit(token)?;
        let address = format!("https://{}", control.address());
        let root = control.root_certificate().display().to_string();
        let mut all = environment([
            ("XDS_ADDRESS", address.clone()),
            ("CA_ADDRESS", address),
            ("XDS_ROOT_CA", root.clone()),
            ("CA_ROOT_CA", root),
            ("AUTH_TOKEN", secret),
            ("POD_NAME", pod.name()),
            ("POD_NAMESPACE", namespace.to_owned()),
            ("SERVICE_ACCOUNT", name.to_owned()),
            ("NODE_NAME", node.name().to_owned()),
            ("INSTANCE_IP", pod.v4().to_string()),
            ("CLUSTER_ID", "Kubernetes".to_owned()),
            ("AMBIT_HBONE_ADDR", format!("[::]:{HBONE}")),
            ("RUST_LOG", node.cluster.settings().log.clone()),
        ]);
        all.extend(variables.iter().cloned());
        let program = node.cluster.settings().binary("waypoint")?.display().to_string();
        let process = pod.start_program_with("waypoint", &program, all)?;
        let instance = Self { pod, process };
        instance.ready().await?;
        let pod = &instance.pod;
        let node_id = format!("waypoint~{}~{}.{namespace}~", pod.v4(), pod.name());
        node.cluster.follow(Follower { node: node_id, process: Arc::clone(&instance.process) });
        instance.pod.set_ready(true).await?;
        Ok(instance)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within 20 s.
    pub async fn ready(&self) -> Result<()> {
        self.process.ready(START, async || self.read(READINESS, "/healthz/ready").await.map(drop)).await
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When they cannot be scraped.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&self.read(METRICS, "/metrics").await?))
    }

    /// Its access log from its beginning.
    #[must_use]
    pub fn access_log(&self) -> Vec<Access> {
        Access::parse(&self.process.log())
    }

    async fn read(&self, port: u16, path: &'static str) -> Result<String> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        self.pod.run(async move || http::get(address, path).await).await
    }
}

/// A program that learns of changes of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// How its `node.id` begins.
    pub(super) node: String,
    pub(super) process: Arc<Process>,
}

impl Waypoint {
    /// Its only instance, or the first one.
    ///
    /// # Errors
    /// When it has none.
    pub fn instance(&self) -> Result<&Instance> {
        self.instances.first().context("no instance")
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.name)
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// When that fails, or the mesh does not take notice.
    pub async fn delete(&self) -> Result<()> {
        self.cluster.withdraw(&format!("gateway-{}.{}", self.namespace, self.name)).await?;
        self.service.delete().await?;
        for instance in &self.instances {
            self.cluster.unfollow(&instance.process);
            instance.pod.delete().await?;
        }
        Ok(())
    }
}
