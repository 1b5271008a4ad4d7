// SPDX-License-Identifier: Apache-2.0
//! Configurations: a client on node a and a server on node b, outside the mesh, in it, or in it with the
//! ztunnels of a peer. It knows how they are set up, not what is measured.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use lab::{Cluster, Node, Pod, Settings, clean, cluster::Options};
use tokio::net::TcpStream;

use super::load::Tools;

/// Lab of Ambit and of the pods outside the mesh.
const OWN: &str = "bench";
/// Lab of another build of Ambit.
const BEFORE: &str = "benchbefore";
/// Lab whose nodes run the peer's ztunnel.
const PEER: &str = "benchpeer";

/// What the web server's answer ends with.
pub(crate) const END_OF_ANSWER: &str = "served~";
/// Port of the web server.
const HTTP: u16 = 8080;
/// Port of iperf3's server.
const IPERF: u16 = 5201;
const START: Duration = Duration::from_secs(10);

/// A client and a server, and what is between them.
pub(crate) struct Configuration {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// The pod that makes load.
    pub(crate) client: Pod,
    cluster: Cluster,
    server: Pod,
    between: Vec<Node>,
}

impl Configuration {
    /// Whether ztunnels are between client and server.
    pub(crate) fn captured(&self) -> bool {
        !self.between.is_empty()
    }

    /// Numbers of the client's ztunnel and of the server's; none outside the mesh.
    pub(crate) fn ztunnels(&self) -> Result<Vec<u32>> {
        let pid = |node: &Node| {
            node.ztunnel().pid().with_context(|| format!("the ztunnel of node {} has ended", node.name()))
        };
        self.between.iter().map(pid).collect()
    }

    /// The web server.
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), HTTP)
    }

    /// Where files of this configuration are kept.
    pub(crate) fn folder(&self) -> &Path {
        self.cluster.state()
    }

    /// iperf3's server.
    pub(crate) fn iperf(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), IPERF)
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
    let folder = cluster.state().join(format!("nginx-{name}"));
    fs::create_dir_all(&folder).context("making nginx' folder")?;
    fs::write(folder.join("nginx.conf"), nginx()).context("writing nginx' configuration")?;
    let (program, folder) = (tools.nginx.display().to_string(), folder.display().to_string());
    let arguments = ["-p", &folder, "-e", "stderr", "-c", "nginx.conf"];
    let web = server.start_program("nginx", &program, &arguments)?;
    let bulk = server.start_program("iperf3", super::IPERF.program, &["-s"])?;
    for (process, port) in [(web, HTTP), (bulk, IPERF)] {
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let reach = async || {
            let connect =
                async move || TcpStream::connect(local).await.map(drop).context("not listening yet");
            server.run(connect).await
        };
        process.ready(START, reach).await?;
    }
    let between = if captured { nodes.to_vec() } else { Vec::new() };
    Ok(Configuration { name, client, cluster: cluster.clone(), server, between })
}

/// One process, so that whoever ends it leaves none behind.
fn nginx() -> String {
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 3600;\n  keepalive_requests 1000000000;\n\
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n\
         server {{ listen {HTTP} backlog=4096; location / {{ return 200 \"{END_OF_ANSWER}\"; }} }}\n}}\n"
    )
}
