// SPDX-License-Identifier: Apache-2.0
//! A real Kubernetes on one machine: etcd, the API server and its controllers, and nodes with containerd, kubelet and
//! kube-proxy, each in namespaces of its own on one fabric, dual stack, with DNS and a load-balancer.
//!
//! ```text
//! machine (kubectl, helm) ── fabric: router, load-balancer ──┬── control: etcd, kube-apiserver, ...
//!                                                            ├── node-a: containerd, kubelet, kube-proxy ── pods
//!                                                            └── node-b: the same
//! ```
//! It knows no mesh. `KubeCluster` is the entrance; `Shape` is what a later program finds a cluster by; `clean` removes
//! it whatever state it is in.

pub mod addons;
pub mod addresses;
pub mod api;
pub mod balancer;
pub mod build;
pub mod certificates;
pub mod cgroup;
pub mod clean;
pub mod conformance;
pub mod control_plane;
pub mod gateway_api;
pub mod mesh;
mod modules;
pub mod network;
pub mod node;
pub mod place;
pub mod shape;
pub mod suite;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

pub use build::{Conformance, Tools};
pub use shape::Shape;

use crate::{
    config::{Settings, require_root},
    process::{self, Launch, Process},
    record::Records,
    wait::eventually,
};
use addresses::CONTROL;
use api::Api;
use control_plane::ControlPlane;
use node::{Node, Runtime};
use place::Program;
use shape::{node_name, record_name};

/// How long nodes may take to get ready on a busy machine.
const NODES_READY: Duration = Duration::from_secs(120);
/// How long one call of kubectl may take, unless it says otherwise itself.
const KUBECTL: Duration = Duration::from_secs(300);

/// How long kubectl may take to forward a port.
const FORWARDED: Duration = Duration::from_secs(30);

/// What differs between two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many nodes; none: only a control plane, against which an API client can be tested.
    pub nodes: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2 }
    }
}

/// A running cluster. Dropping it removes everything, unless it was told to keep it.
#[derive(Debug)]
pub struct KubeCluster {
    shape: Shape,
    api: Api,
    records: Arc<Records>,
    control: ControlPlane,
    nodes: Vec<Node>,
    files: AtomicU64,
    ended: AtomicBool,
}

impl KubeCluster {
    /// Starts a cluster, after removing what an earlier one of that name has left.
    ///
    /// # Errors
    /// Without root, or when any part does not get ready; everything is removed then.
    pub async fn start(name: &str, settings: &Settings, tools: &Tools, options: Options) -> Result<Self> {
        require_root(&format!("cluster up --name {name}"))?;
        clean::remove(name).context("removing what an earlier cluster has left")?;
        let state = settings.state.join(record_name(name));
        if state.exists() {
            fs::remove_dir_all(&state).context("removing the files of an earlier cluster")?;
        }
        for folder in ["logs", "pki"] {
            fs::create_dir_all(state.join(folder)).context("making the cluster's folder")?;
        }
        // The record comes first: whoever finds the shape can tell whether somebody holds it.
        let records = Arc::new(Records::begin(&record_name(name), &state)?);
        let started = async {
            let shape = Shape::claim(name, options.nodes, &state, tools)?;
            Self::build(shape, settings, records).await
        };
        match started.await {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                clean::remove(name).context("removing a cluster that did not start")?;
                Err(error).with_context(|| format!("starting cluster {name}"))
            }
        }
    }

    async fn build(shape: Shape, settings: &Settings, records: Arc<Records>) -> Result<Self> {
        make_private(&shape.run_folder())?;
        let authority = control_plane::certify(&shape)?;
        let api = Api::new(control_plane::server(&shape), &shape.pki(""), "admin")?;
        let fabric = network::fabric(&shape).await?;
        network::join_machine(&fabric, shape.block).await?;
        let control_host = network::host(&shape, &fabric, "control", CONTROL).await?;
        let mut hosts = Vec::new();
        for number in shape.numbers() {
            hosts.push((number, network::host(&shape, &fabric, &node_name(number), number).await?));
        }
        let runtimes =
            hosts.iter().map(|(number, host)| Runtime::start(&shape, *number, host, &authority, &records));
        let (control, runtimes) = tokio::try_join!(
            ControlPlane::start(&shape, (&control_host, &fabric), settings, &records, &api),
            try_join_all(runtimes),
        )?;
        for number in shape.numbers() {
            api.create("/api/v1/nodes", &node_object(&shape, number)).await?;
        }
        let mut nodes = Vec::new();
        for runtime in runtimes {
            nodes.push(Node::start(&shape, runtime, &records)?);
        }
        let (files, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let cluster = Self { shape, api, records, control, nodes, files, ended };
        if !cluster.nodes.is_empty() {
            cluster.apply(&addons::dns(cluster.shape.block)).await?;
            cluster.nodes_ready().await?;
            addons::dns_ready(&cluster.api, NODES_READY).await?;
        }
        Ok(cluster)
    }

    /// Its name, addresses and folders.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The API server, asked as an administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The programs of the control plane.
    #[must_use]
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts a program on a node, in its namespaces and in a control group of its own, called `part`. It ends with the
    /// cluster.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start_on(&self, node: &str, part: &str, program: Program) -> Result<Process> {
        node::place(&self.shape, node, part)?.start(program, &self.records)
    }

    /// Gives every node an image, an archive in OCI layout.
    ///
    /// # Errors
    /// When a node refuses it.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        load(&self.shape, archive).await
    }

    /// Runs kubectl as an administrator; its standard output.
    ///
    /// # Errors
    /// When it fails: with what it wrote.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments).await
    }

    /// Runs Helm as an administrator; its standard output.
    ///
    /// # Errors
    /// When it fails: with what it wrote.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.run("helm", arguments).await
    }

    /// Forwards a port of a pod (`pod/web-0`) to one of the machine, as long as what is returned lives.
    ///
    /// # Errors
    /// When kubectl does not start to.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forwarded> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let log = self.shape.log(&format!("forward-{number}"));
        let port = format!(":{port}");
        let kubectl = self.shape.tools.program("kubectl");
        let arguments = ["-n", namespace, "port-forward", "--address", "127.0.0.1", pod, &port];
        let process = self.start_program(self.tool(("kubectl", kubectl), &arguments, log.clone()))?;
        let announced = async || {
            let said = fs::read_to_string(&log)?;
            let rest = said.split_once("Forwarding from ").context("nothing is forwarded")?.1;
            let (address, _) = rest.split_once(" ->").context("half a line")?;
            Ok(address.parse()?)
        };
        let address = eventually(FORWARDED, "kubectl port-forward", announced).await?;
        Ok(Forwarded { address, _process: process })
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.shape.state.join(format!("applied-{number}.yaml"));
        fs::write(&path, yaml).context("writing manifests")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path.display().to_string()])
            .await
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// When that takes more than two minutes: with the reason that the last one gives.
    pub async fn nodes_ready(&self) -> Result<()> {
        for node in &self.nodes {
            let path = format!("/api/v1/nodes/{}", node.name);
            let ask = async || readiness(&self.api.get(&path).await?);
            node.kubelet.ready(NODES_READY, ask).await.with_context(|| format!("node {}", node.name))?;
        }
        Ok(())
    }

    /// Waits until every pod of a Deployment, StatefulSet or DaemonSet (`deployment/web`) is rolled out.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub async fn rolled_out(&self, namespace: &str, what: &str, deadline: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", deadline.as_secs());
        self.kubectl(&["-n", namespace, "rollout", "status", what, &timeout]).await.map(drop)
    }

    /// Starts a program that ends with the cluster.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start_program(&self, launch: Launch) -> Result<Process> {
        Process::start(launch, &self.records)
    }

    /// Lets the cluster outlive this program; `clean::remove` ends it.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn keep(&self) -> Result<()> {
        self.records.keep()
    }

    /// Ends everything now.
    ///
    /// # Errors
    /// When something resists.
    pub fn stop(self) -> Result<()> {
        self.end()
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run_program(program, self.shape.tools.program(program), arguments).await
    }

    /// Runs a program that asks the API server as an administrator, such as the mesh's command line; its standard output.
    ///
    /// # Errors
    /// When it fails: with what it wrote.
    pub async fn run_program(&self, name: &str, path: PathBuf, arguments: &[&str]) -> Result<String> {
        let line = format!("{name} {}", arguments.join(" "));
        let output = self.outcome_of((name, path), arguments, KUBECTL).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        ensure!(
            output.status.success(),
            "`{line}`: {}: {}\n{}",
            output.status,
            text(&output.stderr),
            text(&output.stdout)
        );
        Ok(text(&output.stdout))
    }

    /// Runs such a program, which may end badly.
    ///
    /// # Errors
    /// When it cannot be executed, or does not end in time.
    pub async fn outcome_of(
        &self,
        program: (&str, PathBuf),
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Output> {
        process::output(self.tool(program, arguments, PathBuf::new()), deadline).await
    }

    /// A program that finds the API server by its environment.
    fn tool(&self, (name, path): (&str, PathBuf), arguments: &[&str], log: PathBuf) -> Launch {
        let state = |file: &str| self.shape.state.join(file).display().to_string();
        Launch {
            name: format!("{name} {}", arguments.join(" ")),
            program: path,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            environment: vec![
                ("KUBECONFIG".to_owned(), state("kubeconfig")),
                ("HOME".to_owned(), state("home")),
                ("PATH".to_owned(), self.path()),
            ],
            namespace: None,
            resolv_conf: None,
            log,
        }
    }

    /// Where programs find others: the cluster's tools come first.
    fn path(&self) -> String {
        let own = std::env::var("PATH").unwrap_or_default();
        format!("{}:{own}", self.shape.tools.binaries().display())
    }

    fn end(&self) -> Result<()> {
        if self.records.kept() || self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // Nodes first: what dies with the API server away would only fill logs.
        for program in self.nodes.iter().flat_map(Node::programs).chain(self.control.programs()) {
            program.kill()?;
        }
        self.records.close();
        clean::remove(&self.shape.name).map(drop)
    }
}

/// A port of a pod that is reached on the machine. Dropping it ends that.
#[derive(Debug)]
pub struct Forwarded {
    /// Where.
    pub address: SocketAddr,
    _process: Process,
}

impl Drop for KubeCluster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            process::report(&error);
        }
    }
}

/// Gives every node of a cluster an image, an archive in OCI layout.
///
/// # Errors
/// When a node refuses it.
pub async fn load(shape: &Shape, archive: &Path) -> Result<()> {
    let archive = std::path::absolute(archive).context("where the image is")?;
    let names: Vec<String> = shape.numbers().map(node_name).collect();
    try_join_all(names.iter().map(|name| node::load(shape, name, &archive))).await.map(drop)
}

/// An API client for a cluster that another program has started.
///
/// # Errors
/// When its certificates cannot be read.
pub fn api_of(shape: &Shape) -> Result<Api> {
    Api::new(control_plane::server(shape), &shape.pki(""), "admin")
}

/// Files by which mount namespaces persist must be in a mount that nobody else sees change.
fn make_private(folder: &Path) -> Result<()> {
    let how = |source: Option<&Path>, flags: MsFlags| {
        mount(source, folder, None::<&Path>, flags, None::<&Path>)
            .with_context(|| format!("making {} a private mount", folder.display()))
    };
    how(Some(folder), MsFlags::MS_BIND)?;
    how(None, MsFlags::MS_PRIVATE)
}

/// A node as the API server knows it before its kubelet does: its pods' ranges are those that the fabric routes to it.
fn node_object(shape: &Shape, number: u8) -> Value {
    let (name, pods) = (node_name(number), shape.block.pods_of(number));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "topology.kubernetes.io/region": "ambit",
                "topology.kubernetes.io/zone": name.replace("node", "zone"),
            },
        },
        "spec": {"podCIDR": pods.v4(), "podCIDRs": [pods.v4(), pods.v6()]},
    })
}

fn readiness(node: &Value) -> Result<()> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some("Ready"))
        .context("its kubelet has said nothing yet")?;
    ensure!(
        ready.get("status").and_then(Value::as_str) == Some("True"),
        "{}",
        ready.get("message").and_then(Value::as_str).unwrap_or_default()
    );
    Ok(())
}
