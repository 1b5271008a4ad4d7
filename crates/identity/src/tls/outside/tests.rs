// SPDX-License-Identifier: Apache-2.0
//! Tests: handshakes with servers of an authority of their own, over an in-memory stream.

use std::time::Duration;

use rustls::{
    ProtocolVersion, ServerConfig,
    version::{TLS12, TLS13},
};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::TestAuthority;

const PATIENCE: Duration = Duration::from_secs(20);
const URI: &str = "https://example.com/servers/api";

/// A server with these names, its versions of TLS and what it speaks inside.
fn server(
    authority: &TestAuthority,
    names: &[&str],
    version: &'static rustls::SupportedProtocolVersion,
    inside: &[&[u8]],
) -> Arc<ServerConfig> {
    let (chain, key) = authority.serving(names);
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = inside.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn roots(authority: &TestAuthority) -> Roots {
    let pem = authority.root();
    let certificates = crate::certificate::certificates(pem.as_bytes()).unwrap();
    Roots::Only(certificates.iter().map(|der| Root(der.as_ref().into())).collect())
}

fn dns(name: &str) -> Hostname {
    Hostname::parse(name).unwrap()
}

fn of(hostname: &str, roots: Roots) -> ServerTls {
    ServerTls { hostname: dns(hostname), names: Vec::new(), roots }
}

/// What becomes of a handshake: the name that the server was asked for and the version, or why there is none.
async fn shake(
    outside: &Outside,
    server: Arc<ServerConfig>,
) -> Result<(Option<String>, Option<ProtocolVersion>), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let both = async { tokio::join!(outside.connect(near), TlsAcceptor::from(server).accept(far)) };
    let (client, server) = timeout(PATIENCE, both).await.unwrap();
    let client = client.map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    })?;
    let asked = server.unwrap().get_ref().1.server_name().map(str::to_owned);
    Ok((asked, client.get_ref().1.protocol_version()))
}

/// A machine that believes nobody.
fn nobody() -> Arc<RootCertStore> {
    Arc::new(RootCertStore::empty())
}

fn outside(tls: &ServerTls, inside: Inside) -> Outside {
    Outside::new(tls, inside, nobody).unwrap()
}

#[tokio::test]
async fn a_server_of_the_name_under_the_roots_is_believed_in_both_versions() {
    let authority = TestAuthority::today();
    let outside = outside(&of("api.example.com", roots(&authority)), Inside::Http1);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let names: [&[&str]; 2] = [&["api.example.com"], &["*.example.com"]];
        for names in names {
            let shaken = shake(&outside, server(&authority, names, version, &[])).await;
            assert_eq!(shaken, Ok((Some("api.example.com".to_owned()), Some(expected))), "{names:?}");
        }
    }
}

#[tokio::test]
async fn another_name_or_another_authority_is_refused_with_the_reason() {
    let authority = TestAuthority::today();
    let outside = outside(&of("api.example.com", roots(&authority)), Inside::Http1);
    let refused = shake(&outside, server(&authority, &["evil.example.com"], &TLS13, &[])).await.unwrap_err();
    assert!(refused.contains("api.example.com") && refused.contains("evil.example.com"), "{refused}");
    let stranger = TestAuthority::today();
    let refused = shake(&outside, server(&stranger, &["api.example.com"], &TLS13, &[])).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}

#[tokio::test]
async fn listed_names_replace_the_one_that_is_asked_for() {
    let authority = TestAuthority::today();
    let names = [SubjectName::Dns(dns("real.example.com")), SubjectName::Uri(URI.into())];
    let tls = ServerTls { names: names.into(), ..of("front.example.com", roots(&authority)) };
    let outside = outside(&tls, Inside::Bytes);
    for (shown, believed) in [
        (["real.example.com"], true),
        ([URI], true),
        (["front.example.com"], false),
        (["https://example.com/servers/other"], false),
    ] {
        let shaken = shake(&outside, server(&authority, &shown, &TLS13, &[])).await;
        assert_eq!(shaken.is_ok(), believed, "{shown:?}: {shaken:?}");
        match shaken {
            Ok((asked, _)) => assert_eq!(asked.as_deref(), Some("front.example.com")),
            Err(refused) => assert!(refused.contains("real.example.com"), "{refused}"),
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_only_with_a_server_that_agrees() {
    let authority = TestAuthority::today();
    let tls = of("api.example.com", roots(&authority));
    for (inside, speaks, agrees) in [
        (Inside::Http2, &[b"http/1.1" as &[u8], b"h2"] as &[&[u8]], true),
        (Inside::Http2, &[], false),
        (Inside::Http1, &[b"http/1.1", b"h2"], true),
        (Inside::Http1, &[], true),
        (Inside::Http1, &[b"h2"], false),
        (Inside::Bytes, &[b"h2"], true),
    ] {
        let shaken =
            shake(&outside(&tls, inside), server(&authority, &["api.example.com"], &TLS13, speaks)).await;
        assert_eq!(shaken.is_ok(), agrees, "{inside:?} {speaks:?}: {shaken:?}");
    }
}

#[test]
fn without_anybody_to_vouch_nothing_is_dialled() {
    for roots in [Roots::Only(Vec::new()), Roots::System] {
        let refused = Outside::new(&of("api.example.com", roots), Inside::Http1, nobody);
        assert!(matches!(refused, Err(OutsideError::NoRoots)), "{refused:?}");
    }
    let broken = Roots::Only(vec![Root(Arc::from(*b"no certificate"))]);
    let refused = Outside::new(&of("api.example.com", broken), Inside::Http1, nobody);
    assert!(matches!(refused, Err(OutsideError::Root(_))), "{refused:?}");
    let authority = TestAuthority::today();
    let refused = Outside::new(&of("*.example.com", roots(&authority)), Inside::Http1, nobody);
    assert!(matches!(refused, Err(OutsideError::Name { .. })), "{refused:?}");
}
