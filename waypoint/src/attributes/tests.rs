// SPDX-License-Identifier: Apache-2.0
//! What is known of a request, and of a connection.

use std::sync::Arc;

use ::proxy::ends::End;
use http::{HeaderValue, Request as Asked};
use mesh::{expression::Formula, service::AppProtocol};
use plan::{
    Fault,
    waypoint::{Addressed, Target},
};

use super::*;
use crate::{
    link::Link,
    testing::{VIP, bound, workload},
};

fn link() -> Arc<Link> {
    let web = bound("web", VIP, 1, AppProtocol::Http11);
    Arc::new(Link {
        peer: "10.0.0.1:4000".parse().unwrap(),
        identity: workload("client", "10.0.0.1").identity(),
        own: workload("gate", "127.0.0.9").identity(),
        source: End::default(),
        addressed: Addressed {
            target: Target::Service(Arc::new(web)),
            port: 80,
            protocol: AppProtocol::Http11,
            asked: format!("{VIP}:80").parse().unwrap(),
        },
        authority: format!("{VIP}:80").into(),
        trace: 1,
    })
}

/// A request that was answered with 404 after 20 ms.
fn exchange() -> Exchange {
    let asked = Asked::get("/cart?full=yes").header("host", "web").body(()).unwrap();
    let mut exchange = Exchange::new(&link(), &asked.into_parts().0);
    let fields = [("user-agent", "curl"), ("x-many", "a"), ("x-many", "b")];
    let fields = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    exchange.trail.headers = Some(Box::new(headers));
    exchange.trail.number = Some(HeaderValue::from_static("7"));
    // No issuer of tokens has a word in it.
    exchange.path = "/cart?full=yes".into();
    exchange.status = 404;
    exchange.attempts = 1;
    exchange.address = Some("10.1.1.1:8080".parse().unwrap());
    exchange
}

fn said(exchange: &Exchange, text: &str) -> Option<String> {
    let labels = exchange.labels();
    let request = Request::new(exchange, &labels, Duration::from_millis(20));
    Formula::parse(text).unwrap().text(&request)
}

#[test]
fn a_request_is_told_under_envoy_s_names() {
    let exchange = exchange();
    for (text, expected) in [
        ("request.path", Some("/cart?full=yes")),
        ("request.url_path + ' ' + request.query", Some("/cart full=yes")),
        ("request.host + request.scheme + request.method", Some("webhttpGET")),
        ("request.protocol", Some("HTTP/1.1")),
        ("request.useragent + request.id", Some("curl7")),
        ("request.referer", None),
        ("request.headers['x-many']", Some("a,b")),
        ("request.size", Some("0")),
        // Names and values: 10+4, 6+1, 6+1.
        ("request.total_size", Some("28")),
        ("request.duration == duration('20ms')", Some("true")),
        ("request.time > timestamp('2025-01-01T00:00:00Z')", Some("true")),
        ("response.code", Some("404")),
        ("response.code_details", Some("via_upstream")),
        ("response.flags", Some("0")),
        ("response.grpc_status", None),
        ("response.total_size", None),
        ("has(response.headers.server)", Some("false")),
        ("source.address", Some("10.0.0.1:4000")),
        ("destination.address", Some("10.9.9.1:80")),
        ("upstream.address", Some("10.1.1.1:8080")),
        ("upstream.port + source.port + destination.port", Some("12160")),
        ("connection.mtls", Some("true")),
        ("connection.uri_san_peer_certificate", Some("spiffe://cluster.local/ns/shop/sa/client")),
        ("connection.uri_san_local_certificate", Some("spiffe://cluster.local/ns/shop/sa/gate")),
    ] {
        assert_eq!(said(&exchange, text).as_deref(), expected, "{text}");
    }
}

#[test]
fn a_fault_is_told_by_its_bit_and_its_details() {
    let mut exchange = exchange();
    exchange.status = 0;
    exchange.fault = Some(Fault::NoRoute);
    assert_eq!(said(&exchange, "response.code").as_deref(), Some("404"));
    assert_eq!(said(&exchange, "response.flags").as_deref(), Some("256"));
    assert_eq!(said(&exchange, "response.code_details").as_deref(), Some("route_not_found"));
    exchange.fault = None;
    exchange.attempts = 0;
    assert_eq!(said(&exchange, "response.code_details").as_deref(), Some("direct_response"));
}

#[test]
fn each_flag_has_the_bit_that_envoy_has_for_it() {
    for (flag, expected) in [
        ("-", 0),
        ("LH", 0x1),
        ("UF", 0x20),
        ("UAEX", 0x1000),
        ("DPE", 0x4_0000),
        ("DT", 0x40_0000),
        ("DR", 0x1000_0000),
    ] {
        assert_eq!(bits(flag), expected, "{flag}");
    }
}

#[test]
fn a_connection_has_ends_and_nothing_of_a_request() {
    let link = link();
    let connection = Connection {
        peer: link.peer,
        asked: link.addressed.asked,
        server: None,
        identity: &link.identity,
        own: &link.own,
        flag: "UF",
    };
    let said = |text: &str| Formula::parse(text).unwrap().text(&connection);
    assert_eq!(said("source.address + ' ' + string(response.flags)").as_deref(), Some("10.0.0.1:4000 32"));
    for text in ["request.path", "response.code", "request.headers.x", "upstream.address"] {
        assert_eq!(said(text), None, "{text}");
    }
}
