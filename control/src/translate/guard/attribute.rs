// SPDX-License-Identifier: Apache-2.0
//! The keys that a `when` may name, as what a waypoint looks at.

use http::HeaderName;
use mesh::l7::guard::Attribute;

use crate::translate::policy::attribute::KNOWN;

/// The attribute of a key.
///
/// # Errors
/// When there is none, or none that a waypoint knows.
pub(super) fn attribute(key: &str) -> Result<Attribute, String> {
    Ok(match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "source.namespace" => Attribute::Namespace,
        "source.principal" => Attribute::Principal,
        "source.serviceAccount" => Attribute::ServiceAccount,
        "source.trustDomain" => Attribute::TrustDomain,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::DestinationPort,
        "connection.sni" => Attribute::ServerName,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Audience,
        "request.auth.presenter" => Attribute::Presenter,
        _ => return named(key),
    })
}

fn named(key: &str) -> Result<Attribute, String> {
    if key.starts_with("experimental.envoy.filters.") {
        return Err(format!("{key:?} is of Envoy's filters, which a waypoint does not have"));
    }
    if let Some(rest) = key.strip_prefix("request.headers") {
        let name = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
        let name = HeaderName::from_bytes(name.as_bytes());
        return name.map(Attribute::Header).map_err(|_invalid| format!("{key:?} names no header"));
    }
    if let Some(rest) = key.strip_prefix("request.auth.claims") {
        let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
        let path: Vec<arcstr::ArcStr> = inner.split("][").map(Into::into).collect();
        let is_good = path.iter().all(|name| !name.is_empty() && !name.contains(['[', ']']));
        return if is_good { Ok(Attribute::Claim(path)) } else { Err(format!("{key:?} names no claim")) };
    }
    Err(format!("{key:?} is not an attribute; known are {}", KNOWN.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_api_is_known_and_nothing_else() {
        for key in KNOWN {
            let key = key.replace("<name>", "x");
            let known = attribute(&key);
            assert_eq!(known.is_ok(), !key.starts_with("experimental."), "{key}");
        }
        let claim = |path: &[&str]| Ok(Attribute::Claim(path.iter().map(|name| (*name).into()).collect()));
        assert_eq!(attribute("request.auth.claims[a][b.c]"), claim(&["a", "b.c"]));
        for key in [
            "request.auth.claims",
            "request.auth.claims[]",
            "request.auth.claims[a]x",
            "request.auth.claims[a][]",
            "request.headers[]",
            "request.headers[a b]",
            "request.headers",
            "source.moon",
            "",
        ] {
            assert!(attribute(key).is_err(), "{key}");
        }
    }
}
