// SPDX-License-Identifier: Apache-2.0
//! Tests: handshakes between two workloads over an in-memory stream.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{client, server};

use super::*;
use crate::{
    Authority, Identities, IdentitiesSettings, Priority, SystemClock,
    testing::{TestAuthority, id},
};

const PATIENCE: Duration = Duration::from_secs(20);

const CLIENT: &str = "cluster.local/ns/a/sa/client";
const SERVER: &str = "cluster.local/ns/a/sa/server";

/// A cache whose renewal runs in the set, and what follows one identity of it.
async fn current(authority: &Arc<TestAuthority>, identity: &str) -> (Current, Identities, JoinSet<()>) {
    let signer = Arc::clone(authority) as Arc<dyn Authority>;
    let (identities, renewal) = Identities::new(signer, IdentitiesSettings::default(), Arc::new(SystemClock));
    let mut tasks = JoinSet::new();
    tasks.spawn(renewal.run(std::future::pending()));
    identities.certificate(&id(identity)).await.unwrap();
    (identities.follow(&id(identity)), identities, tasks)
}

type Outcome<S> = Result<(S, SpiffeId), HandshakeError>;

/// Both ends, and both of their opinions.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Outcome<client::TlsStream<DuplexStream>>, Outcome<server::TlsStream<DuplexStream>>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    timeout(PATIENCE, async { tokio::join!(connect(client, near), accept(server, far)) }).await.unwrap()
}

/// A handshake of workloads of one authority under two profiles.
async fn between(client: &Profile, server: &Profile, expected: &[&str]) -> (Option<String>, Option<String>) {
    let authority = TestAuthority::today();
    let (current, _identities, _tasks) = current(&authority, SERVER).await;
    let expected = expected.iter().map(|text| id(text)).collect();
    let config = client.client_config(&authority.issue(&id(CLIENT)), expected).unwrap();
    let (client, server) = handshake(config, server.server_config(current).unwrap()).await;
    (client.err().map(|error| chain(&error)), server.err().map(|error| chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn usual() -> Profile {
    Profile::new(Compliance::Preferred, Trust::default())
}

async fn says<S, D>(from: &mut S, to: &mut D)
where
    S: tokio::io::AsyncWrite + Unpin,
    D: tokio::io::AsyncRead + Unpin,
{
    from.write_all(b"payload").await.unwrap();
    from.flush().await.unwrap();
    let mut buffer = [0; 7];
    timeout(PATIENCE, to.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"payload");
}

#[tokio::test]
async fn two_workloads_know_each_other_after_a_post_quantum_handshake_without_a_name() {
    let authority = TestAuthority::today();
    let (current, _identities, _tasks) = current(&authority, SERVER).await;
    let expected = vec![id("cluster.local/ns/a/sa/other"), id(SERVER)];
    let config = usual().client_config(&authority.issue(&id(CLIENT)), expected).unwrap();
    let server_config = usual().server_config(current).unwrap();
    for _ in 0..2 {
        let (client, server) = handshake(Arc::clone(&config), Arc::clone(&server_config)).await;
        let ((mut client, server_id), (mut server, client_id)) = (client.unwrap(), server.unwrap());
        assert_eq!((server_id, client_id), (id(SERVER), id(CLIENT)));
        says(&mut client, &mut server).await;
        says(&mut server, &mut client).await;
        let seen = client.get_ref().1;
        assert_eq!(seen.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(seen.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(
            seen.negotiated_cipher_suite().unwrap().suite(),
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        );
        assert_eq!(seen.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(seen.handshake_kind(), Some(HandshakeKind::Full), "no session is resumed");
        assert_eq!(server.get_ref().1.server_name(), None);
    }
}

#[tokio::test]
async fn a_server_with_another_identity_is_rejected_by_the_client() {
    let (client, server) =
        between(&usual(), &usual(), &["cluster.local/ns/a/sa/x", "cluster.local/ns/b/sa/server"]).await;
    assert_eq!(
        client.unwrap(),
        "peer did not present the expected SAN (spiffe://cluster.local/ns/a/sa/x, \
         spiffe://cluster.local/ns/b/sa/server), got spiffe://cluster.local/ns/a/sa/server"
    );
    assert!(server.unwrap().starts_with("TLS handshake failed: received fatal alert"));
    let (client, _) = between(&usual(), &usual(), &[]).await;
    assert!(
        client.unwrap().starts_with("peer did not present the expected SAN (nobody), got"),
        "nobody expects nobody"
    );
}

/// What the server says of a client of `peer` whose certificate comes from `authority` or another one.
async fn admission(
    trust: impl Fn(&TestAuthority) -> Trust,
    peer: &str,
    own_authority: bool,
) -> Result<(), String> {
    let (authority, foreign) = (TestAuthority::today(), TestAuthority::today());
    let profile = Profile::new(Compliance::Preferred, trust(&foreign));
    let (current, _identities, _tasks) = current(&authority, SERVER).await;
    let issuer = if own_authority { &authority } else { &foreign };
    // A client that believes in the server, whoever signed its own certificate.
    let key = crate::PrivateKey::generate().unwrap();
    let csr = rcgen::CertificateSigningRequestParams::from_pem(&key.csr(&id(peer)).unwrap()).unwrap();
    let mut chain_of_client = issuer.chain(&[id(peer)], &csr.public_key);
    if let Some(bundle) = chain_of_client.last_mut() {
        bundle.push_str(&authority.root());
    }
    let certificate =
        Certificate::issued(&id(peer), &key, &chain_of_client, std::time::SystemTime::now()).unwrap();
    let config = usual().client_config(&certificate, vec![id(SERVER)]).unwrap();
    let (_, server) = handshake(config, profile.server_config(current).unwrap()).await;
    server.map(drop).map_err(|error| chain(&error))
}

#[tokio::test]
async fn clients_are_let_in_by_trust_domain_and_by_its_own_roots() {
    let domain = |name: &str| TrustDomain::parse(name).unwrap();
    let nobody = |_: &TestAuthority| Trust::default();
    let alias = |_: &TestAuthority| Trust { aliases: vec![domain("old.local")], bundles: Vec::new() };
    let bundle = |foreign: &TestAuthority| Trust {
        aliases: Vec::new(),
        bundles: vec![(domain("td2"), foreign.roots())],
    };
    let (own, old, td2) = (CLIENT, "old.local/ns/a/sa/client", "td2/ns/a/sa/client");

    assert_eq!(admission(nobody, own, true).await, Ok(()));
    assert_eq!(
        admission(nobody, old, true).await.unwrap_err(),
        "peer did not present the expected trust domain (cluster.local), got spiffe://old.local/ns/a/sa/client"
    );
    let unknown = "TLS handshake failed: invalid peer certificate: UnknownIssuer";
    assert_eq!(admission(nobody, own, false).await.unwrap_err(), unknown);
    assert_eq!(admission(alias, old, true).await, Ok(()));
    assert_eq!(admission(alias, old, false).await.unwrap_err(), unknown);
    assert!(
        admission(alias, td2, true)
            .await
            .unwrap_err()
            .contains("trust domain (cluster.local, old.local), got spiffe://td2/")
    );
    assert_eq!(admission(bundle, td2, false).await, Ok(()));
    assert_eq!(admission(bundle, td2, true).await.unwrap_err(), unknown, "our roots do not vouch for others");
    assert_eq!(admission(bundle, own, false).await.unwrap_err(), unknown, "their roots do not vouch for us");
}

#[tokio::test]
async fn a_server_of_another_trust_domain_is_judged_by_the_roots_of_that_domain() {
    let (ours, theirs) = (TestAuthority::today(), TestAuthority::today());
    let remote = "td2/ns/a/sa/server";
    let domain = |name: &str| TrustDomain::parse(name).unwrap();
    let bundles = |name: &str, authority: &TestAuthority| {
        Profile::new(
            Compliance::Preferred,
            Trust { aliases: Vec::new(), bundles: vec![(domain(name), authority.roots())] },
        )
    };
    let (current, _identities, _tasks) = current(&theirs, remote).await;
    for (client, accepted) in
        [(bundles("td2", &theirs), true), (bundles("td2", &ours), false), (usual(), false)]
    {
        let config = client.client_config(&ours.issue(&id(CLIENT)), vec![id(remote)]).unwrap();
        let server = bundles("cluster.local", &ours).server_config(current.clone()).unwrap();
        let (client, server) = handshake(config, server).await;
        assert_eq!((client.is_ok(), server.is_ok()), (accepted, accepted));
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_or_without_h2_is_turned_away() {
    let authority = TestAuthority::today();
    let (current, _identities, _tasks) = current(&authority, SERVER).await;
    let server = usual().server_config(current).unwrap();
    let anonymous =
        ClientConfig::builder_with_provider(mesh_provider()).with_protocol_versions(&[&TLS13]).unwrap();
    let anonymous =
        anonymous.with_root_certificates(Arc::clone(authority.roots().store())).with_no_client_auth();
    let (_, outcome) = handshake(Arc::new(anonymous), Arc::clone(&server)).await;
    assert!(outcome.is_err());

    for (protocols, client_says, server_says) in [
        (vec![], "peer does not speak h2", "peer does not speak h2"),
        (vec![b"http/1.1".to_vec()], "NoApplicationProtocol", "peer doesn't support any known protocol"),
    ] {
        let mut config =
            (*usual().client_config(&authority.issue(&id(CLIENT)), vec![id(SERVER)]).unwrap()).clone();
        config.alpn_protocols = protocols;
        let (client, outcome) = handshake(Arc::new(config), Arc::clone(&server)).await;
        let (client, outcome) = (chain(&client.unwrap_err()), chain(&outcome.unwrap_err()));
        assert!(client.contains(client_says), "{client}");
        assert!(outcome.contains(server_says), "{outcome}");
    }
}

/// The usual profile of somebody who has never heard of post-quantum exchanges.
fn classical() -> Profile {
    let mut profile = usual();
    Arc::make_mut(&mut profile.provider).kx_groups = vec![kx_group::X25519];
    profile
}

#[tokio::test]
async fn pqc_means_that_a_peer_without_it_is_refused() {
    let strict = || Profile::new("pqc".parse().unwrap(), Trust::default());
    for (client, server, works) in [
        (strict(), strict(), true),
        (usual(), strict(), true),
        (strict(), usual(), true),
        (classical(), usual(), true),
        (usual(), classical(), true),
        (classical(), strict(), false),
        (strict(), classical(), false),
    ] {
        let (from_client, from_server) = between(&client, &server, &[SERVER]).await;
        assert_eq!((from_client.is_none(), from_server.is_none()), (works, works), "{client:?} {server:?}");
    }
    assert!("fips".parse::<Compliance>().is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_in_the_next_handshake_and_open_connections_go_on() {
    let authority = TestAuthority::new(Duration::from_secs(4), Arc::new(SystemClock));
    let (mut current, _identities, _tasks) = current(&authority, SERVER).await;
    let server = usual().server_config(current.clone()).unwrap();
    let shown = Mutex::new(Vec::new());
    let dial = async || {
        let config = usual().client_config(&authority.issue(&id(CLIENT)), vec![id(SERVER)]).unwrap();
        let (client, server) = handshake(config, Arc::clone(&server)).await;
        let (client, server) = (client.unwrap().0, server.unwrap().0);
        shown.lock().push(client.get_ref().1.peer_certificates().unwrap()[0].clone());
        (client, server)
    };
    let (mut old_client, mut old_server) = dial().await;
    let first = current.certificate().unwrap().serial();
    while current.certificate().unwrap().serial() == first {
        assert!(timeout(PATIENCE, current.changed()).await.unwrap());
    }
    let (mut client, mut server) = dial().await;
    says(&mut client, &mut server).await;
    says(&mut old_client, &mut old_server).await;
    says(&mut old_server, &mut old_client).await;
    let shown = shown.into_inner();
    assert_ne!(shown[0], shown[1]);
}

#[tokio::test]
async fn without_a_certificate_of_its_own_a_server_serves_nobody() {
    let authority = TestAuthority::today();
    *authority.behaviour.lock() = crate::testing::Behaviour::Away;
    let signer = Arc::clone(&authority) as Arc<dyn Authority>;
    let (identities, _renewal) =
        Identities::new(signer, IdentitiesSettings::default(), Arc::new(SystemClock));
    identities.prefetch(&id(SERVER), Priority::Background);
    let server = usual().server_config(identities.follow(&id(SERVER))).unwrap();
    let config = usual().client_config(&authority.issue(&id(CLIENT)), vec![id(SERVER)]).unwrap();
    let (client, server) = handshake(config, server).await;
    assert!(client.is_err() && server.is_err());
}

#[test]
fn the_identity_of_a_peer_is_its_first_spiffe_name() {
    let authority = TestAuthority::today();
    let leaf = |names: &[SpiffeId]| {
        let chain = authority.chain(names, &rcgen::KeyPair::generate().unwrap());
        crate::certificate::certificates(chain[0].as_bytes()).unwrap()
    };
    let names = [id(SERVER), id(CLIENT)];
    assert_eq!(peer_identity(&leaf(&names)), Some(id(SERVER)));
    assert_eq!(peer_identity(&leaf(&[])), None);
    assert_eq!(peer_identity(&[]), None);
    assert_eq!(peer_identity(&[CertificateDer::from(vec![1, 2, 3])]), None);
}
