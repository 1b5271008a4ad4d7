// SPDX-License-Identifier: Apache-2.0
//! Configurations: a client on node a and a server on node b, outside the mesh, in it, in it with the ztunnels of a
//! peer, or outside it with an Envoy in each pod. It knows how they are set up, not what is measured.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
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
/// Ports of Envoy's tunnels to the two, and of their entrances beside the client.
const TUNNELS: [u16; 2] = [envoy::HBONE, 15009];

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
    cluster: Cluster,
    server: Pod,
    between: Vec<Arc<Process>>,
}

impl Configuration {
    /// Whether proxies are between client and server.
    pub(crate) fn proxied(&self) -> bool {
        !self.between.is_empty()
    }

    /// Numbers of the client's proxy and of the server's; none where there are no proxies.
    pub(crate) fn proxies(&self) -> Result<Vec<u32>> {
        let pid = |proxy: &Arc<Process>| {
            proxy.pid().with_context(|| format!("{} of {} has ended", proxy.name(), self.name))
        };
        self.between.iter().map(pid).collect()
    }

    /// Where files of this configuration are kept.
    fn folder(&self) -> &Path {
        self.cluster.state()
    }

    /// For load from its client to its web server.
    pub(crate) fn site(&self, tools: &Tools) -> Site<'_> {
        Site {
            name: self.name,
            client: &self.client,
            target: self.http,
            folder: self.folder(),
            seconds: tools.seconds,
        }
    }

    /// Puts an Envoy beside the client and one beside the server, with a tunnel for each port.
    async fn tunnel(&mut self, program: &Path) -> Result<()> {
        let folder = |role: &str| -> Result<_> {
            let folder = self.folder().join(format!("{}-{role}", self.name));
            fs::create_dir_all(&folder).context("making a folder for Envoy's files")?;
            Ok(folder)
        };
        let (near, far) = (folder("client")?, folder("server")?);
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
        [self.http, self.iperf] = TUNNELS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        self.between = vec![client, server];
        Ok(())
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
    let between = if captured { nodes.iter().map(Node::ztunnel).collect() } else { Vec::new() };
    let [http, iperf] = [HTTP, IPERF].map(|port| SocketAddr::new(server.v4(), port));
    Ok(Configuration { name, client, http, iperf, cluster: cluster.clone(), server, between })
}
