// SPDX-License-Identifier: Apache-2.0
//! Whether a request or connection satisfies a rule.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, Method};

use super::{Attribute, Condition, GuardAction, GuardRule, Test};
use crate::{authz::matching::fits_principal, l7::claims::Claims, name::SpiffeId, policy::StringMatch};

/// What guards can ask about a request, or about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's identity as its certificate proves it.
    pub identity: &'a SpiffeId,
    /// Its address.
    pub source: IpAddr,
    /// The address of the client before all proxies; the same where none is told.
    pub remote: IpAddr,
    /// What was asked for.
    pub destination: SocketAddr,
    /// The name in a TLS handshake that is carried as it is.
    pub server_name: Option<&'a str>,
    /// The request; `None`: it is a connection.
    pub http: Option<Http<'a>>,
}

/// What only requests have.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// Its method.
    pub method: &'a Method,
    /// `Host` or `:authority`.
    pub host: &'a str,
    /// Its path without the query, normalised.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What its token says, where it has a valid one.
    pub claims: Option<&'a Claims>,
}

/// The same with what is worked out once.
pub(super) struct Facts<'a> {
    pub(super) asked: &'a Asked<'a>,
    pub(super) principal: String,
}

impl<'a> Facts<'a> {
    pub(super) fn new(asked: &'a Asked<'a>) -> Self {
        Self { asked, principal: asked.identity.principal() }
    }

    /// Whether every clause of a rule has an alternative that holds: always without clauses.
    pub(super) fn satisfy(&self, rule: &GuardRule, action: GuardAction) -> bool {
        let holds = |conditions: &Vec<Condition>| {
            !conditions.is_empty() && conditions.iter().all(|condition| self.holds(condition, action))
        };
        rule.clauses.iter().all(|clause| clause.alternatives.iter().any(holds))
    }

    /// Of a connection what is of requests cannot be judged: it refuses, and lets nothing pass.
    fn holds(&self, condition: &Condition, action: GuardAction) -> bool {
        if self.asked.http.is_none() && condition.of.is_of_requests() {
            return action == GuardAction::Deny;
        }
        let passes = |test: &Test| self.passes(&condition.of, test);
        (condition.any.is_empty() || condition.any.iter().any(passes)) && !condition.none.iter().any(passes)
    }

    fn passes(&self, attribute: &Attribute, test: &Test) -> bool {
        match test {
            Test::Text(pattern) => self.has_text(attribute, pattern),
            Test::Template(template) => {
                *attribute == Attribute::Path
                    && self.asked.http.is_some_and(|http| template.is_match(http.path))
            }
            Test::Net(net) => self.address(attribute).is_some_and(|ip| net.contains(&ip)),
            Test::Port(port) => {
                *attribute == Attribute::DestinationPort && self.asked.destination.port() == *port
            }
            Test::Account(account) => {
                let identity = self.asked.identity;
                *attribute == Attribute::ServiceAccount
                    && *identity.namespace() == account.namespace
                    && *identity.service_account() == account.service_account
            }
        }
    }

    fn address(&self, attribute: &Attribute) -> Option<IpAddr> {
        match attribute {
            Attribute::SourceIp => Some(self.asked.source),
            Attribute::RemoteIp => Some(self.asked.remote),
            Attribute::DestinationIp => Some(self.asked.destination.ip()),
            _ => None,
        }
    }

    fn has_text(&self, attribute: &Attribute, pattern: &StringMatch) -> bool {
        let identity = self.asked.identity;
        let http = self.asked.http.as_ref();
        let claims = http.and_then(|http| http.claims);
        match attribute {
            Attribute::Principal => fits_principal(pattern, &self.principal),
            Attribute::Namespace => pattern.fits(identity.namespace()),
            Attribute::TrustDomain => pattern.fits(identity.trust_domain().as_str()),
            Attribute::ServerName => self.asked.server_name.is_some_and(|name| pattern.fits(name)),
            Attribute::RequestPrincipal => {
                claims.and_then(Claims::principal).is_some_and(|text| pattern.fits(text))
            }
            Attribute::Audience => {
                claims.is_some_and(|claims| claims.has(&["aud"], |text| pattern.fits(text)))
            }
            Attribute::Presenter => {
                claims.is_some_and(|claims| claims.has(&["azp"], |text| pattern.fits(text)))
            }
            Attribute::Claim(path) => {
                claims.is_some_and(|claims| claims.has(path, |text| pattern.fits(text)))
            }
            Attribute::Host => http.is_some_and(|http| has_host(pattern, http.host)),
            Attribute::Method => http.is_some_and(|http| pattern.fits(http.method.as_str())),
            Attribute::Path => http.is_some_and(|http| pattern.fits(http.path)),
            Attribute::Header(name) => http.is_some_and(|http| has_header(pattern, http.headers, name)),
            Attribute::ServiceAccount
            | Attribute::SourceIp
            | Attribute::RemoteIp
            | Attribute::DestinationIp
            | Attribute::DestinationPort => false,
        }
    }
}

/// Host names have no case. A pattern that names no port is for every port.
fn has_host(pattern: &StringMatch, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let bare = without_port(&host);
    let fits = |text: &str| pattern.map(|pattern| pattern.to_ascii_lowercase().into()).fits(text);
    fits(&host) || (bare != host && fits(bare))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port))
            if !bare.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!bare.contains(':') || bare.ends_with(']')) =>
        {
            bare
        }
        _ => host,
    }
}

/// By any of its values, or by all of them as one list (RFC 9110 §5.3): neither splitting nor joining leads past a policy.
fn has_header(pattern: &StringMatch, headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes()).peekable();
    if values.peek().is_none() {
        return false;
    }
    if *pattern == StringMatch::Presence {
        return true;
    }
    let values: Vec<_> = values.map(String::from_utf8_lossy).collect();
    values.iter().any(|value| pattern.fits(value)) || (values.len() > 1 && pattern.fits(&values.join(",")))
}
