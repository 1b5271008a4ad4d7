// SPDX-License-Identifier: Apache-2.0
//! Services by virtual address, single ones and ranges.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::{
    name::{Network, NetworkAddress},
    service::{Service, Vip},
};

/// Who offers an address; several services may.
type Offers = Vec<Arc<Service>>;

/// See the module. Most services have single addresses, which one hash finds; ranges are kept apart.
#[derive(Debug, Default)]
pub(crate) struct Vips {
    single: HashMap<NetworkAddress, Offers>,
    ranges: HashMap<Network, Ranges>,
}

#[derive(Debug, Default)]
struct Ranges {
    v4: PrefixMap<Ipv4Net, Offers>,
    v6: PrefixMap<Ipv6Net, Offers>,
}

impl Vips {
    /// The service behind an address as a client of `namespace` sees it: its own namespace's first, then the narrowest
    /// range, then the canonical one; the rest is decided by name so that the order of arrival does not matter.
    pub(crate) fn service_at(&self, address: &NetworkAddress, namespace: &str) -> Option<&Arc<Service>> {
        let single = self.single.get(address).into_iter().map(|offers| (u8::MAX, offers));
        let ranges = self.ranges.get(&address.network);
        let (v4, v6) = match address.ip {
            IpAddr::V4(ip) => (ranges.map(|ranges| ranges.v4.cover(&Ipv4Net::from(ip))), None),
            IpAddr::V6(ip) => (None, ranges.map(|ranges| ranges.v6.cover(&Ipv6Net::from(ip)))),
        };
        let v4 = v4.into_iter().flatten().map(|(net, offers)| (net.prefix_len(), offers));
        let v6 = v6.into_iter().flatten().map(|(net, offers)| (net.prefix_len(), offers));
        single
            .chain(v4)
            .chain(v6)
            .flat_map(|(length, offers)| offers.iter().map(move |service| (length, service)))
            .filter(|(_, service)| service.visible_to(namespace))
            .max_by_key(|(length, service)| {
                let own = service.namespace == namespace;
                (own, *length, service.canonical, Reverse((&service.namespace, &service.hostname)))
            })
            .map(|(_, service)| service)
    }

    /// Adds the addresses of a service.
    pub(crate) fn insert(&mut self, service: &Arc<Service>) {
        for vip in &service.vips {
            let offers = self.offers(vip);
            if !offers.iter().any(|known| Arc::ptr_eq(known, service)) {
                offers.push(Arc::clone(service));
            }
        }
    }

    fn offers(&mut self, vip: &Vip) -> &mut Offers {
        if let Some(ip) = vip.address() {
            return self.single.entry(NetworkAddress::new(vip.network.clone(), ip)).or_default();
        }
        let ranges = self.ranges.entry(vip.network.clone()).or_default();
        match vip.net.trunc() {
            IpNet::V4(net) => ranges.v4.entry(net).or_default(),
            IpNet::V6(net) => ranges.v6.entry(net).or_default(),
        }
    }

    /// Takes back the addresses of a service.
    pub(crate) fn remove(&mut self, service: &Arc<Service>) {
        for vip in &service.vips {
            let offers = self.offers(vip);
            offers.retain(|known| !Arc::ptr_eq(known, service));
            if offers.is_empty() {
                self.forget(vip);
            }
        }
    }

    fn forget(&mut self, vip: &Vip) {
        if let Some(ip) = vip.address() {
            self.single.remove(&NetworkAddress::new(vip.network.clone(), ip));
            return;
        }
        let Some(ranges) = self.ranges.get_mut(&vip.network) else { return };
        match vip.net.trunc() {
            IpNet::V4(net) => drop(ranges.v4.remove(&net)),
            IpNet::V6(net) => drop(ranges.v6.remove(&net)),
        }
        if ranges.v4.is_empty() && ranges.v6.is_empty() {
            self.ranges.remove(&vip.network);
        }
    }
}
