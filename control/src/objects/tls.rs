// SPDX-License-Identifier: Apache-2.0
//! `BackendTLSPolicy` of the Gateway API, and of a ConfigMap what it names there. A field that is not known is an error: it
//! could ask for more than what we would do.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use serde::Deserialize;

use super::meta::{Metadata, null_is_default, strict_objects};

strict_objects! {
    /// How servers are spoken to that have no tunnel.
    BackendTLSPolicy: BackendTlsSpec;
}

/// `spec` of a `BackendTLSPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub target_refs: Vec<SectionReference>,
    /// What servers must prove; without it none can.
    #[serde(default)]
    pub validation: Option<Validation>,
    /// What other implementations know.
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: BTreeMap<ArcStr, ArcStr>,
}

/// One of `spec.targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SectionReference {
    /// API group.
    #[serde(default)]
    pub group: ArcStr,
    /// Kind.
    pub kind: ArcStr,
    /// Name.
    pub name: ArcStr,
    /// Name of a port; without it, all that have no policy of their own.
    #[serde(default)]
    pub section_name: Option<ArcStr>,
}

impl SectionReference {
    /// The port that is named.
    pub fn section(&self) -> Option<&ArcStr> {
        self.section_name.as_ref().filter(|name| !name.is_empty())
    }
}

/// `spec.validation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Validation {
    /// Where the certificates are of those who vouch.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ca_certificate_refs: Vec<CertificateReference>,
    /// `System`.
    #[serde(default, rename = "wellKnownCACertificates")]
    pub well_known: Option<ArcStr>,
    /// The name that a server is asked for.
    #[serde(default)]
    pub hostname: ArcStr,
    /// The names that it may have instead.
    #[serde(default, deserialize_with = "null_is_default")]
    pub subject_alt_names: Vec<AltName>,
}

/// One of `caCertificateRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateReference {
    /// API group.
    #[serde(default)]
    pub group: ArcStr,
    /// Kind.
    pub kind: ArcStr,
    /// Name.
    pub name: ArcStr,
}

/// One of `subjectAltNames`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub kind: ArcStr,
    /// Of the one …
    #[serde(default)]
    pub hostname: ArcStr,
    /// … and of the other.
    #[serde(default)]
    pub uri: ArcStr,
}

/// A ConfigMap that may have certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConfigMap {
    /// Name and namespace.
    pub metadata: Metadata,
    /// What is in it.
    #[serde(default)]
    pub data: Option<Bundle>,
}

/// The one key that we look at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bundle {
    /// Certificates in PEM.
    #[serde(default, rename = "ca.crt")]
    pub certificates: Option<ArcStr>,
}
