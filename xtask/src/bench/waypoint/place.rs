// SPDX-License-Identifier: Apache-2.0
//! Configurations: a client on node a, another on node c, a server on node b, and one L7 proxy on node b between them, or
//! none. It knows how they are set up, not what is measured.
//!
//! ```text
//!  direct, nginx, haproxy, envoy-plain    client ─────────────► proxy ─────────────► server     nothing encrypted
//!  envoy-in, ambit-in                     client ═ ztunnel a ═► proxy ─────────────► server     as a waypoint
//!  ztunnels, envoy, ambit                 client ═ ztunnel a ═► proxy ═ ztunnel b ═► server     in the mesh
//! ```

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use lab::{
    Cluster, Pod, Settings, clean,
    cluster::{
        Options,
        waypoint::{GATEWAY_NAME, announce},
    },
    envoy as certificates,
};

use super::{
    super::{
        load::{Site, Tools},
        web::{self, HTTP},
    },
    envoy::{self, Served},
    objects::{self, Objects},
    proxy::{self, Other, Own, Program, Proxy},
    rules::Rules,
};

const LAB: &str = "benchwaypoint";
/// Names of our waypoint and of the one that Envoy stands for.
const GATES: [&str; 2] = ["gate", "envoygate"];

/// What is not ours.
pub(super) struct Peers {
    /// HAProxy, and the folder of its libraries.
    pub(super) haproxy: (PathBuf, PathBuf),
    /// nginx, Envoy.
    pub(super) tools: Tools,
}

/// Two clients, a server, and what is between them.
pub(super) struct Place {
    /// Its name in the report.
    pub(super) name: &'static str,
    /// The pod that measures.
    pub(super) client: Pod,
    /// The pod that disturbs.
    pub(super) other: Pod,
    /// The web server, as both reach it.
    pub(super) target: SocketAddr,
    /// What is measured, where it is one proxy.
    pub(super) proxy: Option<Proxy>,
    folder: PathBuf,
}

impl Place {
    /// For load of one of its clients.
    pub(super) fn site<'a>(&'a self, client: &'a Pod, seconds: u64) -> Site<'a> {
        Site { name: self.name, client, target: self.target, folder: &self.folder, seconds }
    }
}

/// The lab with all its configurations.
pub(super) struct Scene {
    cluster: Cluster,
    /// In the order in which they have their turns.
    pub(super) places: Vec<Place>,
    /// A pod's programs run as long as somebody holds it.
    servers: [Pod; 2],
}

/// Pods that are alike but for being in the mesh.
struct Side {
    client: Pod,
    other: Pod,
    server: Pod,
}

impl Side {
    async fn start(cluster: &Cluster, captured: bool, peers: &Peers) -> Result<Self> {
        let word = if captured { "mesh" } else { "plain" };
        let pod = async |node: &str, role: &str| {
            let pod = cluster.node(node).pod(&format!("{word}-{role}")).service_account(role);
            if captured { pod.captured().start().await } else { pod.start().await }
        };
        let side = Self {
            client: pod("a", "client").await?,
            other: pod("c", "other").await?,
            server: pod("b", "server").await?,
        };
        let folder = cluster.state().join(format!("web-{word}"));
        web::serve(&side.server, &peers.tools.nginx, &folder).await?;
        Ok(side)
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), HTTP)
    }

    fn place(&self, name: &'static str, target: SocketAddr, proxy: Option<Proxy>, folder: PathBuf) -> Place {
        Place { name, client: self.client.clone(), other: self.other.clone(), target, proxy, folder }
    }
}

impl Scene {
    /// Removes what an interrupted run has left: it would take processor time from this one.
    pub(super) fn clear() -> Result<()> {
        clean::remove(LAB).map(drop)
    }

    /// Starts all of it.
    pub(super) async fn begin(settings: &Settings, peers: &Peers) -> Result<Self> {
        let settings = Settings { peer_ztunnel: None, ..settings.clone() };
        let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let cluster = Cluster::start_with(LAB, settings, Options { nodes, ..Options::default() }).await?;
        let plain = Side::start(&cluster, false, peers).await?;
        let mesh = Side::start(&cluster, true, peers).await?;
        let folder = cluster.state().to_path_buf();
        let mut places = vec![plain.place("direct", plain.server(), None, folder.clone())];
        places.extend(others(&cluster, &plain, peers).await?);
        places.push(mesh.place("ztunnels", mesh.server(), None, folder.clone()));
        let sides = [&plain, &mesh];
        if let Some(program) = &peers.tools.envoy {
            places.extend(stranger(&cluster, sides, program).await?);
        }
        places.extend(own(&cluster, sides).await?);
        Ok(Self { cluster, places, servers: sides.map(|side| side.server.clone()) })
    }

    /// Removes the lab.
    pub(super) fn close(self) -> Result<()> {
        let Self { cluster, places, servers } = self;
        drop((places, servers));
        cluster.stop().context("removing the lab")
    }
}

/// Proxies between plain connections.
async fn others(cluster: &Cluster, plain: &Side, peers: &Peers) -> Result<Vec<Place>> {
    let (haproxy, libraries) = peers.haproxy.clone();
    let mut programs = vec![
        ("nginx", Program::Nginx(peers.tools.nginx.clone())),
        ("haproxy", Program::Haproxy(haproxy, libraries)),
    ];
    programs.extend(peers.tools.envoy.clone().map(|envoy| ("envoy-plain", Program::Envoy(envoy))));
    let mut places = Vec::new();
    for (name, program) in programs {
        let pod = cluster.node("b").pod(name).service_account(name).start().await?;
        let target = SocketAddr::new(pod.v4(), proxy::PORT);
        let folder = cluster.state().join(name);
        let other = Other::start(program, pod, plain.server(), folder.clone()).await?;
        places.push(plain.place(name, target, Some(Proxy::Other(other)), folder));
    }
    Ok(places)
}

/// Services behind a waypoint, in front of the servers of each side; their addresses.
async fn services(
    cluster: &Cluster,
    gate: &str,
    sides: [&Side; 2],
    names: [&str; 2],
) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for (side, name) in sides.into_iter().zip(names) {
        let service = cluster.service(name).selector("app", &side.server.name()).behind(gate);
        let service = service.declared(objects::PORT, HTTP, "http").create().await?;
        let address = service.addresses.with_context(|| format!("{name} has no address"))?;
        addresses.push(SocketAddr::new(address.v4.into(), objects::PORT));
    }
    Ok(addresses)
}

/// Envoy where a waypoint would be.
async fn stranger(cluster: &Cluster, sides: [&Side; 2], program: &Path) -> Result<Vec<Place>> {
    let [_, gate] = GATES;
    let pod = cluster.node("b").pod(gate).service_account(gate).labels(&[(GATEWAY_NAME, gate)]);
    let pod = pod.start().await?;
    announce(cluster, gate, "default", "service").await?;
    let addresses = services(cluster, gate, sides, ["envoy-in", "envoy"]).await?;
    let folder = cluster.state().join(gate);
    fs::create_dir_all(&folder).context("making a folder for Envoy's files")?;
    let certified = certificates::certify(cluster, &pod, &folder).await?;
    let [_, mesh] = sides;
    let identities = [None, Some(mesh.server.identity())];
    let served: Vec<_> = addresses
        .iter()
        .zip(sides)
        .zip(identities)
        .map(|((service, side), identity)| Served { service: *service, server: side.server(), identity })
        .collect();
    let settings = envoy::waypoint(&certified, &served);
    let process = proxy::fixed(&pod, program, &folder, &settings).await?;
    let place = |(name, target)| {
        let proxy = Proxy::Fixed(pod.clone(), Arc::clone(&process));
        mesh.place(name, target, Some(proxy), folder.clone())
    };
    Ok(["envoy-in", "envoy"].into_iter().zip(addresses).map(place).collect())
}

/// Our waypoint.
async fn own(cluster: &Cluster, sides: [&Side; 2]) -> Result<Vec<Place>> {
    let [gate, _] = GATES;
    // None of the others writes a line for each request.
    let waypoint = cluster.node("b").waypoint(gate).variable("RUST_LOG", "info,access=off").start().await?;
    let names = ["ambit-in", "ambit"];
    let addresses = services(cluster, gate, sides, names).await?;
    let own = Arc::new(Own { waypoint, objects: Objects::new(cluster, &names) });
    own.objects.apply(&Rules::ONE).await?;
    let [_, mesh] = sides;
    let folder = cluster.state().to_path_buf();
    let place = |(name, target)| mesh.place(name, target, Some(Proxy::Own(Arc::clone(&own))), folder.clone());
    Ok(names.into_iter().zip(addresses).map(place).collect())
}
