// SPDX-License-Identifier: Apache-2.0
//! Choice of an endpoint of a service, of its port and of its address.
//!
//! The choice is a function of the seed: asking again picks the same. It knows no connection and no waypoint.

mod hash;
mod lineup;
mod maglev;
mod ring;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use self::{
    hash::hash,
    lineup::{Lineup, Mark},
};
use crate::{
    chance::Chance,
    index::{Index, neighbours::LARGE},
    name::{Hostname, ServiceName, WorkloadUid},
    service::{BalanceMode, IpFamilies, LoadBalancing, Scope, Service},
    workload::Workload,
};

/// What a choice is made for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client.
    pub source: &'a Workload,
    /// Port of the service.
    pub port: PortMode,
    /// Source of chance.
    pub seed: u64,
    /// Endpoints set aside: taken only when nothing else is left.
    pub avoid: &'a HashSet<WorkloadUid>,
}

/// How the port of an endpoint is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// A port of the service, mapped to the endpoint's.
    Service(u16),
    /// This very port of a waypoint, whatever its service says.
    Waypoint(u16),
    /// This very port of a gateway, which is reached although it is on another network.
    Gateway(u16),
}

/// A chosen endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The endpoint.
    pub workload: Arc<Workload>,
    /// Port to reach it at.
    pub port: u16,
    /// Whether it was to be avoided and nothing else was left.
    pub set_aside: bool,
}

/// Chooses an endpoint of a service by locality and weight; `None` when there is none.
pub fn pick(index: &Index, service: &Service, request: &Request<'_>) -> Option<Pick> {
    let name = service.key();
    let members = index.members(&name);
    let mut choice = Choice { service, name: &name, request, chance: Chance::new(request.seed, PURPOSE) };
    let best = if members.len() < LARGE { choice.scan(members) } else { choice.of_many(index, members) };
    best.map(|best| best.candidate.pick(best.workload))
}

/// An endpoint that was chosen in another way; `None` when it is none of the service, or cannot be used.
pub fn select(index: &Index, service: &Service, request: &Request<'_>, uid: &WorkloadUid) -> Option<Pick> {
    let name = service.key();
    let workload = index.workload(uid).filter(|workload| workload.services.contains_key(&name))?;
    let candidate = Candidate::of(service, &name, workload, request).filter(|_| service.admits(workload))?;
    (candidate.rank.standing != Standing::OutOfReach).then(|| candidate.pick(workload))
}

/// Purposes keep the choices of one flow independent of each other.
const PURPOSE: u64 = 1;
/// See [`PURPOSE`].
const PURPOSE_ADDRESS: u64 = 2;
/// Probes before the scan: 16 miss with a probability of 1/65536 if half of the endpoints can be used.
const PROBES: usize = 16;

/// One choice under way.
struct Choice<'a> {
    service: &'a Service,
    name: &'a ServiceName,
    request: &'a Request<'a>,
    chance: Chance,
}

/// The best endpoint of some.
struct Best<'a> {
    workload: &'a Arc<Workload>,
    candidate: Candidate,
}

impl Choice<'_> {
    /// Chooses without looking at all endpoints, unless the last resort is needed: nearest first, and of many that are
    /// equally near some at random.
    fn of_many<'w>(&mut self, index: &'w Index, members: &'w [Arc<Workload>]) -> Option<Best<'w>> {
        let balancing = &self.service.load_balancing;
        let scopes = balancing.preference();
        let farthest = match balancing.mode {
            BalanceMode::Strict => scopes.len(),
            BalanceMode::Unspecified | BalanceMode::Passthrough | BalanceMode::Failover => 0,
        };
        let heaviest = u64::from(index.heaviest(self.name));
        for met in (farthest..=scopes.len()).rev() {
            let near = match met {
                0 => Some(members),
                _ => index.sharing(self.name, self.request.source, (scopes, met)),
            };
            let Some(near) = near else { break };
            let wanted = Rank { standing: Standing::Good, near: true, met };
            if near.len() >= LARGE
                && let Some(best) = self.probe(near, wanted, heaviest)
            {
                return Some(best);
            }
            let best = self.scan(near);
            // Whoever shares more is not good, or would have been chosen before.
            if met == farthest || best.as_ref().is_some_and(|best| best.candidate.rank == wanted) {
                return best;
            }
        }
        self.scan(members)
    }

    /// Looks at random endpoints until one has the rank: any that has it has the chance of its weight, as in a scan.
    fn probe<'w>(&mut self, among: &'w [Arc<Workload>], wanted: Rank, heaviest: u64) -> Option<Best<'w>> {
        for _ in 0..PROBES {
            let workload = among.get(self.chance.below(among.len() as u64) as usize)?;
            let heavy_enough = self.chance.below(heaviest) < u64::from(workload.capacity);
            if heavy_enough
                && let Some(candidate) = self.candidate(workload)
                && candidate.rank == wanted
            {
                return Some(Best { workload, candidate });
            }
        }
        None
    }

    /// Looks at all of them once: of those with the best rank, each replaces the one chosen so far with the probability
    /// of its share of the weight seen, so that no list is built.
    fn scan<'w>(&mut self, among: &'w [Arc<Workload>]) -> Option<Best<'w>> {
        let mut best: Option<Best<'w>> = None;
        let mut weight = 0;
        for workload in among {
            let Some(candidate) = self.candidate(workload) else { continue };
            match best.as_ref().map(|best| candidate.rank.cmp(&best.candidate.rank)) {
                Some(std::cmp::Ordering::Less) => continue,
                Some(std::cmp::Ordering::Equal) => {}
                Some(std::cmp::Ordering::Greater) | None => weight = 0,
            }
            weight += u64::from(workload.capacity);
            if self.chance.below(weight) < u64::from(workload.capacity) {
                best = Some(Best { workload, candidate });
            }
        }
        best
    }

    fn candidate(&self, workload: &Workload) -> Option<Candidate> {
        if !self.service.admits(workload) {
            return None;
        }
        Candidate::of(self.service, self.name, workload, self.request)
    }
}

/// An endpoint that may be chosen.
struct Candidate {
    port: u16,
    rank: Rank,
}

/// Greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    standing: Standing,
    /// Not on another network where the network is the first preference.
    near: bool,
    /// Preferences met, from the first on.
    met: usize,
}

/// Greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// On another network without a gateway.
    OutOfReach,
    /// To be avoided.
    SetAside,
    /// Nothing against it.
    Good,
}

impl Candidate {
    fn of(service: &Service, name: &ServiceName, workload: &Workload, request: &Request<'_>) -> Option<Self> {
        let port = match request.port {
            PortMode::Service(port) => target(service, name, workload, port)?,
            PortMode::Waypoint(port) | PortMode::Gateway(port) => port,
        };
        if workload.capacity == 0 {
            return None;
        }
        let gateway = matches!(request.port, PortMode::Gateway(_)) || workload.network_gateway.is_some();
        let standing = if workload.network != request.source.network && !gateway {
            Standing::OutOfReach
        } else if request.avoid.contains(&workload.uid) {
            Standing::SetAside
        } else {
            Standing::Good
        };
        let (near, met) = preference(&service.load_balancing, request.source, workload)?;
        Some(Self { port, rank: Rank { standing, near, met } })
    }

    fn pick(self, workload: &Arc<Workload>) -> Pick {
        Pick {
            workload: Arc::clone(workload),
            port: self.port,
            set_aside: self.rank.standing != Standing::Good,
        }
    }
}

/// How well an endpoint meets the preferences of a service: whether it is near, and how many preferences in a row it
/// meets. `None`: it may not be used.
fn preference(balancing: &LoadBalancing, source: &Workload, workload: &Workload) -> Option<(bool, usize)> {
    let scopes = balancing.routing_preference.as_slice();
    let met = |scopes: &[Scope]| scopes.iter().take_while(|scope| shared(**scope, source, workload)).count();
    match balancing.mode {
        BalanceMode::Unspecified | BalanceMode::Passthrough => Some((true, 0)),
        BalanceMode::Strict => (met(scopes) == scopes.len()).then_some((true, scopes.len())),
        BalanceMode::Failover => match scopes.split_first() {
            // The clusters of other networks are worse than any of our own, but not equally so.
            Some((Scope::Network, rest)) if source.network != workload.network => Some((false, met(rest))),
            Some(_) | None => Some((true, met(scopes))),
        },
    }
}

fn shared(scope: Scope, source: &Workload, workload: &Workload) -> bool {
    scope.values(source) == scope.values(workload)
}

/// Port of a workload behind a port of a service: its own map goes before the service's. An application tunnel carries
/// the port of the service itself.
pub fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    target(service, &service.key(), workload, port)
}

fn target(service: &Service, name: &ServiceName, workload: &Workload, port: u16) -> Option<u16> {
    let own = workload.services.get(name).and_then(|ports| ports.get(&port));
    let target =
        own.and_then(|own| own.target).or_else(|| service.ports.get(&port).and_then(|known| known.target));
    target.or_else(|| workload.application_tunnel.map(|_| port))
}

/// Which address of a workload to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one.
    Ip(IpAddr),
    /// One of what this name resolves to.
    Resolve(Hostname),
    /// It has none (in the families of the service).
    Nowhere,
}

/// Chooses the address of a workload for a connection that was made to `original`: that very one if it is the workload's,
/// else one of the same family.
pub fn place(workload: &Workload, service: Option<&Service>, original: SocketAddr) -> Place {
    if workload.addresses.contains(&original.ip()) {
        return Place::Ip(original.ip());
    }
    let families = service.map_or(IpFamilies::Automatic, |service| service.ip_families);
    let offered = || workload.addresses.iter().filter(|ip| families.include(**ip));
    let same_family = offered().find(|ip| ip.is_ipv4() == original.is_ipv4());
    match (same_family.or_else(|| offered().next()), &workload.hostname) {
        (Some(ip), _) => Place::Ip(*ip),
        (None, Some(hostname)) if workload.addresses.is_empty() => Place::Resolve(hostname.clone()),
        (None, _) => Place::Nowhere,
    }
}

/// Chooses among addresses that a name resolved to, the family of `original` first; `None` when there are none.
pub fn choose(addresses: &[IpAddr], original: SocketAddr, seed: u64) -> Option<IpAddr> {
    let mut chance = Chance::new(seed, PURPOSE_ADDRESS);
    let same_family = || addresses.iter().filter(|ip| ip.is_ipv4() == original.is_ipv4());
    let same = same_family().count();
    if same > 0 {
        return same_family().nth(chance.below(same as u64) as usize).copied();
    }
    addresses.get(chance.below(addresses.len() as u64) as usize).copied()
}

#[cfg(test)]
mod tests;
