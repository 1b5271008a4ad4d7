// SPDX-License-Identifier: Apache-2.0
//! Clients that stay with their endpoint: what a request says of its session, and what its answer says of it.
//!
//! A session is told by a token that the client sends back: a mark of the endpoint, from which its name or address cannot be
//! read, and when the session began. Nothing is kept here, so any instance of the waypoint understands it. A client that makes
//! up a token reaches an endpoint of a service that it may reach anyway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh::{
    WorkloadUid,
    balance::Mark,
    l7::route::{Carrier, Persistence},
};

/// The session of a request.
#[derive(Clone, Debug)]
pub struct Session {
    rule: Persistence,
    /// The cookie's path: where the rule's matches begin alike.
    path: String,
    token: Option<Token>,
    now: u32,
}

/// What a client is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The endpoint.
    pub mark: Mark,
    /// When the session began, in seconds since 1970.
    began: u32,
}

const VERSION: u8 = 1;
/// A version, a mark, a time.
const BYTES: usize = 21;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Token {
    fn text(self) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend(self.mark.0.to_be_bytes());
        bytes.extend(self.began.to_be_bytes());
        let digit = |number: u32| DIGITS.get(number as usize & 63).map_or('A', |digit| char::from(*digit));
        let three = |group: &[u8]| group.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let groups = bytes.chunks(3).map(three);
        groups.flat_map(|group| [18, 12, 6, 0].map(|shift| digit(group >> shift))).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != BYTES / 3 * 4 {
            return None;
        }
        let number = |digit: u8| DIGITS.iter().zip(0_u32..).find(|(known, _)| **known == digit);
        let mut bytes = Vec::with_capacity(BYTES);
        for group in text.as_bytes().chunks(4) {
            let mut three = 0;
            for digit in group {
                three = three << 6 | number(*digit)?.1;
            }
            bytes.extend(three.to_be_bytes().get(1..)?);
        }
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (mark, rest) = rest.split_first_chunk::<16>()?;
        let (began, _) = rest.split_first_chunk::<4>()?;
        (*version == [VERSION])
            .then(|| Self { mark: Mark(u128::from_be_bytes(*mark)), began: u32::from_be_bytes(*began) })
    }
}

impl Session {
    /// Of a request that falls under a rule with persistence; `path` is the prefix that the rule matches by.
    pub fn new(rule: &Persistence, path: &str, headers: &HeaderMap) -> Self {
        Self::at(rule, path, headers, SystemTime::now())
    }

    fn at(rule: &Persistence, path: &str, headers: &HeaderMap, now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let text = match rule.carrier {
            Carrier::Header => headers.get(rule.name.as_str()).and_then(|value| value.to_str().ok()),
            Carrier::SessionCookie | Carrier::PermanentCookie => cookie(headers, &rule.name),
        };
        let token = text.and_then(Token::parse).filter(|token| {
            let age = Duration::from_secs(now.saturating_sub(token.began).into());
            rule.absolute.is_none_or(|longest| age < longest)
        });
        let path = if path.starts_with('/') { path } else { "/" };
        Self { rule: rule.clone(), path: path.to_owned(), token, now }
    }

    /// The mark of the endpoint that the client is with, if it is with one.
    pub fn mark(&self) -> Option<Mark> {
        self.token.map(|token| token.mark)
    }

    /// Takes the token out of what the server gets: it is between the client and this proxy.
    pub fn hide(&self, headers: &mut HeaderMap) {
        match self.rule.carrier {
            Carrier::Header => drop(headers.remove(self.rule.name.as_str())),
            Carrier::SessionCookie | Carrier::PermanentCookie => without_cookie(headers, &self.rule.name),
        }
    }

    /// Tells the client which endpoint it is with from now on, if that is another than it said.
    pub fn answered(&self, by: &WorkloadUid, headers: &mut HeaderMap) {
        let mark = Mark::new(by);
        if self.mark() == Some(mark) {
            return;
        }
        // A session that changed its endpoint because that has gone is a new one.
        let text = Token { mark, began: self.now }.text();
        let name = &self.rule.name;
        let cookie = |attributes: String| {
            let path =
                if self.path.is_ascii() && !self.path.contains(';') { self.path.as_str() } else { "/" };
            let value = format!("{name}={text}; Path={path}; HttpOnly{attributes}");
            HeaderValue::from_str(&value).ok().map(|value| (header::SET_COOKIE, value))
        };
        let field = match self.rule.carrier {
            Carrier::Header => {
                HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(&text).ok())
            }
            Carrier::SessionCookie => cookie(String::new()),
            Carrier::PermanentCookie => {
                let life = self.rule.absolute.unwrap_or_default().as_secs();
                cookie(format!("; Max-Age={life}"))
            }
        };
        match field {
            Some((name, value)) if name == header::SET_COOKIE => drop(headers.append(name, value)),
            Some((name, value)) => drop(headers.insert(name, value)),
            None => tracing::debug!(%name, "a session has a name that no field can have"),
        }
    }
}

/// The value of the first cookie of this name.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    pairs(headers).find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

fn without_cookie(headers: &mut HeaderMap, name: &str) {
    if cookie(headers, name).is_none() {
        return;
    }
    let others = pairs(headers).filter(|(known, _)| *known != name);
    let others: Vec<String> = others.map(|(known, value)| format!("{known}={value}")).collect();
    headers.remove(header::COOKIE);
    if let Ok(line) = HeaderValue::from_str(&others.join("; "))
        && !others.is_empty()
    {
        headers.insert(header::COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn uid(name: &str) -> WorkloadUid {
        WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap()
    }

    fn rule(carrier: Carrier, absolute: Option<u64>) -> Persistence {
        Persistence { name: "sid".into(), carrier, absolute: absolute.map(Duration::from_secs) }
    }

    fn session(rule: &Persistence, headers: &HeaderMap, after: u64) -> Session {
        Session::at(rule, "/shop", headers, UNIX_EPOCH + NOW + Duration::from_secs(after))
    }

    fn told(rule: &Persistence, headers: &HeaderMap, by: &str) -> HeaderMap {
        let mut answer = HeaderMap::new();
        session(rule, headers, 0).answered(&uid(by), &mut answer);
        answer
    }

    fn text(headers: &HeaderMap, name: &str) -> String {
        headers[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_token_says_neither_name_nor_address_and_is_read_back() {
        let token = Token { mark: Mark::new(&uid("web-0")), began: 7 };
        let text = token.text();
        assert_eq!((text.len(), Token::parse(&text)), (28, Some(token)));
        assert!(!text.contains("web"));
        for broken in ["", "AAAA", &text.replace(text.get(..1).unwrap(), "!"), &format!("B{}", &text[1..])] {
            assert_eq!(Token::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_client_is_told_once_and_comes_back_to_the_same_endpoint() {
        for carrier in [Carrier::SessionCookie, Carrier::PermanentCookie, Carrier::Header] {
            let rule = rule(carrier, Some(60));
            let first = told(&rule, &HeaderMap::new(), "web-0");
            let mut request = HeaderMap::new();
            if carrier == Carrier::Header {
                request.insert("sid", first["sid"].clone());
            } else {
                let line = text(&first, "set-cookie");
                assert_eq!(line.contains("Max-Age=60"), carrier == Carrier::PermanentCookie, "{line}");
                assert!(line.contains("; Path=/shop; HttpOnly"), "{line}");
                let pair = line.split(';').next().unwrap();
                request.insert("cookie", HeaderValue::from_str(&format!("a=b; {pair}; c=d")).unwrap());
            }
            let back = session(&rule, &request, 59);
            assert_eq!(back.mark(), Some(Mark::new(&uid("web-0"))));
            assert!(told(&rule, &request, "web-0").is_empty(), "nothing new");
            assert_eq!(told(&rule, &request, "web-1").len(), 1, "another endpoint");
            assert_eq!(session(&rule, &request, 60).mark(), None, "its time is over");
            back.hide(&mut request);
            assert!(!request.contains_key("sid"));
            assert_eq!(
                request.get("cookie").map(|_| text(&request, "cookie")),
                match carrier {
                    Carrier::Header => None,
                    Carrier::SessionCookie | Carrier::PermanentCookie => Some("a=b; c=d".to_owned()),
                }
            );
        }
    }
}
