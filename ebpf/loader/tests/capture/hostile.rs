// SPDX-License-Identifier: Apache-2.0
//! What a process with CAP_NET_RAW, or CAP_NET_ADMIN, in a pod tries.

use std::net::SocketAddr;

use ebpf_loader::{
    Capture, Settings,
    abi::{Event, LOOP_MARK, PROXY_MARK},
};

use crate::{
    app::{Client, Server, ask, ask_udp, bound, refused},
    proxy::Proxy,
    wire::{self, ACK, Forger, SYN, TCP, UDP, Wire, flare, options, tcp, udp},
    world::{Space, World, ip},
};

fn with_mark(space: &Space, to: SocketAddr, mark: u32) -> Client {
    Client::new(space, to).with(|socket| socket.set_mark(mark))
}

#[test]
fn a_mark_proves_nothing() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    pod.enrol(&capture);
    for mark in [PROXY_MARK, LOOP_MARK] {
        for to in peer.at(8080) {
            assert!(with_mark(&pod, to, mark).fails(), "{mark:#x} without a proxy");
        }
    }
    // A proxy that only marks is nobody, too.
    let marking = Proxy::start(&pod, None, "");
    assert!(refused(&pod, peer.at(8080)[0]));
    assert!(capture.counters(&pod.name).unwrap().of(Event::ForeignListener) > 0);
    marking.kill();
    let _proxy = pod.proxy(&capture);
    for (own, to) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        let expected = format!("out|{}|hello", own.ip());
        assert_eq!(with_mark(&pod, to, PROXY_MARK).ask("hello").unwrap(), expected);
        // This mark routes to lo, where the proxy is met too, or nobody.
        let looped = with_mark(&pod, to, LOOP_MARK).ask("hello");
        assert!(looped.as_ref().map_or(true, |answer| *answer == expected), "{looped:?}");
    }
}

#[test]
fn a_pod_with_net_admin_cannot_take_its_capture_off() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    pod.enrol(&capture);
    pod.settle();
    let _proxy = pod.proxy(&capture);
    for device in ["eth0", "lo"] {
        let _refused = std::process::Command::new("tc")
            .args(["-n", &pod.name, "qdisc", "del", "dev", device, "clsact"])
            .status();
    }
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));
}

#[test]
fn istios_ztunnel_is_believed_by_its_mark_when_the_agent_is_told_to() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = Capture::load(Settings { trust_mark: true, ..world.settings() }).unwrap();
    let _servers = [(&pod, 8080), (&peer, 8080), (&peer, 53)].map(|(space, port)| Server::start(space, port));
    pod.enrol(&capture);
    let _proxy = Proxy::start(&pod, None, "");
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        assert_eq!(ask(&pod, other).unwrap(), format!("out|{}|hello", own.ip()));
        assert_eq!(ask(&peer, own).unwrap(), format!("in|{}|hello", other.ip()));
        let server = SocketAddr::new(other.ip(), 53);
        assert_eq!(ask(&pod, server).unwrap(), format!("out|{}|hello", own.ip()), "DNS over TCP");
        assert_eq!(ask_udp(&pod, server, "hello").unwrap(), "dns|hello");
    }
}

#[test]
fn an_applications_listener_on_a_port_of_the_proxy_gets_nothing() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [8080, 15001, 15006, 15008].map(|port| Server::start(&pod, port));
    let _server = Server::start(&peer, 8080);
    pod.enrol(&capture);
    assert!(refused(&pod, peer.at(8080)[0]));
    assert!(refused(&peer, pod.at(8080)[0]));
    assert!(refused(&peer, pod.at(15008)[0]));
    assert!(capture.counters(&pod.name).unwrap().of(Event::ForeignListener) > 0);
    // The same user shares the ports with the proxy by SO_REUSEPORT, and more sockets make it likelier to be chosen.
    let _more: Vec<_> = pod.run(|| [15001, 15006, 15008].map(bound).into());
    let _proxy = pod.proxy(&capture);
    for _ in 0..32 {
        // Which socket is looked at first depends on addresses and ports; a miss is dropped, never given away.
        for (from, to, word) in [
            (&pod, peer.at(8080)[0], "out|"),
            (&peer, pod.at(8080)[1], "in|"),
            (&peer, pod.at(15008)[0], "hbone|"),
        ] {
            let answer = ask(from, to);
            assert!(answer.as_ref().map_or(true, |answer| answer.starts_with(word)), "{answer:?}");
        }
    }
    assert!(ask(&pod, peer.at(8080)[0]).unwrap().starts_with("out|"));
}

#[test]
fn tcp_that_cannot_be_followed_does_not_leave_the_pod() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let wire = Wire::tap(&world);
    let forger = Forger::new(&pod, "eth0").mark(PROXY_MARK);
    let packet = |v6: bool, protocol, fragment, body: &[u8]| {
        let (from, to) = if v6 { (pod.v6, peer.v6) } else { (pod.v4, peer.v4) };
        wire::ip(from, to, protocol, fragment, body)
    };
    let ports = (1234, 8080);
    let words = |number: usize| format!("secret {number:03}");
    let body = |number| tcp(ports, ACK, &words(number));
    let dropped: Vec<(Event, Option<u16>, Vec<u8>)> = vec![
        (Event::Unowned, None, packet(false, TCP, None, &body(0))),
        (Event::Unowned, None, packet(true, TCP, None, &body(1))),
        (Event::Fragment, None, packet(false, TCP, Some((0, true)), &body(2))),
        (Event::Fragment, None, packet(false, TCP, Some((3, false)), words(3).as_bytes())),
        (Event::Extension, None, packet(true, TCP, Some((0, true)), &body(4))),
        (Event::Fragment, None, packet(true, TCP, Some((3, false)), words(5).as_bytes())),
        (Event::Extension, None, packet(true, TCP, Some((0, false)), &body(6))),
        (Event::Extension, None, packet(true, 60, None, &options(1, TCP, &body(7)))),
        (Event::Extension, None, packet(true, 60, None, &options(12, TCP, &body(8)))),
        (Event::Extension, None, packet(true, 60, None, &options(12, UDP, &udp(ports, &words(9))))),
        (Event::Extension, None, packet(true, 60, Some((3, false)), words(10).as_bytes())),
        (Event::Tagged, Some(0x8100), [&[0, 0, 8, 0], &packet(false, TCP, None, &body(11))[..]].concat()),
        (Event::Tagged, Some(0x88a8), [&[0, 0, 8, 0], &packet(false, TCP, None, &body(12))[..]].concat()),
        (Event::Malformed, None, packet(false, TCP, None, words(13).as_bytes().get(..8).unwrap())),
    ];
    // Before capture every one of them is on the wire.
    for (event, kind, packet) in &dropped {
        forger.send(&peer, *kind, packet);
        assert!(wire.saw_before_now("secret", (&pod, &peer)), "{event:?}");
    }
    pod.enrol(&capture);
    pod.settle();
    for (event, kind, packet) in &dropped {
        let before = capture.counters(&pod.name).unwrap().of(*event);
        forger.send(&peer, *kind, packet);
        assert!(!wire.saw_before_now("secret", (&pod, &peer)), "{event:?} {packet:x?}");
        assert_eq!(capture.counters(&pod.name).unwrap().of(*event), before + 1, "{event:?} {packet:x?}");
    }
}

#[test]
fn what_is_not_tcp_passes_whole_and_in_fragments() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    pod.enrol(&capture);
    let wire = Wire::tap(&world);
    let forger = Forger::new(&pod, "eth0");
    let words = "neither TCP nor DNS";
    let datagram = udp((1234, 8080), words);
    let packet = |v6: bool, protocol, fragment, body: &[u8]| {
        let (from, to) = if v6 { (pod.v6, peer.v6) } else { (pod.v4, peer.v4) };
        wire::ip(from, to, protocol, fragment, body)
    };
    for packet in [
        packet(false, UDP, None, &datagram),
        packet(false, UDP, Some((0, true)), &datagram),
        packet(false, UDP, Some((3, false)), words.as_bytes()),
        packet(true, UDP, None, &datagram),
        packet(true, UDP, Some((0, true)), &datagram),
        packet(true, UDP, Some((3, false)), words.as_bytes()),
        packet(true, 60, None, &options(2, UDP, &datagram)),
        packet(true, 50, None, words.as_bytes()),
    ] {
        forger.send(&peer, None, &packet);
        assert!(wire.saw_before_now(words, (&pod, &peer)), "{packet:x?}");
    }
}

#[test]
fn nobody_is_taken_for_another_pod() {
    let mut world = World::new();
    let (pod, victim, peer) = (world.space(10), world.space(11), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&victim, 8080), Server::start(&peer, 8080)];
    for pod in [&pod, &victim] {
        pod.enrol(&capture);
        pod.settle();
    }
    let claims = Some(capture.claim_map_path());
    let _proxies = [Proxy::start(&pod, claims, "own:"), Proxy::start(&victim, claims, "victim:")];
    assert!(ask(&pod, peer.at(8080)[0]).unwrap().starts_with("own:out|"));
    assert!(ask(&victim, peer.at(8080)[0]).unwrap().starts_with("victim:out|"));

    let spoofed = || capture.counters(&pod.name).unwrap().of(Event::Spoofed);
    // A SYN with the victim's source: out of the interface, and past it, into lo.
    let forged = wire::summed_tcp(victim.v4, peer.v4, (1234, 8080), SYN);
    let before = spoofed();
    Forger::new(&pod, "eth0").send(&peer, None, &forged);
    assert_eq!(spoofed(), before + 1);
    Forger::new(&pod, "lo").mark(LOOP_MARK).loop_back(&forged);
    flare(&pod, &peer, "sent");
    assert_eq!(spoofed(), before + 2);

    // With CAP_NET_ADMIN it takes the victim's address: nobody but itself answers there, and nobody answers it.
    ip(&format!("-n {} addr add {}/32 dev lo", pod.name, victim.v4));
    let answer = ask(&pod, victim.at(8080)[0]);
    assert!(!answer.as_ref().is_ok_and(|answer| answer.contains("victim")), "{answer:?}");
    let source = SocketAddr::new(victim.v4, 0).into();
    assert!(Client::new(&pod, peer.at(8080)[0]).with(|socket| socket.bind(&source)).ask("hello").is_err());
    assert!(ask(&victim, peer.at(8080)[0]).unwrap().starts_with("victim:out|"));
}

#[test]
fn what_comes_from_outside_in_the_pods_own_name_is_dropped() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&pod, 8080);
    pod.enrol(&capture);
    pod.settle();
    let _proxy = pod.proxy(&capture);
    for own in [pod.v4, pod.v6] {
        let before = capture.counters(&pod.name).unwrap().of(Event::Spoofed);
        let forged = wire::summed_tcp(own, own, (1234, 8080), SYN);
        Forger::new(&peer, "eth0").mark(LOOP_MARK).send(&pod, None, &forged);
        flare(&peer, &pod, "sent");
        assert_eq!(capture.counters(&pod.name).unwrap().of(Event::Spoofed), before + 1, "{own}");
    }
}

#[test]
fn data_in_the_first_packet_does_not_leave_without_a_proxy() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    for space in [&pod, &peer] {
        // Both roles (1, 2), for every listener (0x400): RFC 7413.
        space.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027").unwrap());
    }
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    let wire = Wire::tap(&world);
    let fast = || Client::new(&pod, peer.at(8080)[0]).fast_open("a secret in the SYN");
    // The first connection brings a cookie, the second uses it.
    assert!(fast().is_ok());
    assert!(fast().is_ok());
    assert!(wire.saw_before_now("a secret in the SYN", (&pod, &peer)));
    pod.enrol(&capture);
    assert!(fast().is_err());
    assert!(!wire.saw_before_now("a secret in the SYN", (&pod, &peer)));
}

#[test]
fn the_claim_map_is_for_root_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let capture = world.load();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(capture.claim_map_path()), 0o600);
    assert_eq!(mode(&world.settings().bpf_dir), 0o700);
}
