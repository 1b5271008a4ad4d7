// SPDX-License-Identifier: Apache-2.0
//! A whole mesh on one machine: control, nodes with their agents and ztunnels, pods, services and policies.
//!
//! ```text
//! fabric (a bridge) ── control (standalone, over a folder of manifests)
//!    │ │            └─ outside (a host that is no part of the mesh; DNS for everybody)
//!    │ └── node a: agent, ztunnel ── pods (routed, as by a CNI)
//!    └──── node b: agent, ztunnel ── pods
//! ```
//! It knows the mesh only from outside: files it writes, endpoints it reads, packets it sees.

pub mod control;
pub mod host;
pub mod manifests;
pub mod node;
pub mod pod;
pub mod service;
pub mod waypoint;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use control::Control;
pub use host::{Host, Program};
pub use node::Node;
pub use pod::{Pod, PodBuilder};
pub use service::{Service, ServiceBuilder};
pub use waypoint::{Instance, Waypoint, WaypointBuilder};

use crate::{
    clean,
    config::{self, Settings},
    net::{Namespace, addresses, link},
    process::Process,
    record::{PodRecord, Record, Records},
    wait::eventually,
};
use control::Token;
use manifests::Manifests;
use node::{NodePart, Seat};
use waypoint::Follower;

/// How long the mesh may take to follow a change of the manifests: longer than a proxy waits at most between two attempts to
/// reach a control plane that was away, which is 15 s.
const SETTLE: Duration = Duration::from_secs(40);
/// The namespace of the objects by which the lab sees that a change has arrived.
const MARKERS: &str = "lab-settle";

/// A running lab. Cheap to clone; the last clone removes everything, unless it was told to keep it.
#[derive(Clone, Debug)]
pub struct Cluster {
    whole: Arc<Whole>,
}

/// What differs between two labs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the nodes; node k has number k, from 1.
    pub nodes: Vec<String>,
    /// Life of certificates; control's default without.
    pub certificate_life: Option<Duration>,
    /// Names of the nodes that run the peer's ztunnel, where the settings name one.
    pub peers: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: vec!["a".to_owned(), "b".to_owned()],
            certificate_life: None,
            peers: vec!["b".to_owned()],
        }
    }
}

/// What every part of a lab needs to know.
#[derive(Debug)]
pub(crate) struct Parts {
    name: String,
    settings: Settings,
    state: PathBuf,
    records: Arc<Records>,
    manifests: Manifests,
}

#[derive(Debug)]
struct Whole {
    parts: Parts,
    fabric: Namespace,
    numbers: Vec<u8>,
    control: Control,
    outside: Host,
    held: Mutex<Vec<Arc<Process>>>,
    nodes: BTreeMap<String, Arc<NodePart>>,
    services: AtomicU16,
    settled: AtomicU64,
    ended: AtomicBool,
    /// Waypoints, which learn of changes too.
    followers: Mutex<Vec<Follower>>,
}

impl Cluster {
    /// Starts a lab with nodes `a` and `b`, after removing what an earlier one of that name has left.
    ///
    /// # Errors
    /// Without root, without the binaries, or when any part does not get ready; everything is removed then.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, Settings::from_environment()?, Options::default()).await
    }

    /// Starts a lab of another shape.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(name: &str, settings: Settings, options: Options) -> Result<Self> {
        config::require_root(&format!("lab up --name {name}"))?;
        clean::remove(name).context("removing what an earlier lab has left")?;
        let state = settings.state.join(name);
        if state.exists() {
            fs::remove_dir_all(&state).context("removing the files of an earlier lab")?;
        }
        fs::create_dir_all(state.join("logs")).context("making the lab's folder")?;
        let parts = Parts {
            name: name.to_owned(),
            records: Arc::new(Records::begin(name, &state)?),
            manifests: Manifests::create(&state)?,
            settings,
            state,
        };
        match Whole::build(parts, &options).await {
            Ok(whole) => Ok(Self { whole: Arc::new(whole) }),
            Err(error) => {
                clean::remove(name).context("removing a lab that did not start")?;
                Err(error).with_context(|| format!("starting lab {name}"))
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.whole.parts.name
    }

    /// Where binaries and files are.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.whole.parts.settings
    }

    /// The folder of its manifests and logs.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.whole.parts.state
    }

    /// The control plane.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.whole.control
    }

    /// The host that is no part of the mesh.
    #[must_use]
    pub fn outside(&self) -> &Host {
        &self.whole.outside
    }

    /// A node.
    ///
    /// # Panics
    /// When the lab has no node of that name: the scenario is wrong.
    #[must_use]
    #[expect(clippy::panic, reason = "a scenario names a node that its lab has, or is wrong")]
    pub fn node(&self, name: &str) -> Node {
        let Some(part) = self.whole.nodes.get(name) else { panic!("lab {} has no node {name}", self.name()) };
        Node { cluster: self.clone(), part: Arc::clone(part) }
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.whole.nodes.values().map(|part| Node { cluster: self.clone(), part: Arc::clone(part) }).collect()
    }

    /// A service that is to be made.
    pub fn service(&self, name: &str) -> ServiceBuilder {
        ServiceBuilder::new(self, name)
    }

    /// Publishes YAML (policies, or any other objects) under a name of its own, replacing what had that name, and waits
    /// until the whole mesh knows it.
    ///
    /// # Errors
    /// When the mesh does not take notice within 40 s.
    pub async fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.manifests().write(name, yaml)?;
        self.settle().await
    }

    /// Publishes YAML as [`Self::apply`] does, without waiting for anybody to know it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self, name: &str, yaml: &str) -> Result<()> {
        self.manifests().write(name, yaml)
    }

    /// Removes what was published under `name`, and waits until the whole mesh has forgotten it.
    ///
    /// # Errors
    /// When the mesh does not take notice within 40 s.
    pub async fn withdraw(&self, name: &str) -> Result<()> {
        self.manifests().remove(name)?;
        self.settle().await
    }

    /// Waits until every running ztunnel knows all manifests as they are now: a service and a policy that are written
    /// last have arrived there.
    ///
    /// # Errors
    /// When that takes more than 40 s.
    pub async fn settle(&self) -> Result<()> {
        // Control looks through its folder file by file, so it may take the marker and miss what was written just before it
        // in a file that it had passed already. A second marker is found by a look that began after that.
        self.mark().await?;
        self.mark().await
    }

    async fn mark(&self) -> Result<()> {
        let number = self.whole.settled.fetch_add(1, Ordering::Relaxed);
        let marker = format!("settled-{number}");
        self.manifests().write_objects("settled", &markers(&marker))?;
        let quoted = format!("\"{marker}\"");
        // Removals travel after additions: they have arrived when the marker before this one is gone.
        let before = format!("\"settled-{}\"", number - 1);
        for part in self.whole.nodes.values().filter(|part| part.ztunnel.pid().is_some()) {
            let what = format!("node {} learning of a change", part.name);
            eventually(SETTLE, &what, async || shows(&part.config_dump().await?, &quoted, &before)).await?;
        }
        let followers = self.whole.followers.lock().clone();
        for follower in followers.iter().filter(|follower| follower.process.pid().is_some()) {
            // It is told only of what it serves: that it has nothing to learn any more is known by control.
            let what = format!("{} learning of a change", follower.process.name());
            eventually(SETTLE, &what, async || self.whole.control.has_told(&follower.node).await).await?;
        }
        Ok(())
    }

    /// Adds a host to the fabric, outside of the mesh.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the number is taken.
    pub async fn host(&self, name: &str, number: u8) -> Result<Host> {
        Host::join(self.name(), name, &self.whole.fabric, number, &self.whole.numbers).await
    }

    /// Starts a program on a host of the fabric; it runs as long as the lab, unless it is ended before.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start_on(&self, host: &Host, name: &str, program: Program) -> Result<Arc<Process>> {
        let process = host.start(&self.whole.parts, name, program)?;
        self.whole.held.lock().push(Arc::clone(&process));
        Ok(process)
    }

    /// Leaves a remark in the record, for whoever looks at the lab later.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn note(&self, name: &str, text: &str) -> Result<()> {
        self.change_record(|record| record.notes.push((name.to_owned(), text.to_owned())))
    }

    /// Lets the lab outlive this program; `clean::remove` ends it.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn keep(&self) -> Result<()> {
        self.records().keep()
    }

    /// Ends everything now, whoever else holds a clone.
    ///
    /// # Errors
    /// When something resists.
    pub fn stop(self) -> Result<()> {
        self.whole.end()
    }

    /// A program that learns of changes.
    pub(crate) fn follow(&self, follower: Follower) {
        self.whole.followers.lock().push(follower);
    }

    /// It does no longer.
    pub(crate) fn unfollow(&self, process: &Arc<Process>) {
        self.whole.followers.lock().retain(|follower| !Arc::ptr_eq(&follower.process, process));
    }

    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.whole.parts.records
    }

    pub(crate) fn manifests(&self) -> &Manifests {
        &self.whole.parts.manifests
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.whole.parts.log(name)
    }

    pub(crate) fn change_record(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        self.records().change(change)
    }

    pub(crate) fn replace_pod(&self, pod: PodRecord) -> Result<()> {
        self.change_record(|record| {
            record.pods.retain(|other| other.netns != pod.netns);
            record.pods.push(pod);
        })
    }

    pub(crate) fn next_service(&self) -> u16 {
        self.whole.services.fetch_add(1, Ordering::Relaxed)
    }

    /// What pods of a Kubernetes namespace have as `/etc/resolv.conf`.
    pub(crate) fn pod_resolv_conf(&self, namespace: &str) -> PathBuf {
        let path = self.state().join(format!("resolv-{namespace}.conf"));
        if path.exists() {
            return path;
        }
        let server = addresses::fabric(addresses::OUTSIDE_DNS).v4;
        let text = format!(
            "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        // Put there whole: programs of other pods may be about to read it. Without it the program that needs it says so
        // when it starts.
        let draft = path.with_extension(rand::random::<u64>().to_string());
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).unwrap_or_default();
        path
    }
}

impl Parts {
    fn log(&self, name: &str) -> PathBuf {
        self.state.join("logs").join(format!("{}.log", name.replace([' ', '/'], "_")))
    }

    fn outside_resolv_conf(&self) -> PathBuf {
        self.state.join("resolv-outside.conf")
    }
}

impl Whole {
    async fn build(parts: Parts, options: &Options) -> Result<Self> {
        prepare_bpf()?;
        let numbers: Vec<u8> = (1..).take(options.nodes.len()).collect();
        let fabric = link::fabric(&format!("{}fabric", clean::prefix(&parts.name))).await?;
        let join = async |name: &str, number| Host::join(&parts.name, name, &fabric, number, &numbers).await;
        let outside = join("outside", addresses::OUTSIDE_DNS).await?;
        let outside_programs = start_outside(&parts, &outside)?;
        let mut tokens = Vec::new();
        for name in &options.nodes {
            tokens.push(Token::of_ztunnel(name));
        }
        for (name, number) in options.nodes.iter().zip(&numbers) {
            let object = manifests::node(name, addresses::fabric(*number));
            parts.manifests.write_objects(&format!("node-{name}"), &[object])?;
        }
        parts.manifests.ensure_account("istio-system", "ztunnel")?;
        parts.manifests.ensure_account(MARKERS, "default")?;
        let control_host = join("control", addresses::CONTROL).await?;
        let control = Control::start(&parts, control_host, &tokens, options).await?;
        let mut starting = Vec::new();
        for ((name, number), token) in options.nodes.iter().zip(&numbers).zip(&tokens) {
            let host = join(&format!("node-{name}"), *number).await?;
            link::forward(&host.namespace)?;
            let peer = parts.settings.peer_ztunnel.as_deref().filter(|_path| options.peers.contains(name));
            starting.push(NodePart::start(
                &parts,
                Seat { name, number: *number, host, peer },
                &control,
                token,
            ));
        }
        let mut nodes = BTreeMap::new();
        for part in futures_util::future::try_join_all(starting).await? {
            nodes.insert(part.name.clone(), Arc::new(part));
        }
        Ok(Self {
            parts,
            fabric,
            numbers,
            control,
            outside,
            held: Mutex::new(outside_programs),
            nodes,
            services: AtomicU16::new(1),
            settled: AtomicU64::new(1),
            ended: AtomicBool::new(false),
            followers: Mutex::default(),
        })
    }

    fn end(&self) -> Result<()> {
        if self.parts.records.kept() || self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        for part in self.nodes.values() {
            part.ztunnel.kill()?;
            part.agent.kill()?;
        }
        self.control.process().kill()?;
        self.followers.lock().clear();
        for program in std::mem::take(&mut *self.held.lock()) {
            program.kill()?;
        }
        self.parts.records.close();
        clean::remove(&self.parts.name).map(drop)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            crate::process::report(&error);
        }
    }
}

/// A dump has what was written last, and no longer what was before it.
fn shows(dump: &Value, quoted: &str, before: &str) -> Result<()> {
    for section in ["services", "policies"] {
        let text = dump.get(section).map(Value::to_string).unwrap_or_default();
        ensure!(text.contains(quoted), "{quoted} is not among its {section}");
        ensure!(!text.contains(before), "{before} is still among its {section}");
    }
    Ok(())
}

/// The world outside: a DNS server that knows a name or two, and a web server.
fn start_outside(parts: &Parts, outside: &Host) -> Result<Vec<Arc<Process>>> {
    let own = outside.addresses;
    fs::write(parts.outside_resolv_conf(), format!("nameserver {}\n", own.v4))
        .context("writing a resolv.conf")?;
    let path = parts.settings.binary("lab-app")?;
    let dns = [
        "dns-server".to_owned(),
        format!("--record=outside.example={}", own.v4),
        format!("--record=outside.example={}", own.v6),
    ];
    let web = ["serve", "--name", "outside"].map(str::to_owned);
    [("outside-dns", dns.to_vec()), ("outside-web", web.to_vec())]
        .into_iter()
        .map(|(name, arguments)| {
            outside.start(parts, name, Program { path: path.clone(), arguments, ..Program::default() })
        })
        .collect()
}

/// eBPF objects are pinned in a file system that not every machine has mounted.
fn prepare_bpf() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let mounted = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
    if mounted.lines().any(|line| line.split(' ').nth(1) == Some(clean::BPF_FOLDER)) {
        return Ok(());
    }
    mount(Some("bpf"), clean::BPF_FOLDER, Some("bpf"), MsFlags::empty(), None::<&str>)
        .context("mounting the eBPF file system")
}

/// A service and a policy that concern nobody.
fn markers(name: &str) -> [Value; 2] {
    let ip = addresses::service(u16::MAX).v4;
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": MARKERS},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "tcp", "port": 1, "protocol": "TCP"}]},
        }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": MARKERS},
            "spec": {"action": "DENY", "rules": [{"from": [{"source": {"namespaces": [name]}}]}]},
        }),
    ]
}
