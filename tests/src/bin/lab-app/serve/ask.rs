// SPDX-License-Identifier: Apache-2.0
//! A server that asks another one for what it is asked, as services do: `/ask/HOST/PATH`. It does what a mesh asks of an
//! application that wants to be seen in a trace: it copies headers, and knows nothing of what they say.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Response, StatusCode, Uri, header, request::Parts};
use http_body_util::Full;
use lab::http::exchange;
use tokio::{net::TcpStream, time::timeout};

use crate::call::{locate, request};

/// How paths begin that are asked of somebody else.
const PREFIX: &str = "/ask/";
/// Headers that carry a trace.
const CARRIED: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-request-id"];
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom a path asks for.
pub(super) fn whom(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX)
}

/// Asks, and answers what was answered; 502 when nothing was.
pub(super) async fn ask(head: &Parts, whom: &str) -> Response<Full<Bytes>> {
    match timeout(PATIENCE, forward(head, whom)).await.context("no answer in time").flatten() {
        Ok(answer) => answer,
        Err(error) => {
            let mut answer = Response::new(Full::from(format!("{error:#}")));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    }
}

async fn forward(head: &Parts, whom: &str) -> Result<Response<Full<Bytes>>> {
    let url: Uri = format!("http://{whom}").parse().with_context(|| format!("{whom} is no host"))?;
    let mut asked = request(&url, None)?;
    for name in CARRIED {
        if let Some(value) = head.headers.get(name) {
            asked.headers_mut().insert(name, value.clone());
        }
    }
    let stream =
        TcpStream::connect(locate(&url).await?).await.with_context(|| format!("connecting to {whom}"))?;
    let (answered, body) = exchange(stream, asked).await?.into_parts();
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = answered.status;
    if let Some(kind) = answered.headers.get(header::CONTENT_TYPE) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok(answer)
}
