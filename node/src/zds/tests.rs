// SPDX-License-Identifier: Apache-2.0
//! The server against a ztunnel written here, over real sockets and with real descriptors.

use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use prost::Message as _;
use proto::zds::{
    Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request, workload_response,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, socket_with, socketpair,
};
use tokio::{io::Interest, net::UnixDatagram};

use super::{link::LinkError, *};
use crate::netns::Netns;

/// A ztunnel as far as ZDS goes.
struct Ztunnel {
    packets: Packets,
    socket: UnixDatagram,
}

/// What it was asked, with the inode of the descriptor that came along.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Add(String, Option<u64>),
    Keep(String),
    Del(String),
    SnapshotSent,
}

impl Ztunnel {
    fn over(socket: OwnedFd) -> Self {
        let packets = Packets::new(socket.try_clone().unwrap()).unwrap();
        Self { packets, socket: UnixDatagram::from_std(socket.into()).unwrap() }
    }

    async fn hello(&self) {
        self.packets.send(&ZdsHello { version: Version::V1.into() }.encode_to_vec(), None).await.unwrap();
    }

    async fn asked(&self) -> Asked {
        let receiving = self.socket.async_io(Interest::READABLE, || receive(&self.socket));
        tokio::time::timeout(packet::DEADLINE, receiving).await.expect("the agent says something").unwrap()
    }

    async fn answer(&self, error: &str) {
        let payload = Some(workload_response::Payload::Ack(Ack { error: error.to_owned() }));
        self.packets.send(&WorkloadResponse { payload }.encode_to_vec(), None).await.unwrap();
    }

    /// Takes everything up to the end of the snapshot.
    async fn snapshot(&self) -> Vec<Asked> {
        let mut asked = Vec::new();
        loop {
            let next = self.asked().await;
            self.answer("").await;
            if next == Asked::SnapshotSent {
                return asked;
            }
            asked.push(next);
        }
    }
}

fn receive(socket: &UnixDatagram) -> std::io::Result<Asked> {
    let mut bytes = vec![0; packet::MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut inodes = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            inodes.extend(rights.map(|descriptor| File::from(descriptor).metadata().unwrap().ino()));
        }
    }
    assert!(inodes.len() <= 1, "one descriptor at most");
    let request = WorkloadRequest::decode(&bytes[..received.bytes]).unwrap();
    let asked = match request.payload.unwrap() {
        workload_request::Payload::Add(add) => {
            assert!(add.workload_info.is_some_and(|workload| workload.service_account == "sleep"));
            return Ok(Asked::Add(add.uid, inodes.pop()));
        }
        workload_request::Payload::Keep(keep) => Asked::Keep(keep.uid),
        workload_request::Payload::Del(del) => Asked::Del(del.uid),
        workload_request::Payload::SnapshotSent(_) => Asked::SnapshotSent,
    };
    assert!(inodes.is_empty(), "a descriptor travels with an add only");
    Ok(asked)
}

/// The agent under test: its roster, its tasks, and ztunnels connected to it.
struct Agent {
    announcements: Announcements,
    tasks: Tasks,
}

impl Agent {
    fn new() -> Self {
        Self { announcements: Announcements::new(), tasks: Tasks::new() }
    }

    /// A ztunnel over a socket pair, and how its link ends.
    fn connect(&self) -> (Ztunnel, runtime::Task<Result<(), LinkError>>) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let packets = Packets::new(ours).unwrap();
        let link = link::serve(packets, self.announcements.clone(), self.tasks.shutdown());
        (Ztunnel::over(theirs), self.tasks.spawn("link", link))
    }

    /// One that has said hello and taken the snapshot.
    async fn connected(&self) -> (Ztunnel, Vec<Asked>) {
        let (ztunnel, link) = self.connect();
        drop(link);
        ztunnel.hello().await;
        let snapshot = ztunnel.snapshot().await;
        (ztunnel, snapshot)
    }

    fn announce(&self, workload: Workload) -> runtime::Task<Result<(), Unserved>> {
        let announcements = self.announcements.clone();
        self.tasks.spawn("announce", async move { announcements.announce(workload, packet::DEADLINE).await })
    }

    fn withdraw(&self, uid: &str) -> runtime::Task<()> {
        let (announcements, uid) = (self.announcements.clone(), Uid::parse(uid).unwrap());
        self.tasks.spawn("withdraw", async move { announcements.withdraw(&uid, packet::DEADLINE).await })
    }
}

/// A namespace's file, and its inode as the other side should see it.
fn netns() -> (Netns, u64) {
    let netns = Netns::adopt(File::open("/proc/self/ns/net").unwrap()).unwrap();
    let inode = netns.id().inode;
    (netns, inode)
}

fn workload(uid: &str) -> Workload {
    Workload {
        uid: Uid::parse(uid).unwrap(),
        name: uid.to_owned(),
        namespace: "default".to_owned(),
        service_account: "sleep".to_owned(),
        netns: Some(netns().0),
    }
}

fn add(uid: &str) -> Asked {
    Asked::Add(uid.to_owned(), Some(netns().1))
}

#[tokio::test]
async fn the_namespace_that_arrives_is_the_one_that_was_sent() {
    let agent = Agent::new();
    agent.announcements.announce_later(workload("a"));
    agent.announcements.announce_later(Workload { netns: None, ..workload("b") });
    let (ztunnel, snapshot) = agent.connected().await;
    assert_eq!(snapshot, [add("a"), Asked::Keep("b".to_owned())]);
    let announced = agent.announce(workload("c"));
    assert_eq!(ztunnel.asked().await, add("c"));
    assert!(!announced.is_finished(), "nothing is served before it is acknowledged");
    ztunnel.answer("").await;
    announced.await.unwrap().unwrap();
    let withdrawn = agent.withdraw("a");
    assert_eq!(ztunnel.asked().await, Asked::Del("a".to_owned()));
    assert!(!withdrawn.is_finished());
    ztunnel.answer("").await;
    withdrawn.await.unwrap();
}

#[tokio::test]
async fn a_refusal_reaches_whoever_asked_and_the_pod_is_tried_again() {
    let agent = Agent::new();
    let (ztunnel, _) = agent.connected().await;
    let announced = agent.announce(workload("a"));
    assert_eq!(ztunnel.asked().await, add("a"));
    ztunnel.answer("port 15001 is taken").await;
    let refused = Unserved::Refused { error: "port 15001 is taken".to_owned() };
    assert_eq!(announced.await.unwrap(), Err(refused));
    assert_eq!(ztunnel.asked().await, add("a"));
    ztunnel.answer("").await;
    let uid = Uid::parse("a").unwrap();
    agent.announcements.changes().wait_for(|_| agent.announcements.served(&uid).is_ok()).await.unwrap();
}

#[tokio::test]
async fn during_an_upgrade_the_newest_serves_and_both_let_go() {
    let agent = Agent::new();
    agent.announcements.announce_later(workload("a"));
    let (old, _) = agent.connected().await;
    let (new, snapshot) = agent.connected().await;
    assert_eq!(snapshot, [add("a")]);
    let announced = agent.announce(workload("b"));
    assert_eq!(new.asked().await, add("b"));
    new.answer("").await;
    announced.await.unwrap().unwrap();
    let withdrawn = agent.withdraw("a");
    for ztunnel in [&old, &new] {
        assert_eq!(ztunnel.asked().await, Asked::Del("a".to_owned()));
        ztunnel.answer("").await;
    }
    withdrawn.await.unwrap();
    drop(new);
    assert_eq!(old.asked().await, add("b"), "the one that stays takes over");
    old.answer("").await;
}

#[tokio::test(start_paused = true)]
async fn without_a_ztunnel_an_add_waits_for_its_deadline_and_says_so() {
    let agent = Agent::new();
    let announced = agent.announcements.announce(workload("a"), packet::DEADLINE).await;
    assert_eq!(announced, Err(Unserved::NoZtunnel));
    assert_eq!(agent.announcements.served(&Uid::parse("a").unwrap()), Err(Unserved::NoZtunnel));
}

#[tokio::test]
async fn a_ztunnel_that_comes_in_time_serves_the_pod_that_waits() {
    let agent = Agent::new();
    let announced = agent.announce(workload("a"));
    let (_ztunnel, snapshot) = agent.connected().await;
    assert_eq!(snapshot.len(), 1);
    announced.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_ztunnel_that_does_not_answer_is_cut_off() {
    let agent = Agent::new();
    let (ztunnel, link) = agent.connect();
    ztunnel.hello().await;
    assert_eq!(ztunnel.asked().await, Asked::SnapshotSent);
    let ended = link.await.unwrap();
    assert!(matches!(ended, Err(LinkError::Lost { doing: "waiting for its answer", .. })), "{ended:?}");
    agent.announcements.announce_later(workload("a"));
    assert_eq!(agent.announcements.served(&Uid::parse("a").unwrap()), Err(Unserved::NoZtunnel));
}

#[tokio::test]
async fn who_breaks_the_protocol_is_cut_off() {
    let agent = Agent::new();
    let (future, link) = agent.connect();
    future.packets.send(&ZdsHello { version: 2 }.encode_to_vec(), None).await.unwrap();
    assert!(matches!(link.await.unwrap(), Err(LinkError::Version { version: 2 })));

    let (noise, link) = agent.connect();
    noise.packets.send(&[0xff; 8], None).await.unwrap();
    assert!(matches!(link.await.unwrap(), Err(LinkError::Malformed { what: "hello", source: Some(_) })));

    let (mute, link) = agent.connect();
    mute.hello().await;
    assert_eq!(mute.asked().await, Asked::SnapshotSent);
    mute.packets
        .send(
            &WorkloadResponse {
                payload: Some(workload_response::Payload::Ack(Ack { error: "no".to_owned() })),
            }
            .encode_to_vec(),
            None,
        )
        .await
        .unwrap();
    assert!(matches!(link.await.unwrap(), Err(LinkError::Snapshot { .. })));

    let (chatty, link) = agent.connect();
    chatty.hello().await;
    assert_eq!(chatty.asked().await, Asked::SnapshotSent);
    chatty.answer("").await;
    chatty.answer("").await;
    assert!(matches!(link.await.unwrap(), Err(LinkError::Unasked)));
}

#[tokio::test]
async fn a_ztunnel_finds_the_agent_at_its_path_and_a_new_agent_replaces_the_old_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ztunnel/zds.sock");
    drop(Listener::bind(&path).unwrap());
    let listener = Listener::bind(&path).unwrap();
    let agent = Agent::new();
    let serving = agent.tasks.spawn("zds", serve(listener, agent.announcements.clone(), agent.tasks.clone()));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let ztunnel = Ztunnel::over(socket);
    ztunnel.hello().await;
    assert!(ztunnel.snapshot().await.is_empty());
    agent.tasks.drain(packet::DEADLINE).await;
    assert!(serving.is_finished());
    assert!(ztunnel.packets.receive().await.is_err(), "the agent says goodbye by closing");
}
