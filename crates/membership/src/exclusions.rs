// SPDX-License-Identifier: Apache-2.0
//! Connections of a pod that are left alone, as annotations of the pod or of its namespace name them: what the pod says
//! replaces what its namespace says, annotation by annotation. An entry that cannot be read is left out, so that a slip
//! of the pen captures too much rather than too little.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::objects::Labels;

/// Ports to which connections of the pod go as they are: `3306,6379`.
pub const OUTBOUND_PORTS: &str = "ambit.mesh/exclude-outbound-ports";
/// Networks and addresses to which they do: `10.9.0.0/16,fd09::/64`.
pub const OUTBOUND_NETWORKS: &str = "ambit.mesh/exclude-outbound-networks";
/// Ports of the pod at which connections arrive as they are.
pub const INBOUND_PORTS: &str = "ambit.mesh/exclude-inbound-ports";
/// Names of interfaces of the pod that are left alone: `net1`.
pub const INTERFACES: &str = "ambit.mesh/exclude-interfaces";
/// All of them.
pub const ANNOTATIONS: [&str; 4] = [OUTBOUND_PORTS, OUTBOUND_NETWORKS, INBOUND_PORTS, INTERFACES];

/// How many entries one annotation may have. The kernel has room for so many of each pod that a node can hold.
const MOST: usize = 16;
/// The kernel's names of interfaces are no longer (`IFNAMSIZ`).
const LONGEST_INTERFACE: usize = 15;

/// What is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Exclusions {
    /// See [`OUTBOUND_PORTS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_ports: Vec<u16>,
    /// See [`OUTBOUND_NETWORKS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_networks: Vec<IpNet>,
    /// See [`INBOUND_PORTS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound_ports: Vec<u16>,
    /// See [`INTERFACES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
}

/// An entry that is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("annotation {annotation}: {found:?} is not {wanted}")]
    Unreadable {
        /// Which one.
        annotation: &'static str,
        /// The entry.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Those after the first ones have no room.
    #[error("annotation {annotation}: of {found} entries only the first {MOST} count")]
    Many {
        /// Which one.
        annotation: &'static str,
        /// How many there are.
        found: usize,
    },
}

impl Exclusions {
    /// Whether nothing is left alone.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the annotations of a pod and of its namespace ask for, and what of it cannot be had.
    pub fn of(pod: &Labels, namespace: &Labels) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let ports = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let mut reader = Reader { pod, namespace, faults: &mut faults };
        let exclusions = Self {
            outbound_ports: reader.read(OUTBOUND_PORTS, "a port from 1 to 65535", ports),
            outbound_networks: reader.read(
                OUTBOUND_NETWORKS,
                "an address or a network such as 10.9.0.0/16",
                network,
            ),
            inbound_ports: reader.read(INBOUND_PORTS, "a port from 1 to 65535", ports),
            interfaces: reader.read(INTERFACES, "the name of an interface such as net1", interface),
        };
        (exclusions, faults)
    }
}

struct Reader<'a> {
    pod: &'a Labels,
    namespace: &'a Labels,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn read<T>(
        &mut self,
        annotation: &'static str,
        wanted: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let text = self.pod.get(annotation).or_else(|| self.namespace.get(annotation));
        let entries = text.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
        let entries: Vec<&str> = entries.filter(|entry| !entry.is_empty()).collect();
        if entries.len() > MOST {
            self.faults.push(Fault::Many { annotation, found: entries.len() });
        }
        let mut read = Vec::new();
        for entry in entries.into_iter().take(MOST) {
            match parse(entry) {
                Some(value) => read.push(value),
                None => self.faults.push(Fault::Unreadable { annotation, found: entry.to_owned(), wanted }),
            }
        }
        read
    }
}

/// A network, or an address alone.
fn network(text: &str) -> Option<IpNet> {
    let network = IpNet::from_str(text).ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(|network| network.trunc())
}

fn interface(text: &str) -> Option<String> {
    let fits = text.len() <= LONGEST_INTERFACE && text.chars().all(|c| c.is_ascii_graphic() && c != '/');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_pod_says_replaces_what_its_namespace_says_word_by_word() {
        let namespace = labels(&[(OUTBOUND_PORTS, "3306, 6379,"), (OUTBOUND_NETWORKS, "10.9.8.7/16")]);
        let pod = labels(&[(OUTBOUND_PORTS, "25"), (INTERFACES, "net1"), (INBOUND_PORTS, "")]);
        let (found, faults) = Exclusions::of(&pod, &namespace);
        let expected = Exclusions {
            outbound_ports: vec![25],
            outbound_networks: vec!["10.9.0.0/16".parse().unwrap()],
            inbound_ports: vec![],
            interfaces: vec!["net1".to_owned()],
        };
        assert_eq!((found, faults), (expected, vec![]));
        let (none, _) = Exclusions::of(&labels(&[(OUTBOUND_PORTS, "")]), &namespace);
        assert_eq!(none.outbound_ports, [0; 0], "an empty word takes back what the namespace says");
    }

    #[test]
    fn what_cannot_be_read_is_named_and_left_out() {
        for (annotation, text, left) in [
            (OUTBOUND_PORTS, "0", "0"),
            (INBOUND_PORTS, "8080,http", "http"),
            (INBOUND_PORTS, "70000", "70000"),
            (OUTBOUND_NETWORKS, "10.0.0.0/33", "10.0.0.0/33"),
            (INTERFACES, "a-name-that-is-too-long", "a-name-that-is-too-long"),
            (INTERFACES, "../net", "../net"),
        ] {
            let (_, faults) = Exclusions::of(&labels(&[(annotation, text)]), &Labels::new());
            let [Fault::Unreadable { annotation: named, found, .. }] = faults.as_slice() else {
                panic!("{annotation}={text}: {faults:?}")
            };
            assert_eq!((*named, found.as_str()), (annotation, left));
        }
        let many: Vec<String> = (1..=20).map(|port| port.to_string()).collect();
        let (found, faults) = Exclusions::of(&labels(&[(OUTBOUND_PORTS, &many.join(","))]), &Labels::new());
        assert_eq!(found.outbound_ports.len(), MOST);
        assert_eq!(faults, [Fault::Many { annotation: OUTBOUND_PORTS, found: 20 }]);
    }

    #[test]
    fn an_address_alone_is_a_network_of_one() {
        let (found, _) = Exclusions::of(&labels(&[(OUTBOUND_NETWORKS, "10.0.0.1,fd00::1")]), &Labels::new());
        let expected: Vec<IpNet> = ["10.0.0.1/32", "fd00::1/128"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(found.outbound_networks, expected);
    }

    proptest! {
        #[test]
        fn nothing_that_people_write_is_a_crash_or_more_than_fits(text in ".{0,400}", which in 0_usize..4) {
            let (found, _) = Exclusions::of(&labels(&[(ANNOTATIONS[which], &text)]), &Labels::new());
            let counts = [
                found.outbound_ports.len(), found.outbound_networks.len(), found.inbound_ports.len(), found.interfaces.len(),
            ];
            prop_assert!(counts.into_iter().all(|count| count <= MOST));
        }
    }
}
