// SPDX-License-Identifier: Apache-2.0
//! What is spoken on a connection: by its first bytes where nobody has declared it.
//!
//! A protocol in which the server speaks first is never stalled: when the client is silent for a moment, a server is
//! dialled, and whoever speaks first then decides. A client that was merely slow is still understood.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use mesh::service::AppProtocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    guard,
    hello::{Hello, hello},
    http1, http2,
    link::Linked,
    shard::Shard,
    tcp::{self, Reached},
};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// Anything else.
    Other,
}

/// What an HTTP/2 client begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method and longest request line that are waited for.
const LONGEST_METHOD: usize = 32;
const LONGEST_LINE: usize = 64 * 1024;
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

/// Looks at the first bytes; `None`: more are needed.
pub fn spoken(bytes: &[u8]) -> Option<Spoken> {
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    match bytes {
        // A handshake record of TLS (RFC 8446 §5.1).
        [0x16, 0x03, _, ..] => Some(Spoken::Tls),
        [0x16] | [0x16, 0x03] => None,
        _ => http1_line(bytes),
    }
}

/// A request line: a method, something, and a version (RFC 9112 §3).
fn http1_line(bytes: &[u8]) -> Option<Spoken> {
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Some(Spoken::Other);
    }
    match bytes.get(method) {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(Spoken::Other),
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return (bytes.len() > LONGEST_LINE).then_some(Spoken::Other);
    };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    Some(if is_http { Spoken::Http1 } else { Spoken::Other })
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether what is there so far is most likely a slow client of HTTP.
fn is_likely_http(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method) || method.starts_with(bytes))
        || (bytes.len() > 3 && PREFACE.starts_with(bytes))
}

/// Serves a client's connection to its end.
pub async fn serve(shard: Arc<Shard>, mut linked: Linked) {
    let mut buffer = Vec::new();
    let found = match linked.link.addressed.protocol {
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => {
            declared(&shard, &mut linked, &mut buffer).await
        }
        AppProtocol::Unknown | AppProtocol::Tcp | AppProtocol::Tls => {
            undeclared(&shard, &mut linked, &mut buffer).await
        }
    };
    let Some((spoken, far)) = found else { return };
    let mut server = None;
    if spoken == Spoken::Tls && far.is_none() && tcp::wants_server_name(&shard, &linked.link) {
        server = server_name(&shard, &mut linked, &mut buffer).await;
    }
    linked.inner.unread(Bytes::from(buffer));
    match spoken {
        Spoken::Http1 => Box::pin(http1::serve(shard, linked)).await,
        Spoken::Http2 => Box::pin(http2::serve(shard, linked)).await,
        Spoken::Tls | Spoken::Other => Box::pin(bytes(&shard, linked, far, server)).await,
    }
}

/// Carries a TLS connection by the name that its handshake asks for.
pub async fn by_server_name(shard: &Arc<Shard>, mut linked: Linked) {
    let mut buffer = Vec::new();
    let server = server_name(shard, &mut linked, &mut buffer).await;
    linked.inner.unread(Bytes::from(buffer));
    bytes(shard, linked, None, server).await;
}

/// Reads on until the name is there, or there cannot be one.
async fn server_name(shard: &Shard, linked: &mut Linked, buffer: &mut Vec<u8>) -> Option<String> {
    let deadline = tokio::time::Instant::now() + shard.waypoint.config.bounds.head;
    loop {
        match hello(buffer) {
            Hello::Complete(name) => return name,
            Hello::None => return None,
            Hello::Incomplete => match tokio::time::timeout_at(deadline, linked.inner.look(buffer)).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(Ok(_) | Err(_)) | Err(_) => return None,
            },
        }
    }
}

async fn bytes(shard: &Arc<Shard>, linked: Linked, far: Option<Reached>, server: Option<String>) {
    let started = Instant::now();
    let judged = guard::connection(&shard.waypoint, &linked.link, server.as_deref());
    let far = match (judged, far) {
        (Err(failure), _) => Err(failure),
        (Ok(judgement), far) => {
            guard::begun(&linked.link, &judgement);
            match far {
                Some(far) => Ok(far),
                None => tcp::reach(shard, &linked.link, server.as_deref()).await,
            }
        }
    };
    match far {
        Ok(far) => tcp::carry(shard, linked, far, started).await,
        Err(failure) => tcp::unreached(shard, &linked.link, &failure, started),
    }
}

type Found = Option<(Spoken, Option<Reached>)>;

/// The port is declared to be HTTP: only the version is to be found. What is no HTTP gets the answer of an HTTP server.
async fn declared(shard: &Shard, linked: &mut Linked, buffer: &mut Vec<u8>) -> Found {
    while PREFACE.starts_with(buffer) && buffer.len() < PREFACE.len() {
        let bounds = &shard.waypoint.config.bounds;
        let limit = if buffer.is_empty() { bounds.idle } else { bounds.head };
        match tokio::time::timeout(limit, linked.inner.look(buffer)).await {
            Ok(Ok(count)) if count > 0 => {}
            Ok(Ok(_) | Err(_)) | Err(_) => return None,
        }
    }
    let spoken = if buffer.starts_with(PREFACE) { Spoken::Http2 } else { Spoken::Http1 };
    Some((spoken, None))
}

async fn undeclared(shard: &Arc<Shard>, linked: &mut Linked, buffer: &mut Vec<u8>) -> Found {
    let bounds = &shard.waypoint.config.bounds;
    let mut far = None;
    // A client that may only send requests is given all the time that it needs to begin one.
    let may_be_silent = guard::connection(&shard.waypoint, &linked.link, None).is_ok();
    loop {
        if !buffer.is_empty()
            && let Some(spoken) = spoken(buffer)
        {
            return Some((spoken, far));
        }
        let limit = match buffer.is_empty() {
            true if !may_be_silent => bounds.idle,
            false if is_likely_http(buffer) => bounds.head,
            true | false => bounds.detection,
        };
        match tokio::time::timeout(limit, linked.inner.look(buffer)).await {
            Ok(Ok(count)) if count > 0 => {}
            // The end, without anything that says what it is.
            Ok(Ok(_)) => return Some((Spoken::Other, far)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client left before it had said anything");
                return None;
            }
            Err(_elapsed) if !buffer.is_empty() => return Some((Spoken::Other, far)),
            Err(_elapsed) if !may_be_silent => return None,
            Err(_elapsed) => match silent(shard, linked, buffer).await {
                Ok(Silence::Broken(server)) => return Some((Spoken::Other, Some(server))),
                Ok(Silence::Client(server)) => far = Some(server),
                Err(()) => return None,
            },
        }
    }
}

/// Who ended it.
enum Silence {
    /// The server: its first bytes are with the client.
    Broken(Reached),
    /// The client, or it has ended.
    Client(Reached),
}

/// A client that says nothing: a server is dialled, and either may begin.
async fn silent(shard: &Arc<Shard>, linked: &mut Linked, buffer: &mut Vec<u8>) -> Result<Silence, ()> {
    let started = Instant::now();
    let mut far = match tcp::reach(shard, &linked.link, None).await {
        Ok(far) => far,
        Err(failure) => {
            tcp::unreached(shard, &linked.link, &failure, started);
            return Err(());
        }
    };
    let mut first = Vec::new();
    tokio::select! {
        looked = linked.inner.look(buffer) => match looked {
            Ok(count) if count > 0 => Ok(Silence::Client(far)),
            Ok(_end) => Ok(Silence::Broken(far)),
            Err(_gone) => Err(()),
        },
        read = far.far.read_buf(&mut first) => {
            // The end too is said by the copy, which reads it again.
            read.map_err(drop)?;
            linked.inner.write_all(&first).await.map_err(drop)?;
            Ok(Silence::Broken(far))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_is_spoken() {
        let cases: [(&[u8], Option<Spoken>); 16] = [
            (b"", None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Spoken::Other)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Spoken::Tls)),
            (b"\x16\x04", Some(Spoken::Other)),
            (b"GET", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"PURGE /x HTTP/1.0\n", Some(Spoken::Http1)),
            (b"get key\r\n", Some(Spoken::Other)),
            (b"*3\r\n$3\r\nSET", Some(Spoken::Other)),
            (b"hello", None),
            (b"\x00\x00\x00", Some(Spoken::Other)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
        }
        let endless = vec![b'a'; LONGEST_METHOD + 1];
        assert_eq!(spoken(&endless), Some(Spoken::Other));
    }

    #[test]
    fn a_slow_client_of_http_is_given_more_time() {
        for bytes in [&b"G"[..], b"GET", b"POST /a", b"PRI * H"] {
            assert!(is_likely_http(bytes), "{}", bytes.escape_ascii());
        }
        for bytes in [&b"get"[..], b"hello", b"\x16"] {
            assert!(!is_likely_http(bytes), "{}", bytes.escape_ascii());
        }
    }
}
