// SPDX-License-Identifier: Apache-2.0
//! Where requests of HTTP/1.1 begin and end in the bytes of a client, read more strictly than by those who come after: what
//! another parser could read otherwise is found here (RFC 9112 §2.2, §5, §6.3, §11.2). It keeps no more than a line. Pure.

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A line that ends without a carriage return, or a carriage return inside one.
    BareNewline,
    /// A field that goes on in the next line (obs-fold).
    Folded,
    /// Between a field's name and its colon, or before the name.
    SpaceInName,
    /// Two lengths that are not one, or one that is no number.
    Length,
    /// A length and a transfer coding.
    LengthAndCoding,
    /// A transfer coding that is not `chunked`, or in HTTP/1.0.
    Coding,
    /// A chunk whose size is no number, or that does not end where it should.
    Chunk,
    /// Trailers without end.
    Trailers,
}

impl Flaw {
    /// For the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BareNewline => "bare_newline",
            Self::Folded => "folded_field",
            Self::SpaceInName => "space_in_field_name",
            Self::Length => "content_length",
            Self::LengthAndCoding => "length_and_coding",
            Self::Coding => "transfer_coding",
            Self::Chunk => "chunk",
            Self::Trailers => "trailers",
        }
    }
}

/// Of a line only so much is looked at; longer ones are bounded elsewhere.
const LINE: usize = 256;
/// Bytes of trailers, as they are sent.
pub const TRAILERS: usize = 16 * 1024;
/// Fields of trailers; whoever reads after this takes no more.
const TRAILER_FIELDS: usize = 100;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before or in the first line.
    #[default]
    Start,
    /// In the fields.
    Fields,
    /// Bytes of a body.
    Body(u64),
    /// In the line of a chunk's size.
    Size,
    /// Bytes of a chunk.
    Data(u64),
    /// The line end after a chunk.
    After,
    /// Bytes and fields of trailers so far.
    Trailers(usize, usize),
    /// What follows is of another protocol.
    Beyond,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Framing {
    place: Place,
    line: Vec<u8>,
    /// Longer than what is kept.
    cut: bool,
    /// The last byte was a carriage return.
    returned: bool,
    head: Head,
}

/// What was said in a head.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    old: bool,
    length: Option<u64>,
    coded: bool,
    offer: Offer,
}

/// What a client would go on in, if the server lets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Offer {
    #[default]
    Nothing,
    /// `upgrade`.
    Upgrade,
    /// CONNECT.
    Connect,
}

impl Framing {
    /// Looks at more bytes. On a flaw: where, so that nothing from there on reaches whoever reads.
    ///
    /// # Errors
    /// With the place of the flaw.
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), (usize, Flaw)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match &mut self.place {
                Place::Beyond => return Ok(()),
                Place::Body(left) | Place::Data(left) => {
                    let passed = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= passed as u64;
                    if *left == 0 {
                        let chunk = matches!(self.place, Place::Data(_));
                        self.place = if chunk { Place::After } else { Place::Start };
                    }
                    passed
                }
                Place::Start | Place::Fields | Place::Size | Place::After | Place::Trailers(..) => {
                    let byte = rest.first().copied().unwrap_or_default();
                    self.take(byte).map_err(|flaw| (at, flaw))?;
                    1
                }
            };
        }
        Ok(())
    }

    /// Looks at an answer that begins: one that grants another protocol ends all looking. What comes before it is HTTP,
    /// whatever the client hopes for.
    pub fn answered(&mut self, written: &[u8]) {
        let granted = match self.head.offer {
            Offer::Nothing => false,
            Offer::Upgrade => written.starts_with(b"HTTP/1.1 101"),
            Offer::Connect => written.starts_with(b"HTTP/1.1 2"),
        };
        if granted {
            self.place = Place::Beyond;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), Flaw> {
        let returned = std::mem::replace(&mut self.returned, byte == b'\r');
        if let Place::Trailers(taken, _) = &mut self.place {
            *taken += 1;
            if *taken > TRAILERS {
                return Err(Flaw::Trailers);
            }
        }
        match (returned, byte) {
            (true, b'\n') => self.end_of_line(),
            (false, b'\n') | (true, _) => Err(Flaw::BareNewline),
            (false, b'\r') => Ok(()),
            (false, byte) => {
                if self.line.len() < LINE {
                    self.line.push(byte);
                } else {
                    self.cut = true;
                }
                Ok(())
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), Flaw> {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        let next = match self.place {
            // A client may send an empty line before a request (RFC 9112 §2.2).
            Place::Start if line.is_empty() => Place::Start,
            Place::Start => {
                // The version of a long line is not seen; old clients send none of those with a body that matters.
                self.head = Head { old: line.ends_with(b" HTTP/1.0"), ..Head::default() };
                if line.starts_with(b"CONNECT ") {
                    self.head.offer = Offer::Connect;
                }
                Place::Fields
            }
            Place::Fields if line.is_empty() => self.head.follows()?,
            Place::Fields => {
                self.head.field(&line, cut)?;
                Place::Fields
            }
            Place::Size => match size(&line)? {
                0 => Place::Trailers(0, 0),
                size => Place::Data(size),
            },
            Place::After if line.is_empty() => Place::Size,
            Place::After => return Err(Flaw::Chunk),
            Place::Trailers(..) if line.is_empty() => Place::Start,
            Place::Trailers(_, fields) if fields >= TRAILER_FIELDS => return Err(Flaw::Trailers),
            Place::Trailers(taken, fields) => {
                Head::default().field(&line, cut).map_err(|_flaw| Flaw::Trailers)?;
                Place::Trailers(taken, fields + 1)
            }
            Place::Body(_) | Place::Data(_) | Place::Beyond => self.place,
        };
        self.line = line;
        self.line.clear();
        self.place = next;
        Ok(())
    }
}

impl Head {
    fn field(&mut self, line: &[u8], cut: bool) -> Result<(), Flaw> {
        if line.first().is_some_and(|first| matches!(first, b' ' | b'\t')) {
            return Err(Flaw::Folded);
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            // A name longer than what is kept is refused by whoever reads; so is a line without a colon.
            return Ok(());
        };
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        if name.iter().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(Flaw::SpaceInName);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = number(value, 10).filter(|_| !cut).ok_or(Flaw::Length)?;
            if self.length.is_some() {
                // Also one that is the same: nobody sends that by accident.
                return Err(Flaw::Length);
            }
            self.length = Some(number);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.coded || self.old || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Flaw::Coding);
            }
            self.coded = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.offer = Offer::Upgrade;
        }
        if self.coded && self.length.is_some() {
            return Err(Flaw::LengthAndCoding);
        }
        Ok(())
    }

    fn follows(self) -> Result<Place, Flaw> {
        Ok(match (self.coded, self.length) {
            (true, _) => Place::Size,
            (false, Some(length)) if length > 0 => Place::Body(length),
            (false, _) => Place::Start,
        })
    }
}

/// Of a chunk; its extension is let pass and means nothing.
fn size(line: &[u8]) -> Result<u64, Flaw> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let digits = line.get(..end).unwrap_or_default();
    number(digits.trim_ascii_end(), 16).ok_or(Flaw::Chunk)
}

/// Digits and nothing else: no sign, no space, no prefix.
fn number(digits: &[u8], base: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.len() <= 16 && text.chars().all(|digit| digit.is_digit(base));
    u64::from_str_radix(text, base).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Result<Framing, Flaw> {
        // Piece by piece gives the same as at once.
        let mut whole = Framing::default();
        let at_once = whole.look(text.as_bytes()).map_err(|(_, flaw)| flaw);
        let mut framing = Framing::default();
        let by_byte = text.bytes().try_for_each(|byte| framing.look(&[byte])).map_err(|(_, flaw)| flaw);
        assert_eq!(at_once, by_byte, "{text:?}");
        by_byte.map(|()| framing)
    }

    fn flaw(fields: &str) -> Option<Flaw> {
        look(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).err()
    }

    #[test]
    fn requests_that_are_in_order_pass_and_the_next_one_is_found() {
        for body in [
            "\r\n",
            "Content-Length: 3\r\n\r\n\na\r",
            "Transfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\n\r\n\n\r\nA \r\n0123456789\r\n0\r\nX: y\r\n\r\n",
            "Upgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{body}");
            let mut framing = look(&text).unwrap();
            assert_eq!(framing.place, Place::Start, "{text:?}");
            assert_eq!(framing.look(b"GET / HTTP/1.1\r\na: b\n"), Err((20, Flaw::BareNewline)), "{text:?}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_a_flaw() {
        for (fields, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Flaw::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Flaw::LengthAndCoding),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Flaw::Length),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Flaw::Length),
            ("Content-Length: 5, 5\r\n", Flaw::Length),
            ("Content-Length: +5\r\n", Flaw::Length),
            ("Content-Length: 0x5\r\n", Flaw::Length),
            ("Content-Length:\r\n", Flaw::Length),
            ("Content-Length: 99999999999999999\r\n", Flaw::Length),
            ("Transfer-Encoding: chunked, identity\r\n", Flaw::Coding),
            ("Transfer-Encoding: xchunked\r\n", Flaw::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Flaw::Coding),
            ("Transfer-Encoding: \x0bchunked\r\n", Flaw::Coding),
            ("X: a\r\n b\r\n", Flaw::Folded),
            ("X : a\r\n", Flaw::SpaceInName),
            ("Transfer-Encoding\t: chunked\r\n", Flaw::SpaceInName),
            ("X: a\nContent-Length: 5\r\n", Flaw::BareNewline),
            ("X: a\rb\r\n", Flaw::BareNewline),
        ] {
            assert_eq!(flaw(fields), Some(expected), "{fields:?}");
        }
        assert_eq!(look("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").err(), Some(Flaw::Coding));
    }

    #[test]
    fn chunks_that_lie_are_a_flaw() {
        for (chunks, expected) in [
            ("x\r\n", Flaw::Chunk),
            ("-1\r\n", Flaw::Chunk),
            ("0x1\r\n", Flaw::Chunk),
            ("\r\n", Flaw::Chunk),
            ("fffffffffffffffff\r\n", Flaw::Chunk),
            ("1\n", Flaw::BareNewline),
            ("1;a\nb\r\n", Flaw::BareNewline),
            ("1\r\nab\r\n", Flaw::Chunk),
            ("1\r\na\n", Flaw::BareNewline),
            ("0\r\nX : y\r\n", Flaw::Trailers),
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert_eq!(look(&text).err(), Some(expected), "{chunks:?}");
        }
    }

    #[test]
    fn trailers_have_an_end_in_bytes_and_in_fields() {
        let seen = |fields: &str| {
            look(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{fields}\r\n"))
        };
        let long = "x: ".to_owned() + &"y".repeat(1000) + "\r\n";
        assert!(seen(&long.repeat(TRAILERS / 1005 - 1)).is_ok());
        assert_eq!(seen(&long.repeat(TRAILERS / 1005 + 1)).err(), Some(Flaw::Trailers));
        assert!(seen(&"x: y\r\n".repeat(TRAILER_FIELDS)).is_ok());
        assert_eq!(seen(&"x: y\r\n".repeat(TRAILER_FIELDS + 1)).err(), Some(Flaw::Trailers));
    }

    #[test]
    fn beyond_a_switch_that_is_granted_nothing_is_looked_at_and_before_it_everything() {
        let upgrade = "GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n";
        let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        for (head, grant, other) in [
            (upgrade, "HTTP/1.1 101 Switching", "HTTP/1.1 200 OK"),
            (connect, "HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"),
        ] {
            let mut framing = look(head).unwrap();
            framing.answered(other.as_bytes());
            assert!(framing.look(b"GET / HTTP/1.1\n").is_err(), "{head:?}");
            let mut framing = look(head).unwrap();
            framing.answered(grant.as_bytes());
            framing.look(b"\n\n\n").unwrap();
        }
        let mut plain = look("GET / HTTP/1.1\r\n\r\n").unwrap();
        plain.answered(b"HTTP/1.1 101 Switching");
        assert!(plain.look(b"GET / HTTP/1.1\n").is_err());
    }
}
