// SPDX-License-Identifier: Apache-2.0
//! A waypoint in one process: clients reach it by tunnels over pipes, without TLS, servers are sockets of this host. And the
//! smallest resources, to be changed where a test is about them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hbone::{Cause, ConnectError, Head, HeaderMap, Server, Settings, Stop, Tunnel};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{
    Authority, AuthorityError, Compliance, Identities, IdentitiesSettings, Profile, SigningRequest,
    SystemClock, Trust,
};
use mesh::{
    Change, Hostname, Network, Service, TrustDomain, Workload, WorkloadUid,
    service::{AppProtocol, IpFamilies, LoadBalancing, PortMap, ServicePort, Vip, Visibility},
    workload::{
        GatewayAddress, GatewayDestination, Health, Locality, Memberships, NetworkMode, TunnelProtocol,
        WorkloadType,
    },
};
use runtime::Tasks;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use xds::{Kind, Writer};

use crate::{
    config::Config,
    inbound::{Peer, tunnel},
    shard::Shard,
    waypoint::{Parts, Waypoint},
};

/// Nothing that a test waits for takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Address of the service `web`.
pub(crate) const VIP: &str = "10.9.9.1";

/// Nobody here shows a certificate.
struct Nobody;

impl Authority for Nobody {
    fn sign(&self, _request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, AuthorityError>> {
        Box::pin(std::future::pending())
    }
}

/// See the module.
pub(crate) struct Bench {
    pub(crate) writer: Writer,
    pub(crate) shard: Arc<Shard>,
    pub(crate) tasks: Tasks,
}

impl Bench {
    /// A waypoint `gate` that serves the service `web` on port 80, declared as `protocol`. Call it inside a runtime.
    pub(crate) fn new(protocol: AppProtocol, variables: &[(&str, &str)]) -> Self {
        let who = [("POD_NAME", "gate"), ("POD_NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "gate")];
        let all = who.iter().chain(variables);
        let config = Config::new(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap();
        let (tasks, mut writer) = (Tasks::new(), Writer::new());
        let settings = IdentitiesSettings::default();
        let (identities, _renewal) = Identities::new(Arc::new(Nobody), settings, Arc::new(SystemClock));
        let profile = Profile::new(Compliance::Preferred, Trust::default());
        let waypoint = Waypoint::new(config, Parts { replica: writer.replica(), identities, profile });
        waypoint.exporters.start(&tasks);
        let shard = Shard::new(&Arc::new(waypoint), tasks.clone(), tasks.clone());
        let gate = service("gate", "10.9.9.9", 15008, AppProtocol::Unknown);
        let own = Workload { services: of(&gate), ..workload("gate", "127.0.0.9") };
        writer.apply([Change::Service(gate), Change::Workload(own)]);
        writer.apply([Change::Service(bound("web", VIP, 1, protocol))]);
        for kind in Kind::ALL {
            writer.mark_synced(kind);
        }
        Self { writer, shard, tasks }
    }

    /// A server behind `web`, that answers by `answer`.
    pub(crate) async fn server(&mut self, name: &str, protocol: AppProtocol, wire: Wire, answer: Answer) {
        let listener = self.listen(name, "web", protocol).await;
        serve(&self.tasks, listener, wire, answer);
    }

    /// A listener for connections to an endpoint of a service.
    pub(crate) async fn listen(
        &mut self,
        name: &str,
        of_service: &str,
        protocol: AppProtocol,
    ) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.endpoint(name, of_service, protocol, listener.local_addr().unwrap().port());
        listener
    }

    /// An endpoint of a service at a port of this host.
    pub(crate) fn endpoint(&mut self, name: &str, of_service: &str, protocol: AppProtocol, port: u16) {
        let vip = if of_service == "web" { VIP } else { "10.9.9.2" };
        let web = bound(of_service, vip, port, protocol);
        // Each has a target port of its own.
        let own = ServicePort { target: Some(port), protocol };
        let services = Arc::new(BTreeMap::from([(web.key(), PortMap::from([(80, own)]))]));
        // Not found by address: they have the same one.
        let network_mode = NetworkMode::HostNetwork;
        let workload = Workload { services, network_mode, ..workload(name, "127.0.0.1") };
        self.writer.apply([Change::Service(web), Change::Workload(workload)]);
    }

    /// Asks for a tunnel, as the client's ztunnel does.
    pub(crate) async fn tunnel(&self, authority: &str) -> Result<Tunnel, ConnectError> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let shard = Arc::clone(&self.shard);
        let server = Server::new(Settings::server(), shard.spawner.clone());
        drop(self.tasks.spawn("server", async move {
            let stop = Stop { drain: std::future::pending::<()>(), force: std::future::pending::<Cause>() };
            let peer = Arc::new(Peer {
                address: "10.0.0.1:4000".parse().unwrap(),
                identity: workload("client", "10.0.0.1").identity(),
                own: workload("gate", "127.0.0.9").identity(),
            });
            let served = server
                .serve(far, stop, |connect| tunnel(Arc::clone(&shard), Arc::clone(&peer), 1, connect))
                .await;
            served.unwrap_or_default();
        }));
        let (connection, driver) = hbone::handshake(near, &Settings::client()).await.unwrap();
        drop(self.tasks.spawn("driver", async move { drop(driver.await) }));
        let head = Head::new(authority, HeaderMap::new()).unwrap();
        Ok(connection.connect(&head).await?.0)
    }

    /// A connection to `web`.
    pub(crate) async fn connect(&self) -> Tunnel {
        self.tunnel(&format!("{VIP}:80")).await.unwrap()
    }

    /// Sends bytes, and reads what comes back up to the end.
    pub(crate) async fn say(&self, bytes: &[u8]) -> String {
        let mut tunnel = self.connect().await;
        let mut back = Vec::new();
        let conversation = async {
            tunnel.write_all(bytes).await.unwrap();
            // A connection that is cut off has said what it had to say.
            tunnel.read_to_end(&mut back).await.unwrap_or_default();
        };
        tokio::time::timeout(SOON, conversation).await.unwrap();
        String::from_utf8_lossy(&back).into_owned()
    }

    /// One request by HTTP/1.1.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let connection = TokioIo::new(self.connect().await);
        let (mut sender, driver) = hyper::client::conn::http1::handshake(connection).await.unwrap();
        drop(self.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
        whole(tokio::time::timeout(SOON, sender.send_request(request)).await.unwrap().unwrap()).await
    }

    /// One request by HTTP/2.
    pub(crate) async fn ask_http2(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let connection = TokioIo::new(self.connect().await);
        let begun = hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await;
        let (mut sender, driver) = begun.unwrap();
        drop(self.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
        whole(tokio::time::timeout(SOON, sender.send_request(request)).await.unwrap().unwrap()).await
    }
}

/// An answer with all of its body.
async fn whole(response: Response<Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// What a server speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    Http1,
    Http2,
}

/// What a server answers.
pub(crate) type Answer =
    Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// One that is made of the request.
pub(crate) fn answer(
    make: impl Fn(Request<Bytes>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> Answer {
    Arc::new(move |request| {
        let response = make(request);
        Box::pin(async move { response })
    })
}

/// Answers connections of a listener.
pub(crate) fn serve(tasks: &Tasks, listener: TcpListener, wire: Wire, answer: Answer) {
    let owner = tasks.clone();
    drop(tasks.spawn("listener", async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            drop(owner.spawn("server", converse(stream, wire, Arc::clone(&answer))));
        }
    }));
}

/// Answers what comes on a connection.
pub(crate) async fn converse<S>(stream: S, wire: Wire, answer: Answer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(answer(Request::from_parts(head, body)).await)
        }
    });
    let stream = TokioIo::new(stream);
    let served = match wire {
        Wire::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
        Wire::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
    };
    served.unwrap_or_default();
}

/// A workload `name` of namespace `shop` under its own account, which takes plain TCP.
pub(crate) fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap(),
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        service_account: name.into(),
        addresses: address.parse().into_iter().collect(),
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::None,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "n1".into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
}

/// A service behind the waypoint `gate`.
pub(crate) fn bound(name: &str, address: &str, target: u16, protocol: AppProtocol) -> Service {
    let destination = GatewayDestination::Hostname("shop/gate.shop.svc.cluster.local".parse().unwrap());
    let waypoint = Some(GatewayAddress { destination, hbone_port: 15008 });
    Service { waypoint, ..service(name, address, target, protocol) }
}

/// A service `name` of namespace `shop`, its port 80 mapped to `target`.
pub(crate) fn service(name: &str, address: &str, target: u16, protocol: AppProtocol) -> Service {
    let address: IpAddr = address.parse().unwrap();
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("{name}.shop.svc.cluster.local")).unwrap(),
        vips: vec![Vip { network: Network::default(), net: address.into() }],
        ports: PortMap::from([(80, ServicePort { target: Some(target), protocol })]),
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    }
}

fn of(service: &Service) -> Arc<Memberships> {
    Arc::new(BTreeMap::from([(service.key(), PortMap::new())]))
}
