// SPDX-License-Identifier: Apache-2.0
//! Guards: authorization of requests and connections at a waypoint (Istio `AuthorizationPolicy` with a target) as data.
//!
//! `judge` says what they make of one request; which of them are asked is for `plan::guard` to say.

mod book;
mod judge;
mod matching;
mod normalisation;
mod template;

use arcstr::ArcStr;
use http::HeaderName;
use ipnet::IpNet;

pub use self::{
    book::Book,
    judge::{Judgement, judge},
    matching::{Asked, Http},
    normalisation::Normalisation,
    template::{InvalidTemplate, Template},
};
use crate::{
    name::{PolicyName, ServiceName},
    policy::{ServiceAccountMatch, StringMatch},
    workload::GatewayDestination,
};

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Its name on the wire, `<namespace>/<name>`.
    pub name: PolicyName,
    /// What it is attached to.
    pub attached: Vec<Attachment>,
    /// What happens to what it matches.
    pub action: GuardAction,
    /// Any rule that matches makes it match; without rules it never matches.
    pub rules: Vec<GuardRule>,
    /// Log what it would do, do nothing.
    pub dry_run: bool,
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// What is addressed to this service, at whichever waypoint.
    Service(ServiceName),
    /// All that goes through the waypoint that is found here.
    Waypoint(GatewayDestination),
}

/// What happens to what a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardAction {
    /// It passes; and where any ALLOW applies, nothing else does.
    Allow,
    /// It is refused.
    Deny,
    /// It is written down.
    Audit,
}

/// All clauses must match; without clauses it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardRule {
    /// See the type.
    pub clauses: Vec<GuardClause>,
}

/// Any alternative is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardClause {
    /// All conditions of an alternative must hold; one without conditions never matches.
    pub alternatives: Vec<Vec<Condition>>,
}

/// Any of `any` (if there are any), and none of `none`. Of what a request lacks, the first never holds and the second does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub of: Attribute,
    /// Values of which it must be one.
    pub any: Vec<Test>,
    /// Values of which it must be none.
    pub none: Vec<Test>,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Identity of the client without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its service account.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// The address of whoever opened the connection.
    SourceIp,
    /// The address of the client before all proxies, as far as it is told.
    RemoteIp,
    /// The address that was asked for.
    DestinationIp,
    /// Its port.
    DestinationPort,
    /// The name in the TLS handshake of a connection that is carried as it is.
    ServerName,
    /// `<iss>/<sub>` of the token.
    RequestPrincipal,
    /// `aud` of the token.
    Audience,
    /// `azp` of the token.
    Presenter,
    /// A claim of the token, by its path.
    Claim(Vec<ArcStr>),
    /// `Host` or `:authority`, without case; a value without a port is for every port.
    Host,
    /// The method.
    Method,
    /// The path without its query, normalised.
    Path,
    /// A header.
    Header(HeaderName),
}

impl Attribute {
    /// Whether only a request has it, and no connection.
    pub fn is_of_requests(&self) -> bool {
        match self {
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ServerName => false,
            Self::RequestPrincipal
            | Self::Audience
            | Self::Presenter
            | Self::Claim(_)
            | Self::Host
            | Self::Method
            | Self::Path
            | Self::Header(_) => true,
        }
    }

    /// Whether it can be tested so.
    pub fn takes(&self, test: &Test) -> bool {
        match self {
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => matches!(test, Test::Net(_)),
            Self::DestinationPort => matches!(test, Test::Port(_)),
            Self::ServiceAccount => matches!(test, Test::Account(_)),
            Self::Path => matches!(test, Test::Text(_) | Test::Template(_)),
            Self::Principal
            | Self::Namespace
            | Self::TrustDomain
            | Self::ServerName
            | Self::RequestPrincipal
            | Self::Audience
            | Self::Presenter
            | Self::Claim(_)
            | Self::Host
            | Self::Method
            | Self::Header(_) => matches!(test, Test::Text(_)),
        }
    }
}

/// A value of a condition; it never holds of an attribute that has values of another kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A text.
    Text(StringMatch),
    /// A path.
    Template(Template),
    /// Addresses.
    Net(IpNet),
    /// A port.
    Port(u16),
    /// A service account.
    Account(ServiceAccountMatch),
}

#[cfg(test)]
mod tests;
