// SPDX-License-Identifier: Apache-2.0
//! The DNS proxy: questions of applications, answers of the node's servers, and the file that names those.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use hickory_proto::op::{Message, MessageType};
use mesh::{Hostname, Index, Network, WorkloadKey};
use plan::{
    Answer, Local,
    dns::{Kind, Reply, Settings},
};
use tempfile::NamedTempFile;
use ztunnel::{
    dns::message::{Asked, renumbered, restored},
    resolver::{Resolver, Transport},
};

use crate::manifest;

/// A mesh of the kinds of services that names are answered for.
static MESH: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::new();
    for resource in manifest::told(include_str!("mesh.yaml")) {
        index.apply(resource.into());
    }
    index
});
/// What every client takes (RFC 1035 §4.2.1).
const DATAGRAM: usize = 512;

pub(crate) fn question(bytes: &[u8]) {
    let Some(asked) = Asked::parse(bytes) else { return };
    let id = bytes.get(..2);
    assert!(asked.label().len() < 32);
    for transport in [Transport::Udp, Transport::Tcp] {
        let failure = asked.failure(transport);
        check(&asked, id, failure.as_deref(), 0);
        let Some(question) = asked.question(7) else { continue };
        for (alias, addresses) in replies(&asked) {
            let answer = asked.records(alias.as_ref(), &addresses, transport);
            check(&asked, id, answer.as_deref(), addresses.len());
            let cut = answer.as_deref().and_then(|answer| Message::from_vec(answer).ok());
            let cut = cut.is_some_and(|answer| answer.metadata.truncation);
            assert!(!cut || transport == Transport::Udp, "a stream has room for everything");
            if let (Some(answer), Transport::Udp) = (&answer, transport) {
                assert!(answer.len() <= limit(bytes), "{} bytes in a datagram", answer.len());
            }
        }
        assert_eq!(asked.question(7).as_ref(), Some(&question));
    }
}

/// What the mesh says, and more than it would ever say.
fn replies(asked: &Asked) -> Vec<(Option<Hostname>, Vec<IpAddr>)> {
    let many = (0..100).map(|last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()).collect();
    let mut replies = vec![(None, Vec::new()), (Hostname::parse("web.shop").ok(), many)];
    let Some(question) = asked.question(7) else { return replies };
    match plan::dns::answer(&MESH, &local(), &settings(), &question) {
        Answer::Ready(Reply::Records { alias, addresses }) => {
            let fits = |ip: &IpAddr| ip.is_ipv4() == (question.kind == Kind::A);
            assert!(
                question.kind != Kind::Other && addresses.iter().all(fits),
                "{question:?}: {addresses:?}"
            );
            assert_ne!(alias.as_ref(), Some(&question.name));
            replies.push((alias, addresses));
        }
        Answer::Ready(Reply::Forward) => {}
        Answer::Needs(missing) => panic!("the mesh is complete but {missing:?}"),
    }
    replies
}

fn local() -> Local {
    Local {
        workload: WorkloadKey {
            name: "client".into(),
            namespace: "shop".into(),
            service_account: "client".into(),
        },
        network: Network::default(),
        cluster: "Kubernetes".into(),
        synced: true,
        preserve_source: true,
        tunnel_on_loopback: true,
    }
}

fn settings() -> Settings {
    Settings {
        cluster_domain: Hostname::parse("cluster.local").expect("it is a name"),
        search: vec![Hostname::parse("corp.example").expect("it is a name")],
        preferred_namespace: None,
        ipv6: true,
    }
}

/// What an answer must be for its asker to take it.
fn check(asked: &Asked, id: Option<&[u8]>, answer: Option<&[u8]>, addresses: usize) {
    let answer = answer.expect("every question has an answer");
    assert_eq!(answer.get(..2), id);
    let read = Message::from_vec(answer).expect("our own answers can be read");
    assert_eq!(read.metadata.message_type, MessageType::Response);
    assert_eq!(read.queries, [asked.query().clone()]);
    assert!(read.answers.len() <= addresses + 1);
    assert!(Asked::parse(answer).is_none(), "an answer is answered");
}

/// The most that the asker takes in a datagram.
fn limit(question: &[u8]) -> usize {
    let message = Message::from_vec(question).expect("it was read before");
    message.edns.map_or(DATAGRAM, |edns| usize::from(edns.max_payload()).max(DATAGRAM))
}

/// A question, its length before it, then an answer.
pub(crate) fn answer(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let Some((question, answer)) = rest.split_at_checked(usize::from(*length)) else { return };
    let id = [0xab, 0xcd];
    let Some(sent) = renumbered(question, id) else { return };
    assert_eq!(sent.len(), question.len());
    // Only what is no response itself is ever passed on.
    let asks = question.get(2).is_none_or(|flags| flags & 0x80 == 0);
    assert!(!asks || restored(&sent, id, question).is_none(), "a question is no answer");
    let Some(told) = restored(answer, id, question) else { return };
    assert_eq!(answer.get(..2), Some(id.as_slice()));
    assert_eq!(told.get(..2), question.get(..2), "the application knows it by its own number");
    assert_eq!(told.get(2..), answer.get(2..), "everything else is passed on");
    assert!(told.get(2).is_some_and(|flags| flags & 0x80 != 0));
    // Whoever can read both sees the same question in both.
    if let (Ok(asked), Ok(told)) = (Message::from_vec(question), Message::from_vec(&told)) {
        let silent = told.queries.is_empty() && told.answers.is_empty();
        assert!(silent || told.queries.first() == asked.queries.first(), "{told:?} answers {asked:?}");
    }
}

pub(crate) fn resolv_conf(bytes: &[u8]) {
    // What is no text must not stop ztunnel either.
    let file = NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("room for a temporary file");
    let resolver = Resolver::new(file.path());
    let written = String::from_utf8_lossy(bytes);
    for domain in resolver.search() {
        assert_eq!(Hostname::parse(domain.as_str()).as_ref(), Ok(domain));
        assert!(written.contains("search") || written.contains("domain"), "{domain} out of nothing");
    }
}
