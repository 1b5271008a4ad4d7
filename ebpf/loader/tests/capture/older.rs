// SPDX-License-Identifier: Apache-2.0
//! The way for kernels without tcx: clsact, forced on this one.

use ebpf_loader::{Capture, Mode, Settings, Standing};

use crate::{
    app::{Server, Talk, ask, ask_udp, refused, talk},
    world::World,
};

fn load(world: &World) -> Capture {
    Capture::load(Settings { mode: Mode::Clsact, ..world.settings() }).unwrap()
}

#[test]
fn clsact_captures_as_tcx_does() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let capture = load(&world);
    let _servers = [Server::start(&pod, 8080), Server::start(&peer, 8080)];
    let mut open: Talk = talk(&pod, peer.at(8080)[0], &format!("{}|first", pod.v4));
    pod.enrol(&capture);
    assert!(refused(&pod, peer.at(8080)[0]));
    let _proxy = pod.proxy(&capture);
    for (own, other) in pod.at(8080).into_iter().zip(peer.at(8080)) {
        assert_eq!(ask(&pod, other).unwrap(), format!("out|{}|hello", own.ip()));
        assert_eq!(ask(&peer, own).unwrap(), format!("in|{}|hello", other.ip()));
        assert_eq!(ask(&pod, own).unwrap(), format!("{}|hello", own.ip()));
        assert_eq!(ask_udp(&pod, (other.ip(), 53).into(), "hello").unwrap(), "dns|hello");
    }
    assert!(open.ask("more").unwrap().ends_with("|more"));
}

#[test]
fn clsact_outlives_the_agent_is_replaced_in_place_and_removed() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let _server = Server::start(&peer, 8080);
    let capture = load(&world);
    pod.enrol(&capture);
    let proxy = pod.proxy(&capture);
    drop(capture);
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));

    let capture =
        Capture::load(Settings { mode: Mode::Clsact, trust_mark: true, ..world.settings() }).unwrap();
    assert_eq!(capture.adopt().unwrap()[0].standing, Standing::Outdated);
    capture.attach(&pod.pod()).unwrap();
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4));
    assert_eq!(pod.filters().matches("direct-action").count(), 3, "{}", pod.filters());

    proxy.kill();
    assert!(refused(&pod, peer.at(8080)[0]));
    capture.detach(&pod.name).unwrap();
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("{}|hello", pod.v4));
    assert_eq!(pod.filters(), "");
}

#[test]
fn a_pod_moves_between_clsact_and_tcx() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let _server = Server::start(&peer, 8080);
    pod.prepare();
    for (mode, filters) in [
        (Mode::Clsact, 3),
        (Mode::Tcx, 0),
        (Mode::Auto, 0),
        (Mode::Clsact, 3),
        (Mode::Auto, 0),
        (Mode::Tcx, 0),
    ] {
        let capture = Capture::load(Settings { mode, ..world.settings() }).unwrap();
        capture.attach(&pod.pod()).unwrap();
        if mode == Mode::Auto {
            pod.settle();
        }
        assert_eq!(pod.filters().matches("direct-action").count(), filters, "{mode:?}");
        let _proxy = pod.proxy(&capture);
        assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4), "{mode:?}");
    }
}
