// SPDX-License-Identifier: Apache-2.0
//! Which tokens are believed (Istio `RequestAuthentication` with a target) as data. A request without a token passes; one
//! with a token that does not hold is refused.

use std::time::Duration;

use arcstr::ArcStr;
use http::HeaderName;

use super::guard::Attachment;
use crate::name::PolicyName;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Its name on the wire, `<namespace>/<name>`.
    pub name: PolicyName,
    /// What it is attached to.
    pub attached: Vec<Attachment>,
    /// Whose tokens are believed; any is enough.
    pub rules: Vec<JwtRule>,
}

/// An issuer of tokens (JWT, RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    /// `iss` of its tokens.
    pub issuer: ArcStr,
    /// Of which `aud` must have one; none: any.
    pub audiences: Vec<ArcStr>,
    /// Its keys.
    pub keys: Keys,
    /// Where tokens are looked for.
    pub from: Vec<Location>,
    /// Whether the server gets the token.
    pub forward: bool,
    /// The header in which the server gets the claims, as they are in the token.
    pub payload_header: Option<HeaderName>,
    /// Headers in which the server gets single claims, by their path.
    pub claim_headers: Vec<(HeaderName, Vec<ArcStr>)>,
    /// Claims that are words with spaces between them.
    pub words: Vec<ArcStr>,
}

/// Where the keys of an issuer come from (JWKS, RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// They are these, as JSON.
    Inline(ArcStr),
    /// They are there.
    At {
        /// `http` or `https`.
        uri: ArcStr,
        /// How long it may take to get them.
        timeout: Duration,
    },
    /// Where they are, the issuer says (OpenID Connect Discovery 1.0 §4).
    Discovered {
        /// How long it may take to ask.
        timeout: Duration,
    },
}

/// Where a token is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a header, after a prefix.
    Header {
        /// Its name.
        name: HeaderName,
        /// With its space, if it has one.
        prefix: ArcStr,
    },
    /// In a parameter of the query.
    Param(ArcStr),
    /// In a cookie.
    Cookie(ArcStr),
}
