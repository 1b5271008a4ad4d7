// SPDX-License-Identifier: Apache-2.0
//! Other names by which a proxy that asks on demand may mean a resource: `<network>/<ip>` for what has that address, and
//! a service's name for its endpoints. It reads them off the messages, so nothing is kept for those who never ask.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use arcstr::ArcStr;
use prost::Message;
use proto::workload::{Address, address::Type};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_address: HashMap<String, BTreeSet<ArcStr>>,
    by_service: HashMap<String, BTreeSet<ArcStr>>,
}

impl Places {
    /// A resource is there.
    pub(super) fn learn(&mut self, name: &ArcStr, body: &[u8]) {
        let (addresses, services) = other_names(body);
        for (map, keys) in [(&mut self.by_address, addresses), (&mut self.by_service, services)] {
            for key in keys {
                map.entry(key).or_default().insert(name.clone());
            }
        }
    }

    /// A resource with this body is there no longer.
    pub(super) fn forget(&mut self, name: &ArcStr, body: &[u8]) {
        let (addresses, services) = other_names(body);
        for (map, keys) in [(&mut self.by_address, addresses), (&mut self.by_service, services)] {
            for key in keys {
                if let Some(names) = map.get_mut(&key) {
                    names.remove(name);
                    if names.is_empty() {
                        map.remove(&key);
                    }
                }
            }
        }
    }

    /// What has an address.
    pub(super) fn at(&self, address: &str) -> impl Iterator<Item = ArcStr> {
        self.by_address.get(address).into_iter().flatten().cloned()
    }

    /// Workloads of a service.
    pub(super) fn endpoints_of(&self, service: &str) -> impl Iterator<Item = ArcStr> {
        self.by_service.get(service).into_iter().flatten().cloned()
    }
}

/// Addresses and services in a body of ours; a policy has none, and reads as an address that is neither sort.
fn other_names(body: &[u8]) -> (Vec<String>, Vec<String>) {
    match Address::decode(body).ok().and_then(|address| address.r#type) {
        Some(Type::Workload(workload)) => {
            let address = |bytes: &bytes::Bytes| Some(format!("{}/{}", workload.network, ip(bytes)?));
            (workload.addresses.iter().filter_map(address).collect(), workload.services.into_keys().collect())
        }
        Some(Type::Service(service)) => {
            let single = service.addresses.iter().filter(|address| address.length.is_none());
            let names =
                single.filter_map(|address| Some(format!("{}/{}", address.network, ip(&address.address)?)));
            (names.collect(), Vec::new())
        }
        None => (Vec::new(), Vec::new()),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}
