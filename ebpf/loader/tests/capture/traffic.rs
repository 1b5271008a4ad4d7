// SPDX-License-Identifier: Apache-2.0
//! Who gets whose connections.

use std::{net::SocketAddr, thread};

use ebpf_loader::{Exclusions, PodNetns, Rules, abi::Event};

use crate::{
    app::{Client, Server, ask, ask_udp, refused, talk},
    proxy::{FIRST_PORT, Proxy},
    world::{Space, World},
};

#[test]
fn what_a_pod_opens_and_what_is_opened_to_it_goes_through_the_proxy() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    pod.settle();
    let _proxy = pod.proxy(&capture);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        assert_eq!(ask(&pod, other).unwrap(), format!("out|{}|hello", own.ip()));
        // The application sees its client's address, not the proxy's.
        assert_eq!(ask(&peer, own).unwrap(), format!("in|{}|hello", other.ip()));
    }
    let counters = capture.counters(&pod.name).unwrap();
    assert_eq!(counters.of(Event::CapturedOutbound), 2);
    assert_eq!(counters.of(Event::CapturedInbound), 2);
    assert_eq!(counters.of(Event::Adopted), 4);
}

#[test]
fn a_pod_that_calls_itself_is_left_alone() {
    let mut world = World::new();
    let pod = world.space(10);
    let capture = world.load();
    let _server = Server::start(&pod, 8080);
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    for own in pod.at(8080) {
        assert_eq!(ask(&pod, own).unwrap(), format!("{}|hello", own.ip()));
    }
    for loopback in ["127.0.0.1:8080", "[::1]:8080"] {
        assert!(ask(&pod, loopback.parse().unwrap()).unwrap().ends_with("1|hello"));
    }
}

#[test]
fn dns_is_answered_by_the_proxy_in_the_name_of_whom_the_pod_asked() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    pod.enrol(&capture);
    pod.settle();
    let _proxy = pod.proxy(&capture);
    for server in peer.at(53) {
        assert_eq!(ask(&pod, server).unwrap(), format!("dns|{}|hello", server.ip()));
        assert_eq!(ask_udp(&pod, server, "hello").unwrap(), "dns|hello");
        let from = format!("from {}", server.ip());
        assert_eq!(ask_udp(&pod, server, &from).unwrap(), format!("dns|{from}"));
    }
    assert_eq!(capture.counters(&pod.name).unwrap().of(Event::CapturedDns), 4);
}

#[test]
fn exempt_peers_and_excluded_ports_go_past_the_proxy() {
    let mut world = World::new();
    let (pod, peer, kubelet) = (world.space(10), world.space(20), world.space(30));
    let capture = world.load();
    let _servers = [8080, 9090].map(|port| [Server::start(&pod, port), Server::start(&peer, port)]);
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    let rules = Rules {
        exempt_peers: vec!["10.78.0.30/32".parse().unwrap(), "fd78::1e/128".parse().unwrap()],
        exclusions: Exclusions {
            outbound_ports: vec![9090],
            outbound_networks: vec!["10.78.0.28/30".parse().unwrap()],
            inbound_ports: vec![9090],
            ..Exclusions::default()
        },
        ..pod.rules()
    };
    capture.update(&pod.name, &rules).unwrap();
    let _kubelets = Server::start(&kubelet, 8080);
    let past = |from: &Space| format!("{}|hello", from.v4);
    for (from, to, port, expected) in [
        (&kubelet, &pod, 8080, past(&kubelet)),
        (&pod, &kubelet, 8080, past(&pod)),
        (&pod, &peer, 9090, past(&pod)),
        (&peer, &pod, 9090, past(&peer)),
        (&pod, &peer, 8080, format!("out|{}", past(&pod))),
        (&peer, &pod, 8080, format!("in|{}", past(&peer))),
    ] {
        assert_eq!(ask(from, to.at(port)[0]).unwrap(), expected, "{port}");
    }
    // Rules that are taken back are forgotten.
    capture.update(&pod.name, &pod.rules()).unwrap();
    assert_eq!(ask(&kubelet, pod.at(8080)[0]).unwrap(), format!("in|{}", past(&kubelet)));
    assert_eq!(ask(&pod, peer.at(9090)[0]).unwrap(), format!("out|{}", past(&pod)));
}

#[test]
fn inbound_capture_can_be_bypassed_but_hbone_is_still_the_proxys() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&pod, 8080);
    pod.prepare();
    let exclusions = Exclusions { inbound: true, ..Exclusions::default() };
    capture.attach(&PodNetns { rules: Rules { exclusions, ..pod.rules() }, ..pod.pod() }).unwrap();
    let _proxy = pod.proxy(&capture);
    assert_eq!(ask(&peer, pod.at(8080)[0]).unwrap(), format!("{}|hello", peer.v4));
    assert_eq!(ask(&peer, pod.at(15008)[0]).unwrap(), format!("hbone|{}|hello", pod.v4));
}

#[test]
fn hbone_reaches_the_proxy_from_outside_and_from_the_pod_itself() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    for own in pod.at(15008) {
        assert_eq!(ask(&peer, own).unwrap(), format!("hbone|{}|hello", own.ip()));
        // As when a pod calls a service that it serves itself: its proxy dials its own address.
        let through = format!("out|hbone|{}|hello", own.ip());
        let dialled = Client::new(&pod, own).ask("hello").unwrap();
        assert!([through, format!("hbone|{}|hello", own.ip())].contains(&dialled), "{dialled}");
    }
}

#[test]
fn nobody_reaches_the_proxys_capture_ports_by_name() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    // Both listeners are known already.
    let _adopted = [ask(&pod, peer.at(8080)[0]), ask(&peer, pod.at(8080)[0])];
    for port in [15001, 15006] {
        for address in [pod.at(port)[0], pod.at(port)[1], ([127, 0, 0, 1], port).into()] {
            assert!(refused(&pod, address), "{address}");
        }
        assert_eq!(ask(&peer, pod.at(port)[0]).unwrap(), "illegal", "{port}");
    }
}

#[test]
fn two_pods_have_each_their_own_proxy() {
    let mut world = World::new();
    let (a, b) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&a, 8080), Server::start(&b, 8080)];
    [&a, &b].into_iter().for_each(|pod| pod.enrol(&capture));
    let claims = Some(capture.claim_map_path());
    let _proxies = [Proxy::start(&a, claims, "a:"), Proxy::start(&b, claims, "b:")];
    for (from, to) in a.at(8080).into_iter().zip(b.at(8080)) {
        assert_eq!(ask(&a, to).unwrap(), format!("a:out|b:in|{}|hello", from.ip()));
        assert_eq!(ask(&b, from).unwrap(), format!("b:out|a:in|{}|hello", to.ip()));
    }
}

#[test]
fn sockets_with_unusual_options_are_captured_too() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&peer, 8080);
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        let expected = format!("out|{}|hello", own.ip());
        let to_device = Client::new(&pod, other).with(|socket| socket.bind_device(Some(b"eth0")));
        assert_eq!(to_device.ask("hello").unwrap(), expected);
        assert_eq!(Client::multipath(&pod, other).ask("hello").unwrap(), expected);
        let source = SocketAddr::new(own.ip(), 0).into();
        assert_eq!(
            Client::new(&pod, other).with(|socket| socket.bind(&source)).ask("hello").unwrap(),
            expected
        );
    }
}

#[test]
fn a_port_that_was_just_used_can_be_used_again() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        for round in 0..5 {
            for (from, source, to, word) in [(&pod, own, other, "out"), (&peer, other, own, "in")] {
                let source = SocketAddr::new(source.ip(), 40_000);
                let client = Client::new(from, to).with(|socket| {
                    socket.set_reuse_address(true)?;
                    socket.bind(&source.into())
                });
                let mut talk = client.connect().unwrap();
                // The server ends first, so that TIME_WAIT is on the proxy's side.
                assert_eq!(talk.ask("bye").unwrap(), format!("{word}|{}|bye", source.ip()), "round {round}");
                assert!(talk.hear().is_err());
            }
        }
    }
}

#[test]
fn a_client_that_chooses_the_port_of_its_delivery_waits_and_breaks_nothing() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = world.load();
    let _server = Server::start(&pod, 8080);
    pod.enrol(&capture);
    let _proxy = pod.proxy(&capture);
    for (number, (own, other)) in (0..).zip(pod.at(8080).into_iter().zip(peer.at(8080))) {
        let first = format!("in|{}|first", other.ip());
        let mut delivered = talk(&peer, own, &first);
        let second = Client::new(&peer, own)
            .with(|socket| socket.bind(&SocketAddr::new(other.ip(), FIRST_PORT + 2 * number).into()));
        let second = thread::spawn(move || second.patient().ask("second"));
        while capture.counters(&pod.name).unwrap().of(Event::Collided) <= u64::from(number) {
            thread::yield_now();
        }
        assert_eq!(delivered.ask("still").unwrap(), format!("{}|still", other.ip()));
        drop(delivered);
        assert_eq!(second.join().unwrap().unwrap(), format!("in|{}|second", other.ip()));
    }
}

#[test]
fn many_connections_at_once_lose_no_byte() {
    let mut world = World::new();
    let (a, b) = (world.space(10), world.space(20));
    let capture = world.load();
    let _servers = [Server::start(&a, 8080), Server::start(&b, 8080)];
    [&a, &b].into_iter().for_each(|pod| pod.enrol(&capture));
    let _proxies = [a.proxy(&capture), b.proxy(&capture)];
    thread::scope(|scope| {
        for number in 0..64_usize {
            let (from, to) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
            let destination = to.at(8080)[number / 2 % 2];
            scope.spawn(move || {
                let bytes: Vec<u8> =
                    (0..256 * 1024).map(|at: usize| (at.wrapping_mul(31) + number) as u8).collect();
                let mut talk = Client::new(from, destination).patient().connect().unwrap();
                assert!(talk.ask("raw").unwrap().starts_with("out|in|"));
                assert_eq!(talk.echo(&bytes).unwrap(), bytes, "connection {number}");
            });
        }
    });
}
