// SPDX-License-Identifier: Apache-2.0
//! A small HTTP server (1.1 and 2) for people, probes and scrapers: a table of method and path, whole bodies, a bound on
//! everything. It is not for the traffic of the mesh.

pub mod respond;
mod serve;

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::mpsc;

pub use serve::{connection, serve};

/// A whole answer.
pub type Response = http::Response<Bytes>;

/// An answer that goes on until its sender is dropped. Whoever sends must not wait for a reader for ever.
#[derive(Debug)]
pub struct Streamed {
    /// Its content type.
    pub content_type: &'static str,
    /// Its pieces.
    pub pieces: mpsc::Receiver<Bytes>,
}

/// What a route answers.
#[derive(Debug)]
enum Reply {
    Whole(Response),
    Streamed(Streamed),
}

type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A whole question.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// What stood in the place of the `*` of the route's path; empty without one.
    pub rest: String,
    /// The query: decoded pairs, the last one wins.
    pub query: BTreeMap<String, String>,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

/// Longest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Which function answers what; cheap to clone.
#[derive(Clone, Default)]
pub struct Router {
    routes: Arc<Vec<Route>>,
}

#[derive(Clone)]
struct Route {
    method: Method,
    path: &'static str,
    answer: Arc<dyn Fn(Request) -> Answer + Send + Sync>,
}

impl Router {
    /// One that answers 404 to everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route. A path that ends in `/*` takes everything below it, and [`Request::rest`] has it. The first route
    /// that fits answers; GET answers HEAD too.
    #[must_use]
    pub fn route<H, F>(self, method: Method, path: &'static str, answer: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.push(method, path, move |request| {
            let whole = answer(request);
            Box::pin(async move { Reply::Whole(whole.await) })
        })
    }

    /// Adds a route whose answer has no length: it goes on as long as somebody sends, or is a whole one after all.
    #[must_use]
    pub fn stream<H, F>(self, method: Method, path: &'static str, answer: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Streamed, Box<Response>>> + Send + 'static,
    {
        self.push(method, path, move |request| {
            let streamed = answer(request);
            Box::pin(async move { streamed.await.map_or_else(|whole| Reply::Whole(*whole), Reply::Streamed) })
        })
    }

    fn push(
        mut self,
        method: Method,
        path: &'static str,
        answer: impl Fn(Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.routes).push(Route { method, path, answer: Arc::new(answer) });
        self
    }

    /// Answers one request, with all of what a stream says.
    pub async fn answer(&self, request: Request) -> Response {
        match self.reply(request).await {
            Reply::Whole(response) => response,
            Reply::Streamed(mut streamed) => {
                let mut whole = Vec::new();
                while let Some(piece) = streamed.pieces.recv().await {
                    whole.extend_from_slice(&piece);
                }
                respond::with_type(StatusCode::OK, streamed.content_type, whole)
            }
        }
    }

    async fn reply(&self, mut request: Request) -> Reply {
        let wanted = if request.method == Method::HEAD { Method::GET } else { request.method.clone() };
        let mut allowed = Vec::new();
        for route in self.routes.iter() {
            let Some(rest) = route.rest_of(&request.path) else { continue };
            if route.method == wanted {
                request.rest = rest.to_owned();
                return (route.answer)(request).await;
            }
            allowed.push(route.method.as_str());
        }
        if allowed.is_empty() {
            return Reply::Whole(respond::text(StatusCode::NOT_FOUND, "not found\n"));
        }
        let mut response = respond::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        Reply::Whole(response)
    }
}

impl Route {
    fn rest_of<'path>(&self, path: &'path str) -> Option<&'path str> {
        match self.path.strip_suffix('*') {
            Some(prefix) => path.strip_prefix(prefix).filter(|rest| !rest.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| (&route.method, route.path))).finish()
    }
}

#[cfg(test)]
mod tests;
