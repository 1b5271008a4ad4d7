// SPDX-License-Identifier: Apache-2.0
//! What a waypoint reads of a client: first bytes, heads, the frames of gRPC.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use waypoint::{
    detect::{Spoken, spoken},
    framing::{Flaw, Framing},
    headers::{self, Client},
    hello::{Hello, hello},
    messages::Messages,
};

/// What the first bytes say does not change when more follow, but for what was not clear yet.
pub(crate) fn first_bytes(bytes: &[u8]) {
    let whole = spoken(bytes);
    for length in [1, 3, 8, 24, 64] {
        let Some(part) = bytes.get(..length) else { break };
        if let Some(told) = spoken(part) {
            assert_eq!(Some(told), whole, "{length} of {} bytes say otherwise", bytes.len());
        }
    }
    if whole == Some(Spoken::Tls) {
        assert_eq!(bytes.first(), Some(&0x16));
    }
}

/// A name is only ever read of a whole handshake.
pub(crate) fn tls_hello(bytes: &[u8]) {
    if let Hello::Complete(Some(name)) = hello(bytes) {
        assert!(!name.is_empty() && name.is_ascii(), "{name:?}");
        assert_eq!(hello(&bytes[..1]), Hello::Incomplete);
    }
}

/// However a body is cut, it has the same messages.
pub(crate) fn grpc_messages(bytes: &[u8]) {
    let mut whole = Messages::default();
    let count = whole.take(bytes);
    for size in [1, 2, 7] {
        let mut pieces = Messages::default();
        let sum: u64 = bytes.chunks(size).map(|piece| pieces.take(piece)).sum();
        assert_eq!((sum, pieces), (count, whole));
    }
    assert!(count <= bytes.len() as u64 / 5);
}

/// However the bytes of a connection are cut, the same is wrong with them, at the same place; and if nothing is, both ways have come
/// equally far.
pub(crate) fn framing(bytes: &[u8]) {
    let look = |size: usize| -> Result<Framing, (usize, Flaw)> {
        let mut framing = Framing::default();
        let mut before = 0;
        for piece in bytes.chunks(size) {
            framing.look(piece).map_err(|(at, flaw)| (before + at, flaw))?;
            before += piece.len();
        }
        Ok(framing)
    };
    let whole = look(bytes.len().max(1));
    if let Err((at, _flaw)) = &whole {
        assert!(*at < bytes.len());
    }
    for size in [1, 2, 7, 61] {
        match (&whole, look(size)) {
            (Ok(whole), Ok(pieces)) => assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "by {size}"),
            (Err(whole), Err(pieces)) => assert_eq!(*whole, pieces, "by {size}"),
            (whole, pieces) => panic!("{whole:?}, but by {size}: {pieces:?}"),
        }
    }
}

/// Lines `name: value`, the first one is the target: what passes is one request for everybody who reads it.
pub(crate) fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().and_then(|line| Uri::try_from(line).ok());
    let Some(uri) = target else { return };
    let mut fields = HeaderMap::new();
    for line in lines.take(64) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    if headers::flaw(&Method::POST, &uri, Version::HTTP_11, &fields).is_none() {
        assert!(fields.get_all(header::HOST).iter().count() <= 1);
        let both =
            fields.contains_key(header::TRANSFER_ENCODING) && fields.contains_key(header::CONTENT_LENGTH);
        assert!(!both, "two lengths");
        for length in fields.get_all(header::CONTENT_LENGTH) {
            assert!(length.as_bytes().iter().all(u8::is_ascii_digit));
        }
    }
    let said = fields.get_all("x-forwarded-for").iter().count();
    let upgrade = headers::strip(&mut fields);
    for gone in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        assert!(!fields.contains_key(gone));
    }
    if let Some(upgrade) = upgrade {
        headers::ask_upgrade(&mut fields, &upgrade);
        assert_eq!(headers::strip(&mut fields), Some(upgrade), "it is asked for again as it was");
    }
    let own = "spiffe://td/ns/a/sa/gate".parse().expect("it is an identity");
    let identity = "spiffe://td/ns/a/sa/web".parse().expect("it is an identity");
    let ip = IpAddr::from([10, 0, 0, 9]);
    headers::forward(&mut fields, Client { ip, identity: &identity, own: &own, told: false });
    assert!(!fields.contains_key("x-forwarded-client-cert"));
    let forwarded: Vec<_> = fields.get_all("x-forwarded-for").iter().collect();
    assert!(
        forwarded.len() == 1 && forwarded[0].as_bytes().ends_with(b"10.0.0.9"),
        "{said} became {forwarded:?}"
    );
    headers::join_cookies(&mut fields);
    assert!(fields.get_all(header::COOKIE).iter().count() <= 1);
}
