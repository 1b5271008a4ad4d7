// SPDX-License-Identifier: Apache-2.0
//! One HTTP request, as a person would send it with curl, and where URLs lead to.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::Full;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Sends one request and prints the status and the body; fails when the status is no 2xx.
#[derive(Args)]
pub(crate) struct Call {
    /// `http://host[:port]/path`.
    url: Uri,
    /// `name: value`, any number of times.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Sent as POST.
    #[arg(long)]
    body: Option<String>,
    /// Longest time for all of it.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

impl Call {
    pub(crate) async fn run(self) -> Result<()> {
        let limit = Duration::from_millis(self.timeout_ms);
        let mut request = request(&self.url, self.body.as_deref())?;
        for header in &self.headers {
            let (name, value) = header.split_once(':').with_context(|| format!("{header:?} is no header"))?;
            request
                .headers_mut()
                .insert(name.trim().parse::<HeaderName>()?, HeaderValue::from_str(value.trim())?);
        }
        let answer = timeout(limit, async {
            let address = locate(&self.url).await?;
            let stream =
                TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
            lab::http::exchange(stream, request).await
        })
        .await
        .with_context(|| format!("no answer within {limit:?}"))??;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", answer.status())?;
        out.write_all(answer.body())?;
        writeln!(out)?;
        ensure!(answer.status().is_success(), "the answer is no success");
        Ok(())
    }
}

/// A request for `url`: GET, or POST with `body`.
pub(crate) fn request(url: &Uri, body: Option<&str>) -> Result<Request<Full<Bytes>>> {
    let host = url.authority().context("the URL names no host")?.as_str();
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = Full::from(body.unwrap_or_default().to_owned());
    Ok(Request::builder().method(method).uri(path).header("host", host).body(body)?)
}

/// The address that the system's resolver has for `url`'s host, the first one.
pub(crate) async fn locate(url: &Uri) -> Result<SocketAddr> {
    let host = url.host().context("the URL names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(80);
    let mut found = lookup_host((host, port)).await.with_context(|| format!("no address of {host}"))?;
    let Some(address) = found.next() else { bail!("no address of {host}") };
    Ok(address)
}
