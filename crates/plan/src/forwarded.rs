// SPDX-License-Identifier: Apache-2.0
//! The `forwarded` header (RFC 7239): who connects, and which service was meant.

use std::net::SocketAddr;

use mesh::Hostname;

/// The header's value.
pub fn header(source: SocketAddr, service: Option<&Hostname>) -> String {
    match service {
        Some(hostname) => format!("for=\"{source}\";host={hostname}"),
        None => format!("for=\"{source}\""),
    }
}

/// The `host` of a value: the service that was meant. Anything unreadable is skipped.
pub fn host(value: &str) -> Option<Hostname> {
    value.split([';', ',']).find_map(|pair| {
        let (key, text) = pair.split_once('=')?;
        if !key.trim().eq_ignore_ascii_case("host") {
            return None;
        }
        let text = text.trim();
        let unquoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        Hostname::parse(unquoted).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_source_is_quoted_and_the_service_is_not() {
        let web = Hostname::parse("web.shop.svc.cluster.local").unwrap();
        let v4 = "10.0.0.1:4000".parse().unwrap();
        let v6 = "[fd00::1]:4000".parse().unwrap();
        assert_eq!(header(v4, Some(&web)), "for=\"10.0.0.1:4000\";host=web.shop.svc.cluster.local");
        assert_eq!(header(v6, None), "for=\"[fd00::1]:4000\"");
    }

    #[test]
    fn the_host_is_found_quoted_or_not() {
        let cases = [
            ("for=\"10.0.0.1:4000\";host=web.shop", Some("web.shop")),
            ("host=\"web.shop\"", Some("web.shop")),
            ("Host = WEB.shop ; for=x", Some("web.shop")),
            ("for=\"[fd00::1]:4000\"", None),
            ("host=", None),
            ("host=not a name", None),
            ("host=größe", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(host(value).as_ref().map(Hostname::as_str), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_breaks_the_reader(value in "\\PC*") {
            let _host = host(&value);
        }
    }
}
