// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1.1 exchange over a stream that the caller has connected: what the lab needs to talk to the admin,
//! metrics and agent endpoints. No pool, no redirects, no TLS.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Longest answer that is read: a `config_dump` of a large mesh.
const LONGEST_ANSWER: usize = 512 << 20;
/// Longest time for one exchange, the connection included.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends `request` over `stream` and reads the whole answer.
///
/// # Errors
/// When the peer does not speak HTTP/1.1 or closes too early.
pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("starting HTTP")?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.context("sending a request")?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| anyhow!(error))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        ended = connection => {
            ended.context("the connection broke")?;
            Err(anyhow!("the connection closed before the answer"))
        }
    }
}

/// `GET path` over TCP from the calling thread's namespace; the body of a 200.
///
/// # Errors
/// When it takes longer than 30 s, fails, or the status is not 200.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let body = timeout(DEADLINE, async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        get_over(stream, &address.to_string(), path).await
    });
    body.await.with_context(|| format!("GET {address}{path}"))?
}

/// `GET path` over a stream that is connected already; the body of a 200.
///
/// # Errors
/// When it takes longer than 30 s, fails, or the status is not 200.
pub async fn get_over<S>(stream: S, host: &str, path: &str) -> Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(path).header("host", host).body(Full::default())?;
    let answer =
        timeout(DEADLINE, exchange(stream, request)).await.with_context(|| format!("GET {host}{path}"))??;
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    ensure!(answer.status() == StatusCode::OK, "GET {host}{path}: {}: {body}", answer.status());
    Ok(body)
}

/// Any method over a unix socket with an optional JSON body; status and body.
///
/// # Errors
/// When it takes longer than 30 s or fails; a status is no error.
pub async fn over_unix(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<(StatusCode, String)> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    let mut bytes = Bytes::new();
    if let Some(body) = body {
        request = request.header("content-type", "application/json");
        bytes = Bytes::from(body.to_string());
    }
    let request = request.body(Full::new(bytes))?;
    let answer = timeout(DEADLINE, async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connecting to {}", socket.display()))?;
        exchange(stream, request).await
    })
    .await
    .with_context(|| format!("{method} {path} at {}", socket.display()))??;
    Ok((answer.status(), String::from_utf8_lossy(answer.body()).into_owned()))
}
