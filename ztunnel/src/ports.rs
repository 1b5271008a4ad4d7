// SPDX-License-Identifier: Apache-2.0
//! Source ports of the connections to the applications, which come from the clients' addresses.
//!
//! In the pod's namespace a client's own plaintext connection (client:P → application) and the proxy's connection to
//! the application (client:Q → application) are different connections with the same ends when P = Q, and the kernel
//! would mix them up. Left to the kernel, Q comes from the range that the clients' ports come from. So Q is chosen
//! here, below that range, and is none that a client uses now.
//!
//! The range is no limit to how many connections a client opens in a minute: the kernel lets a socket that is bound to a
//! port connect again over one in TIME_WAIT, as long as TCP timestamps are on (docs/performance.md).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use parking_lot::Mutex;

/// Ends where Linux's default `net.ipv4.ip_local_port_range` begins.
const RANGE: RangeInclusive<u16> = 10_000..=32_767;
/// How many taken ports are passed over before the choice is left to the kernel after all.
const ATTEMPTS: usize = 64;

/// Of one pod.
#[derive(Debug)]
pub struct SourcePorts {
    next: AtomicU16,
    /// Clients whose port is in the range, with their connections (one port may lead to several of the pod's).
    clients: Mutex<HashMap<SocketAddr, u32>>,
}

/// A client's port is in use until this is dropped.
#[derive(Debug)]
pub struct InUse {
    ports: Arc<SourcePorts>,
    client: SocketAddr,
}

impl SourcePorts {
    /// Begins anywhere, so that a restarted proxy does not begin with the ports that the last one has just left.
    pub fn new(anywhere: u16) -> Self {
        Self { next: AtomicU16::new(anywhere), clients: Mutex::default() }
    }

    /// Notes a client's plaintext connection.
    pub fn client(self: &Arc<Self>, client: SocketAddr) -> Option<InUse> {
        if !RANGE.contains(&client.port()) {
            return None;
        }
        *self.clients.lock().entry(client).or_default() += 1;
        Some(InUse { ports: Arc::clone(self), client })
    }

    /// Ports to try one after the other from a client's address.
    pub fn candidates(&self, client: IpAddr) -> impl Iterator<Item = u16> {
        let length = RANGE.end() - RANGE.start() + 1;
        let numbers = std::iter::repeat_with(move || {
            RANGE.start() + self.next.fetch_add(1, Ordering::Relaxed) % length
        });
        numbers
            .take(ATTEMPTS)
            .filter(move |port| !self.clients.lock().contains_key(&SocketAddr::new(client, *port)))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut clients = self.ports.clients.lock();
        if let Some(connections) = clients.get_mut(&self.client) {
            *connections -= 1;
            if *connections == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::new("10.0.0.1".parse().unwrap(), port)
    }

    #[test]
    fn ports_follow_each_other_and_stay_in_the_range() {
        for anywhere in [0, 9, 32_767, u16::MAX] {
            let ports = Arc::new(SourcePorts::new(anywhere));
            let chosen: HashSet<u16> =
                (0..100).flat_map(|_| ports.candidates(client(0).ip()).next()).collect();
            assert_eq!(chosen.len(), 100, "from {anywhere}");
            assert!(chosen.iter().all(|port| RANGE.contains(port)), "from {anywhere}");
        }
    }

    #[test]
    fn a_port_that_a_client_uses_is_chosen_only_for_other_clients() {
        let ports = Arc::new(SourcePorts::new(0));
        let first = ports.client(client(10_001));
        let second = ports.client(client(10_001));
        assert!(ports.candidates(client(0).ip()).all(|port| port != 10_001));

        let ports_of = |ports: &SourcePorts, ip: &str| {
            ports.next.store(0, Ordering::Relaxed);
            ports.candidates(ip.parse().unwrap()).any(|port| port == 10_001)
        };
        assert!(ports_of(&ports, "10.0.0.2"), "another address");
        drop(first);
        assert!(!ports_of(&ports, "10.0.0.1"), "its second connection is open");
        drop(second);
        assert!(ports_of(&ports, "10.0.0.1"), "it has left");
        assert!(ports.client(client(40_000)).is_none(), "no need to note what cannot be chosen");
    }
}
