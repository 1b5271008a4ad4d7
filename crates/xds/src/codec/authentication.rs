// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Authentication`.

use std::time::Duration;

use arcstr::ArcStr;
use http::HeaderName;
use mesh::{
    Authentication,
    l7::authentication::{JwtRule, Keys, Location},
};
use proto::waypoint as wire;
use wire::{jwt_rule::Keys as WireKeys, location::In as WireLocation};

use super::{
    field::{FieldError, In, Problem},
    guard,
};

/// From the wire.
pub(super) fn decode(message: wire::Authentication) -> Result<Authentication, FieldError> {
    Ok(Authentication {
        name: guard::name(&message.namespace, &message.name)?,
        attached: guard::attached(&message.attached).field("attached")?,
        rules: message.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

/// To the wire.
pub(super) fn encode(authentication: &Authentication) -> wire::Authentication {
    wire::Authentication {
        namespace: authentication.name.namespace.to_string(),
        name: authentication.name.name.to_string(),
        attached: authentication.attached.iter().map(guard::attachment_message).collect(),
        rules: authentication.rules.iter().map(rule_message).collect(),
    }
}

fn rule(message: &wire::JwtRule) -> Result<JwtRule, FieldError> {
    let timeout = Duration::from_micros(message.timeout);
    let keys = match message.keys.as_ref().ok_or(Problem::Missing).field("rules.keys")? {
        WireKeys::Inline(text) => Keys::Inline(text.into()),
        WireKeys::Uri(uri) => Keys::At { uri: uri.into(), timeout },
        WireKeys::Discovered(_) => Keys::Discovered { timeout },
    };
    let payload_header = match message.payload_header.as_str() {
        "" => None,
        name => Some(guard::header_name(name).field("rules.payload_header")?),
    };
    Ok(JwtRule {
        issuer: message.issuer.as_str().into(),
        audiences: texts(&message.audiences),
        keys,
        from: message.from.iter().map(location).collect::<Result<_, _>>().field("rules.from")?,
        forward: message.forward,
        payload_header,
        claim_headers: message
            .claim_headers
            .iter()
            .map(claim_header)
            .collect::<Result<_, _>>()
            .field("rules.claim_headers")?,
        words: texts(&message.words),
    })
}

fn rule_message(rule: &JwtRule) -> wire::JwtRule {
    let micros = |timeout: &Duration| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
    let (keys, timeout) = match &rule.keys {
        Keys::Inline(text) => (WireKeys::Inline(text.to_string()), 0),
        Keys::At { uri, timeout } => (WireKeys::Uri(uri.to_string()), micros(timeout)),
        Keys::Discovered { timeout } => (WireKeys::Discovered(true), micros(timeout)),
    };
    wire::JwtRule {
        issuer: rule.issuer.to_string(),
        audiences: messages(&rule.audiences),
        keys: Some(keys),
        timeout,
        from: rule.from.iter().map(location_message).collect(),
        forward: rule.forward,
        payload_header: rule.payload_header.as_ref().map(ToString::to_string).unwrap_or_default(),
        claim_headers: rule.claim_headers.iter().map(claim_header_message).collect(),
        words: messages(&rule.words),
    }
}

fn claim_header(message: &wire::ClaimHeader) -> Result<(HeaderName, Vec<ArcStr>), Problem> {
    if message.claim.is_empty() {
        return Err(Problem::Missing);
    }
    Ok((guard::header_name(&message.name)?, texts(&message.claim)))
}

fn claim_header_message((name, claim): &(HeaderName, Vec<ArcStr>)) -> wire::ClaimHeader {
    wire::ClaimHeader { name: name.to_string(), claim: messages(claim) }
}

fn location(message: &wire::Location) -> Result<Location, Problem> {
    Ok(match message.r#in.as_ref().ok_or(Problem::Missing)? {
        WireLocation::Header(header) => Location::Header {
            name: guard::header_name(&header.name)?,
            prefix: header.prefix.as_str().into(),
        },
        WireLocation::Param(name) => Location::Param(name.into()),
        WireLocation::Cookie(name) => Location::Cookie(name.into()),
    })
}

fn location_message(location: &Location) -> wire::Location {
    let at = match location {
        Location::Header { name, prefix } => WireLocation::Header(wire::location::HeaderLocation {
            name: name.to_string(),
            prefix: prefix.to_string(),
        }),
        Location::Param(name) => WireLocation::Param(name.to_string()),
        Location::Cookie(name) => WireLocation::Cookie(name.to_string()),
    };
    wire::Location { r#in: Some(at) }
}

fn texts(messages: &[String]) -> Vec<ArcStr> {
    messages.iter().map(ArcStr::from).collect()
}

fn messages(texts: &[ArcStr]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}
