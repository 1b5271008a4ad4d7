// SPDX-License-Identifier: Apache-2.0
//! The way for kernels without tcx: clsact, forced on this one.

use std::process::Command;

use ebpf_loader::{Capture, Mode, Settings, Standing};

use crate::{
    app::{Server, Talk, ask, ask_udp, refused, talk},
    world::{Space, World},
};

fn load(world: &World) -> Capture {
    Capture::load(Settings { mode: Mode::Clsact, ..world.settings() }).unwrap()
}

/// What `tc` shows of an interface's filters.
fn filters(space: &Space, device: &str) -> String {
    let shown = ["ingress", "egress"].map(|way| {
        let arguments = ["-n", &space.name, "filter", "show", "dev", device, way];
        String::from_utf8(Command::new("tc").args(arguments).output().unwrap().stdout).unwrap()
    });
    shown.concat()
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
    assert_eq!(filters(&pod, "eth0").matches("direct-action").count(), 2, "{}", filters(&pod, "eth0"));

    proxy.kill();
    assert!(refused(&pod, peer.at(8080)[0]));
    capture.detach(&pod.name).unwrap();
    assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("{}|hello", pod.v4));
    assert_eq!(filters(&pod, "eth0") + &filters(&pod, "lo"), "");
}

#[test]
fn a_pod_moves_between_clsact_and_tcx() {
    let mut world = World::new();
    let (pod, peer) = (world.space(10), world.space(20));
    let _server = Server::start(&peer, 8080);
    let modes = [Mode::Clsact, Mode::Tcx, Mode::Clsact];
    pod.prepare();
    for mode in modes {
        let capture = Capture::load(Settings { mode, ..world.settings() }).unwrap();
        capture.attach(&pod.pod()).unwrap();
        let _proxy = pod.proxy(&capture);
        assert_eq!(ask(&pod, peer.at(8080)[0]).unwrap(), format!("out|{}|hello", pod.v4), "{mode:?}");
    }
}
