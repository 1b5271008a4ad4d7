// SPDX-License-Identifier: Apache-2.0
//! Every parser of bytes from outside as a function of any bytes. A target asserts more than that nothing panics: what
//! is understood can be written and is understood again, what is refused is refused with a reason, and nothing grows
//! beyond its bound.
//!
//! `cargo xtask fuzz` looks for bytes that break a target; `corpus/<target>/` holds those that are worth keeping, and an
//! ordinary test tries them all.
#![expect(clippy::expect_used, clippy::panic, reason = "a panic is how a target tells")]

mod certificate;
mod connect;
mod discovery;
mod dns;
mod expression;
mod guard;
mod header;
mod local;
mod manifest;
mod request;
mod route;

/// One parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, also of its folder in `corpus`.
    pub name: &'static str,
    /// Tries some bytes; panics when a property does not hold.
    pub run: fn(&[u8]),
}

/// All of them, by name.
pub const TARGETS: [Target; 27] = [
    Target { name: "authority", run: header::authority },
    Target { name: "baggage", run: header::baggage },
    Target { name: "certificate", run: certificate::certificate },
    Target { name: "connect", run: connect::connect },
    Target { name: "csr", run: certificate::csr },
    Target { name: "delta-request", run: discovery::request },
    Target { name: "delta-response", run: discovery::response },
    Target { name: "dns-answer", run: dns::answer },
    Target { name: "dns-question", run: dns::question },
    Target { name: "expression", run: expression::expression },
    Target { name: "first-bytes", run: request::first_bytes },
    Target { name: "forwarded", run: header::forwarded },
    Target { name: "framing", run: request::framing },
    Target { name: "grpc-messages", run: request::grpc_messages },
    Target { name: "jwt", run: guard::jwt },
    Target { name: "manifest", run: manifest::manifest },
    Target { name: "name", run: header::name },
    Target { name: "path", run: guard::path },
    Target { name: "pod", run: local::pod },
    Target { name: "request-head", run: request::head },
    Target { name: "resolv-conf", run: dns::resolv_conf },
    Target { name: "resource", run: discovery::resource },
    Target { name: "route", run: route::route },
    Target { name: "tls-hello", run: request::tls_hello },
    Target { name: "tokens", run: manifest::tokens },
    Target { name: "traceparent", run: header::traceparent },
    Target { name: "zds", run: local::zds },
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The text that bytes are; parsers of text never see anything else.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
