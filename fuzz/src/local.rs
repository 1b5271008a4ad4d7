// SPDX-License-Identifier: Apache-2.0
//! What is said on one node: pods to the agent, and ZDS on both of its ends.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Component, Path},
};

use node::{
    pod::{Pod, PodJson, Uid},
    zds::{
        link::{LinkError, greeting, verdict},
        packet::MAX_PACKET,
    },
};
use prost::Message as _;
use proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest,
    workload_request::Payload,
};
use ztunnel::zds::{Request, ZdsError};

use crate::text;

pub(crate) fn pod(bytes: &[u8]) {
    if let Some(uid) = text(bytes).and_then(|text| Uid::parse(text).ok()) {
        check_uid(&uid);
    }
    let Ok(json) = serde_json::from_slice::<PodJson>(bytes) else { return };
    let pod = match Pod::try_from(&json) {
        Ok(pod) => pod,
        Err(error) => {
            assert!(!error.fix.is_empty() && !error.problem.is_empty());
            assert!(text(bytes).is_some(), "what is no text is no JSON");
            return;
        }
    };
    check_uid(&pod.uid);
    assert!(!pod.ips.is_empty() && pod.netns.is_absolute());
    assert!(pod.ips.iter().all(|ip| *ip == ip.to_canonical() && !ip.is_loopback()));
    let written = serde_json::to_vec(&PodJson::from(&pod)).expect("a pod can be written");
    let again: PodJson = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(Pod::try_from(&again).as_ref(), Ok(&pod));
    // It must fit a packet to ztunnel, which takes no longer ones.
    let request = Payload::Add(AddWorkload {
        uid: pod.uid.to_string(),
        workload_info: Some(WorkloadInfo {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
        }),
    });
    let packet = WorkloadRequest { payload: Some(request) }.encode_to_vec();
    assert!(packet.len() <= MAX_PACKET, "{} bytes for {pod:?}", packet.len());
}

/// A uid names a file of the state folder and nothing else.
fn check_uid(uid: &Uid) {
    let mut parts = Path::new(uid.as_str()).components();
    assert!(matches!(parts.next(), Some(Component::Normal(_))), "{uid}");
    assert!(parts.next().is_none() && !uid.as_str().starts_with('.'), "{uid}");
}

/// The number of descriptors, then one packet; either end may get it.
pub(crate) fn zds(bytes: &[u8]) {
    let Some((count, packet)) = bytes.split_first() else { return };
    let descriptors: Vec<OwnedFd> =
        (0..count % 3).map(|_| File::open("/dev/null").expect("every machine has one").into()).collect();
    let given = descriptors.len();
    match Request::parse(packet, descriptors) {
        Ok(request) => {
            let payload = match request {
                Request::Add(add, _descriptor) => {
                    assert!(given == 1 && add.workload_info.is_some());
                    Payload::Add(add)
                }
                Request::Keep(uid) => Payload::Keep(KeepWorkload { uid }),
                Request::Del(uid) => Payload::Del(DelWorkload { uid }),
                Request::SnapshotSent => Payload::SnapshotSent(SnapshotSent {}),
            };
            let alone = !matches!(payload, Payload::Add(_));
            assert_eq!(given == 0, alone);
            let said = WorkloadRequest::decode(packet).expect("it was read before");
            assert_eq!(said.payload, Some(payload));
        }
        Err(ZdsError::Decode(_) | ZdsError::Protocol(_)) => {}
        Err(other) => panic!("parsing is no IO: {other}"),
    }
    match greeting(packet) {
        Ok(()) | Err(LinkError::Malformed { .. }) => {}
        Err(LinkError::Version { version }) => assert_ne!(version, 1),
        Err(other) => panic!("parsing is no IO: {other}"),
    }
    match verdict(packet) {
        Ok(error) => assert!(error.len() <= packet.len()),
        Err(LinkError::Malformed { .. }) => {}
        Err(other) => panic!("parsing is no IO: {other}"),
    }
}
