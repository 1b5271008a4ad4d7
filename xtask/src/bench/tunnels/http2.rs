// SPDX-License-Identifier: Apache-2.0
//! As much of HTTP/2 (RFC 9113) as one CONNECT needs, written and read by hand, so that the load takes little processor
//! time. Pure.

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Bytes before a payload.
const HEAD: usize = 9;
/// The stream of the only request.
const STREAM: u32 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 7541: `:status: 200` is entry 8 of the static table, `:method` is 2 and `:authority` 1, values follow as they are.
const STATUS_200: u8 = 0x88;
const METHOD: u8 = 2;
const AUTHORITY: u8 = 1;

/// What the server has said, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The tunnel is open.
    Open,
    /// Bytes through the tunnel, and whether they are the last.
    Bytes(Vec<u8>, bool),
    /// The tunnel is refused or broken; the frame's type and payload.
    Refused(u8, Vec<u8>),
}

/// What a client begins with: it asks for a tunnel to `authority`.
pub(super) fn connect(authority: &str) -> Vec<u8> {
    let head = [field(METHOD, "CONNECT"), field(AUTHORITY, authority)].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, STREAM, &head)].concat()
}

/// Bytes through the open tunnel. The server's settings, which come before anything else, are acknowledged with them.
pub(super) fn send(bytes: &[u8]) -> Vec<u8> {
    [frame(SETTINGS, ACK, 0, &[]), frame(DATA, 0, STREAM, bytes)].concat()
}

/// The end of the tunnel and of the connection.
pub(super) fn close() -> Vec<u8> {
    [frame(DATA, END_STREAM, STREAM, &[]), frame(GOAWAY, 0, 0, &[0; 8])].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [_, length @ ..] = length;
    [length.as_slice(), &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field whose name is in the static table, never to be remembered.
fn field(name: u8, value: &str) -> Vec<u8> {
    // Shorter than 127 bytes: the length is one byte.
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [[name, length].as_slice(), value.as_bytes()].concat()
}

/// Bytes of the server that are not read yet.
#[derive(Debug, Default)]
pub(super) struct Incoming(pub(super) Vec<u8>);

impl Incoming {
    /// The next that matters, once it is there whole.
    pub(super) fn next(&mut self) -> Option<Said> {
        loop {
            let (kind, flags, payload) = self.frame()?;
            match kind {
                HEADERS if payload.first() == Some(&STATUS_200) => return Some(Said::Open),
                HEADERS | RST_STREAM | GOAWAY => return Some(Said::Refused(kind, payload)),
                DATA => return Some(Said::Bytes(payload, flags & END_STREAM != 0)),
                _ => {}
            }
        }
    }

    fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let [high, middle, low, kind, flags, ..] = *self.0.as_slice() else { return None };
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
        let end = HEAD + length;
        let payload = self.0.get(HEAD..end)?.to_vec();
        self.0.drain(..end);
        Some((kind, flags, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_preface_settings_and_one_head() {
        let bytes = connect("10.0.0.1:80");
        let rest = bytes.strip_prefix(PREFACE).unwrap();
        assert_eq!(rest.get(..HEAD), Some(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0][..]));
        let head = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80";
        assert_eq!(rest.get(HEAD..2 * HEAD), Some(&[0, 0, head.len() as u8, HEADERS, 4, 0, 0, 0, 1][..]));
        assert_eq!(rest.get(2 * HEAD..), Some(head.as_slice()));
    }

    #[test]
    fn what_matters_is_found_in_pieces_among_what_does_not() {
        let bytes = [
            frame(SETTINGS, 0, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, STREAM, &[STATUS_200]),
            frame(8, 0, 0, &[0; 4]),
            frame(DATA, 0, STREAM, b"ab"),
            frame(DATA, END_STREAM, STREAM, &[]),
        ];
        let (mut incoming, mut said) = (Incoming::default(), Vec::new());
        for byte in bytes.concat() {
            incoming.0.push(byte);
            said.extend(incoming.next());
        }
        assert_eq!(said, [Said::Open, Said::Bytes(b"ab".to_vec(), false), Said::Bytes(Vec::new(), true)]);
    }

    #[test]
    fn a_refusal_is_told_from_an_open_tunnel() {
        let mut incoming = Incoming(frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x8d]));
        assert_eq!(incoming.next(), Some(Said::Refused(HEADERS, vec![0x8d])));
    }
}
