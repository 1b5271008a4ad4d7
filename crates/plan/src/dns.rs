// SPDX-License-Identifier: Apache-2.0
//! What a DNS question of a workload is answered: names of the mesh here, all others by the resolvers of the node.

mod search;

use std::{net::IpAddr, sync::Arc};

use arcstr::ArcStr;
use mesh::{Hostname, Index, Service, Workload, chance::Chance};

use crate::{
    answer::{Answer, Missing},
    flow::Local,
};

/// Time to live of answers given here, in seconds.
pub const TTL: u32 = 30;
/// Keeps the order of addresses independent of other choices of a seed.
const PURPOSE: u64 = 21;

/// How the DNS proxy is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Domain of the cluster, without dots at its ends: `cluster.local`.
    pub cluster_domain: Hostname,
    /// Further search domains of the pods, from `resolv.conf`.
    pub search: Vec<Hostname>,
    /// Namespace whose services go before those of others.
    pub preferred_namespace: Option<ArcStr>,
    /// Whether addresses of IPv6 are answered.
    pub ipv6: bool,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name asked for.
    pub name: Hostname,
    /// The type of record.
    pub kind: Kind,
    /// Source of chance: order of the addresses.
    pub seed: u64,
}

/// Type of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Anything else.
    Other,
}

/// What to reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// With authority and [`TTL`]; without addresses the name exists and has none of this kind (NOERROR).
    Records {
        /// Name that the addresses belong to, when it is not the one asked for: a CNAME record leads to it.
        alias: Option<Hostname>,
        /// The addresses, shuffled.
        addresses: Vec<IpAddr>,
    },
    /// Not ours: ask the resolvers of the node.
    Forward,
}

/// Answers a question of a workload. When what is missing does not come in time, the reply is SERVFAIL.
pub fn answer(index: &Index, local: &Local, settings: &Settings, question: &Question) -> Answer<Reply> {
    match reply(index, local, settings, question) {
        Ok(reply) => Answer::Ready(reply),
        Err(missing) => Answer::Needs(missing),
    }
}

fn reply(index: &Index, local: &Local, settings: &Settings, question: &Question) -> Result<Reply, Missing> {
    let client = local.own(index)?;
    let (Kind::A | Kind::Aaaa) = question.kind else { return Ok(Reply::Forward) };
    let zone = Zone { index, local, settings, client };
    let Some((service, alias)) = zone.find(&question.name) else { return Ok(Reply::Forward) };
    let mut addresses = zone.addresses(service, question.kind);
    Chance::new(question.seed, PURPOSE).shuffle(&mut addresses);
    Ok(Reply::Records { alias, addresses })
}

/// Names as one client sees them.
struct Zone<'a> {
    index: &'a Index,
    local: &'a Local,
    settings: &'a Settings,
    client: &'a Workload,
}

impl<'a> Zone<'a> {
    /// The service that a name means to the client, and the name that it was found by if that is an alias.
    fn find(&self, name: &Hostname) -> Option<(&'a Arc<Service>, Option<Hostname>)> {
        let domain = &self.settings.cluster_domain;
        let namespace = self.client.namespace.as_str();
        for alias in search::aliases(name, namespace, domain, &self.settings.search) {
            let stripped = alias.as_ref().unwrap_or(name);
            let mut meanings = search::expansions(stripped, namespace, domain).into_iter();
            let found = meanings.find_map(|meaning| {
                let exact = self.service(&meaning);
                exact.or_else(|| search::wildcards(&meaning).find_map(|wildcard| self.service(&wildcard)))
            });
            if let Some(service) = found {
                return Some((service, alias));
            }
        }
        None
    }

    /// The service of a host name that the client would get: its own namespace's, the preferred one's, the canonical one.
    fn service(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        let namespace = self.client.namespace.as_str();
        let preferred = self.settings.preferred_namespace.as_ref();
        self.index.services_of_host(host, namespace).filter(|service| self.answers(service)).min_by_key(
            |service| {
                let others = Some(&service.namespace) != preferred;
                (service.namespace != namespace, others, !service.canonical)
            },
        )
    }

    /// Whether the addresses of a service are known here: virtual ones, or its endpoints' if it is headless. Other hosts
    /// without addresses are external ones, whose addresses the resolvers know.
    fn answers(&self, service: &Service) -> bool {
        service.vips.iter().any(|vip| vip.address().is_some())
            || (service.vips.is_empty()
                && search::is_of_cluster(&service.hostname, &self.settings.cluster_domain))
    }

    fn addresses(&self, service: &Service, kind: Kind) -> Vec<IpAddr> {
        let fits = |ip: &IpAddr| {
            let asked = match kind {
                Kind::A => ip.is_ipv4(),
                Kind::Aaaa => ip.is_ipv6() && self.settings.ipv6,
                Kind::Other => false,
            };
            asked && service.ip_families.include(*ip)
        };
        let mut addresses: Vec<IpAddr> = if service.vips.is_empty() {
            let endpoints = self.index.endpoints(service);
            let here = endpoints.filter(|endpoint| endpoint.network == self.local.network);
            here.flat_map(|endpoint| &endpoint.addresses).copied().filter(fits).collect()
        } else {
            let here = service.vips.iter().filter(|vip| vip.network == self.local.network);
            here.filter_map(mesh::service::Vip::address).filter(fits).collect()
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

#[cfg(test)]
mod tests;
