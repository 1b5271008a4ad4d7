// SPDX-License-Identifier: Apache-2.0
//! Attempts at the endpoints of a service, and tunnels inside tunnels, over real sockets of this host.

use std::time::Duration;

use hbone::{Connect, HeaderMap, HeaderValue, Server, Stop};
use mesh::{
    Change, Network, NetworkAddress, Service, Workload,
    workload::{GatewayAddress, GatewayDestination, TunnelProtocol},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::testing::{Bench, of, service, workload};

const VIP: &str = "10.9.9.9";
const SOON: Duration = Duration::from_secs(10);

fn flow(seed: u64) -> Flow {
    Flow {
        protocol: Protocol::TCP,
        source: "10.0.0.1:4000".parse().unwrap(),
        destination: SocketAddr::new(VIP.parse().unwrap(), 80),
        seed,
        resolved: Resolved::default(),
    }
}

/// Endpoints of a service `web`, of which only the last listens.
async fn endpoints(bench: &mut Bench, addresses: &[&str]) -> (TcpListener, Vec<Workload>) {
    let listener = TcpListener::bind((*addresses.last().unwrap(), 0)).await.unwrap();
    let web = service("web", VIP, listener.local_addr().unwrap().port());
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| Workload { services: of(&web), ..workload(&address.replace('.', "-"), address) })
        .collect();
    bench.writer.apply([Change::Service(web)]);
    bench.writer.apply(endpoints.iter().cloned().map(Change::Workload));
    (listener, endpoints)
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_for_one_that_does_not() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.1.1", "127.0.1.2", "127.0.1.3"]).await;
    for seed in 0..20 {
        let reached = reach(&bench.shard, flow(seed), 1).await;
        let (facts, _upstream) = reached.unwrap_or_else(|unreached| panic!("{}", unreached.failure));
        assert_eq!(facts.destination_address, listener.local_addr().unwrap());
    }
    let held = bench.node.aside.held(Instant::now());
    assert!(held.len() <= 2 && !held.contains(&endpoints[2].uid), "{held:?}");
}

#[tokio::test]
async fn an_endpoint_that_others_set_aside_is_tried_before_giving_up() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.2.1", "127.0.2.2"]).await;
    bench.node.aside.strike(&endpoints[1].uid, Instant::now());
    let reached = reach(&bench.shard, flow(1), 1).await;
    let (facts, _upstream) = reached.unwrap_or_else(|unreached| panic!("{}", unreached.failure));
    assert_eq!(facts.destination_address, listener.local_addr().unwrap());
}

#[tokio::test]
async fn nobody_is_tried_twice_when_all_endpoints_refuse() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.3.1", "127.0.3.2"]).await;
    drop(listener);
    let Err(unreached) = reach(&bench.shard, flow(1), 1).await else { panic!("nobody listens") };
    assert!(matches!(unreached.failure.what, What::ConnectFailed { .. }), "{}", unreached.failure);
    let now = Instant::now();
    let held = bench.node.aside.held(now);
    assert!(endpoints.iter().all(|endpoint| held.contains(&endpoint.uid)), "{held:?}");
    // A second strike would hold them for longer.
    assert!(bench.node.aside.held(now + Duration::from_secs(3)).is_empty());
}

/// What the far ends of tunnels say of themselves.
const SAID: &str = "k8s.cluster.name=c2,k8s.namespace.name=shop,k8s.deployment.name=web-b,service.name=web";

/// Serves tunnels on one connection under a service account: what the first one asks for, and its bytes.
async fn tunnel<S>(bench: &Bench, account: &str, stream: S) -> Option<(String, HeaderMap, hbone::Tunnel)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let identity = workload(account, "").identity();
    bench.node.identities.certificate(&identity).await.unwrap();
    let config = bench.node.profile.server_config(bench.node.identities.follow(&identity)).unwrap();
    let (stream, client) = identity::tls::accept(config, stream).await.ok()?;
    assert_eq!(client, workload("client", "").identity());
    let (opened, mut first) = tokio::sync::mpsc::channel(1);
    let server = Server::new(hbone::Settings::server(), bench.shard.spawner.clone());
    drop(bench.tasks.spawn("far end", async move {
        let stop = Stop { drain: std::future::pending(), force: std::future::pending() };
        let ended = server.serve(stream, stop, |connect: Connect| {
            let opened = opened.clone();
            async move {
                let (authority, headers) = (connect.authority().to_owned(), connect.headers().clone());
                let answer =
                    HeaderMap::from_iter([("baggage".parse().unwrap(), HeaderValue::from_static(SAID))]);
                let tunnel = connect.accept(answer).unwrap();
                opened.send((authority, headers, tunnel)).await.unwrap();
            }
        });
        drop(ended.await);
    }));
    first.recv().await
}

/// A service `web` whose one endpoint is on another network behind a gateway, the account of which is `gateway`.
async fn across(bench: &mut Bench) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let there = || Network("there".into());
    let web =
        Service { subject_alt_names: vec![workload("web", "").identity()], ..service("web", VIP, 8080) };
    let network_gateway = Some(GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress::new(there(), address.ip())),
        hbone_port: address.port(),
    });
    let remote = Workload {
        network: there(),
        network_gateway,
        services: of(&web),
        tunnel: TunnelProtocol::Hbone,
        ..workload("remote", "")
    };
    let gateway = Workload { network: there(), ..workload("gateway", "127.0.0.1") };
    bench.writer.apply([Change::Service(web), Change::Workload(remote), Change::Workload(gateway)]);
    listener
}

#[tokio::test]
async fn another_network_is_reached_through_a_tunnel_inside_a_tunnel() {
    let mut bench = Bench::new();
    let listener = across(&mut bench).await;
    let far_end = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (asked, headers, outer) = tunnel(&bench, "gateway", stream).await.unwrap();
        assert_eq!(asked, "web.shop.svc.cluster.local:80");
        assert!(!headers.contains_key("x-forwarded-network"));
        let (asked, headers, mut inner) = tunnel(&bench, "web", outer).await.unwrap();
        assert_eq!(asked, "web.shop.svc.cluster.local:80");
        assert_eq!(headers["x-forwarded-network"], "here");
        assert_eq!(headers["forwarded"], "for=\"10.0.0.1:4000\";host=web.shop.svc.cluster.local");
        assert_eq!(plan::trace::parse(headers["traceparent"].to_str().unwrap()), Some(7));
        let mut question = [0; 8];
        inner.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question");
        inner.write_all(b"answer").await.unwrap();
        inner.shutdown().await.unwrap();
    };
    let application = async {
        let reached = reach(&bench.shard, flow(1), 7).await;
        let (facts, upstream) = reached.unwrap_or_else(|unreached| panic!("{}", unreached.failure));
        let Upstream::Nested(mut tunnel, _) = upstream else { panic!("one tunnel is not enough") };
        tunnel.write_all(b"question").await.unwrap();
        let mut answer = Vec::new();
        tunnel.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        facts
    };
    let ((), facts) = tokio::time::timeout(SOON, async { tokio::join!(far_end, application) }).await.unwrap();
    assert_eq!(facts.destination_address, listener.local_addr().unwrap());
    assert_eq!(facts.destination.principal, Some(workload("web", "").identity()));
    assert_eq!((facts.destination.name(), facts.destination.cluster()), (Some("web-b"), Some("c2")));
    assert_eq!(facts.service.unwrap().name, "web");
}

#[tokio::test]
async fn only_the_gateway_and_only_the_service_behind_it_are_believed() {
    for (outer, inner) in
        [("imposter", "web"), ("gateway", "imposter"), ("web", "web"), ("gateway", "gateway")]
    {
        let mut bench = Bench::new();
        let listener = across(&mut bench).await;
        let far_end = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some((_, _, stream)) = tunnel(&bench, outer, stream).await {
                assert!(tunnel(&bench, inner, stream).await.is_none(), "{outer} {inner}");
            }
        };
        let both = async { tokio::join!(far_end, reach(&bench.shard, flow(1), 7)) };
        let ((), reached) = tokio::time::timeout(SOON, both).await.unwrap();
        let Err(unreached) = reached else { panic!("{outer} and {inner} were believed") };
        assert!(matches!(unreached.failure.what, What::UnexpectedPeer { .. }), "{}", unreached.failure);
    }
}
