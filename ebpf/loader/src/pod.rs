// SPDX-License-Identifier: Apache-2.0
//! What the loader is told about a pod, and what it tells back. It refuses to know how the agent came to know it.

use std::{net::IpAddr, os::fd::OwnedFd};

use ipnet::IpNet;

/// A pod to capture.
#[derive(Debug)]
pub struct PodNetns {
    /// Its network namespace, open.
    pub netns: OwnedFd,
    /// Identity for the life of the pod. Any text; it names the pins.
    pub uid: String,
    /// How its traffic is treated.
    pub rules: Rules,
}

/// How a pod's traffic is treated. Can be changed while it is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The pod's addresses. Addresses that its interfaces have besides are found when it is attached; after a change of
    /// interfaces or addresses attach it again.
    pub ips: Vec<IpAddr>,
    /// Whether DNS (port 53, UDP and TCP) goes to the proxy.
    pub dns: bool,
    /// What is not captured.
    pub exclusions: Exclusions,
    /// Peers whose connections to the pod go straight to the application: kubelet and its probes.
    pub exempt_peers: Vec<IpNet>,
}

/// What is not captured of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Destination ports of connections that the pod opens.
    pub outbound_ports: Vec<u16>,
    /// Destinations of connections that the pod opens.
    pub outbound_networks: Vec<IpNet>,
    /// Ports of the pod.
    pub inbound_ports: Vec<u16>,
    /// Every connection to the pod (`ambient.istio.io/bypass-inbound-capture`), HBONE excepted.
    pub inbound: bool,
    /// Names of interfaces that are left alone.
    pub interfaces: Vec<String>,
}

/// A pod as it is captured now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// As given.
    pub uid: String,
    /// Cookie of its network namespace (`SO_NETNS_COOKIE`), unique since the node booted.
    pub netns_cookie: u64,
    /// Names of the captured interfaces.
    pub interfaces: Vec<String>,
}

/// A pod that was found captured, by this agent's predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// As given when it was attached.
    pub uid: String,
    /// Which programs run for it.
    pub standing: Standing,
}

/// Which programs run for a pod that was found captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Those of this agent.
    Current,
    /// Those of a predecessor with another object or other settings. They go on capturing; attach the pod again to
    /// replace them without a gap.
    Outdated,
    /// It was released: nothing is captured, but what was captured before may not go on in the open.
    Released,
}

/// What happened to a pod's packets since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; ebpf_abi::EVENTS as usize],
}

impl Counters {
    pub(crate) fn new(counts: [u64; ebpf_abi::EVENTS as usize]) -> Self {
        Self { counts }
    }

    /// How often `event` happened.
    pub fn of(&self, event: ebpf_abi::Event) -> u64 {
        self.counts.get(event as usize).copied().unwrap_or_default()
    }
}
