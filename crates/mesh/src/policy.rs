// SPDX-License-Identifier: Apache-2.0
//! L4 authorization policies as data; `authz` evaluates them.

use arcstr::ArcStr;
use ipnet::IpNet;

use crate::name::PolicyName;

/// A policy (Istio `security.Authorization`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name on the wire, `<namespace>/<name>`.
    pub name: PolicyName,
    /// Which workloads it applies to.
    pub scope: PolicyScope,
    /// What happens to a connection that it matches.
    pub action: Action,
    /// Any rule that matches makes the policy match; without rules it never matches.
    pub rules: Vec<Rule>,
    /// Log what it would do, do nothing.
    pub dry_run: bool,
}

/// Istio `security.Scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyScope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of its namespace.
    Namespace,
    /// Workloads that name it.
    WorkloadSelector,
}

/// Istio `security.Action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let in; and where any ALLOW applies, nothing else is.
    Allow,
    /// Keep out.
    Deny,
}

/// All clauses must match; without clauses it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// See the type.
    pub clauses: Vec<Clause>,
}

/// Any match is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// See the type.
    pub matches: Vec<Match>,
}

/// All fields that are not empty must match; within a field any value, of a `not_` field none. A match without any
/// field never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Namespace of the peer.
    pub namespaces: Vec<StringMatch>,
    /// Namespace of the peer, negated.
    pub not_namespaces: Vec<StringMatch>,
    /// Identity of the peer without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// Identity of the peer, negated.
    pub not_principals: Vec<StringMatch>,
    /// Service account of the peer.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// Service account of the peer, negated.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Address of the peer.
    pub source_ips: Vec<IpNet>,
    /// Address of the peer, negated.
    pub not_source_ips: Vec<IpNet>,
    /// Address of this side.
    pub destination_ips: Vec<IpNet>,
    /// Address of this side, negated.
    pub not_destination_ips: Vec<IpNet>,
    /// Port of this side.
    pub destination_ports: Vec<u16>,
    /// Port of this side, negated.
    pub not_destination_ports: Vec<u16>,
}

impl Match {
    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        let Self {
            namespaces,
            not_namespaces,
            principals,
            not_principals,
            service_accounts,
            not_service_accounts,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
        } = self;
        let texts = [namespaces, not_namespaces, principals, not_principals];
        let accounts = [service_accounts, not_service_accounts];
        let nets = [source_ips, not_source_ips, destination_ips, not_destination_ips];
        let ports = [destination_ports, not_destination_ports];
        texts.into_iter().all(Vec::is_empty)
            && accounts.into_iter().all(Vec::is_empty)
            && nets.into_iter().all(Vec::is_empty)
            && ports.into_iter().all(Vec::is_empty)
    }
}

/// A service account of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its name.
    pub service_account: ArcStr,
}

/// Istio `StringMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole string.
    Exact(ArcStr),
    /// It starts so.
    Prefix(ArcStr),
    /// It ends so.
    Suffix(ArcStr),
    /// Anything but the empty string.
    Presence,
}

impl StringMatch {
    /// Whether a text fits.
    pub fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(pattern) => pattern == text,
            Self::Prefix(pattern) => text.starts_with(pattern.as_str()),
            Self::Suffix(pattern) => text.ends_with(pattern.as_str()),
            Self::Presence => !text.is_empty(),
        }
    }

    /// The same kind of another text.
    pub(crate) fn map(&self, change: impl Fn(&str) -> ArcStr) -> Self {
        match self {
            Self::Exact(pattern) => Self::Exact(change(pattern)),
            Self::Prefix(pattern) => Self::Prefix(change(pattern)),
            Self::Suffix(pattern) => Self::Suffix(change(pattern)),
            Self::Presence => Self::Presence,
        }
    }
}
