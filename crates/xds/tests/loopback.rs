// SPDX-License-Identifier: Apache-2.0
//! Client and server over loopback: credentials, reconnection, refusals.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests, their helpers too")]

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use mesh::{
    Hostname, Network, Policy, Service, SpiffeId, TrustDomain, Workload, WorkloadUid,
    policy::{Action, PolicyScope, Rule},
    service::{IpFamilies, LoadBalancing, Vip, Visibility},
    workload::{Health, Locality, NetworkMode, TunnelProtocol, WorkloadType},
};
use proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Endpoint, server::Server as Grpc},
};
use xds::{
    Catalogue, Client, ClientConfig, Kind, Replica, Resource, Server, Update, Writer,
    client::{BoxError, Demand, Stats, Termination},
    server::{Authenticator, ServerSettings},
};

const DEADLINE: Duration = Duration::from_secs(30);
const NODE: &str = "ztunnel~127.0.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local";

fn workload(name: &str, node: &str) -> Resource {
    Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap(),
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        service_account: name.into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: node.into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
    .into()
}

fn service(name: &str, vip: &str) -> Resource {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("{name}.shop.svc.cluster.local")).unwrap(),
        vips: vec![Vip { network: Network::default(), net: vip.parse().unwrap() }],
        ports: Default::default(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    }
    .into()
}

fn policy(name: &str) -> Resource {
    Policy {
        name: format!("shop/{name}").parse().unwrap(),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    }
    .into()
}

fn catalogue() -> Catalogue {
    let catalogue = Catalogue::new();
    catalogue.replace(
        Kind::Address,
        (0..20)
            .map(|number| workload(&format!("w{number}"), "node-1"))
            .chain([service("web", "10.1.0.1/32")]),
    );
    catalogue.replace(Kind::Authorization, [policy("deny")]);
    for kind in [Kind::Route, Kind::Traffic, Kind::Guard, Kind::Authentication, Kind::Telemetry] {
        catalogue.replace(kind, []);
    }
    catalogue
}

/// Lets in whoever has the token, as the ztunnel.
#[derive(Debug)]
struct Token(&'static str);

impl Authenticator for Token {
    async fn authenticate(
        &self,
        headers: &MetadataMap,
        peer: Option<SocketAddr>,
    ) -> Result<SpiffeId, Status> {
        assert!(peer.is_some_and(|peer| peer.ip().is_loopback()));
        let header = |name| headers.get(name).and_then(|text| text.to_str().ok());
        if header("authorization") != Some(&format!("Bearer {}", self.0))
            || header("clusterid") != Some("Kubernetes")
        {
            return Err(Status::unauthenticated("who are you"));
        }
        Ok("spiffe://cluster.local/ns/istio-system/sa/ztunnel".parse().unwrap())
    }
}

/// Tasks that end with the test.
#[derive(Default)]
struct Running(JoinSet<()>);

impl Running {
    fn plain<S: AggregatedDiscoveryService>(
        &mut self,
        listener: TcpListener,
        service: AggregatedDiscoveryServiceServer<S>,
    ) -> tokio::task::AbortHandle {
        let served =
            Grpc::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        self.0.spawn(async move { served.await.unwrap() })
    }

    /// Starts a client.
    fn client(&mut self, config: ClientConfig) -> Proxy {
        let writer = Writer::new();
        let replica = writer.replica();
        let client = Client::new(config, writer).unwrap();
        let (stats, demand) = (client.stats(), client.demand());
        self.0.spawn(client.run(std::future::pending()));
        Proxy { replica, stats, demand }
    }
}

struct Proxy {
    replica: Replica,
    stats: Arc<Stats>,
    demand: Demand,
}

impl Proxy {
    async fn synced(&self) {
        timeout(DEADLINE, self.replica.wait_synced()).await.expect("synced");
    }

    /// Waits until the Index is as it should be.
    async fn until(&self, what: &str, looks: impl Fn(&mesh::Index) -> bool) {
        let mut changed = self.replica.changed();
        let wait = async {
            while !self.replica.read(&looks) {
                changed.changed().await.unwrap();
            }
        };
        timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

fn on_node(node: &'static str) -> impl Fn(&mesh::Index) -> bool {
    move |index| index.workloads().any(|workload| workload.node == node)
}

/// Waits for something that nobody announces.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        let mut often = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            often.tick().await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn plain(address: SocketAddr) -> ClientConfig {
    ClientConfig {
        channel: Arc::new(move || {
            Box::pin(async move { Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?) })
        }),
        token: Some(Arc::new(|| Ok("secret\n".to_owned()))),
        headers: vec![("clusterid".to_owned(), "Kubernetes".to_owned())],
        node_id: NODE.to_owned(),
        node_metadata: serde_json::json!({ "NODE_NAME": "node-1", "LABELS": { "app": "ztunnel" } })
            .as_object()
            .cloned()
            .unwrap(),
        kinds: &Kind::L4,
        on_demand: false,
    }
}

fn server(catalogue: &Catalogue) -> Server<Token> {
    Server::new(catalogue.clone(), Token("secret"), ServerSettings::default())
}

#[tokio::test]
async fn a_change_travels() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    let server = server(&catalogue);
    running.plain(listener, server.service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    let counts =
        |index: &mesh::Index| (index.workloads().count(), index.services().count(), index.policies().count());
    assert_eq!(proxy.replica.read(counts), (20, 1, 1));

    let mut touches = proxy.replica.touches();
    catalogue.update([Update::Put(workload("w3", "node-2")), Update::Put(policy("more"))]);
    proxy.until("the change", |index| on_node("node-2")(index) && index.policies().count() == 2).await;
    assert!(touches.take().is_some_and(|touched| touched.policies));
    catalogue.update([Update::Remove(Kind::Address, "Kubernetes//Pod/shop/w3".into())]);
    proxy.until("the removal", |index| index.workloads().count() == 19).await;

    let acked = || {
        let proxies = server.proxies();
        assert_eq!(proxies.len(), 1);
        let progress = proxies[0].progress.of(Kind::Address).clone().unwrap();
        progress.wildcard && !progress.in_flight && progress.acked == catalogue.position(Kind::Address)
    };
    eventually("the acknowledgement", acked).await;
    let proxy = server.proxies().remove(0);
    assert_eq!((proxy.node.as_str(), proxy.caller.namespace().as_str()), (NODE, "istio-system"));
    drop(running);
    eventually("the proxy to be gone", || server.proxies().is_empty()).await;
}

#[tokio::test]
async fn a_connection_is_asked_for_until_there_is_one() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    running.plain(listener, server(&catalogue).service());
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, right) = (Arc::clone(&asked), plain(address).channel);
    let proxy = running.client(ClientConfig {
        channel: Arc::new(move || match counted.fetch_add(1, Ordering::SeqCst) {
            0..3 => Box::pin(std::future::ready(Err(BoxError::from("no root yet")))),
            _ => right(),
        }),
        ..plain(address)
    });
    proxy.synced().await;
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    assert_eq!(proxy.stats.terminations(Termination::ConnectionError), 3);
}

#[tokio::test]
async fn a_token_is_read_again_for_every_stream() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    running.plain(listener, server(&catalogue).service());
    let asked = AtomicUsize::new(0);
    let token = move || match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Err(BoxError::from("no token yet")),
        1 => Ok("expired".to_owned()),
        _ => Ok("secret".to_owned()),
    };
    let proxy = running.client(ClientConfig { token: Some(Arc::new(token)), ..plain(address) });
    proxy.synced().await;
    assert_eq!(proxy.stats.terminations(Termination::ConnectionError), 1);
    assert_eq!(proxy.stats.terminations(Termination::Error), 1);
    assert_eq!(proxy.stats.connected(), 1);
}

#[tokio::test]
async fn a_stream_that_grows_old_is_replaced_and_nothing_is_sent_again() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    let settings =
        ServerSettings { longest_stream: Some(Duration::from_millis(100)), ..ServerSettings::default() };
    running.plain(listener, Server::new(catalogue.clone(), Token("secret"), settings).service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    let sent = Kind::ALL.map(|kind| proxy.stats.bytes(kind));
    eventually("a third stream", || proxy.stats.connected() >= 3).await;
    let answers = proxy.stats.messages(Kind::Address);
    eventually("an answer to it", || proxy.stats.messages(Kind::Address) > answers).await;
    assert_eq!(Kind::ALL.map(|kind| proxy.stats.bytes(kind)), sent);
    eventually("two that ended in order", || proxy.stats.terminations(Termination::Complete) >= 2).await;
    catalogue.update([Update::Put(workload("w3", "node-2"))]);
    proxy.until("a change on a later stream", on_node("node-2")).await;
}

#[tokio::test]
async fn a_server_that_dies_is_found_again_and_tells_only_what_changed() {
    let (before, mut running) = (catalogue(), Running::default());
    // An address of its own: of `127.0.0.1` another test might get the port between the two servers.
    let listener = TcpListener::bind("127.0.4.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let first = server(&before);
    let serving = running.plain(listener, first.service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    let sent = proxy.stats.bytes(Kind::Address);
    serving.abort();
    first.close();
    eventually("the end of the stream", || first.proxies().is_empty()).await;
    assert!(proxy.replica.synced(), "the last state stays in force");
    assert_eq!(proxy.replica.read(|index| index.workloads().count()), 20);

    // Another process: it has not read everything when the proxy comes.
    let after = Catalogue::new();
    let second = server(&after);
    running.plain(TcpListener::bind(address).await.unwrap(), second.service());
    eventually("the proxy to come back", || !second.proxies().is_empty()).await;
    let changed = workload("w0", "node-2");
    let size = changed.encode().len() as u64;
    after.update([Update::Put(changed.clone())]);
    let others = (1..19).map(|number| workload(&format!("w{number}"), "node-1"));
    after.replace(Kind::Address, others.chain([changed, service("web", "10.1.0.1/32")]));
    after.replace(Kind::Authorization, [policy("deny")]);
    for kind in [Kind::Route, Kind::Traffic, Kind::Guard, Kind::Authentication, Kind::Telemetry] {
        after.replace(kind, []);
    }
    proxy.until("the change", |index| on_node("node-2")(index) && index.workloads().count() == 19).await;
    assert_eq!(proxy.stats.bytes(Kind::Address), sent + size);
}

#[tokio::test]
async fn a_connection_that_breaks_is_opened_again() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    let server = server(&catalogue);
    running.plain(listener, server.service());
    // Between the two, so that it can be cut without a word.
    let (relay, outside) = listen().await;
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let cutter = cut.clone();
    running.0.spawn(async move {
        let mut relayed = JoinSet::new();
        while let Ok((mut client, _)) = relay.accept().await {
            let mut cut = cutter.subscribe();
            relayed.spawn(async move {
                let mut server = TcpStream::connect(address).await.unwrap();
                let copied = tokio::io::copy_bidirectional(&mut client, &mut server);
                tokio::select! {
                    copied = copied => drop(copied.ok()),
                    cut = cut.recv() => cut.unwrap(),
                }
            });
        }
    });
    let proxy = running.client(plain(outside));
    proxy.synced().await;
    let sent = proxy.stats.bytes(Kind::Address);
    cut.send(()).unwrap();
    eventually("the end", || proxy.stats.terminations(Termination::Reconnect) == 1).await;
    eventually("another stream", || proxy.stats.connected() == 2).await;
    catalogue.update([Update::Put(workload("w3", "node-2"))]);
    proxy.until("a change", on_node("node-2")).await;
    assert!(proxy.stats.bytes(Kind::Address) < sent + sent / 2);
    eventually("the old stream to be forgotten", || server.proxies().len() == 1).await;
}

#[tokio::test]
async fn a_burst_of_changes_is_gathered() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    running.plain(listener, server(&catalogue).service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    let before = proxy.stats.messages(Kind::Address);
    let start = std::time::Instant::now();
    for number in 0..200 {
        catalogue.update([Update::Put(workload(&format!("x{number}"), "node-1"))]);
        tokio::task::yield_now().await;
    }
    proxy.until("all of them", |index| index.workloads().count() == 220).await;
    let messages = proxy.stats.messages(Kind::Address) - before;
    let bursts = start.elapsed().as_millis() / 100;
    assert!(u128::from(messages) <= bursts + 3, "{messages} messages in {bursts} bursts");
}

#[tokio::test]
async fn closing_ends_the_streams_cleanly() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    let server = server(&catalogue);
    running.plain(listener, server.service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    server.close();
    eventually("the end", || proxy.stats.terminations(Termination::Complete) > 0).await;
}

#[tokio::test]
async fn on_demand_fetches_what_is_asked_for() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    running.plain(listener, server(&catalogue).service());
    let proxy = running.client(ClientConfig { on_demand: true, ..plain(address) });
    proxy.synced().await;
    let fetch = |name: &'static str| timeout(DEADLINE, proxy.demand.fetch(name.into()));
    assert_eq!(proxy.replica.read(|index| index.workloads().count()), 0);
    fetch("Kubernetes//Pod/shop/w3").await.unwrap().unwrap();
    assert_eq!(proxy.replica.read(|index| index.workloads().count()), 1);
    let (found, missing) = tokio::join!(fetch("/10.1.0.1"), fetch("/10.99.0.1"));
    found.unwrap().unwrap();
    missing.unwrap().unwrap();
    assert_eq!(proxy.replica.read(|index| index.services().count()), 1);
    catalogue.update([Update::Put(workload("w3", "node-2"))]);
    proxy.until("a change of what was fetched", on_node("node-2")).await;
    catalogue.update([Update::Remove(Kind::Address, "Kubernetes//Pod/shop/w3".into())]);
    proxy.until("its removal", |index| index.workloads().count() == 0).await;
}

#[tokio::test]
async fn a_client_that_has_everything_need_not_fetch() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    running.plain(listener, server(&catalogue).service());
    let proxy = running.client(plain(address));
    proxy.synced().await;
    timeout(DEADLINE, proxy.demand.fetch("/10.99.0.1".into())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_reaches_whoever_asks_the_server() {
    let (catalogue, mut running) = (catalogue(), Running::default());
    let (listener, address) = listen().await;
    let server = server(&catalogue);
    let mut rejections = server.rejections();
    running.plain(listener, server.service());
    let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
    let (requests, outgoing) = mpsc::channel(8);
    let first = DeltaDiscoveryRequest {
        node: Some(proto::core::Node { id: "picky".into(), ..Default::default() }),
        type_url: proto::AUTHORIZATION.into(),
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(outgoing));
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    let mut responses = client.delta_aggregated_resources(request).await.unwrap().into_inner();
    let response = timeout(DEADLINE, responses.message()).await.unwrap().unwrap().unwrap();
    let message = "shop/deny: field action: has the unknown value 7".to_owned();
    let refusal = DeltaDiscoveryRequest {
        type_url: response.type_url,
        response_nonce: response.nonce,
        error_detail: Some(proto::google::rpc::Status {
            code: 3,
            message: message.clone(),
            details: Vec::new(),
        }),
        ..Default::default()
    };
    requests.send(refusal).await.unwrap();
    let rejection = timeout(DEADLINE, rejections.recv()).await.unwrap().unwrap();
    assert_eq!((rejection.node.as_str(), rejection.kind), ("picky", Kind::Authorization));
    assert_eq!((rejection.names, rejection.message), (vec!["shop/deny".into()], message.clone()));
    let progress = || server.proxies()[0].progress.of(Kind::Authorization).clone().unwrap();
    eventually("the listing", || progress().refused.get("shop/deny") == Some(&message)).await;
}

/// A server that says what it is told to say, and keeps what it hears.
struct Scripted {
    says: DeltaDiscoveryResponse,
    hears: mpsc::Sender<DeltaDiscoveryRequest>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Scripted {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let hears = self.hears.clone();
        let heard = request.into_inner().filter_map(move |request| {
            let hears = hears.clone();
            async move {
                hears.send(request.ok()?).await.ok()?;
                None
            }
        });
        let said = tokio_stream::once(Ok(self.says.clone()));
        Ok(Response::new(Box::pin(said.chain(heard))))
    }
}

#[tokio::test]
async fn a_client_refuses_by_name_what_it_cannot_use_and_keeps_the_rest() {
    let mut running = Running::default();
    let (listener, address) = listen().await;
    let (hears, mut heard) = mpsc::channel(16);
    let wire = |name: &str, value: Vec<u8>| Wire {
        name: name.into(),
        version: "v".into(),
        resource: Some(prost_types::Any { type_url: proto::ADDRESS.into(), value }),
        aliases: Vec::new(),
    };
    let good = workload("w1", "node-1");
    let says = DeltaDiscoveryResponse {
        type_url: proto::ADDRESS.into(),
        nonce: "n1".into(),
        resources: vec![wire("shop/bad", vec![0xff]), wire(&good.name(), good.encode())],
        ..Default::default()
    };
    running.plain(listener, AggregatedDiscoveryServiceServer::new(Scripted { says, hears }));
    let proxy = running.client(plain(address));
    let mut subscribed = Vec::new();
    let refusal = loop {
        let request = timeout(DEADLINE, heard.recv()).await.unwrap().unwrap();
        if request.response_nonce.is_empty() {
            let node = request.node.unwrap();
            assert_eq!(node.id, NODE);
            assert!(node.metadata.unwrap().fields.contains_key("LABELS"));
            subscribed.push(request.type_url);
        } else {
            break request;
        }
    };
    assert_eq!(subscribed, [proto::AUTHORIZATION, proto::ADDRESS]);
    let error = refusal.error_detail.unwrap();
    assert!(error.message.starts_with("shop/bad: is not a valid Address: "), "{}", error.message);
    assert_eq!((error.code, refusal.response_nonce.as_str()), (3, "n1"));
    assert_eq!(proxy.replica.read(|index| index.workloads().count()), 1);
    assert_eq!(proxy.stats.refused(Kind::Address), 1);
    assert!(!proxy.replica.synced());
}

#[test]
fn a_header_that_cannot_be_sent_is_said_at_once() {
    let config = ClientConfig {
        headers: vec![("bad header".into(), "x".into())],
        ..plain("127.0.0.1:1".parse().unwrap())
    };
    let error = Client::new(config, Writer::new()).unwrap_err();
    assert_eq!(error.to_string(), "header \"bad header\" is not valid");
}
