// SPDX-License-Identifier: Apache-2.0
//! Network namespaces of a test's own.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use node::netns::Netns;

/// A namespace with a name of its own, removed in the end.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A fresh one; its `lo` is up.
    pub(crate) fn new(purpose: &str) -> Self {
        let namespace = Self { name: format!("node-{}-{purpose}", std::process::id()) };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// With one end of a veth pair as `eth0`, up, with these addresses; the other end is in a namespace that is given
    /// back.
    pub(crate) fn with_eth0(purpose: &str, addresses: &[&str]) -> (Self, Self) {
        let (pod, peer) = (Self::new(purpose), Self::new(&format!("{purpose}-peer")));
        pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer.name]);
        for address in addresses {
            pod.ip(&["addr", "add", address, "dev", "eth0"]);
        }
        pod.ip(&["link", "set", "eth0", "up"]);
        peer.ip(&["link", "set", "eth0", "up"]);
        (pod, peer)
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn open(&self) -> Netns {
        Netns::open(&self.path()).unwrap()
    }

    /// The output of `ip` inside.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Rules and routes of captured packets, as iproute2 shows them.
    pub(crate) fn captured_routing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for family in ["-4", "-6"] {
            let rules = self.ip(&[family, "rule", "show", "pref", "60"]);
            let routes = run(&["-n", &self.name, family, "route", "show", "table", "100"]);
            let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
            lines.extend(rules.lines().chain(routes.lines()).map(|line| format!("{family} {}", line.trim())));
        }
        lines
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().expect("iproute2 is installed: apt-get install iproute2")
}
