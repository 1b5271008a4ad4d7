// SPDX-License-Identifier: Apache-2.0
//! What dies, what comes back, what comes and goes: proxy, agent, pods.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ebpf_loader::{Adopted, Capture, LoadError, Rules, Settings, Standing, abi::Event};

use crate::{
    app::{Client, Server, Talk, ask, ask_udp, refused, talk},
    proxy::Proxy,
    wire::Wire,
    world::World,
};

fn standing(capture: &Capture) -> Vec<(String, Standing)> {
    let of = |adopted: Adopted| (adopted.uid, adopted.standing);
    capture.adopt().unwrap().into_iter().map(of).collect()
}

#[test]
fn without_a_proxy_nothing_passes_and_the_next_proxy_is_found() {
    let mut world = World::new();
    let (pod, peer, kubelet) = (world.space(10), world.space(20), world.space(30));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    let exempt = Rules { exempt_peers: vec!["10.78.0.30/32".parse().unwrap()], ..pod.rules() };
    capture.update(&pod.name, &exempt).unwrap();
    for round in 0..2 {
        assert!(refused(&pod, peer.at(8080)[0]), "round {round}");
        assert!(refused(&pod, peer.at(8080)[1]));
        assert!(refused(&peer, pod.at(8080)[0]));
        assert!(refused(&peer, pod.at(15008)[0]));
        assert!(ask_udp(&pod, peer.at(53)[0], "hello").is_err());
        assert!(capture.counters(&pod.name).unwrap().of(Event::NoListener) > 0);
        assert!(ask(&kubelet, pod.at(8080)[0]).is_ok());
        let proxy = pod.proxy(&capture);
        assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));
        assert_eq!(ask(&pod, peer.at(8080)[1]).unwrap(), format!("out|{}|hello", pod.v6));
        assert_eq!(ask(&peer, pod.at(8080)[0]).unwrap(), format!("in|{}|hello", peer.v4));
        assert_eq!(ask_udp(&pod, peer.at(53)[0], "hello").unwrap(), "dns|hello");
        proxy.kill();
    }
}

#[test]
fn a_connection_waits_for_a_proxy_that_is_being_replaced() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    pod.proxy(&capture).kill();
    thread::scope(|scope| {
        let out = scope.spawn(|| Client::new(&pod, peer.at(8080)[0]).patient().ask("hello"));
        let inward = scope.spawn(|| Client::new(&peer, pod.at(8080)[0]).patient().ask("hello"));
        // Both have been turned away at least once.
        while capture.counters(&pod.name).unwrap().of(Event::NoListener) < 2 {
            thread::yield_now();
        }
        let _proxy = pod.proxy(&capture);
        assert_eq!(out.join().unwrap().unwrap(), format!("out|{}|hello", pod.v4));
        assert_eq!(inward.join().unwrap().unwrap(), format!("in|{}|hello", peer.v4));
    });
}

#[test]
fn two_proxies_at_once_are_an_upgrade_and_the_old_one_ends() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    pod.enrol(&capture);
    let old = Proxy::start(&pod, Some(capture.claim_map_path()), "old:");
    assert!(ask(&pod, peer.at(8080)[0]).unwrap().starts_with("old:out|"));
    let _new = Proxy::start(&pod, Some(capture.claim_map_path()), "new:");
    for _ in 0..16 {
        assert!(ask(&pod, peer.at(8080)[0]).unwrap().contains(":out|"));
    }
    old.kill();
    for _ in 0..16 {
        assert!(ask(&pod, peer.at(8080)[0]).unwrap().starts_with("new:out|"));
    }
}

#[test]
fn connections_that_were_open_before_survive() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    let mut talks: Vec<Talk> = Vec::new();
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        talks.push(talk(&pod, other, &format!("{}|first", own.ip())));
        talks.push(talk(&peer, own, &format!("{}|first", other.ip())));
    }
    pod.enrol(&capture);
    let proxy = pod.proxy(&capture);
    for talk in &mut talks {
        assert!(talk.ask("with a proxy").unwrap().ends_with("|with a proxy"));
    }
    proxy.kill();
    for talk in &mut talks {
        assert!(talk.ask("without").unwrap().ends_with("|without"));
    }
}

#[test]
fn a_captured_connection_does_not_go_on_in_the_open_when_its_proxy_dies() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    let wire = Wire::tap(&world);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        let proxy = pod.proxy(&capture);
        let mut out = talk(&pod, other, &format!("out|{}|first", own.ip()));
        let mut inward = talk(&peer, own, &format!("in|{}|first", other.ip()));
        proxy.kill();
        // The peer's own words are in the open, the pod's may not be.
        while out.tell("a secret").is_ok() {}
        while inward.ask("?").is_ok() {}
        assert!(!wire.saw_before_now("a secret", (&pod, &peer)));
    }
}

#[test]
fn capture_goes_on_without_an_agent_and_the_next_one_takes_over() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    let capture = world.load();
    pod.enrol(&capture);
    let claims = capture.claim_map_path().to_owned();
    let proxy = pod.proxy(&capture);
    let mut open = talk(&pod, peer.at(8080)[0], &format!("out|{}|first", pod.v4));
    drop(capture);

    assert_eq!(open.ask("more").unwrap(), format!("{}|more", pod.v4));
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));
    proxy.kill();
    assert!(refused(&pod, peer.at(8080)[0]));
    let _proxy = Proxy::start(&pod, Some(&claims), "");
    assert_eq!(ask(&peer, pod.at(8080)[0]).unwrap(), format!("in|{}|hello", peer.v4));

    let capture = world.load();
    assert_eq!(standing(&capture), [(pod.name.clone(), Standing::Current)]);
    let captured = capture.counters(&pod.name).unwrap().of(Event::CapturedOutbound);
    assert_eq!(captured, 2);
    capture.attach(&pod.pod()).unwrap();
    pod.settle();
    assert_eq!(ask(&pod, peer.at(8080)[1]).unwrap(), format!("out|{}|hello", pod.v6));
    assert_eq!(capture.counters(&pod.name).unwrap().of(Event::CapturedOutbound), captured + 1);
}

#[test]
fn another_agents_programs_are_replaced_without_a_gap() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    let capture = world.load();
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    let mut open = talk(&pod, peer.at(8080)[0], &format!("out|{}|first", pod.v4));
    drop(capture);

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut calls = 0;
            while !ended.load(Ordering::Relaxed) || calls < 10 {
                let (own, other) = (pod.at(8080)[calls % 2], peer.at(8080)[calls % 2]);
                let out = Client::new(&pod, other).patient().ask("hello").unwrap();
                assert_eq!(out, format!("out|{}|hello", own.ip()), "call {calls}");
                let inward = Client::new(&peer, own).patient().ask("hello").unwrap();
                assert_eq!(inward, format!("in|{}|hello", other.ip()), "call {calls}");
                calls += 1;
            }
        });
        let settings = Settings { trust_mark: true, ..world.settings() };
        let capture = Capture::load(settings).unwrap();
        assert_eq!(standing(&capture), [(pod.name.clone(), Standing::Outdated)]);
        capture.attach(&pod.pod()).unwrap();
        assert_eq!(standing(&capture), [(pod.name.clone(), Standing::Current)]);
        ended.store(true, Ordering::Relaxed);
        calls.join().unwrap();
    });
    assert_eq!(open.ask("more").unwrap(), format!("{}|more", pod.v4));
    let generations = fs::read_dir(world.settings().bpf_dir).unwrap();
    let generations = generations.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
    assert_eq!(generations.count(), 1, "the old generation is gone");
}

#[test]
fn two_agents_do_not_work_in_one_folder() {
    let world = World::new();
    let _first = world.load();
    assert!(matches!(Capture::load(world.settings()), Err(LoadError::Busy { .. })));
}

#[test]
fn a_pod_that_was_detached_has_plain_networking_and_leaves_no_pin() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    assert!(refused(&pod, peer.at(8080)[0]));
    capture.detach(&pod.name).unwrap();
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        assert_eq!(ask(&pod, other).unwrap(), format!("{}|hello", own.ip()));
        assert_eq!(ask(&peer, own).unwrap(), format!("{}|hello", other.ip()));
    }
    assert_eq!(standing(&capture), []);
    assert!(capture.counters(&pod.name).is_none());
    capture.detach(&pod.name).unwrap();
    // Filters, if it was too early for links, are seen to.
    pod.settle();
}

#[test]
fn a_released_pod_has_plain_networking_but_what_was_captured_stays_inside() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    let proxy = pod.proxy(&capture);
    let wire = Wire::tap(&world);
    let mut captured = talk(&pod, peer.at(8080)[0], &format!("out|{}|first", pod.v4));
    capture.release(&pod.name).unwrap();
    assert_eq!(standing(&capture), [(pod.name.clone(), Standing::Released)]);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        assert_eq!(ask(&pod, other).unwrap(), format!("{}|hello", own.ip()));
        assert_eq!(ask(&peer, own).unwrap(), format!("{}|hello", other.ip()));
    }
    assert_eq!(
        captured.ask("the proxy still serves it").unwrap(),
        format!("{}|the proxy still serves it", pod.v4)
    );
    proxy.kill();
    while captured.tell("a secret").is_ok() {}
    assert!(!wire.saw_before_now("a secret", (&pod, &peer)));

    let _proxy = pod.proxy(&capture);
    capture.attach(&pod.pod()).unwrap();
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));
    assert_eq!(ask(&peer, pod.at(8080)[0]).unwrap(), format!("in|{}|hello", peer.v4));
}

#[test]
fn a_pod_that_comes_back_in_another_namespace_is_captured_there() {
    let mut world = World::new();
    let (first, second, peer) = (world.space(10), world.space(11), world.space(20));
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    first.enrol(&capture);
    second.prepare();
    let mut pod = second.pod();
    pod.uid = first.name.clone();
    let before = first.pod().rules;
    let attached = capture.attach(&pod).unwrap();
    assert_eq!(attached.interfaces, ["eth0"]);
    let _proxy = second.proxy(&capture);
    assert_eq!(ask(&second, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", second.v4));
    assert_eq!(standing(&capture), [(first.name.clone(), Standing::Current)]);
    assert_ne!(before, pod.rules);
}
