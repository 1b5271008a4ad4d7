// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1.1 request over the agent's unix socket, its answer whole and bounded. Whatever is not a whole answer
//! counts as an agent that is away.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

/// The agent answers within less: it waits for ztunnel and for the API server, each with a deadline of its own.
const PATIENCE: Duration = Duration::from_secs(40);
const MAX_ANSWER: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
}

/// What came of a question.
#[derive(Debug)]
pub(super) enum Reply {
    /// Its words.
    Answer { status: u16, body: Value },
    /// Nobody answers; why, and where.
    Away { error: io::Error, socket: PathBuf },
}

impl Agent {
    pub(super) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Reply {
        match self.exchange(path, &body.to_string()) {
            Ok((status, body)) => Reply::Answer { status, body },
            Err(error) => Reply::Away { error, socket: self.socket.clone() },
        }
    }

    fn exchange(&self, path: &str, body: &str) -> io::Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        parse(&answer).ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "half an answer"))
    }
}

/// Status and body of a whole answer.
fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: Vec<usize> = length.filter_map(|(_, value)| value.trim().parse().ok()).collect();
    if length != [body.len()] {
        return None;
    }
    let json = serde_json::from_str(body).unwrap_or_else(|_text| Value::String(body.trim().to_owned()));
    Some((status, json))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_whole_answer_is_an_answer() {
        let answer =
            |body: &str| format!("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 13\r\n\r\n{body}");
        for (text, expected) in [
            (answer("{\"error\": \"\"}"), Some((503, json!({"error": ""})))),
            (answer("not json at.."), Some((503, json!("not json at..")))),
            (answer("{\"error\": \""), None),
            (String::new(), None),
            ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), None),
            ("garbage\r\n\r\n".to_owned(), None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(parse(&[0xff, 0xfe]), None);
    }
}
