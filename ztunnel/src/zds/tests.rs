// SPDX-License-Identifier: Apache-2.0
//! A real socket pair and a real descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::stat::fstat;
use proto::zds::{Ack, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo};
use rustix::net::{SendAncillaryMessage, socketpair};

use super::*;

fn pair() -> (OwnedFd, Connection) {
    let (agent, ztunnel) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    (agent, Connection::new(ztunnel).unwrap())
}

fn send(agent: &OwnedFd, payload: Payload, descriptors: &[BorrowedFd<'_>]) {
    let message = WorkloadRequest { payload: Some(payload) }.encode_to_vec();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(agent, &[IoSlice::new(&message)], &mut control, SendFlags::empty()).unwrap();
}

fn add(uid: &str) -> Payload {
    let workload_info =
        Some(WorkloadInfo { name: "a".into(), namespace: "b".into(), service_account: "c".into() });
    Payload::Add(AddWorkload { uid: uid.into(), workload_info })
}

#[tokio::test]
async fn an_added_pod_comes_with_its_namespace() {
    let (agent, connection) = pair();
    let netns = std::fs::File::open("/proc/self/ns/net").unwrap();
    send(&agent, add("1"), &[netns.as_fd()]);
    let Request::Add(added, received) = connection.receive().await.unwrap() else { panic!("not an add") };
    assert_eq!(added.uid, "1");
    assert_eq!(fstat(&received).unwrap().st_ino, fstat(&netns).unwrap().st_ino);
}

#[tokio::test]
async fn keep_del_and_snapshot_are_told_apart() {
    let (agent, connection) = pair();
    send(&agent, Payload::Keep(KeepWorkload { uid: "k".into() }), &[]);
    send(&agent, Payload::SnapshotSent(SnapshotSent {}), &[]);
    send(&agent, Payload::Del(DelWorkload { uid: "d".into() }), &[]);
    assert!(matches!(connection.receive().await.unwrap(), Request::Keep(uid) if uid == "k"));
    assert!(matches!(connection.receive().await.unwrap(), Request::SnapshotSent));
    assert!(matches!(connection.receive().await.unwrap(), Request::Del(uid) if uid == "d"));
}

#[tokio::test]
async fn a_broken_request_is_a_protocol_error() {
    let netns = std::fs::File::open("/proc/self/ns/net").unwrap();
    let fd = netns.as_fd();
    let del = || Payload::Del(DelWorkload { uid: "d".into() });
    for (payload, descriptors) in [(add("1"), vec![]), (add("1"), vec![fd, fd]), (del(), vec![fd])] {
        let (agent, connection) = pair();
        send(&agent, payload, &descriptors);
        assert!(matches!(connection.receive().await, Err(ZdsError::Protocol(_))));
    }
}

#[tokio::test]
async fn an_agent_that_goes_away_is_noticed() {
    let (agent, connection) = pair();
    drop(agent);
    assert!(matches!(connection.receive().await, Err(ZdsError::Closed)));
}

#[tokio::test]
async fn the_answer_carries_the_error() {
    let (agent, connection) = pair();
    connection.acknowledge("port 15001 is taken".into()).await.unwrap();
    let (message, _) = receive_packet(&agent).unwrap();
    let response = WorkloadResponse::decode(message.as_slice()).unwrap();
    let expected = workload_response::Payload::Ack(Ack { error: "port 15001 is taken".into() });
    assert_eq!(response.payload, Some(expected));
}
