// SPDX-License-Identifier: Apache-2.0
//! What is decided before a climb, and what is said after one. (The climbs themselves are in `ladder`, the whole with a
//! kernel in `tests/kernel`.)

use std::{collections::BTreeMap, io, path::PathBuf};

use super::*;
use crate::{pod::Treatment, routes::Families, zds::Unserved};

fn id(inode: u64) -> NetnsId {
    NetnsId { device: 4, inode }
}

#[test]
fn the_same_namespace_is_the_same_pod_and_another_replaces_it() {
    let cases = [
        (None, id(1), Decision::Fresh),
        (Some(id(1)), id(1), Decision::Again),
        (Some(id(1)), id(2), Decision::Replace),
        (Some(id(1)), NetnsId { device: 5, ..id(1) }, Decision::Replace),
    ];
    for (known, asked, decision) in cases {
        assert_eq!(decide(known, asked), decision, "{known:?} {asked:?}");
    }
}

fn recorded(netns: &str, inode: u64) -> Held {
    let pod = Pod {
        uid: Uid::parse("a").unwrap(),
        name: "client".to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        netns: PathBuf::from(netns),
        ips: vec!["10.20.1.2".parse().unwrap()],
        treatment: Treatment::default(),
        sandbox: None,
    };
    let record = Record {
        pod,
        netns: id(inode),
        families: Families::V4,
        sysctls: BTreeMap::new(),
        intent: Intent::Stay,
    };
    Held::recorded(record, None, Rung::Announced)
}

#[test]
fn a_recorded_pod_is_gone_only_when_its_file_says_so() {
    assert!(reopen(&recorded("/run/netns/there-is-no-such-pod", 1)).unwrap().is_none());
    assert!(reopen(&recorded("/etc/passwd", 1)).unwrap().is_none(), "the mount point that is left of it");
    assert!(reopen(&recorded("/proc/self/ns/net", 1)).is_err(), "the pod may have other processes");
    assert!(reopen(&recorded("/etc/passwd/x", 1)).is_err(), "it may be there");
}

#[test]
fn an_error_tells_what_failed_what_was_undone_and_why() {
    let open =
        OpenError::Unreadable { path: "/run/netns/x".into(), source: io::ErrorKind::PermissionDenied.into() };
    let error = AddError::Undone {
        failed: Action::Route,
        undone: vec![Action::Unroute, Action::Forget],
        source: Arc::new(StepError::Open(open)),
    };
    assert_eq!(
        Chain(&error).to_string(),
        "cannot prepare the pod's network namespace; undone: restore the pod's network namespace, remove the record: \
         cannot open /run/netns/x: permission denied"
    );
    let error = AddError::Pending(Arc::new(StepError::Unserved(Unserved::NoZtunnel)));
    assert_eq!(Chain(&error).to_string(), "the pod is captured, but not served yet: no ztunnel connected");
}
