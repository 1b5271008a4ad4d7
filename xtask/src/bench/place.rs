// SPDX-License-Identifier: Apache-2.0
//! Configurations: a client on node a and a server on node b, outside the mesh, in it, in it with the ztunnels of a
//! peer, or outside it with an Envoy or an nginx in each pod. It knows how they are set up, not what is measured.

mod nginx;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use lab::{
    Cluster, Node, Pod, Settings, clean,
    cluster::Options,
    envoy::{self, Entrance, Exit},
    process::Process,
};

use super::{
    cost,
    load::{Site, Tools},
    web::{self, HTTP},
};

/// Lab of Ambit and of the pods outside the mesh.
const OWN: &str = "bench";
/// Lab of another build of Ambit.
const BEFORE: &str = "benchbefore";
/// Lab whose nodes run the peer's ztunnel.
const PEER: &str = "benchpeer";

/// Port of iperf3's server.
const IPERF: u16 = 5201;
/// Ports of Envoy's or nginx' tunnels to the two, and of their entrances beside the client.
const TUNNELS: [u16; 2] = [envoy::HBONE, 15009];

/// What carries connections between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// The kernel.
    Nothing,
    /// The ztunnels of the two nodes.
    Ztunnels,
    /// An Envoy in each pod.
    Envoy,
    /// An nginx in each pod, with a connection of mutual TLS for each connection.
    Nginx,
}

/// A client and a server, and what is between them.
pub(crate) struct Configuration {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// The pod that makes load.
    pub(crate) client: Pod,
    /// The web server, as the client reaches it.
    pub(crate) http: SocketAddr,
    /// iperf3's server, likewise.
    pub(crate) iperf: SocketAddr,
    /// The lab that it is in.
    pub(crate) cluster: Cluster,
    /// The pod that takes the load.
    pub(crate) server: Pod,
    /// What is between the two.
    pub(crate) between: Between,
    proxies: Vec<Arc<Process>>,
}

impl Configuration {
    /// Whether proxies are between client and server.
    pub(crate) fn proxied(&self) -> bool {
        self.between != Between::Nothing
    }

    /// Numbers of the client's proxy and of the server's; none where there are no proxies.
    pub(crate) fn proxies(&self) -> Result<Vec<u32>> {
        let pid = |proxy: &Arc<Process>| {
            proxy.pid().with_context(|| format!("{} of {} has ended", proxy.name(), self.name))
        };
        self.proxies.iter().map(pid).collect()
    }

    /// The same with all processes that these have started.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for pid in self.proxies()? {
            all.push(pid);
            all.extend(cost::descendants(pid)?);
        }
        Ok(all)
    }

    /// A folder of its own for files of one of its pods.
    pub(crate) fn folder_of(&self, role: &str) -> Result<PathBuf> {
        let folder = self.cluster.state().join(format!("{}-{role}", self.name));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// For load from its client to its web server.
    pub(crate) fn site(&self, tools: &Tools) -> Site<'_> {
        Site {
            name: self.name,
            client: &self.client,
            target: self.http,
            folder: self.cluster.state(),
            seconds: tools.seconds,
        }
    }

    /// Puts an Envoy beside the client and one beside the server, with a tunnel for each port.
    async fn tunnel(&mut self, program: &Path) -> Result<()> {
        let (near, far) = (self.folder_of("client")?, self.folder_of("server")?);
        let of_client = envoy::certify(&self.cluster, &self.client, &near).await?;
        let of_server = envoy::certify(&self.cluster, &self.server, &far).await?;
        let exits = [(TUNNELS[0], HTTP), (TUNNELS[1], IPERF)];
        let exits = exits.map(|(port, application)| Exit { port, application });
        let settings = envoy::server(&of_server, &self.client.identity(), &exits);
        let server =
            envoy::start(&self.server, program, &far.join("envoy.json"), &settings, TUNNELS[1]).await?;
        let entrances = exits.map(|Exit { port, application }| Entrance {
            port,
            tunnel: SocketAddr::new(self.server.v4(), port),
            target: SocketAddr::new(self.server.v4(), application),
        });
        let settings = envoy::client(&of_client, &self.server.identity(), &entrances);
        let client =
            envoy::start(&self.client, program, &near.join("envoy.json"), &settings, TUNNELS[1]).await?;
        self.enter(Between::Envoy, vec![client, server]);
        Ok(())
    }

    /// Puts an nginx beside the client and one beside the server, with a port for each application.
    async fn secure(&mut self, program: &Path, module: &Path) -> Result<()> {
        let proxies = nginx::start(self, program, module).await?;
        self.enter(Between::Nginx, proxies.into());
        Ok(())
    }

    /// From now on the server is reached by proxies' entrances beside the client.
    fn enter(&mut self, between: Between, proxies: Vec<Arc<Process>>) {
        [self.http, self.iperf] = TUNNELS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        (self.between, self.proxies) = (between, proxies);
    }

    /// Ends it; the last one in a lab removes the lab.
    pub(crate) fn close(self) -> Result<()> {
        self.cluster.stop().context("removing the lab")
    }
}

/// All configurations that are to be measured: `before` is a folder with the binaries of another build.
pub(crate) async fn all(
    settings: &Settings,
    tools: &Tools,
    before: Option<&Path>,
) -> Result<Vec<Configuration>> {
    let own = Settings { peer_ztunnel: None, ..settings.clone() };
    let cluster = Cluster::start_with(OWN, own.clone(), Options::default()).await?;
    let mut places =
        vec![open(&cluster, "direct", false, tools).await?, open(&cluster, "ambit", true, tools).await?];
    if let Some(folder) = before {
        let other = Settings { binaries: folder.to_path_buf(), ..own };
        let cluster = Cluster::start_with(BEFORE, other, Options::default()).await?;
        places.push(open(&cluster, "before", true, tools).await?);
    }
    if settings.peer_ztunnel.is_some() {
        let options = Options::default();
        let options = Options { peers: options.nodes.clone(), ..options };
        let cluster = Cluster::start_with(PEER, settings.clone(), options).await?;
        places.push(open(&cluster, "peer", true, tools).await?);
    }
    if let Some(program) = &tools.envoy {
        let mut place = open(&cluster, "envoy", false, tools).await?;
        place.tunnel(program).await?;
        places.push(place);
    }
    if let Some(module) = &tools.stream {
        let mut place = open(&cluster, "nginx", false, tools).await?;
        place.secure(&tools.nginx, module).await?;
        places.push(place);
    }
    Ok(places)
}

/// Removes what an interrupted run has left: it would take processor time from this one.
pub(crate) fn clear() -> Result<()> {
    [OWN, BEFORE, PEER].into_iter().try_for_each(|name| clean::remove(name).map(drop))
}

async fn open(cluster: &Cluster, name: &'static str, captured: bool, tools: &Tools) -> Result<Configuration> {
    let nodes = [cluster.node("a"), cluster.node("b")];
    let [near, far] = &nodes;
    let pod = |node: &Node, role: &str| {
        let builder = node.pod(&format!("{name}-{role}")).service_account(role);
        if captured { builder.captured() } else { builder }
    };
    let client = pod(near, "client").start().await?;
    let server = pod(far, "server").start().await?;
    web::serve(&server, &tools.nginx, &cluster.state().join(format!("nginx-{name}"))).await?;
    web::listening(&server, server.start_program("iperf3", super::IPERF.program, &["-s"])?, IPERF).await?;
    let (between, proxies) = if captured {
        (Between::Ztunnels, nodes.iter().map(Node::ztunnel).collect())
    } else {
        (Between::Nothing, Vec::new())
    };
    let [http, iperf] = [HTTP, IPERF].map(|port| SocketAddr::new(server.v4(), port));
    Ok(Configuration { name, client, http, iperf, cluster: cluster.clone(), server, between, proxies })
}
