// SPDX-License-Identifier: Apache-2.0
//! The mesh's programs on a node, as processes in its namespaces.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Settings, eventually, http,
    kube::{KubeCluster, mesh, place::Program},
    process::Process,
};
use serde_json::{Value, json};

pub(crate) const NODE: &str = "node-a";
const START: Duration = Duration::from_secs(60);

/// Where the programs of the node keep their files. The whole machine sees them, so that the plugin finds the socket.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    node: PathBuf,
    binaries: Settings,
}

impl Files {
    pub(crate) fn of(cluster: &KubeCluster, binaries: Settings) -> Result<Self> {
        let node = cluster.shape().state.join(NODE);
        let folder = node.join("ambit");
        fs::create_dir_all(&folder).context("making a folder for the agent")?;
        fs::write(folder.join("token"), "nobody asks for it").context("writing a token")?;
        Ok(Self { folder, node, binaries })
    }

    /// A program of the workspace.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf> {
        self.binaries.binary(name)
    }

    /// The node's own `/etc/cni/net.d`.
    pub(crate) fn configurations(&self) -> PathBuf {
        self.node.join("cni-conf")
    }

    /// The node's own `/opt/cni/bin`.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.node.join("cni-bin")
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// What the chart lets an agent of this node do, and nothing else: a kubeconfig with its token.
    async fn identity(&self, cluster: &KubeCluster) -> Result<PathBuf> {
        let chart = mesh::repository().join("charts/node").display().to_string();
        let template = ["template", mesh::RELEASE, &chart, "-n", mesh::NAMESPACE];
        let parts = ["serviceaccount", "role", "admission"];
        let parts = parts.map(|part| format!("--show-only=templates/{part}.yaml"));
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let objects = cluster.helm(&[&template, parts.as_slice()].concat()).await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": mesh::NAMESPACE}});
        cluster.apply(&format!("{namespace}\n---\n{objects}")).await?;
        let token = ["-n", mesh::NAMESPACE, "create", "token", "node", "--bound-object-kind=Node"];
        let of_node = format!("--bound-object-name={NODE}");
        let token = cluster.kubectl(&[&token, [of_node.as_str()].as_slice()].concat()).await?;
        let config = fs::read_to_string(cluster.shape().kubeconfig()).context("reading the kubeconfig")?;
        let mut config: Value = serde_json::from_str(&config).context("the kubeconfig")?;
        config["users"][0]["user"] = json!({"token": token});
        let path = self.folder.join("kubeconfig");
        fs::write(&path, config.to_string()).context("writing a kubeconfig")?;
        Ok(path)
    }

    /// Starts the agent, of a revision or of none, and waits until it answers.
    pub(crate) async fn agent(&self, cluster: &KubeCluster, revision: Option<&str>) -> Result<Process> {
        let plugin = match &self.binaries.plugin {
            Some(plugin) => plugin.clone(),
            None => self.binaries.binary("cni")?,
        };
        let identity = self.identity(cluster).await?;
        let usual = [
            ("AMBIT_KUBERNETES", identity.display().to_string()),
            ("NODE_NAME", NODE.to_owned()),
            ("POD_NAMESPACE", "ambit-system".to_owned()),
            ("AMBIT_DAEMONSET", "node".to_owned()),
            ("AMBIT_CNI_CONFIGURATIONS", "/etc/cni/net.d".to_owned()),
            ("AMBIT_CNI_SOURCE", plugin.display().to_string()),
            ("AMBIT_NODE_API", self.path("node.sock")),
            ("AMBIT_NODE_STATE", self.path("pods")),
            ("INPOD_UDS", self.path("zds.sock")),
            ("RUST_LOG", "info,node=debug".to_owned()),
        ];
        let revision = revision.map(|revision| ("AMBIT_REVISION", revision.to_owned()));
        let environment: Vec<_> = usual.into_iter().chain(revision).collect();
        let agent = self.start(cluster, "node-agent", &environment)?;
        agent.ready(START, async || self.ask("GET", "/healthz").await.map(drop)).await?;
        Ok(agent)
    }

    /// Starts ztunnel, without a control plane.
    pub(crate) fn ztunnel(&self, cluster: &KubeCluster) -> Result<Process> {
        let root = cluster.shape().pki("ca.crt").display().to_string();
        let environment = [
            ("XDS_ADDRESS", "https://127.0.0.1:1".to_owned()),
            ("CA_ADDRESS", "https://127.0.0.1:1".to_owned()),
            ("XDS_ROOT_CA", root.clone()),
            ("CA_ROOT_CA", root),
            ("AUTH_TOKEN", self.path("token")),
            ("INPOD_UDS", self.path("zds.sock")),
            ("NODE_NAME", NODE.to_owned()),
            ("POD_NAME", "ztunnel".to_owned()),
            ("POD_NAMESPACE", "ambit-system".to_owned()),
            ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
            ("INSTANCE_IP", "127.0.0.1".to_owned()),
            ("PROXY_MODE", "shared".to_owned()),
            ("AMBIT_CLAIM_MAP", "/sys/fs/bpf/ambit/claims".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ];
        self.start(cluster, "ztunnel", &environment)
    }

    fn start(&self, cluster: &KubeCluster, name: &str, environment: &[(&str, String)]) -> Result<Process> {
        let program = Program {
            name: format!("{name} {NODE}"),
            path: self.binaries.binary(name)?,
            arguments: Vec::new(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            log: cluster.shape().log(&format!("{NODE}-{name}")),
        };
        cluster.start_on(NODE, name, program)
    }

    pub(crate) async fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let (status, body) = http::over_unix(&self.folder.join("node.sock"), method, path, None).await?;
        ensure!(status.is_success(), "{method} {path}: {status}: {body}");
        Ok(serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// State of a pod by its name; none: it is not captured.
    pub(crate) async fn state(&self, pod: &str) -> Result<Option<String>> {
        let list = self.ask("GET", "/pods").await?;
        let pods = list.get("pods").and_then(Value::as_array).context("no list")?;
        let found = pods.iter().find(|found| found.get("name").and_then(Value::as_str) == Some(pod));
        Ok(found.and_then(|found| found.get("state")?.as_str().map(str::to_owned)))
    }

    /// Waits until a pod is in a state.
    pub(crate) async fn reaches(&self, pod: &str, state: Option<&str>) -> Result<()> {
        eventually(START, &format!("{pod} being {state:?}"), async || {
            let found = self.state(pod).await?;
            ensure!(found.as_deref() == state, "it is {found:?}");
            Ok(())
        })
        .await
    }
}

/// Whether a file has this text, or is absent.
pub(crate) fn holds(path: &Path, text: Option<&str>) -> Result<()> {
    let found = fs::read_to_string(path).ok();
    ensure!(
        match (&found, text) {
            (Some(found), Some(text)) => found.contains(text),
            (found, text) => found.is_none() && text.is_none(),
        },
        "{} holds {found:?}",
        path.display()
    );
    Ok(())
}
