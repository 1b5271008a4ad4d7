// SPDX-License-Identifier: Apache-2.0
//! What a proxy is told to do, the same for all of them: which paths go to which backends, and what answers then say. It
//! knows no proxy.

use std::net::{Ipv4Addr, SocketAddr};

/// The header by which an answer tells which version of its route it came by.
pub(crate) const VERSION: &str = "x-version";
/// Where backends are that nobody asks: addresses that are set aside for benchmarks (RFC 2544).
const BULK: [u8; 2] = [198, 18];
const BULK_PORT: u16 = 80;

/// See the module. Beside what it says there is always one route for everything, to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Routes to the server by their path.
    pub(crate) routes: usize,
    /// Other backends, with a route for each.
    pub(crate) backends: usize,
    /// Endpoints of each of those.
    pub(crate) endpoints: usize,
    /// What the last one of `routes` says of itself; the others are version 1.
    pub(crate) version: u32,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// How paths begin that it is for.
    pub(crate) path: String,
    /// 0 is the server.
    pub(crate) backend: usize,
    /// What its answers say.
    pub(crate) version: u32,
}

impl Rules {
    /// Nothing but the route for everything.
    pub(crate) const ONE: Self = Self { routes: 0, backends: 0, endpoints: 0, version: 1 };
    /// Many routes.
    pub(crate) const ROUTES: Self = Self { routes: 1000, ..Self::ONE };
    /// Many endpoints.
    pub(crate) const ENDPOINTS: Self = Self { backends: 100, endpoints: 100, ..Self::ONE };

    /// All routes but the one for everything.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Route> {
        let Self { routes, backends, version, .. } = *self;
        let of_server = (0..routes).map(move |number| Route {
            path: path(number),
            backend: 0,
            version: if number + 1 == routes { version } else { 1 },
        });
        let others =
            (1..=backends).map(|backend| Route { path: format!("/e/{backend:03}"), backend, version: 1 });
        of_server.chain(others)
    }

    /// The path of the route whose version changes.
    pub(crate) fn changing(&self) -> String {
        path(self.routes.saturating_sub(1))
    }

    /// The endpoints of every backend but the server.
    pub(crate) fn others(&self) -> impl Iterator<Item = (usize, Vec<SocketAddr>)> {
        let Self { backends, endpoints, .. } = *self;
        (1..=backends).map(move |backend| {
            let first = (backend - 1) * endpoints;
            (backend, (first..first + endpoints).map(endpoint).collect())
        })
    }
}

fn path(number: usize) -> String {
    format!("/r/{number:04}")
}

fn endpoint(number: usize) -> SocketAddr {
    let [first, second] = BULK;
    let [.., third, fourth] = number.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(first, second, third, fourth), BULK_PORT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_the_last_route_to_the_server_has_another_version() {
        let rules = Rules { routes: 3, version: 7, ..Rules::ONE };
        let versions: Vec<_> = rules.routes().map(|route| (route.path, route.version)).collect();
        assert_eq!(versions, [("/r/0000".into(), 1), ("/r/0001".into(), 1), ("/r/0002".into(), 7)]);
        assert_eq!(rules.changing(), "/r/0002");
    }

    #[test]
    fn every_backend_has_a_route_and_endpoints_of_its_own() {
        let rules = Rules::ENDPOINTS;
        let named: Vec<_> = rules.routes().map(|route| route.backend).collect();
        let all: Vec<_> = rules.others().collect();
        assert_eq!(named, all.iter().map(|(backend, _)| *backend).collect::<Vec<_>>());
        let addresses: BTreeSet<_> = all.iter().flat_map(|(_, endpoints)| endpoints).collect();
        assert_eq!(addresses.len(), 10_000);
        assert_eq!(Rules::ONE.routes().count() + Rules::ONE.others().count(), 0);
    }
}
