// SPDX-License-Identifier: Apache-2.0
//! What a proxy does to the heads that it passes on: fields that are of one connection only are taken out, fields by which
//! a client could pass for another are written anew, and what two parsers could read differently is refused. Pure.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use mesh::SpiffeId;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Fields of one connection (RFC 9110 §7.6.1), besides those that `connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];
/// What `connection` cannot take out: it would change the meaning of the message for whoever comes next.
const KEPT: [HeaderName; 5] = [HOST, CONTENT_LENGTH, FORWARDED_FOR, FORWARDED_PROTO, CLIENT_CERT];

/// A wish to speak another protocol from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade(pub HeaderValue);

/// What is wrong with a request's head, if anything: whoever comes next could read it as another request.
pub fn flaw(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if version < Version::HTTP_2 {
        let hosts = headers.get_all(HOST).iter().count();
        if hosts > 1 {
            return Some("more than one host");
        }
        if hosts == 0 && version == Version::HTTP_11 && uri.authority().is_none() {
            return Some("no host");
        }
        if headers.contains_key(TRANSFER_ENCODING) && version == Version::HTTP_10 {
            return Some("transfer-encoding in HTTP/1.0");
        }
        if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
            return Some("both transfer-encoding and content-length");
        }
    } else if uri.authority().is_none() && !headers.contains_key(HOST) {
        return Some("no :authority");
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next()
        && (lengths.any(|other| other != first) || !is_number(first.as_bytes()))
    {
        return Some("content-length is not one number");
    }
    let path = uri.path();
    if *method != Method::CONNECT && !path.starts_with('/') && path != "*" {
        return Some("the path does not begin with a slash");
    }
    path.contains('#').then_some("the path has a fragment")
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// Takes out what is of one connection only; gives the wish for another protocol back. `te: trailers` stays, which gRPC
/// needs.
pub fn strip(headers: &mut HeaderMap) -> Option<Upgrade> {
    let mut named: Vec<HeaderName> = Vec::new();
    let mut wants_upgrade = false;
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) else { continue };
            wants_upgrade |= name == UPGRADE;
            named.push(name);
        }
    }
    let upgrade = headers.get(UPGRADE).filter(|_value| wants_upgrade).cloned().map(Upgrade);
    let trailers = headers.get_all(TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    for name in named.iter().filter(|name| !KEPT.contains(name)).chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Puts a wish for another protocol back, for the next connection.
pub fn ask_upgrade(headers: &mut HeaderMap, upgrade: &Upgrade) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, upgrade.0.clone());
}

/// Says that a body follows of which the length is not known: with methods that rarely have one (GET) none is sent otherwise,
/// and what the client sent would be lost.
pub fn say_chunked(headers: &mut HeaderMap) {
    if !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// In HTTP/1.1 what a client takes besides the body is said for one connection (RFC 9110 §10.1.4): a server may overlook it
/// otherwise, and send no trailers.
pub fn name_te(headers: &mut HeaderMap) {
    if headers.contains_key(TE) && !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Who sends a request, as its server may be told.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// The identity that it proved.
    pub identity: &'a SpiffeId,
    /// This proxy.
    pub own: &'a SpiffeId,
    /// Whether servers are told the identity.
    pub told: bool,
}

/// Writes the fields that say where a request comes from. What the client says of hops before it stays, as gateways say
/// it; that it is who it says is only ever said by this proxy.
pub fn forward(headers: &mut HeaderMap, client: Client<'_>) {
    let mut before: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        before.extend(value.as_bytes());
        before.extend(b", ");
    }
    before.extend(client.ip.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&before) {
        headers.insert(FORWARDED_FOR, value);
    }
    let known = |value: &HeaderValue| matches!(value.as_bytes(), b"http" | b"https");
    if headers.get_all(FORWARDED_PROTO).iter().count() != 1
        || !headers.get(FORWARDED_PROTO).is_some_and(known)
    {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    headers.remove(CLIENT_CERT);
    if client.told
        && let Ok(value) = HeaderValue::from_str(&format!("By={};URI={}", client.own, client.identity))
    {
        headers.insert(CLIENT_CERT, value);
    }
}

/// The name of `Host` or `:authority`, whichever a version has.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let named = || headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    uri.authority().map_or_else(named, http::uri::Authority::as_str)
}

/// Cookies that HTTP/2 has in several fields are one in HTTP/1 (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let all = headers.get_all(COOKIE);
    if all.iter().count() > 1 {
        let joined: Vec<&[u8]> = all.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_bytes(&joined.join(&b"; "[..])) {
            headers.insert(COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[track_caller]
    fn check_flaw(
        uri: &str,
        version: Version,
        fields: &[(&'static str, &'static str)],
        expected: Option<&str>,
    ) {
        let found = flaw(&Method::GET, &uri.parse().unwrap(), version, &map(fields));
        assert_eq!(found, expected, "{uri} {fields:?}");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let host = ("host", "a");
        let both = &[host, ("transfer-encoding", "chunked"), ("content-length", "3")];
        check_flaw("/", Version::HTTP_11, both, Some("both transfer-encoding and content-length"));
        let lengths = &[host, ("content-length", "3"), ("content-length", "4")];
        check_flaw("/", Version::HTTP_11, lengths, Some("content-length is not one number"));
        for length in ["+3", "3, 3", "0x3", "", "-1"] {
            let fields = &[host, ("content-length", length)];
            check_flaw("/", Version::HTTP_11, fields, Some("content-length is not one number"));
        }
        check_flaw("/", Version::HTTP_11, &[host, ("host", "b")], Some("more than one host"));
        check_flaw("/", Version::HTTP_11, &[], Some("no host"));
        check_flaw("/", Version::HTTP_2, &[], Some("no :authority"));
        check_flaw(
            "/",
            Version::HTTP_10,
            &[("transfer-encoding", "chunked")],
            Some("transfer-encoding in HTTP/1.0"),
        );
        check_flaw("http://a/", Version::HTTP_2, &[], None);
        check_flaw("/", Version::HTTP_11, &[host, ("content-length", "3")], None);
        check_flaw("*", Version::HTTP_11, &[host], None);
    }

    #[test]
    fn fields_of_one_connection_are_taken_out() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-mine, Upgrade, host"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("x-stays", "1"),
            ("host", "a"),
            ("upgrade", "websocket"),
            ("te", "gzip, trailers"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
        ]);
        let upgrade = strip(&mut headers).unwrap();
        assert_eq!(headers, map(&[("x-stays", "1"), ("host", "a"), ("te", "trailers")]));
        ask_upgrade(&mut headers, &upgrade);
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert_eq!(strip(&mut map(&[("upgrade", "h2c")])), None, "not named in connection");
    }

    #[test]
    fn a_client_cannot_pass_for_another() {
        let (own, client) =
            ("spiffe://td/ns/a/sa/gate".parse().unwrap(), "spiffe://td/ns/a/sa/web".parse().unwrap());
        let who = |told| Client { ip: "10.0.0.9".parse().unwrap(), identity: &client, own: &own, told };
        let fields = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-client-cert", "URI=spiffe://td/ns/a/sa/admin"),
        ];
        let mut headers = map(&fields);
        forward(&mut headers, who(false));
        let expected = [("x-forwarded-for", "1.2.3.4, 5.6.7.8, 10.0.0.9"), ("x-forwarded-proto", "http")];
        assert_eq!(headers, map(&expected));
        let mut headers = map(&fields);
        forward(&mut headers, who(true));
        assert_eq!(
            headers["x-forwarded-client-cert"],
            "By=spiffe://td/ns/a/sa/gate;URI=spiffe://td/ns/a/sa/web"
        );
        let mut headers = map(&[("x-forwarded-proto", "https")]);
        forward(&mut headers, who(false));
        assert_eq!(headers["x-forwarded-proto"], "https", "a gateway terminated TLS");
    }

    #[test]
    fn the_host_is_the_authority_or_the_field() {
        let headers = map(&[("host", "field")]);
        assert_eq!(host(&"http://uri/x".parse().unwrap(), &headers), "uri");
        assert_eq!(host(&"/x".parse().unwrap(), &headers), "field");
        assert_eq!(host(&"/x".parse().unwrap(), &HeaderMap::new()), "");
    }
}
