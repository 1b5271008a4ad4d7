// SPDX-License-Identifier: Apache-2.0
//! A request to one endpoint: over a connection from the pools or a new one, HTTP/1.1 by hyper, HTTP/2 by `h2`. Which
//! endpoint, and whether to try another, is decided elsewhere; what is said here is whether anything was sent.

use std::{pin::pin, sync::Arc, task::Poll};

use ::proxy::{chain, dialling::Origin};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response, Uri, Version, header::HOST, request, uri::Scheme};
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use plan::{Failure, Fault, What, outbound::Hop};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    body::{self, Body},
    dial::{Wired, dial},
    endpoints::InFlight,
    expect, headers,
    link::Link,
    pools::{Http1, Http2, Key, Lease, Place, Wire},
    replay::Original,
    shard::Shard,
};

/// How often a pooled connection may turn out to be dead or full before the endpoint counts as failed.
const ROUNDS: usize = 4;
/// How often an endpoint may refuse a request that it has not looked at: by a connection that it is about to end, and by a
/// new one. Then another may have it.
const REFUSALS: usize = 2;
/// Of one stream: what is held of an answer whose receiver is slow.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
const SMALL_FRAMES: usize = 4 << 20;
/// Bytes of a connection's read buffer at most.
const BUFFER: usize = 128 * 1024;

/// What a request holds until its answer has ended.
#[derive(Debug, Default)]
pub struct Held {
    /// Its connection, or its place there.
    pub lease: Option<Lease>,
    /// Its place at the endpoint.
    pub in_flight: Option<InFlight>,
    /// Its room in this proxy.
    pub room: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// The answer has ended; `clean`: in order.
    pub fn give_back(self, clean: bool) {
        if let Some(lease) = self.lease {
            lease.give_back(clean);
        }
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub fault: Fault,
    /// The request, if nothing of it was sent.
    pub request: Option<Request<Body>>,
}

impl Refused {
    fn new(fault: Fault, request: Option<Request<Body>>) -> Box<Self> {
        Box::new(Self { fault, request })
    }
}

type Answered = Result<(Response<Body>, Lease), Box<Refused>>;

/// Sends a request to an endpoint; returns when the head of the answer is there.
///
/// # Errors
/// When there is no answer.
pub async fn send(
    shard: &Arc<Shard>,
    link: &Link,
    hop: &Hop,
    wire: Wire,
    request: Request<Body>,
) -> Answered {
    let to =
        To { shard, hop, origin: Origin { source: link.peer, trace: link.trace }, key: Key::new(hop, wire) };
    match wire {
        Wire::Http1 => to.http1(as_http1(request)).await,
        Wire::Http2 => {
            let scheme = if hop.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            to.http2(as_http2(request, scheme)).await
        }
    }
}

/// The target in the form that a server of HTTP/1 expects, the authority in `host`.
fn as_http1(mut request: Request<Body>) -> Request<Body> {
    *request.version_mut() = Version::HTTP_11;
    let uri = request.uri();
    if request.method() != http::Method::CONNECT {
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).parse::<Uri>();
        if let Some(Ok(value)) = uri.authority().map(|authority| authority.as_str().parse()) {
            request.headers_mut().insert(HOST, value);
        }
        if let Ok(path) = path {
            *request.uri_mut() = path;
        }
    }
    headers::join_cookies(request.headers_mut());
    headers::name_te(request.headers_mut());
    request
}

/// The target in its parts, as HTTP/2 sends it.
fn as_http2(mut request: Request<Body>, scheme: Scheme) -> Request<Body> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    if request.method() == http::Method::CONNECT {
        return request;
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(scheme);
    if parts.authority.is_none() {
        parts.authority = host.and_then(|host| host.to_str().ok()?.parse().ok());
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// One endpoint.
struct To<'a> {
    shard: &'a Arc<Shard>,
    hop: &'a Hop,
    origin: Origin,
    key: Key,
}

impl To<'_> {
    async fn http1(self, mut request: Request<Body>) -> Answered {
        let body = request.body();
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            headers::say_chunked(request.headers_mut());
        }
        for _round in 0..ROUNDS {
            let (mut sender, fresh) = match self.shard.http.take_idle(&self.key) {
                Some(sender) => (sender, false),
                None => match Box::pin(self.dial_http1()).await {
                    Ok(sender) => (sender, true),
                    Err(failure) => return Err(Refused::new(failure.into(), Some(request))),
                },
            };
            expect::wait(&mut request);
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let pools = self.shard.http.clone();
                    let lease = Lease::Http1 { pools, key: Box::new(self.key), sender };
                    return Ok((response.map(Body::http1), lease));
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    unsent => {
                        let fault = self.http1_fault(&failed.into_error(), unsent.is_some());
                        let fault = match fault {
                            Fault::Reset(cause) if !fresh => Fault::Rested(cause),
                            fault => fault,
                        };
                        return Err(Refused::new(fault, unsent));
                    }
                },
            }
        }
        Err(Refused::new(self.dead().into(), Some(request)))
    }

    fn http1_fault(&self, error: &hyper::Error, unsent: bool) -> Fault {
        let cause = chain(error).to_string();
        if unsent {
            return Failure::from(What::ConnectFailed { address: self.hop.address(), cause }).into();
        }
        if error.is_parse() || error.is_parse_status() { Fault::Protocol(cause) } else { Fault::Reset(cause) }
    }

    /// Connections that were there died one after the other.
    fn dead(&self) -> Failure {
        let cause = "its connections end as soon as they are used".to_owned();
        What::ConnectFailed { address: self.hop.address(), cause }.into()
    }

    async fn dial_http1(&self) -> Result<Http1, Failure> {
        let far = dial(self.shard, self.hop, self.origin, Some(self.key.wire)).await?;
        let bounds = &self.shard.waypoint.config.bounds;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder
            .max_headers(bounds.headers)
            .max_buf_size(BUFFER.max(bounds.header_bytes as usize * 2))
            .max_header_size(bounds.header_bytes as usize);
        let begun = builder.handshake(TokioIo::new(Wired(far))).await;
        let (mut sender, connection) = begun.map_err(|error| What::Io(chain(&error).to_string()))?;
        drop(self.shard.servers.spawn("http1", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %chain(&error), "a connection to a server failed");
            }
        }));
        sender.ready().await.map_err(|error| What::Io(chain(&error).to_string()))?;
        Ok(sender)
    }

    async fn http2(self, request: Request<Body>) -> Answered {
        let unseen = Unseen::new(request);
        let mut refusals = 0;
        for _round in 0..ROUNDS {
            let (requests, place) = match self.place().await {
                Ok(place) => place,
                Err(failure) => return Err(Refused::new(failure.into(), unseen.back())),
            };
            let Ok(mut requests) = requests.ready().await else {
                self.shard.http.retire(&self.key, &place);
                continue;
            };
            let body = unseen.body();
            let Ok((answer, stream)) = requests.send_request(unseen.message(), body.is_none()) else {
                self.shard.http.retire(&self.key, &place);
                continue;
            };
            match self.exchange(answer, body.map(|body| (body, stream))).await {
                Ok(response) => {
                    unseen.answered();
                    return Ok((response, Lease::Http2(place)));
                }
                Err(error) if is_unprocessed(&error) && unseen.is_whole() => {
                    self.shard.http.retire(&self.key, &place);
                    refusals += 1;
                    if refusals == REFUSALS {
                        let cause = format!("it takes no request: {}", chain(&error));
                        let failure = What::ConnectFailed { address: self.hop.address(), cause };
                        return Err(Refused::new(Failure::from(failure).into(), unseen.back()));
                    }
                }
                Err(error) => return Err(Refused::new(http2_fault(&error), None)),
            }
        }
        Err(Refused::new(self.dead().into(), unseen.back()))
    }

    /// Waits for the answer while the body is sent. What is left of the body then goes on by itself: an answer whose
    /// receiver is slow must not hold it up.
    async fn exchange(
        &self,
        answer: h2::client::ResponseFuture,
        sending: Option<(Body, h2::SendStream<Bytes>)>,
    ) -> Result<Response<Body>, h2::Error> {
        let response = match sending {
            None => answer.await?,
            Some((body, mut stream)) => {
                let mut sending = Box::pin(async move { body::send(body, &mut stream).await });
                let mut answer = pin!(answer);
                let mut sent = None;
                let response = std::future::poll_fn(|cx| {
                    if sent.is_none()
                        && let Poll::Ready(outcome) = sending.as_mut().poll(cx)
                    {
                        sent = Some(outcome);
                    }
                    answer.as_mut().poll(cx)
                })
                .await?;
                match sent {
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::debug!(error = %chain(&error), "a request was cut short"),
                    None => drop(self.shard.tasks.spawn("request body", async move {
                        if let Err(error) = sending.await {
                            tracing::debug!(error = %chain(&error), "a request was cut short");
                        }
                    })),
                }
                response
            }
        };
        let (head, body) = response.into_parts();
        let body = Body::http2(body, &head.headers);
        Ok(Response::from_parts(head, body))
    }

    /// A place on a connection; one request dials, the others wait for it.
    async fn place(&self) -> Result<(Http2, Place), Failure> {
        let pools = &self.shard.http;
        if let Some(found) = pools.take_place(&self.key) {
            return Ok(found);
        }
        let turn = pools.turn(&self.key);
        let _mine = turn.lock().await;
        if let Some(found) = pools.take_place(&self.key) {
            return Ok(found);
        }
        let requests = Box::pin(self.dial_http2()).await?;
        Ok(pools.share(&self.key, requests))
    }

    async fn dial_http2(&self) -> Result<Http2, Failure> {
        let far = dial(self.shard, self.hop, self.origin, Some(self.key.wire)).await?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(self.shard.waypoint.config.bounds.header_bytes)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .data_frame_budget(SMALL_FRAMES)
            .enable_push(false);
        let begun = builder.handshake(Wired(far)).await;
        let (requests, connection) = begun.map_err(|error| What::Http2(chain(&error).to_string()))?;
        drop(self.shard.servers.spawn("http2", async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %chain(&error), "a connection to a server failed");
            }
        }));
        Ok(requests)
    }
}

/// A request that no server has looked at, kept to be sent again until one has.
struct Unseen {
    head: request::Parts,
    /// None: it has none.
    body: Option<Original>,
}

impl Unseen {
    fn new(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body: (!body.is_end_stream()).then(|| body.into_original()) }
    }

    /// What `h2` is told of it; it keeps nothing of what it was told.
    fn message(&self) -> Request<()> {
        let mut message = Request::new(());
        *message.method_mut() = self.head.method.clone();
        *message.uri_mut() = self.head.uri.clone();
        *message.version_mut() = Version::HTTP_2;
        *message.headers_mut() = self.head.headers.clone();
        message
    }

    fn body(&self) -> Option<Body> {
        self.body.as_ref().map(|body| Body::replay(body.copy()))
    }

    /// More may have been sent of it than was kept.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Original::is_whole)
    }

    fn answered(&self) {
        if let Some(body) = &self.body {
            body.answered();
        }
    }

    /// For whoever knows another server.
    fn back(self) -> Option<Request<Body>> {
        let body = self.body().unwrap_or_default();
        self.is_whole().then(|| Request::from_parts(self.head, body))
    }
}

/// The server did not look at it (RFC 9113 §6.8, §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

fn http2_fault(error: &h2::Error) -> Fault {
    let cause = chain(error).to_string();
    if error.is_remote() || error.is_io() { Fault::Reset(cause) } else { Fault::Protocol(cause) }
}
