// SPDX-License-Identifier: Apache-2.0
//! The values in conditions of an `AuthorizationPolicy`. Errors say what to write instead.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use mesh::policy::{ServiceAccountMatch, StringMatch};

/// `*` anything, `x*` a beginning, `*x` an end, else the whole.
pub(in crate::translate) fn string(text: &str) -> Result<StringMatch, String> {
    let (open_start, open_end) = (text.strip_prefix('*'), text.strip_suffix('*'));
    let matched = match (text, open_start, open_end) {
        ("", ..) => return Err("is empty: remove it".to_owned()),
        ("*", ..) => StringMatch::Presence,
        (_, Some(suffix), None) => StringMatch::Suffix(suffix.into()),
        (_, None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (_, None, None) => StringMatch::Exact(text.into()),
        (_, Some(_), Some(_)) => return Err(misplaced(text)),
    };
    let rest = match &matched {
        StringMatch::Exact(rest) | StringMatch::Prefix(rest) | StringMatch::Suffix(rest) => rest.as_str(),
        StringMatch::Presence => "",
    };
    if rest.contains('*') { Err(misplaced(text)) } else { Ok(matched) }
}

fn misplaced(text: &str) -> String {
    format!("{text:?} has a * that is neither only its first nor only its last character")
}

/// A principal as policies write it.
pub(in crate::translate) fn principal(text: &str) -> Result<StringMatch, String> {
    if let Some(rest) = text.strip_prefix("spiffe://") {
        return Err(format!("write it without spiffe://: {rest:?}"));
    }
    string(text)
}

/// `<namespace>/<service account>`, or only the latter for the policy's own namespace.
pub(in crate::translate) fn service_account(
    text: &str,
    namespace: &ArcStr,
) -> Result<ServiceAccountMatch, String> {
    let (namespace, service_account) = match text.split_once('/') {
        Some((namespace, account)) => (ArcStr::from(namespace), account),
        None => (namespace.clone(), text),
    };
    if namespace.is_empty()
        || service_account.is_empty()
        || service_account.contains('/')
        || text.contains('*')
    {
        return Err(format!(
            "{text:?} must be <service account> or <namespace>/<service account>, without *"
        ));
    }
    Ok(ServiceAccountMatch { namespace, service_account: service_account.into() })
}

/// An address, or a block of them (RFC 4632).
pub(in crate::translate) fn block(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    match text.parse::<IpNet>() {
        Ok(block) if block.addr().to_canonical() == block.addr() => Ok(block.trunc()),
        Ok(_) => Err(format!("{text:?} is IPv4 written as IPv6: write the IPv4 block")),
        Err(_) => Err(format!("{text:?} is neither an address nor a block like 10.0.0.0/8 or fd00::/64")),
    }
}

/// A port number; policies write it as text.
pub(in crate::translate) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a port from 1 to 65535")),
    }
}
