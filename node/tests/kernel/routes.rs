// SPDX-License-Identifier: Apache-2.0
//! Rules, routes and kernel settings in a real namespace.

use std::path::Path;

use node::{
    netns::{Netns, OpenError},
    routes::{self, Families},
    sysctl::{self, PROC_SYS},
};

use crate::namespace::Namespace;

fn proc_sys() -> &'static Path {
    Path::new(PROC_SYS)
}

#[tokio::test]
async fn both_families_get_their_rule_and_route_once_and_lose_exactly_them() {
    let pod = Namespace::new("routes");
    pod.ip(&["rule", "add", "pref", "61", "fwmark", "0x111", "lookup", "101"]);
    let before = pod.ip(&["rule", "show"]);
    let netns = pod.open();
    let ensure = || netns.run(|| routes::ensure(Families::Dual));
    assert_eq!(ensure().await.unwrap().unwrap(), 4);
    assert_eq!(ensure().await.unwrap().unwrap(), 0, "again is harmless");
    let lines = pod.captured_routing();
    for family in ["-4", "-6"] {
        let rule = format!("{family} 60:\tfrom all fwmark 0x111/0xfff lookup 100");
        let route = format!("{family} local default dev lo");
        for line in [rule, route] {
            assert!(lines.iter().any(|found| found.starts_with(&line)), "{line} is not in {lines:?}");
        }
    }
    pod.ip(&["rule", "del", "pref", "60"]);
    assert_eq!(ensure().await.unwrap().unwrap(), 1, "what is missing is repaired");
    let remove = || netns.run(|| routes::remove(Families::Dual));
    assert_eq!(remove().await.unwrap().unwrap(), 4);
    assert_eq!(remove().await.unwrap().unwrap(), 0);
    assert!(pod.captured_routing().is_empty());
    assert_eq!(pod.ip(&["rule", "show"]), before);
}

#[tokio::test]
async fn a_namespace_without_ipv6_gets_ipv4_only() {
    let pod = Namespace::new("v4");
    let netns = pod.open();
    let has_ipv6 = || netns.run(|| sysctl::has_ipv6(proc_sys()));
    assert!(has_ipv6().await.unwrap());
    let off = || std::fs::write(proc_sys().join("net/ipv6/conf/lo/disable_ipv6"), "1");
    netns.run(off).await.unwrap().unwrap();
    assert!(!has_ipv6().await.unwrap());
    assert_eq!(netns.run(|| routes::ensure(Families::V4)).await.unwrap().unwrap(), 2);
    assert!(pod.captured_routing().iter().all(|line| line.starts_with("-4")));
}

#[tokio::test]
async fn a_loopback_that_the_cni_has_not_brought_up_yet_is_up_afterwards() {
    let pod = Namespace::new("down");
    pod.ip(&["link", "set", "lo", "down"]);
    pod.open().run(|| routes::ensure(Families::Dual)).await.unwrap().unwrap();
    assert!(pod.ip(&["link", "show", "lo"]).contains("UP"));
    assert_eq!(pod.captured_routing().len(), 4);
}

#[tokio::test]
async fn kernel_settings_change_in_the_pod_only_and_come_back() {
    let pod = Namespace::new("sysctl");
    let netns = pod.open();
    let home = sysctl::survey(proc_sys()).unwrap();
    let fresh = netns.run(|| sysctl::survey(proc_sys())).await.unwrap().unwrap();
    assert!(netns.run(|| sysctl::apply(proc_sys())).await.unwrap().unwrap() > 0);
    let applied = netns.run(|| sysctl::survey(proc_sys())).await.unwrap().unwrap();
    assert!(applied.values().all(|value| value == "1"), "{applied:?}");
    assert_eq!(sysctl::survey(proc_sys()).unwrap(), home, "the node's settings are not the pod's");
    let previous = fresh.clone();
    netns.run(move || sysctl::restore(proc_sys(), &previous)).await.unwrap().unwrap();
    assert_eq!(netns.run(|| sysctl::survey(proc_sys())).await.unwrap().unwrap(), fresh);
}

#[tokio::test]
async fn work_is_done_inside_and_nobody_stays_there() {
    let pod = Namespace::new("inside");
    let netns = pod.open();
    let own = || Netns::adopt(std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap().id();
    let home = own();
    assert_ne!(home, netns.id());
    assert_eq!(netns.run(own).await.unwrap(), netns.id());
    assert_eq!(own(), home);
    assert_eq!(tokio::task::spawn_blocking(own).await.unwrap(), home);
    assert!(netns.run(|| panic!("inside")).await.is_err(), "a panic inside is an error outside");
}

#[tokio::test]
async fn a_namespace_that_was_deleted_is_gone_and_a_new_one_under_its_name_is_another() {
    let pod = Namespace::new("again");
    let (path, first) = (pod.path(), pod.open());
    drop(pod);
    assert!(matches!(Netns::open(&path), Err(OpenError::Gone { .. })));
    let again = Namespace::new("again");
    assert_ne!(again.open().id(), first.id());
}
