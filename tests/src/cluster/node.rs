// SPDX-License-Identifier: Apache-2.0
//! A node of a lab: its agent, its ztunnel, and what they say.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Cluster, Parts,
    control::{Control, Token},
    host::{Host, Program, environment},
    pod::PodBuilder,
    waypoint::WaypointBuilder,
};
use crate::{
    clean::{BPF_FOLDER, prefix},
    http,
    net::{Namespace, Sniffer, addresses::Pair},
    observe::{Access, Samples},
    process::Process,
};

const START: Duration = Duration::from_secs(30);
const ADMIN: u16 = 15000;
const METRICS: u16 = 15020;
const READINESS: u16 = 15021;

/// A node of a lab. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) cluster: Cluster,
    pub(super) part: Arc<NodePart>,
}

/// What a node is made of.
#[derive(Debug)]
pub(super) struct NodePart {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) host: Host,
    pub(super) agent: Arc<Process>,
    pub(super) ztunnel: Arc<Process>,
    agent_socket: PathBuf,
    taken: Mutex<Taken>,
}

/// Where a node is to be, and whose ztunnel it is to run.
pub(super) struct Seat<'a> {
    pub(super) name: &'a str,
    pub(super) number: u8,
    pub(super) host: Host,
    pub(super) peer: Option<&'a Path>,
}

/// Host numbers of pods, given out in turn so that an address is not used again at once.
#[derive(Debug, Default)]
struct Taken {
    last: u8,
    numbers: BTreeSet<u8>,
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.part.name
    }

    /// Its addresses on the fabric.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.part.host.addresses
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.part.host.namespace
    }

    /// A pod that is to run here.
    pub fn pod(&self, name: &str) -> PodBuilder {
        PodBuilder::new(self, name)
    }

    /// A waypoint that is to run here.
    pub fn waypoint(&self, name: &str) -> WaypointBuilder {
        WaypointBuilder::new(self, name)
    }

    /// Its agent.
    #[must_use]
    pub fn agent(&self) -> Arc<Process> {
        Arc::clone(&self.part.agent)
    }

    /// Its ztunnel.
    #[must_use]
    pub fn ztunnel(&self) -> Arc<Process> {
        Arc::clone(&self.part.ztunnel)
    }

    /// Waits until the agent serves its API.
    ///
    /// # Errors
    /// When it ends or is not ready within 30 s.
    pub async fn agent_ready(&self) -> Result<()> {
        self.part.agent_ready().await
    }

    /// Waits until ztunnel says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within 30 s.
    pub async fn ztunnel_ready(&self) -> Result<()> {
        self.part.ztunnel_ready().await
    }

    /// ztunnel's metrics.
    ///
    /// # Errors
    /// When they cannot be scraped.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&self.part.read(METRICS, "/metrics").await?))
    }

    /// What ztunnel's admin endpoint dumps.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON.
    pub async fn config_dump(&self) -> Result<Value> {
        self.part.config_dump().await
    }

    /// What the admin endpoint of its ztunnel answers to `GET path`, in JSON.
    ///
    /// # Errors
    /// When it cannot be reached, or answers something else.
    pub async fn admin(&self, path: &str) -> Result<Value> {
        let body = self.part.read(ADMIN, path).await?;
        serde_json::from_str(&body).with_context(|| format!("{path} answers {body}"))
    }

    /// ztunnel's access log from its beginning.
    #[must_use]
    pub fn access_log(&self) -> Vec<Access> {
        Access::parse(&self.part.ztunnel.log())
    }

    /// Keeps every frame on the node's link to the fabric.
    ///
    /// # Errors
    /// When the capture cannot start.
    pub fn sniff(&self) -> Result<Sniffer> {
        Sniffer::everything(self.namespace(), "eth0")
    }

    /// Keeps the frames on the node's link to the fabric that contain one of `markers`.
    ///
    /// # Errors
    /// When the capture cannot start.
    pub fn sniff_for(&self, markers: &[&[u8]]) -> Result<Sniffer> {
        Sniffer::looking_for(self.namespace(), "eth0", markers)
    }
}

impl NodePart {
    /// Starts the agent and the ztunnel of `host`, side by side as the kubelet would.
    pub(super) async fn start(
        parts: &Parts,
        Seat { name, number, host, peer }: Seat<'_>,
        control: &Control,
        token: &Token,
    ) -> Result<Self> {
        let place = Place::make(parts, name)?;
        fs::write(&place.token, &token.secret).context("writing the node's token")?;
        let agent =
            host.start(parts, &format!("agent-{name}"), agent(parts, &place, &host, peer.is_some())?)?;
        let mut program = ztunnel(&place, &host, control, name);
        program.environment.insert("RUST_LOG".to_owned(), parts.settings.log.clone());
        match peer {
            Some(path) => {
                program.path = path.to_path_buf();
                // It reads no variable for this.
                program.resolv_conf = Some(parts.outside_resolv_conf());
            }
            None => {
                program.path = parts.settings.binary("ztunnel")?;
                let resolv_conf = parts.outside_resolv_conf().display().to_string();
                program.environment.insert("AMBIT_RESOLV_CONF".to_owned(), resolv_conf);
                let claims = place.bpf.join("claims").display().to_string();
                program.environment.insert("AMBIT_CLAIM_MAP".to_owned(), claims);
            }
        }
        let part = Self {
            name: name.to_owned(),
            number,
            ztunnel: {
                // The claim map is the agent's: a ztunnel that starts before it would start for nothing.
                wait_for_answer(&agent, &place.api).await?;
                host.start(parts, &format!("ztunnel-{name}"), program)?
            },
            host,
            agent,
            agent_socket: place.api,
            taken: Mutex::default(),
        };
        part.ztunnel_ready().await?;
        Ok(part)
    }

    pub(super) async fn agent_ready(&self) -> Result<()> {
        self.agent
            .ready(START, async || {
                let (status, body) = http::over_unix(&self.agent_socket, "GET", "/healthz", None).await?;
                ensure!(status.is_success(), "{status}: {body}");
                Ok(())
            })
            .await
    }

    pub(super) async fn ztunnel_ready(&self) -> Result<()> {
        self.ztunnel.ready(START, async || self.read(READINESS, "/healthz/ready").await.map(drop)).await
    }

    pub(super) async fn config_dump(&self) -> Result<Value> {
        serde_json::from_str(&self.read(ADMIN, "/config_dump").await?).context("reading config_dump")
    }

    /// Asks the agent to enrol a pod or to let it go; returns when that is done.
    pub(super) async fn ask_agent(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let (status, text) = http::over_unix(&self.agent_socket, method, path, body).await?;
        ensure!(
            status.is_success(),
            "the agent of node {} on {method} {path}: {status}: {}",
            self.name,
            text.trim()
        );
        Ok(text)
    }

    /// Takes a host number: the one that is asked for, or the next free one.
    pub(super) fn take(&self, wanted: Option<u8>) -> Result<u8> {
        let mut taken = self.taken.lock();
        let number = match wanted {
            Some(number) => Some(number).filter(|number| !taken.numbers.contains(number)),
            None => (1..=254)
                .map(|step| 1 + (u16::from(taken.last) + step - 1) % 254)
                .filter_map(|number| u8::try_from(number).ok())
                .find(|number| !taken.numbers.contains(number)),
        };
        let number = number.with_context(|| format!("no free address on node {}", self.name))?;
        taken.numbers.insert(number);
        if wanted.is_none() {
            taken.last = number;
        }
        Ok(number)
    }

    pub(super) fn give_back(&self, number: u8) {
        self.taken.lock().numbers.remove(&number);
    }

    async fn read(&self, port: u16, path: &str) -> Result<String> {
        let (address, path) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path.to_owned());
        self.host.namespace.run(async move || http::get(address, &path).await).await
    }
}

/// Files of one node.
struct Place {
    zds: PathBuf,
    api: PathBuf,
    bpf: PathBuf,
    token: PathBuf,
    pods: PathBuf,
}

impl Place {
    fn make(parts: &Parts, name: &str) -> Result<Self> {
        let run = crate::config::run_folder(&parts.name).join(name);
        fs::create_dir_all(&run).context("making the node's run folder")?;
        Ok(Self {
            zds: run.join("zds.sock"),
            api: run.join("node.sock"),
            bpf: PathBuf::from(BPF_FOLDER).join(format!("{}{name}", prefix(&parts.name))),
            token: run.join("token"),
            pods: run.join("pods"),
        })
    }
}

fn agent(parts: &Parts, place: &Place, host: &Host, trust_mark: bool) -> Result<Program> {
    let mut variables = environment([
        ("INPOD_UDS", place.zds.display().to_string()),
        ("AMBIT_NODE_API", place.api.display().to_string()),
        ("AMBIT_BPF_DIR", place.bpf.display().to_string()),
        ("AMBIT_NODE_STATE", place.pods.display().to_string()),
        ("AMBIT_EXEMPT_PEERS", format!("{},{}", host.addresses.v4, host.addresses.v6)),
        ("RUST_LOG", parts.settings.log.clone()),
    ]);
    if trust_mark {
        variables.insert("AMBIT_TRUST_MARK".to_owned(), "true".to_owned());
    }
    Ok(Program { path: parts.settings.binary("node-agent")?, environment: variables, ..Program::default() })
}

fn ztunnel(place: &Place, host: &Host, control: &Control, name: &str) -> Program {
    let address = format!("https://{}", control.address());
    let root = control.root_certificate().display().to_string();
    let environment = environment([
        ("XDS_ADDRESS", address.clone()),
        ("CA_ADDRESS", address),
        ("XDS_ROOT_CA", root.clone()),
        ("CA_ROOT_CA", root),
        ("AUTH_TOKEN", place.token.display().to_string()),
        ("INPOD_UDS", place.zds.display().to_string()),
        ("NODE_NAME", name.to_owned()),
        ("POD_NAME", format!("ztunnel-{name}")),
        ("POD_NAMESPACE", "istio-system".to_owned()),
        ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
        ("INSTANCE_IP", host.addresses.v4.to_string()),
        ("CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_META_DNS_CAPTURE", "true".to_owned()),
        ("PROXY_MODE", "shared".to_owned()),
    ]);
    Program { environment, ..Program::default() }
}

/// Without a ztunnel an agent may call itself unhealthy, so any answer will do.
async fn wait_for_answer(agent: &Process, socket: &Path) -> Result<()> {
    agent.ready(START, async || http::over_unix(socket, "GET", "/healthz", None).await.map(drop)).await
}
