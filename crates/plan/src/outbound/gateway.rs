// SPDX-License-Identifier: Apache-2.0
//! Ways that lead through a waypoint or a gateway.

use std::{net::SocketAddr, sync::Arc};

use mesh::{
    Index, Service, SpiffeId, Workload,
    balance::{Pick, PortMode},
    chance::Chance,
    workload::{GatewayAddress, GatewayDestination},
};

use super::{End, Hop, Inner, Search, Target, Transport, Tunnel};
use crate::{answer::Stop, authority::Authority, failure::What};

/// Keeps the choice of a waypoint independent of the choice of an endpoint.
const PURPOSE: u64 = 11;

impl<'a> Search<'a> {
    /// The waypoint for traffic addressed to a service: one of several by weight. None when the flow comes from one of
    /// them, which has done its part.
    pub(super) fn waypoint_of(&self, service: &'a Service) -> Option<&'a GatewayAddress> {
        let weighted = service.weighted_waypoints.as_slice();
        let waypoints = weighted.iter().map(|weighted| &weighted.destination).chain(&service.waypoint);
        if waypoints.into_iter().any(|waypoint| self.is_source(waypoint)) {
            return None;
        }
        let total = weighted.iter().map(|weighted| u64::from(weighted.weight)).sum();
        let mut drawn = Chance::new(self.flow.seed, PURPOSE).below(total);
        for candidate in weighted {
            let weight = u64::from(candidate.weight);
            if drawn < weight {
                return Some(&candidate.destination);
            }
            drawn -= weight;
        }
        service.waypoint.as_ref()
    }

    /// To a waypoint, for traffic that was addressed to a service, or to a workload if there is none.
    pub(super) fn to_waypoint(
        &self,
        waypoint: &GatewayAddress,
        service: Option<&'a Arc<Service>>,
    ) -> Result<Hop, Stop> {
        let Some((target, asked)) = self.find(waypoint, PortMode::Waypoint(waypoint.hbone_port)) else {
            return Err(What::UnknownWaypoint(name(waypoint)).into());
        };
        if target.pick.workload.network != self.local.network {
            let Some(service) = service else {
                let cause = format!("waypoint {} is on another network", name(waypoint));
                return Err(What::NoRoute(cause).into());
            };
            return self.nested(target, service);
        }
        let transport = Transport::Tunnel(Tunnel {
            address: SocketAddr::new(self.ip(&target, asked)?, target.pick.port),
            authority: Authority::Address(self.flow.destination),
            expected: target.expected(),
            end: End::Waypoint,
        });
        let workload = &target.pick.workload;
        Ok(Hop {
            next: Some(Arc::clone(workload)),
            destination: Some(Arc::clone(workload)),
            set_aside: target.pick.set_aside,
            ..self.bare(transport, service)
        })
    }

    /// To an endpoint of a service on another network.
    pub(super) fn across(&self, target: Target<'a>) -> Result<Hop, Stop> {
        match target.service {
            Some(service) => self.nested(target, service),
            None => Err(What::NoRoute("only services are reached on other networks".to_owned()).into()),
        }
    }

    /// Through the gateway of the target's network. The inner tunnel is asked for the service that was addressed and ends
    /// at the target or, behind the gateway, at one of its kind: the identities of the service through which it was found
    /// are expected there.
    fn nested(&self, target: Target<'_>, addressed: &Arc<Service>) -> Result<Hop, Stop> {
        let remote = &target.pick.workload;
        let Some(address) = &remote.network_gateway else {
            let cause = format!("no gateway of network {} for {}", remote.network, remote.uid);
            return Err(What::NoRoute(cause).into());
        };
        let Some((gateway, asked)) = self.find(address, PortMode::Gateway(address.hbone_port)) else {
            return Err(What::NoRoute(format!("unknown gateway: {}", name(address))).into());
        };
        let expected: Arc<[SpiffeId]> = match target.service {
            Some(service) => Arc::from(service.subject_alt_names.as_slice()),
            None => Arc::new([remote.identity()]),
        };
        if expected.is_empty() {
            let cause = format!("no identities known of {} on other networks", addressed.key());
            return Err(What::NoRoute(cause).into());
        }
        let port = self.flow.destination.port();
        let authority = Authority::Host { hostname: addressed.hostname.clone(), port };
        let outer = Tunnel {
            address: SocketAddr::new(self.ip(&gateway, asked)?, gateway.pick.port),
            authority: authority.clone(),
            expected: gateway.expected(),
            end: End::Gateway,
        };
        let inner = Inner { authority, expected, forwarded_network: self.local.network.clone() };
        Ok(Hop {
            next: Some(Arc::clone(&gateway.pick.workload)),
            destination: Some(Arc::clone(remote)),
            set_aside: target.pick.set_aside || gateway.pick.set_aside,
            ..self.bare(Transport::Nested { outer, inner }, Some(addressed))
        })
    }

    /// An instance of a waypoint or gateway, and what its address was asked for.
    fn find(&self, gateway: &GatewayAddress, port: PortMode) -> Option<(Target<'a>, SocketAddr)> {
        let (service, asked) = match &gateway.destination {
            GatewayDestination::Hostname(name) => (self.index.service(name)?, self.flow.destination),
            GatewayDestination::Address(address) => {
                let asked = SocketAddr::new(address.ip, gateway.hbone_port);
                if let Some(workload) = self.index.workload_at(address) {
                    let set_aside = self.avoid.contains(&workload.uid);
                    let pick = Pick { workload: Arc::clone(workload), port: gateway.hbone_port, set_aside };
                    return Some((Target { pick, service: None }, asked));
                }
                (self.index.service_at(address, &self.source.namespace)?, asked)
            }
        };
        let pick = self.pick(service, port)?;
        Some((Target { pick, service: Some(service) }, asked))
    }
}

/// Whether a workload is an instance of a waypoint.
pub(crate) fn belongs(index: &Index, workload: &Workload, waypoint: &GatewayAddress) -> bool {
    match &waypoint.destination {
        GatewayDestination::Hostname(name) => workload.services.contains_key(name),
        GatewayDestination::Address(address) => {
            let own = workload.network == address.network && workload.addresses.contains(&address.ip);
            let service = || index.service_at(address, &workload.namespace);
            own || service().is_some_and(|service| workload.services.contains_key(&service.key()))
        }
    }
}

fn name(gateway: &GatewayAddress) -> String {
    match &gateway.destination {
        GatewayDestination::Hostname(name) => name.to_string(),
        GatewayDestination::Address(address) => address.to_string(),
    }
}
