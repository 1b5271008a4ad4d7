// SPDX-License-Identifier: Apache-2.0
//! Who may send what through a waypoint: which guards apply, and what they say; and whose tokens are believed there.
//!
//! A waypoint asks in this order: [`path::normalise`], [`issuers`] for the token, [`guard`], then for the route.

pub mod path;

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use mesh::{
    Authentication, Index, NetworkAddress, ServiceName,
    l7::guard::{Asked, Attachment, Book, Judgement, judge},
    workload::GatewayDestination,
};

use crate::{
    answer::{Answer, Missing},
    flow::Local,
};

/// What guards say of a request or connection to a service, or to a workload.
pub fn guard(
    index: &Index,
    local: &Local,
    service: Option<&ServiceName>,
    asked: &Asked<'_>,
) -> Answer<Judgement> {
    // Most meshes have few: what nobody asks for costs nothing.
    if local.synced && index.guards().next().is_none() {
        return Answer::Ready(Judgement::open());
    }
    let attachments = match attachments(index, local, service) {
        Ok(attachments) => attachments,
        Err(missing) => return Answer::Needs(missing),
    };
    let books: Vec<&Book> = attachments.iter().filter_map(|to| index.guards_at(to)).collect();
    Answer::Ready(judge(&books, asked))
}

/// Whose tokens are believed for requests to a service, or to a workload.
pub fn issuers(
    index: &Index,
    local: &Local,
    service: Option<&ServiceName>,
) -> Answer<Vec<Arc<Authentication>>> {
    if local.synced && index.authentications().next().is_none() {
        return Answer::Ready(Vec::new());
    }
    let attachments = match attachments(index, local, service) {
        Ok(attachments) => attachments,
        Err(missing) => return Answer::Needs(missing),
    };
    let mut found: Vec<Arc<Authentication>> = Vec::new();
    for authentication in attachments.iter().flat_map(|to| index.authentications_at(to)) {
        if found.iter().all(|known| known.name != authentication.name) {
            found.push(Arc::clone(authentication));
        }
    }
    Answer::Ready(found)
}

/// What applies is attached to the service, or to this waypoint, by whichever of its names and addresses.
fn attachments(
    index: &Index,
    local: &Local,
    service: Option<&ServiceName>,
) -> Result<Vec<Attachment>, Missing> {
    let own = local.own(index)?;
    let mut attachments: Vec<Attachment> = service.cloned().map(Attachment::Service).into_iter().collect();
    let waypoint = |to| Attachment::Waypoint(to);
    let at = |address: NetworkAddress| waypoint(GatewayDestination::Address(address));
    let addresses = own.addresses.iter().map(|ip| NetworkAddress::new(own.network.clone(), *ip));
    attachments.extend(addresses.map(at));
    for name in own.services.keys() {
        attachments.push(waypoint(GatewayDestination::Hostname(name.clone())));
        let vips = index.service(name).into_iter().flat_map(|service| &service.vips);
        attachments.extend(
            vips.filter_map(|vip| Some(at(NetworkAddress::new(vip.network.clone(), vip.address()?)))),
        );
    }
    Ok(attachments)
}

/// The client before all proxies: the last address that `x-forwarded-for` has when a request arrives, which whoever sent it
/// here has written; else whoever did.
pub fn remote(headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let told = last.and_then(|value| value.to_str().ok()).and_then(|text| text.rsplit(',').next());
    let address = told.and_then(|text| text.trim().parse::<IpAddr>().ok());
    address.map_or(peer, |address| address.to_canonical())
}

#[cfg(test)]
mod tests;
