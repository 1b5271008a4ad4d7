// SPDX-License-Identifier: Apache-2.0
//! What every scenario stands on: the shared lab, a namespace of its own, and the questions that many ask.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::future::BoxFuture;
use lab::{
    Cluster, Node, Pod, Settings,
    cluster::{PodBuilder, Service, ServiceBuilder, Waypoint, WaypointBuilder},
    config::require_root,
    echo::{self, Echo},
    eventually,
    observe::Access,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{runtime::Runtime, sync::OnceCell, time::timeout};

/// How long one scenario may take, unless it is a long one: several times what it takes on an idle machine, as this only ends
/// what hangs.
const LIMIT: Duration = Duration::from_secs(300);
const LONG_LIMIT: Duration = Duration::from_secs(1800);
/// How long ztunnel may take to write a connection down after its end.
pub(crate) const SOON: Duration = Duration::from_secs(10);

static RUNTIME: LazyLock<std::io::Result<Runtime>> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build());

/// One scenario.
pub(crate) struct Scenario {
    /// What it belongs to.
    pub(crate) group: &'static str,
    /// A sentence.
    pub(crate) name: &'static str,
    /// Whether it only runs with `--include-ignored`.
    pub(crate) long: bool,
    /// Whether it fits a lab whose node b runs another ztunnel than ours.
    pub(crate) peer: Peer,
    /// What happens.
    pub(crate) play: fn(Scene) -> BoxFuture<'static, Result<()>>,
}

/// What a scenario makes of another ztunnel on node b (`AMBIT_LAB_PEER_ZTUNNEL`).
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    /// It holds with and without.
    Either,
    /// It is about our own ztunnel on node b; why.
    Absent(&'static str),
    /// It is about the other one.
    Present,
}

impl Scenario {
    /// It says nothing where node b has another ztunnel.
    pub(crate) fn without_peer(self, reason: &'static str) -> Self {
        Self { peer: Peer::Absent(reason), ..self }
    }

    /// It says nothing where both nodes have ours.
    pub(crate) fn with_peer(self) -> Self {
        Self { peer: Peer::Present, ..self }
    }

    /// Why it does not apply to a lab with, or without, another ztunnel on node b.
    pub(crate) fn obstacle(&self, peer: bool) -> Option<&'static str> {
        match (self.peer, peer) {
            (Peer::Either, _) | (Peer::Absent(_), false) | (Peer::Present, true) => None,
            (Peer::Absent(reason), true) => Some(reason),
            (Peer::Present, false) => Some("needs AMBIT_LAB_PEER_ZTUNNEL"),
        }
    }
}

/// Lists functions as scenarios, each named as it is.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::scene::Scenario {
            group: module_path!(),
            name: stringify!($name),
            long: false,
            peer: $crate::scene::Peer::Either,
            play: |scene| Box::pin($name(scene)),
        }),*]
    };
}
pub(crate) use scenarios;

/// Where scenarios are played: the shared lab, started by the first one that needs it.
#[derive(Clone)]
pub(crate) struct Stage {
    runtime: &'static Runtime,
    cluster: Arc<OnceCell<Cluster>>,
    peer: bool,
}

/// A scenario's own corner of the lab.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    namespace: String,
    made: Arc<Mutex<Made>>,
}

/// What has to be removed after a scenario.
#[derive(Default)]
struct Made {
    pods: Vec<Pod>,
    services: Vec<Service>,
    waypoints: Vec<Waypoint>,
    files: Vec<String>,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let runtime = RUNTIME.as_ref().map_err(|error| anyhow!("starting a runtime: {error}"))?;
        let peer = Settings::from_environment()?.peer_ztunnel.is_some();
        Ok(Self { runtime, cluster: Arc::new(OnceCell::new()), peer })
    }

    /// Whether node b of its labs runs another ztunnel than ours.
    pub(crate) fn has_peer(&self) -> bool {
        self.peer
    }

    /// Plays a scenario and removes what it made.
    pub(crate) fn play(&self, scenario: &Scenario) -> Result<()> {
        require_root("test lab")?;
        self.runtime.block_on(async {
            let cluster = self.cluster.get_or_try_init(|| Cluster::start("test")).await?;
            let name: String = scenario.name.replace('_', "-").chars().take(40).collect();
            let scene = Scene {
                cluster: cluster.clone(),
                namespace: name.trim_end_matches('-').to_owned(),
                made: Arc::default(),
            };
            let limit = if scenario.long { LONG_LIMIT } else { LIMIT };
            let outcome = timeout(limit, (scenario.play)(scene.clone())).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| Err(anyhow!("not over within {limit:?}")));
            let logs = cluster.state().join("logs");
            let outcome = outcome.with_context(|| format!("logs are in {}", logs.display()));
            let cleared = scene.clear().await;
            outcome.and(cleared)
        })
    }

    /// Plays a check of the lab itself.
    pub(crate) fn check(&self, play: fn() -> BoxFuture<'static, Result<()>>) -> Result<()> {
        require_root("test lab")?;
        self.runtime.block_on(async {
            timeout(LIMIT, play()).await.unwrap_or_else(|_elapsed| Err(anyhow!("not over within {LIMIT:?}")))
        })
    }

    /// Ends the shared lab.
    pub(crate) fn end(self) -> Result<()> {
        self.cluster.get().map_or(Ok(()), |cluster| cluster.clone().stop())
    }
}

impl Scene {
    /// The scenario's Kubernetes namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.cluster.node(name)
    }

    /// A pod of this scenario with a service account of its own name, ready to be refined.
    pub(crate) fn pod(&self, node: &str, name: &str) -> PodBuilder {
        self.node(node).pod(name).namespace(&self.namespace).service_account(name)
    }

    /// Starts a pod, to be removed at the end.
    pub(crate) async fn start(&self, pod: PodBuilder) -> Result<Pod> {
        let pod = pod.start().await?;
        self.made.lock().pods.push(pod.clone());
        Ok(pod)
    }

    /// Starts a captured pod.
    pub(crate) async fn captured(&self, node: &str, name: &str) -> Result<Pod> {
        self.start(self.pod(node, name).captured()).await
    }

    /// Starts a captured pod with the sample application in it.
    pub(crate) async fn server(&self, node: &str, name: &str) -> Result<Pod> {
        let pod = self.captured(node, name).await?;
        pod.serve().await?;
        Ok(pod)
    }

    /// Starts a pod that is not in the mesh.
    pub(crate) async fn plain(&self, node: &str, name: &str) -> Result<Pod> {
        self.start(self.pod(node, name)).await
    }

    /// A service of this scenario.
    pub(crate) fn service(&self, name: &str) -> ServiceBuilder {
        self.cluster.service(name).namespace(&self.namespace)
    }

    /// Creates a service, to be removed at the end.
    pub(crate) async fn create(&self, service: ServiceBuilder) -> Result<Service> {
        let service = service.create().await?;
        self.made.lock().services.push(service.clone());
        Ok(service)
    }

    /// A waypoint of this scenario.
    pub(crate) fn waypoint(&self, node: &str, name: &str) -> WaypointBuilder {
        self.node(node).waypoint(name).namespace(&self.namespace)
    }

    /// Starts a waypoint, to be removed at the end.
    pub(crate) async fn begin(&self, waypoint: WaypointBuilder) -> Result<Waypoint> {
        let waypoint = waypoint.start().await?;
        self.made.lock().waypoints.push(waypoint.clone());
        Ok(waypoint)
    }

    /// It was removed already.
    pub(crate) fn forget(&self, waypoint: &Waypoint) {
        self.made.lock().waypoints.retain(|made| made.service.name != waypoint.service.name);
    }

    /// Publishes YAML in which `NAMESPACE` stands for the scenario's; it is removed at the end.
    pub(crate) async fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let file = format!("{}.{name}", self.namespace);
        self.made.lock().files.push(file.clone());
        self.cluster.apply(&file, &yaml.replace("NAMESPACE", &self.namespace)).await
    }

    /// Removes what `apply` published.
    pub(crate) async fn withdraw(&self, name: &str) -> Result<()> {
        self.cluster.withdraw(&format!("{}.{name}", self.namespace)).await
    }

    async fn clear(&self) -> Result<()> {
        let made = std::mem::take(&mut *self.made.lock());
        for file in made.files {
            self.cluster.withdraw(&file).await?;
        }
        for waypoint in made.waypoints {
            waypoint.delete().await?;
        }
        for service in made.services {
            service.delete().await?;
        }
        for pod in made.pods.iter().filter(|pod| pod.namespace().exists()) {
            pod.delete().await?;
        }
        Ok(())
    }
}

/// Only mutual TLS, for the whole namespace.
pub(crate) const STRICT: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: NAMESPACE}
spec: {mtls: {mode: STRICT}}
";

/// A policy that lets nobody but `principal` (without its scheme) speak to the pods with `app: server`.
pub(crate) fn only(principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: only, namespace: NAMESPACE}}\n\
         spec:\n  selector: {{matchLabels: {{app: server}}}}\n  action: ALLOW\n\
         \x20 rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]\n"
    )
}

/// Calls `server` from `client` over both families; each time the right application answers and sees the client.
pub(crate) async fn reaches(client: &Pod, server: &Pod) -> Result<()> {
    for (from, to) in [(client.v4(), server.v4()), (client.v6(), server.v6())] {
        let echo = client.get(to, "/").await.with_context(|| format!("{} calls {to}", client.full_name()))?;
        ensure!(echo.name == server.name(), "{} answered in place of {}", echo.name, server.name());
        sees(&echo, from)?;
    }
    Ok(())
}

/// Both replicas of a service answer at `ip`, and see the client as `own`.
pub(crate) async fn both_answer(client: &Pod, ip: IpAddr, own: IpAddr) -> Result<()> {
    let mut answered = BTreeSet::new();
    // Picks are random: to miss one of two 40 times has a chance of 2 in 10^12.
    for _ in 0..40 {
        let echo = client.get(ip, "/").await?;
        sees(&echo, own)?;
        answered.insert(echo.name);
    }
    ensure!(answered.len() == 2, "only {answered:?} answered at {ip}");
    Ok(())
}

/// A thousand connections from `client` to `server` that are open at the same time, `at_once` of them begun together, over
/// each family; every byte comes back.
pub(crate) async fn a_thousand_bring_back_every_byte(
    client: &Pod,
    server: &Pod,
    at_once: usize,
) -> Result<()> {
    let at_once = format!("--at-once={at_once}");
    for ip in server.addresses().both() {
        let target = SocketAddr::new(ip, echo::TCP).to_string();
        let arguments = [
            "checksum",
            "--target",
            &target,
            "--connections=1000",
            &at_once,
            "--bytes=65536",
            "--seconds=50",
        ];
        let result: Value = serde_json::from_str(&client.app(&arguments).await?)?;
        ensure!(result["ok"] == 1000 && result["failed"] == 0, "{result}");
    }
    Ok(())
}

/// The application saw a connection from `client`.
pub(crate) fn sees(echo: &Echo, client: IpAddr) -> Result<()> {
    ensure!(echo.peer.ip() == client, "{} saw {} instead of {client}", echo.name, echo.peer.ip());
    Ok(())
}

/// The client's ztunnel and the server's have both written down a connection of these two, with both identities.
pub(crate) async fn went_through_the_mesh(scene: &Scene, client: &Pod, server: &Pod) -> Result<()> {
    for (pod, direction) in [(client, "outbound"), (server, "inbound")] {
        let node = scene.node(&pod.object().node);
        written_if(&node, direction, client, server, |access| {
            access.field("error").is_empty()
                && access.field("src.identity") == client.identity()
                && access.field("dst.identity") == server.identity()
                && !access.field("dst.hbone_addr").is_empty()
        })
        .await?;
    }
    Ok(())
}

/// The newest line about a connection from one pod to the other, once it is there.
pub(crate) async fn written(node: &Node, direction: &str, client: &Pod, server: &Pod) -> Result<Access> {
    written_if(node, direction, client, server, |_access| true).await
}

/// The newest such line is of a failure that says `words`.
pub(crate) async fn failure_written(
    node: &Node,
    direction: &str,
    client: &Pod,
    server: &Pod,
    words: &str,
) -> Result<()> {
    let failed = |access: &Access| access.field("error").contains(words);
    written_if(node, direction, client, server, failed).await.map(drop).with_context(|| format!("{words:?}"))
}

/// Lines are written a moment after a connection has ended: until then the newest may be of an earlier one.
async fn written_if(
    node: &Node,
    direction: &str,
    client: &Pod,
    server: &Pod,
    fits: impl Fn(&Access) -> bool,
) -> Result<Access> {
    let what =
        format!("an {direction} line on node {} for {} → {}", node.name(), client.name(), server.name());
    eventually(SOON, &what, async || {
        let (from, to) = (client.object(), server.object());
        let of_these = |access: &&Access| {
            access.field("direction") == direction
                && access.message != "connection opened"
                && access.field("src.workload") == from.name
                && access.field("src.namespace") == from.namespace
                && access.field("dst.workload") == to.name
                && access.field("dst.namespace") == to.namespace
        };
        let newest = node.access_log().iter().rfind(of_these).cloned().context("not written yet")?;
        ensure!(fits(&newest), "the newest is {}", newest.line);
        Ok(newest)
    })
    .await
}

/// A call that must fail; what the client was told.
pub(crate) async fn refused(client: &Pod, ip: IpAddr) -> Result<String> {
    match timeout(Duration::from_secs(10), client.get(ip, "/")).await {
        Ok(Ok(echo)) => Err(anyhow!("{} answered {} at {ip}", echo.name, client.name())),
        Ok(Err(error)) => Ok(format!("{error:#}")),
        Err(_elapsed) => Ok("no answer".to_owned()),
    }
}

#[expect(clippy::print_stderr, reason = "there is no test that could fail with it")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
