// SPDX-License-Identifier: Apache-2.0
//! What the parts of a rule do to real requests: edits of heads, redirects, rewrites, times, repetitions, CORS, copies.

use std::sync::Arc;

use ::http::{HeaderMap, Request, Response, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use lab::{
    echo::{self, Echo},
    eventually, http,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use super::Behind;
use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![each_part_of_a_rule_does_what_it_says]
}

/// Where the server listens that keeps a list of what it was asked.
const PORT: u16 = 7073;
/// Requests of which a part is copied.
const COPIED: usize = 200;

const RULES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: parts, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /headers}}]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier:
            set: [{name: x-set, value: ours}]
            add: [{name: x-added, value: ours}]
            remove: [x-removed]
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-answer, value: edited}], remove: [content-type]}
      backendRefs: [{name: server, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /moved}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {scheme: https, hostname: new.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /there}}
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
      backendRefs: [{name: server, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /slow}}]
      timeouts: {request: 200ms}
      backendRefs: [{name: slow, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /fails-twice}}]
      retry: {codes: [503], attempts: 2, backoff: 1ms}
      backendRefs: [{name: other, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /fails-thrice}}]
      retry: {codes: [503], attempts: 2, backoff: 1ms}
      backendRefs: [{name: other, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /shared}}]
      filters:
        - type: CORS
          cors: {allowOrigins: ['https://shop.example'], allowMethods: [GET, PUT], allowHeaders: [x-one], allowCredentials: true, maxAge: 600}
      backendRefs: [{name: server, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /copied}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, percent: 30}}]
      backendRefs: [{name: server, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /copied/all}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}]
      backendRefs: [{name: server, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /copied/none}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, percent: 0}}]
      backendRefs: [{name: server, port: 80}]
    - backendRefs: [{name: server, port: 80}]
";

/// Methods and paths that a server was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

fn count(asked: &Asked, request: &str) -> usize {
    asked.lock().iter().filter(|seen| *seen == request).count()
}

/// Refuses the first two requests for `/fails-twice` and the first three for `/fails-thrice`.
async fn keeping(listener: TcpListener, asked: Asked) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        let asked = Arc::clone(&asked);
        let answer = service_fn(move |request: Request<Incoming>| {
            let seen = format!("{} {}", request.method(), request.uri().path());
            asked.lock().push(seen.clone());
            let refused = match request.uri().path() {
                "/fails-twice" => count(&asked, &seen) <= 2,
                "/fails-thrice" => count(&asked, &seen) <= 3,
                _ => false,
            };
            let status = if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            async move { Response::builder().status(status).body(Full::<Bytes>::default()) }
        });
        connections.spawn(async move {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            served.await.unwrap_or_default();
        });
    }
}

/// A request and what is to come of it.
struct Case {
    request: (&'static str, &'static str),
    fields: &'static [(&'static str, &'static str)],
    status: u16,
    /// Fields of the answer; an empty value: it has none of the name.
    answer: &'static [(&'static str, &'static str)],
    /// What the server sees: host and path; nothing where no server is asked.
    seen: Option<(&'static str, &'static str)>,
    /// Fields of the head that the server sees, in the same way.
    arrived: &'static [(&'static str, &'static str)],
}

const SHOP: (&str, &str) = ("origin", "https://shop.example");
const ORIGIN: &str = "access-control-allow-origin";

const PLAIN: Case = Case {
    request: ("GET", "/plain?a=b"),
    fields: &[],
    status: 200,
    answer: &[("content-type", "application/json"), ("x-answer", "")],
    seen: Some(("server", "/plain?a=b")),
    arrived: &[],
};

const CASES: [Case; 7] = [
    PLAIN,
    Case {
        request: ("GET", "/headers/edited"),
        fields: &[("x-set", "theirs"), ("x-added", "theirs"), ("x-removed", "theirs")],
        answer: &[("x-answer", "edited"), ("content-type", "")],
        seen: Some(("server", "/headers/edited")),
        arrived: &[("x-set", "ours"), ("x-removed", "")],
        ..PLAIN
    },
    Case {
        request: ("GET", "/moved/a?b=c"),
        status: 301,
        answer: &[("location", "https://new.example/there/a?b=c")],
        seen: None,
        ..PLAIN
    },
    Case {
        request: ("GET", "/old/a?b=c"),
        answer: &[],
        seen: Some(("inner.example", "/new/a?b=c")),
        ..PLAIN
    },
    Case {
        request: ("OPTIONS", "/shared/preflight"),
        fields: &[
            SHOP,
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one"),
        ],
        status: 204,
        answer: &[
            (ORIGIN, SHOP.1),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-one"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            ("vary", "Origin"),
        ],
        seen: None,
        ..PLAIN
    },
    Case {
        request: ("GET", "/shared/own"),
        fields: &[SHOP],
        answer: &[(ORIGIN, SHOP.1), ("vary", "Origin"), ("content-type", "application/json")],
        seen: Some(("server", "/shared/own")),
        ..PLAIN
    },
    Case {
        request: ("GET", "/shared/strange"),
        fields: &[("origin", "https://else.example")],
        answer: &[(ORIGIN, "")],
        seen: Some(("server", "/shared/strange")),
        ..PLAIN
    },
];

fn holds(headers: &HeaderMap, (name, expected): (&str, &str)) -> Result<()> {
    let got = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(got.eq_ignore_ascii_case(expected), "{name} is {got:?} instead of {expected:?}");
    Ok(())
}

impl Case {
    async fn check(&self, behind: &Behind) -> Result<()> {
        let (method, path) = self.request;
        let response = ask(behind, method, path, self.fields).await?;
        ensure!(response.status() == self.status, "{response:?}");
        for field in self.answer {
            holds(response.headers(), *field)?;
            let times = response.headers().get_all(field.0).iter().count();
            ensure!(times <= 1, "{} is there {times} times: {response:?}", field.0);
        }
        let Some((host, path)) = self.seen else {
            ensure!(response.body().is_empty(), "a server has answered: {response:?}");
            return Ok(());
        };
        let echo: Echo = serde_json::from_slice(response.body())?;
        ensure!(echo.host == host && echo.path == path, "{echo:?}");
        for (name, expected) in self.arrived {
            let got = echo.headers.get(*name).map_or("", String::as_str);
            ensure!(got == *expected, "{name} is {got:?} instead of {expected:?}");
        }
        Ok(())
    }
}

async fn ask(behind: &Behind, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Response<Bytes>> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, "server");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let exchange = http::exchange(behind.connect().await?, request.body(Full::default())?);
    timeout(SOON, exchange).await.context("no answer")?
}

async fn each_part_of_a_rule_does_what_it_says(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let (other, slow) = (scene.captured("b", "other").await?, scene.captured("b", "slow").await?);
    // Longer than anybody here waits.
    slow.serve_with(&["--delay-ms=60000"]).await?;
    let asked = Asked::default();
    let mut serving = JoinSet::new();
    serving.spawn(keeping(other.listen(PORT).await?, Arc::clone(&asked)));
    scene.create(scene.service("other").declared(80, PORT, "http")).await?;
    scene.create(scene.service("slow").declared(80, echo::HTTP, "http")).await?;
    scene.apply("parts", RULES).await?;
    for case in &CASES {
        case.check(&behind).await.with_context(|| case.request.1)?;
    }
    is_over_in_time(&behind).await.context("a time")?;
    is_sent_again(&behind, &asked).await.context("repetitions")?;
    is_copied(&behind, &asked).await.context("copies")
}

async fn is_over_in_time(behind: &Behind) -> Result<()> {
    let response = ask(behind, "GET", "/slow/a", &[]).await?;
    ensure!(response.status() == StatusCode::GATEWAY_TIMEOUT, "{response:?}");
    let line = behind.written(|access| access.field("path") == "/slow/a").await?;
    ensure!(line.field("status") == "504" && line.field("flags") == "UT", "{}", line.line);
    Ok(())
}

async fn is_sent_again(behind: &Behind, asked: &Asked) -> Result<()> {
    for (path, status) in [("/fails-twice", "200"), ("/fails-thrice", "503")] {
        let response = ask(behind, "GET", path, &[]).await?;
        ensure!(response.status().as_str() == status, "{path}: {response:?}");
        let times = count(asked, &format!("GET {path}"));
        ensure!(times == 3, "{path} was asked {times} times");
        let line = behind.written(|access| access.field("path") == path).await?;
        ensure!(line.field("attempts") == "3" && line.field("status") == status, "{}", line.line);
    }
    Ok(())
}

async fn is_copied(behind: &Behind, asked: &Asked) -> Result<()> {
    for _ in 0..COPIED {
        let response = ask(behind, "GET", "/copied", &[]).await?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
    }
    for path in ["/copied/none", "/copied/all"] {
        for _ in 0..10 {
            let response = ask(behind, "GET", path, &[]).await?;
            ensure!(response.status() == StatusCode::OK, "{path}: {response:?}");
        }
    }
    let instance = behind.instance()?;
    // The last ones sent were copied one and all: with them the earlier ones have come.
    eventually(SOON, "copies", async || {
        let (all, some) = (count(asked, "GET /copied/all"), count(asked, "GET /copied"));
        let metrics = instance.metrics().await?;
        let answered = metrics.sum("ambit_mirrored_requests_total", &[("outcome", "answered")]);
        ensure!(all == 10 && answered == (all + some) as f64, "{all} and {some} came, {answered} answered");
        // Six standard deviations about 60: one run in 500 million is outside by chance.
        ensure!((21..=99).contains(&some), "{some} of {COPIED} at 30%");
        Ok(())
    })
    .await?;
    let none = count(asked, "GET /copied/none");
    ensure!(none == 0, "{none} copies at 0%");
    Ok(())
}
