// SPDX-License-Identifier: Apache-2.0
//! `AuthorizationPolicy`, `PeerAuthentication` and `RequestAuthentication` of security.istio.io/v1. A field that is not
//! of the API is an error.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use serde::Deserialize;

use super::meta::{LabelSelector, strict_objects};

strict_objects! {
    /// Who may connect to what.
    AuthorizationPolicy: AuthorizationPolicySpec;
}

/// `spec` of an `AuthorizationPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Workloads it applies to; without one, all of its namespace.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// What it is attached to; then only a waypoint enforces it.
    #[serde(default)]
    pub target_ref: Option<TargetReference>,
    /// Several of `targetRef`.
    #[serde(default)]
    pub target_refs: Vec<TargetReference>,
    /// What happens to a connection that a rule matches.
    #[serde(default)]
    pub action: AuthorizationAction,
    /// Any one that matches makes the policy match.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
    /// Only of a CUSTOM policy.
    #[serde(default)]
    pub provider: Option<ExtensionProvider>,
}

impl AuthorizationPolicySpec {
    /// Whether it is attached to something that only a waypoint stands in front of.
    pub fn is_for_waypoints(&self) -> bool {
        self.target_ref.is_some() || !self.target_refs.is_empty()
    }
}

/// `spec.action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AuthorizationAction {
    /// Let in.
    #[default]
    Allow,
    /// Keep out.
    Deny,
    /// Write down.
    Audit,
    /// Ask another.
    Custom,
}

impl AuthorizationAction {
    /// As in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// `spec.provider`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionProvider {
    /// Its name in the mesh configuration.
    pub name: ArcStr,
}

/// `spec.targetRef` (Gateway API `LocalPolicyTargetReference`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetReference {
    /// API group.
    #[serde(default)]
    pub group: ArcStr,
    /// Kind.
    pub kind: ArcStr,
    /// Name.
    pub name: ArcStr,
    /// Namespace; must be the policy's own.
    #[serde(default)]
    pub namespace: Option<ArcStr>,
}

/// One of `spec.rules`: `from`, `to` and `when` must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Any one must match.
    #[serde(default)]
    pub from: Vec<From>,
    /// Any one must match.
    #[serde(default)]
    pub to: Vec<To>,
    /// All must match.
    #[serde(default)]
    pub when: Vec<When>,
}

/// One of a rule's `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct From {
    /// Who connects.
    pub source: Source,
}

/// Who connects: all fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "field by field the Source of security.istio.io/v1")]
pub struct Source {
    pub principals: Vec<ArcStr>,
    pub not_principals: Vec<ArcStr>,
    pub request_principals: Vec<ArcStr>,
    pub not_request_principals: Vec<ArcStr>,
    pub namespaces: Vec<ArcStr>,
    pub not_namespaces: Vec<ArcStr>,
    pub service_accounts: Vec<ArcStr>,
    pub not_service_accounts: Vec<ArcStr>,
    pub trust_domains: Vec<ArcStr>,
    pub not_trust_domains: Vec<ArcStr>,
    pub ip_blocks: Vec<ArcStr>,
    pub not_ip_blocks: Vec<ArcStr>,
    pub remote_ip_blocks: Vec<ArcStr>,
    pub not_remote_ip_blocks: Vec<ArcStr>,
}

/// One of a rule's `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct To {
    /// What is asked for.
    pub operation: Operation,
}

/// What is asked for: all fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "field by field the Operation of security.istio.io/v1")]
pub struct Operation {
    pub hosts: Vec<ArcStr>,
    pub not_hosts: Vec<ArcStr>,
    pub ports: Vec<ArcStr>,
    pub not_ports: Vec<ArcStr>,
    pub methods: Vec<ArcStr>,
    pub not_methods: Vec<ArcStr>,
    pub paths: Vec<ArcStr>,
    pub not_paths: Vec<ArcStr>,
}

/// One of a rule's `when`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct When {
    /// Name of an attribute.
    pub key: ArcStr,
    /// Any one must match.
    #[serde(default)]
    pub values: Vec<ArcStr>,
    /// None may match.
    #[serde(default)]
    pub not_values: Vec<ArcStr>,
}

strict_objects! {
    /// Whether mutual TLS is required.
    PeerAuthentication: PeerAuthenticationSpec;
}

/// `spec` of a `PeerAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// Workloads it applies to; without one, all of its namespace (of the mesh, in the root namespace).
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// The mode.
    #[serde(default)]
    pub mtls: Option<MutualTls>,
    /// The mode of single ports of the workload; only with a selector.
    #[serde(default)]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

impl PeerAuthenticationSpec {
    /// `mtls.mode`.
    pub fn mode(&self) -> MtlsMode {
        self.mtls.map_or(MtlsMode::Unset, |mtls| mtls.mode)
    }
}

/// A mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTls {
    /// See [`MtlsMode`].
    #[serde(default)]
    pub mode: MtlsMode,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the level above says.
    #[default]
    Unset,
    /// Not required. Between node proxies it is used all the same.
    Disable,
    /// Not required.
    Permissive,
    /// Required.
    Strict,
}

strict_objects! {
    /// Whose tokens are believed.
    RequestAuthentication: RequestAuthenticationSpec;
}

/// `spec` of a `RequestAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestAuthenticationSpec {
    /// Workloads it applies to; only of sidecars.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// What it is attached to.
    #[serde(default)]
    pub target_ref: Option<TargetReference>,
    /// Several of `targetRef`.
    #[serde(default)]
    pub target_refs: Vec<TargetReference>,
    /// The issuers.
    #[serde(default)]
    pub jwt_rules: Vec<JwtRule>,
}

/// One of `spec.jwtRules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "field by field the JWTRule of security.istio.io/v1")]
pub struct JwtRule {
    pub issuer: ArcStr,
    pub audiences: Vec<ArcStr>,
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Option<ArcStr>,
    pub jwks: Option<ArcStr>,
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<ArcStr>,
    pub from_cookies: Vec<ArcStr>,
    pub output_payload_to_header: Option<ArcStr>,
    pub forward_original_token: bool,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub timeout: Option<ArcStr>,
    pub space_delimited_claims: Vec<ArcStr>,
}

/// One of a rule's `fromHeaders`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtHeader {
    /// Its name.
    pub name: ArcStr,
    /// What stands before the token.
    #[serde(default)]
    pub prefix: Option<ArcStr>,
}

/// One of a rule's `outputClaimToHeaders`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The header.
    pub header: ArcStr,
    /// The claim.
    pub claim: ArcStr,
}
