// SPDX-License-Identifier: Apache-2.0
//! Names, parsed once where they come in and trusted afterwards.

use std::{fmt, net::IpAddr, str::FromStr};

use arcstr::ArcStr;

/// A name that does not have the form it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {value:?}: {reason}")]
pub struct InvalidName {
    /// Kind of name.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

pub(crate) fn invalid(what: &'static str, value: &str, reason: &'static str) -> InvalidName {
    InvalidName { what, value: value.to_owned(), reason }
}

/// The authority part of a SPIFFE id (SPIFFE-ID §2.1); not empty, no slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(ArcStr);

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    /// When it is empty, longer than 255 bytes or has characters other than `a-z`, `A-Z`, `0-9`, `.`, `-`, `_`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        const WHAT: &str = "trust domain";
        if text.is_empty() || text.len() > 255 {
            return Err(invalid(WHAT, text, "must have 1 to 255 characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
            return Err(invalid(WHAT, text, "may only have letters, digits, '.', '-' and '_'"));
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For sharing equal texts; the text must stay equal.
    pub(crate) fn text_mut(&mut self) -> &mut ArcStr {
        &mut self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, the only form that Istio knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: ArcStr,
    service_account: ArcStr,
}

impl SpiffeId {
    /// From its parts.
    pub fn new(trust_domain: TrustDomain, namespace: ArcStr, service_account: ArcStr) -> Self {
        Self { trust_domain, namespace, service_account }
    }

    /// Who vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Namespace.
    pub fn namespace(&self) -> &ArcStr {
        &self.namespace
    }

    /// Service account.
    pub fn service_account(&self) -> &ArcStr {
        &self.service_account
    }

    /// The form of policies: without `spiffe://`.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const WHAT: &str = "SPIFFE id";
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Err(invalid(WHAT, text, "must start with spiffe://"));
        };
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid(
                WHAT,
                text,
                "must be spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
            ));
        };
        if namespace.is_empty() || account.is_empty() {
            return Err(invalid(WHAT, text, "has an empty namespace or service account"));
        }
        Ok(Self::new(TrustDomain::parse(domain)?, namespace.into(), account.into()))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

/// A set of addresses that reach each other without a gateway; the empty one is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(pub ArcStr);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address on a network; on the wire `<network>/<ip>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// The network.
    pub network: Network,
    /// The address, never an IPv4-mapped IPv6 one.
    pub ip: IpAddr,
}

impl NetworkAddress {
    /// From its parts; an IPv4-mapped IPv6 address becomes the IPv4 one.
    pub fn new(network: Network, ip: IpAddr) -> Self {
        Self { network, ip: ip.to_canonical() }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// A DNS name, lower case, without a trailing dot; a leading `*.` is a wildcard (RFC 1123, RFC 4592).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(ArcStr);

impl Hostname {
    /// Parses and normalises a name.
    ///
    /// # Errors
    /// When it is empty, longer than 253 characters, or a label is empty, longer than 63 characters or has characters
    /// other than letters, digits, `-` and `_`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        const WHAT: &str = "host name";
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        if trimmed.is_empty() || trimmed.len() > 253 {
            return Err(invalid(WHAT, text, "must have 1 to 253 characters"));
        }
        for (position, label) in trimmed.split('.').enumerate() {
            if label.is_empty() || label.len() > 63 {
                return Err(invalid(WHAT, text, "has a label that is empty or longer than 63 characters"));
            }
            let wildcard = position == 0 && label == "*";
            if !wildcard
                && !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            {
                return Err(invalid(WHAT, text, "may only have letters, digits, '-' and '_' in a label"));
            }
        }
        if trimmed.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Ok(Self(trimmed.to_ascii_lowercase().into()));
        }
        Ok(Self(trimmed.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service's name on the wire, `<namespace>/<hostname>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace of the service.
    pub namespace: ArcStr,
    /// Its host name.
    pub hostname: Hostname,
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            Some((namespace, hostname)) if !namespace.is_empty() => {
                Ok(Self { namespace: namespace.into(), hostname: Hostname::parse(hostname)? })
            }
            Some(_) | None => Err(invalid("service name", text, "must be <namespace>/<hostname>")),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// A policy's name on the wire, `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Namespace of the object; the root namespace for mesh-wide ones.
    pub namespace: ArcStr,
    /// Its name.
    pub name: ArcStr,
}

impl FromStr for PolicyName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            Some((namespace, name)) if !name.is_empty() => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            Some(_) | None => Err(invalid("policy name", text, "must be <namespace>/<name>")),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A workload's name on the wire; for a pod `<cluster>//Pod/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(ArcStr);

impl WorkloadUid {
    /// Any text but the empty one.
    ///
    /// # Errors
    /// When it is empty.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(invalid("workload uid", text, "must not be empty"));
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
