// SPDX-License-Identifier: Apache-2.0
//! Tests: addresses, and connections to a TLS server on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Compliance, Trust, testing::TestAuthority};

fn profile() -> Profile {
    Profile::new(Compliance::Preferred, Trust::default())
}

fn connector(address: &str, roots: &str, alternative: Option<&str>) -> Result<Connector, AddressError> {
    Connector::new(address, roots.into(), alternative, profile())
}

#[test]
fn roots_are_a_path_or_pem_or_those_of_the_system() {
    assert_eq!(RootSource::from("SYSTEM"), RootSource::System);
    assert_eq!(RootSource::from("./roots.pem"), RootSource::File("./roots.pem".into()));
    let pem = "-----BEGIN CERTIFICATE-----\n";
    assert_eq!(RootSource::from(pem), RootSource::Pem(pem.to_owned()));
}

#[test]
fn an_address_is_https_unless_it_is_this_host() {
    for (address, host, port, encrypted) in [
        ("https://istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012, true),
        ("istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012, true),
        ("https://[fd00::1]:15012", "fd00::1", 15012, true),
        ("https://control", "control", 443, true),
        ("http://localhost:15010", "localhost", 15010, false),
        ("http://[::1]:15010", "::1", 15010, false),
    ] {
        let connector = connector(address, "SYSTEM", None).unwrap();
        assert_eq!((connector.host.as_str(), connector.port), (host, port), "{address}");
        assert_eq!(connector.is_encrypted(), encrypted, "{address}");
    }
    for address in ["", "https://", "ftp://control:1", "unix:///run/x", "not an address"] {
        assert!(matches!(connector(address, "SYSTEM", None), Err(AddressError::Invalid { .. })), "{address}");
    }
    let plain = connector("http://control:15010", "SYSTEM", None);
    assert!(matches!(plain, Err(AddressError::Plaintext { .. })));
    let name = connector("https://control:1", "SYSTEM", Some("not a name"));
    assert!(matches!(name, Err(AddressError::Name { .. })));
}

/// A TLS server with these names; every connection is told `hello`.
async fn server(authority: &TestAuthority, names: &[&str], tasks: &mut JoinSet<()>) -> SocketAddr {
    let (chain, key) = authority.serving(names);
    let acceptor = TlsAcceptor::from(profile().serving_config(chain, key).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // A client that does not believe us may be gone before it has listened.
                drop(stream.write_all(b"hello").await);
            }
        }
    });
    address
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn a_server_is_believed_under_its_own_or_the_alternative_name() {
    let mut tasks = JoinSet::new();
    let authority = TestAuthority::today();
    let root = authority.root();
    let named = server(&authority, &["istiod.istio-system.svc"], &mut tasks).await;
    let numbered = server(&authority, &["127.0.0.1"], &mut tasks).await;
    for (address, alternative, expected) in [
        (numbered, None, ""),
        (named, Some("istiod.istio-system.svc"), ""),
        (named, None, "not valid for name"),
        (named, Some("other.istio-system.svc"), "not valid for name"),
    ] {
        let connector = connector(&format!("https://{address}"), &root, alternative).unwrap();
        let outcome = connector.connect().await.map(drop).map_err(|error| chain(&error));
        match expected {
            "" => assert_eq!(outcome, Ok(()), "{alternative:?}"),
            expected => assert!(outcome.as_ref().is_err_and(|error| error.contains(expected)), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn roots_are_read_again_for_each_connection() {
    let mut tasks = JoinSet::new();
    let (authority, stranger) = (TestAuthority::today(), TestAuthority::today());
    let address = server(&authority, &["127.0.0.1"], &mut tasks).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root-cert.pem");
    let connector = connector(&format!("https://{address}"), path.to_str().unwrap(), None).unwrap();
    for (content, expected) in [
        (None, "cannot read the roots of the control plane from"),
        (Some("nonsense".to_owned()), "cannot use the roots of the control plane"),
        (Some(stranger.root()), "UnknownIssuer"),
        (Some(format!("{}{}", stranger.root(), authority.root())), ""),
    ] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let outcome = connector.connect().await.map(drop).map_err(|error| chain(&error));
        match expected {
            "" => assert_eq!(outcome, Ok(())),
            expected => assert!(outcome.as_ref().is_err_and(|error| error.contains(expected)), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_after_five_seconds() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = TestAuthority::today();
    let connector = connector(&format!("https://{address}"), &authority.root(), None).unwrap();
    let connecting = connector.connect();
    tokio::pin!(connecting);
    // Really connected before time is made to jump.
    let mut silent = tokio::select! {
        _ = &mut connecting => panic!("nobody answered"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    tokio::time::pause();
    assert!(matches!(connecting.await, Err(ConnectError::Deadline { .. })));
    silent.shutdown().await.unwrap();
}
