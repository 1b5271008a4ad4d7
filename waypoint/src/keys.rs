// SPDX-License-Identifier: Apache-2.0
//! The key by which a request is hashed to an endpoint. Pure.

use std::net::SocketAddr;

use http::request;
use mesh::{
    balance::hash,
    l7::traffic::{Balancer, HashOn, Traffic},
};

use crate::session::cookie;

/// So that keys have nothing to do with names of endpoints.
const KEYS: u64 = 0x006B_6579;

/// The key of a request; nothing where its balancer has no use for one, or the request has none.
pub fn key(traffic: &Traffic, source: SocketAddr, head: &request::Parts) -> Option<u64> {
    let of_text = |text: &str| hash(text.as_bytes(), KEYS);
    match hash_on(traffic)? {
        HashOn::SourceIp => Some(of_address(source)),
        HashOn::Header(name) => head.headers.get(name).map(|value| hash(value.as_bytes(), KEYS)),
        HashOn::Cookie(name) => cookie(&head.headers, name).map(of_text),
        HashOn::Query(name) => {
            let query = head.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            query.into_iter().find(|(known, _)| known == name).map(|(_, value)| of_text(value))
        }
    }
}

/// The key of a connection of which nothing but its ends is known.
pub fn of_connection(traffic: &Traffic, source: SocketAddr) -> Option<u64> {
    match hash_on(traffic)? {
        HashOn::SourceIp => Some(of_address(source)),
        HashOn::Header(_) | HashOn::Cookie(_) | HashOn::Query(_) => None,
    }
}

fn hash_on(traffic: &Traffic) -> Option<&HashOn> {
    match &traffic.balancer {
        Balancer::RingHash(on) | Balancer::Maglev(on) => Some(on),
        Balancer::PeakEwma | Balancer::LeastRequest | Balancer::RoundRobin | Balancer::Random => None,
    }
}

fn of_address(source: SocketAddr) -> u64 {
    hash(source.ip().to_string().as_bytes(), KEYS)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    fn key_of(on: HashOn, uri: &str, fields: &[(&'static str, &str)]) -> Option<u64> {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let service = "shop/web.shop".parse().unwrap();
        let traffic = Traffic { balancer: Balancer::Maglev(on), ..Traffic::plain(service) };
        key(&traffic, "10.0.0.1:4000".parse().unwrap(), &head)
    }

    #[test]
    fn a_key_is_what_the_service_says_and_nothing_else() {
        let header = || HashOn::Header(HeaderName::from_static("x-user"));
        let anna = key_of(header(), "/a", &[("x-user", "anna")]);
        assert!(anna.is_some());
        assert_eq!(key_of(header(), "/b?x=1", &[("x-user", "anna"), ("cookie", "x-user=b")]), anna);
        assert_ne!(key_of(header(), "/a", &[("x-user", "bert")]), anna);
        assert_eq!(key_of(header(), "/a", &[]), None);
        assert_eq!(key_of(HashOn::Cookie("u".into()), "/", &[("cookie", "a=b; u=anna")]), anna);
        assert_eq!(key_of(HashOn::Query("u".into()), "/?a=b&u=anna", &[]), anna);
        assert_eq!(key_of(HashOn::Query("u".into()), "/", &[]), None);
        assert!(key_of(HashOn::SourceIp, "/", &[]).is_some());
    }

    #[test]
    fn other_balancers_have_no_key() {
        let head = Request::get("/").body(()).unwrap().into_parts().0;
        let traffic = Traffic::plain("shop/web.shop".parse().unwrap());
        let source = "10.0.0.1:4000".parse().unwrap();
        assert_eq!(key(&traffic, source, &head), None);
        assert_eq!(of_connection(&traffic, source), None);
    }
}
