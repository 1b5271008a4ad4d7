// SPDX-License-Identifier: Apache-2.0
//! Tests: requests to servers that really speak TLS, under an authority of the test's own.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use mesh::{
    Change, Hostname, Traffic,
    l7::tls::{Root, Roots},
    service::AppProtocol,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::{Bench, SOON, Wire as Spoken, answer, converse};

const NAME: &str = "api.example.com";

/// Who vouches for the servers of a test.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server of the name.
    fn server(&self, inside: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = builder.with_single_cert(vec![leaf.der().clone()], key).unwrap();
        config.alpn_protocols = inside.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn roots(&self) -> Roots {
        Roots::Only(vec![Root(self.0.der().as_ref().into())])
    }
}

/// That `web` is asked for a name, which these vouch for.
fn under(hostname: &str, roots: Roots) -> Change {
    let hostname = Hostname::parse(hostname).unwrap();
    let tls = Arc::new(ServerTls { hostname, names: Vec::new(), roots });
    let plain = Traffic::plain("shop/web.shop.svc.cluster.local".parse().unwrap());
    Change::Traffic(Traffic { tls: BTreeMap::from([(80, tls)]), ..plain })
}

/// Puts a server behind `web`; `wire` is what it speaks inside, bytes being sent back. Counts what arrives inside.
async fn server(bench: &mut Bench, tls: TlsAcceptor, declared: AppProtocol, wire: Option<Spoken>) -> Seen {
    let listener = bench.listen("one", "web", declared).await;
    let (seen, owner) = (Seen::default(), bench.tasks.clone());
    let counted = Arc::clone(&seen);
    drop(bench.tasks.spawn("listener", async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let (tls, seen) = (tls.clone(), Arc::clone(&counted));
            drop(owner.spawn("server", async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let Some(wire) = wire else {
                    let mut bytes = Vec::new();
                    let read = stream.read_to_end(&mut bytes).await;
                    seen.fetch_add(bytes.len(), Ordering::SeqCst);
                    if read.is_ok() && stream.write_all(&bytes).await.is_ok() {
                        stream.shutdown().await.unwrap_or_default();
                    }
                    return;
                };
                let answered = answer(move |request| {
                    seen.fetch_add(1, Ordering::SeqCst);
                    let scheme = request.uri().scheme_str().unwrap_or("none").to_owned();
                    Response::new(Full::from(format!("{:?} {scheme}", request.version())))
                });
                converse(stream, wire, answered).await;
            }));
        }
    }));
    seen
}

type Seen = Arc<AtomicUsize>;

fn get() -> Request<Full<Bytes>> {
    Request::get("/").header("host", "web").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_plain_request_arrives_in_tls_by_the_version_that_the_port_declares() {
    let ca = Ca::new("known");
    for (declared, wire, inside, expected) in [
        (AppProtocol::Http11, Spoken::Http1, &[] as &[&[u8]], "HTTP/1.1 none"),
        (AppProtocol::Http11, Spoken::Http1, &[b"h2", b"http/1.1"], "HTTP/1.1 none"),
        (AppProtocol::Http2, Spoken::Http2, &[b"http/1.1", b"h2"], "HTTP/2.0 https"),
        (AppProtocol::Grpc, Spoken::Http2, &[b"h2"], "HTTP/2.0 https"),
    ] {
        let mut bench = Bench::new(declared, &[]);
        server(&mut bench, ca.server(inside), declared, Some(wire)).await;
        bench.writer.apply([under(NAME, ca.roots())]);
        for _ in 0..2 {
            let response = bench.ask(get()).await;
            assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, expected.as_bytes()));
        }
        let (idle, shared) = bench.shard.http.count();
        assert_eq!(idle + shared, 1, "{declared:?}: the connection is used again");
    }
}

#[tokio::test]
async fn to_a_server_that_proves_nothing_no_request_is_sent() {
    let (ca, stranger) = (Ca::new("known"), Ca::new("unknown"));
    for (declared, inside, hostname, roots) in [
        (AppProtocol::Http11, &[] as &[&[u8]], "other.example.com", ca.roots()),
        (AppProtocol::Http11, &[], NAME, stranger.roots()),
        (AppProtocol::Http11, &[], NAME, Roots::Only(Vec::new())),
        (AppProtocol::Http2, &[b"http/1.1"], NAME, ca.roots()),
    ] {
        let mut bench = Bench::new(declared, &[]);
        let seen = server(&mut bench, ca.server(inside), declared, Some(Spoken::Http1)).await;
        bench.writer.apply([under(hostname, roots)]);
        let response = bench.ask(get()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{declared:?} {hostname}");
        assert_eq!(seen.load(Ordering::SeqCst), 0, "{declared:?} {hostname}");
    }
}

#[tokio::test]
async fn bytes_go_in_tls_too_and_nowhere_else() {
    let ca = Ca::new("known");
    for (hostname, expected) in [(NAME, "hello"), ("other.example.com", "")] {
        let mut bench = Bench::new(AppProtocol::Tcp, &[]);
        let seen = server(&mut bench, ca.server(&[]), AppProtocol::Tcp, None).await;
        bench.writer.apply([under(hostname, ca.roots())]);
        let mut back = String::new();
        if let Ok(mut tunnel) = bench.tunnel(&format!("{}:80", crate::testing::VIP)).await {
            let conversation = async {
                // What is refused may be refused before everything is written.
                if tunnel.write_all(b"hello").await.is_ok() && tunnel.shutdown().await.is_ok() {
                    tunnel.read_to_string(&mut back).await.unwrap_or_default();
                }
            };
            tokio::time::timeout(SOON, conversation).await.unwrap();
        }
        assert_eq!((back.as_str(), seen.load(Ordering::SeqCst)), (expected, expected.len()), "{hostname}");
    }
}

#[tokio::test]
async fn what_was_opened_under_another_setting_is_used_no_more() {
    let ca = Ca::new("known");
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let seen = server(&mut bench, ca.server(&[]), AppProtocol::Http11, Some(Spoken::Http1)).await;
    let waypoint = Arc::clone(&bench.shard.waypoint);
    drop(bench.tasks.spawn("follow", Arc::clone(&waypoint).follow(bench.tasks.clone())));
    bench.writer.apply([under(NAME, ca.roots())]);
    assert_eq!(bench.ask(get()).await.status(), StatusCode::OK);
    assert_eq!(bench.shard.http.count(), (1, 0));
    bench.writer.apply([under("other.example.com", ca.roots())]);
    assert_eq!(bench.ask(get()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(seen.load(Ordering::SeqCst), 1, "only the first one");
    let closed = async {
        while bench.shard.http.count() != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, closed).await.unwrap();
}
