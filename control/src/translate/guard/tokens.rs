// SPDX-License-Identifier: Apache-2.0
//! The rules of a `RequestAuthentication`. One that cannot be read is left out with its issuer: tokens of that issuer are
//! then refused, never believed.

use std::time::Duration;

use arcstr::ArcStr;
use http::HeaderName;
use mesh::l7::authentication::{JwtRule, Keys, Location};
use serde_json::Value;

use crate::{
    objects::{JwtRule as Written, RequestAuthenticationSpec},
    report::Reports,
    translate::route::value::duration,
};

/// How long it may take to get keys, if a rule does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a rule may say.
const LONGEST: Duration = Duration::from_secs(30);
/// Headers that carry the request itself, or who sends it: no claim may take their place.
const RESERVED: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
];

/// All rules that can be enforced.
pub(super) fn read(spec: &RequestAuthenticationSpec, reports: &mut Reports) -> Vec<JwtRule> {
    let rules = spec.jwt_rules.iter().enumerate();
    rules
        .filter_map(|(at, rule)| {
            Reader { field: format!("spec.jwtRules[{at}]"), reports, good: true }.rule(rule)
        })
        .collect()
}

struct Reader<'a> {
    field: String,
    reports: &'a mut Reports,
    good: bool,
}

impl Reader<'_> {
    fn rule(mut self, rule: &Written) -> Option<JwtRule> {
        if rule.issuer.is_empty() {
            self.wrong("issuer", "is empty: name who issues the tokens");
        }
        let keys = self.keys(rule);
        let read = JwtRule {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            keys: keys.unwrap_or_else(|| Keys::Inline(ArcStr::new())),
            from: self.locations(rule),
            forward: rule.forward_original_token,
            payload_header: rule
                .output_payload_to_header
                .as_ref()
                .and_then(|name| self.header("outputPayloadToHeader", name)),
            claim_headers: self.claim_headers(rule),
            words: rule.space_delimited_claims.clone(),
        };
        self.good.then_some(read)
    }

    fn wrong(&mut self, part: &str, why: impl Into<String>) {
        self.reports.error(format!("{}.{part}", self.field), why);
        self.good = false;
    }

    fn keys(&mut self, rule: &Written) -> Option<Keys> {
        let timeout = match rule.timeout.as_deref().map(duration) {
            None | Some(Ok(None)) => TIMEOUT,
            Some(Ok(Some(timeout))) => timeout.min(LONGEST),
            Some(Err(why)) => {
                self.wrong("timeout", why);
                TIMEOUT
            }
        };
        let uri = rule.jwks_uri.as_ref().filter(|uri| !uri.is_empty());
        match (rule.jwks.as_ref().filter(|keys| !keys.is_empty()), uri) {
            (Some(_), Some(_)) => {
                self.wrong("jwks", "cannot stand beside jwksUri: remove one of them");
                None
            }
            (Some(keys), None) => {
                let parsed = serde_json::from_str::<Value>(keys).ok();
                if parsed.as_ref().and_then(|keys| keys.get("keys")).is_none_or(|keys| !keys.is_array()) {
                    self.wrong("jwks", "is no set of keys: it must be JSON with a list \"keys\" (RFC 7517)");
                }
                Some(Keys::Inline(keys.clone()))
            }
            (None, Some(uri)) => {
                if let Some(why) = unfit(uri) {
                    self.wrong("jwksUri", why);
                }
                Some(Keys::At { uri: uri.clone(), timeout })
            }
            (None, None) => {
                if let Some(why) = unfit(&rule.issuer) {
                    let why = format!(
                        "has neither jwks nor jwksUri beside it, and cannot be asked where its keys are: {why}"
                    );
                    self.wrong("issuer", why);
                }
                Some(Keys::Discovered { timeout })
            }
        }
    }

    /// Without any, those of RFC 6750.
    fn locations(&mut self, rule: &Written) -> Vec<Location> {
        let mut found = Vec::new();
        for (at, header) in rule.from_headers.iter().enumerate() {
            let name = self.name(&format!("fromHeaders[{at}].name"), &header.name);
            let prefix = header.prefix.clone().unwrap_or_default();
            found.extend(name.map(|name| Location::Header { name, prefix }));
        }
        found.extend(rule.from_params.iter().cloned().map(Location::Param));
        found.extend(rule.from_cookies.iter().cloned().map(Location::Cookie));
        if found.is_empty() {
            let prefix = arcstr::literal!("Bearer ");
            found.push(Location::Header { name: http::header::AUTHORIZATION, prefix });
            found.push(Location::Param(arcstr::literal!("access_token")));
        }
        found
    }

    fn claim_headers(&mut self, rule: &Written) -> Vec<(HeaderName, Vec<ArcStr>)> {
        let mut found = Vec::new();
        for (at, output) in rule.output_claim_to_headers.iter().enumerate() {
            let part = format!("outputClaimToHeaders[{at}]");
            let path: Vec<ArcStr> = output.claim.split('.').map(Into::into).collect();
            if path.iter().any(|name| name.is_empty()) {
                self.wrong(&format!("{part}.claim"), format!("{:?} names no claim", output.claim));
            }
            found.extend(self.header(&format!("{part}.header"), &output.header).map(|name| (name, path)));
        }
        found
    }

    fn name(&mut self, part: &str, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        if name.is_none() {
            self.wrong(part, format!("{text:?} is no name of a header"));
        }
        name
    }

    /// A header that the server gets.
    fn header(&mut self, part: &str, text: &str) -> Option<HeaderName> {
        let name = self.name(part, text)?;
        if RESERVED.contains(&name.as_str()) {
            self.wrong(part, format!("{text:?} has a meaning of its own: choose another name"));
        }
        Some(name)
    }
}

/// Why something cannot be fetched.
fn unfit(uri: &str) -> Option<String> {
    let parsed = uri.parse::<http::Uri>().ok();
    let known = parsed.as_ref().is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    (!known).then(|| format!("{uri:?} is no address that begins with https:// or http://"))
}
