// SPDX-License-Identifier: Apache-2.0
//! Requests of a waypoint in one process, and what collectors get of them: a server of Zipkin's HTTP and one of OTLP.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use mesh::{
    Change,
    service::AppProtocol,
    telemetry::{Logging, Scope, Share, Tag, Telemetry, Tracing},
};
use proto::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, Span as Message, SpanKind,
    any_value::Value as Said,
    trace_service_server::{TraceService, TraceServiceServer},
};
use runtime::Tasks;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};
use tonic::service::Routes;

use crate::testing::{self, Bench, SOON, Wire, answer};

const TRACE: &str = "0123456789abcdef0123456789abcdef";

/// Says what it was told of the trace.
fn telling() -> testing::Answer {
    answer(|request| {
        let mut response = Response::new(Full::default());
        for name in ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-sampled", "x-request-id"] {
            if let Some(value) = request.headers().get(name) {
                response.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
            }
        }
        response
    })
}

/// A collector of Zipkin's form, and what it gets.
async fn zipkin(tasks: &Tasks) -> (String, mpsc::Receiver<Vec<Value>>) {
    let (sender, received) = mpsc::channel(64);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taking = answer(move |request| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/api/v2/spans"));
        let spans: Vec<Value> = serde_json::from_slice(request.body()).unwrap();
        sender.try_send(spans).unwrap();
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::ACCEPTED;
        response
    });
    testing::serve(tasks, listener, Wire::Http1, taking);
    (format!("http://{address}/api/v2/spans"), received)
}

async fn spans(received: &mut mpsc::Receiver<Vec<Value>>, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let more = tokio::time::timeout(SOON, received.recv()).await;
        all.extend(more.unwrap_or_else(|_late| panic!("{count} spans, only {all:?}")).unwrap());
    }
    all
}

fn get(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::get("/a?b").header("host", "web");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default()).unwrap()
}

fn parent(headers: &HeaderMap) -> (String, String, bool) {
    let text = headers["traceparent"].to_str().unwrap();
    let fields: Vec<_> = text.split('-').collect();
    (fields[1].to_owned(), fields[2].to_owned(), fields[3] == "01")
}

async fn bench(endpoint: &str, sampling: &str) -> Bench {
    let variables = [("OTEL_EXPORTER_ZIPKIN_ENDPOINT", endpoint), ("AMBIT_TRACE_SAMPLING", sampling)];
    let mut bench = Bench::new(AppProtocol::Http11, &variables);
    bench.server("one", AppProtocol::Http11, Wire::Http1, telling()).await;
    bench
}

#[tokio::test]
async fn a_request_and_its_sending_are_two_spans_of_the_callers_trace() {
    let tasks = Tasks::new();
    let (endpoint, mut received) = zipkin(&tasks).await;
    let bench = bench(&endpoint, "0").await;
    let caller = format!("00-{TRACE}-00000000000000aa-01");
    let response =
        bench.ask(get(&[("traceparent", &caller), ("tracestate", "x=y"), ("user-agent", "me")])).await;
    let (trace, span, sampled) = parent(response.headers());
    assert_eq!((trace.as_str(), sampled), (TRACE, true));
    assert_eq!(response.headers()["tracestate"], "x=y");
    let all = spans(&mut received, 2).await;
    let of = |kind: &str| all.iter().find(|span| span["kind"] == kind).unwrap();
    let (server, client) = (of("SERVER"), of("CLIENT"));
    assert_eq!(server["parentId"], "00000000000000aa");
    assert_eq!((&client["parentId"], &client["id"]), (&server["id"], &Value::from(span)));
    assert!(all.iter().all(|span| span["traceId"] == TRACE));
    assert_eq!(server["name"], "web.shop.svc.cluster.local:80/*");
    assert_eq!(server["localEndpoint"]["serviceName"], "gate.shop");
    let tags = &server["tags"];
    for (name, value) in [
        ("http.url", "http://web/a?b"),
        ("http.method", "GET"),
        ("http.status_code", "200"),
        ("user_agent", "me"),
        ("response_flags", "-"),
        ("istio.destination_workload", "one"),
    ] {
        assert_eq!(tags[name], value, "{name} of {tags}");
    }
    assert_eq!(tags["guid:x-request-id"], response.headers()["x-request-id"].to_str().unwrap());
    assert_eq!(client["tags"]["istio.destination_workload"], "one");
}

#[tokio::test]
async fn a_caller_decides_what_is_sampled_and_everybody_after_it_is_told() {
    let tasks = Tasks::new();
    let (endpoint, mut received) = zipkin(&tasks).await;
    let never = bench(&endpoint, "0").await;
    let (_, _, sampled) = parent(never.ask(get(&[])).await.headers());
    assert!(!sampled, "by chance of none");
    let always = bench(&endpoint, "100").await;
    let unsampled = format!("00-{TRACE}-00000000000000aa-00");
    let told = always.ask(get(&[("traceparent", &unsampled)])).await;
    assert_eq!((parent(told.headers()).0.as_str(), parent(told.headers()).2), (TRACE, false));
    let (trace, _, sampled) = parent(always.ask(get(&[])).await.headers());
    assert!(sampled, "by chance of all");
    let all = spans(&mut received, 2).await;
    assert!(all.iter().all(|span| span["traceId"] == trace), "one request was sampled: {all:?}");
}

#[tokio::test]
async fn b3_is_answered_in_its_own_form() {
    let tasks = Tasks::new();
    let (endpoint, mut received) = zipkin(&tasks).await;
    let bench = bench(&endpoint, "0").await;
    let single = format!("{TRACE}-00000000000000aa-1");
    let response = bench.ask(get(&[("b3", &single)])).await;
    let (trace, span, _) = parent(response.headers());
    assert_eq!(trace, TRACE);
    assert!(response.headers()["b3"].to_str().unwrap().starts_with(&format!("{TRACE}-{span}-1-")));
    assert!(!response.headers().contains_key("x-b3-traceid"));
    let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", "00000000000000aa"), ("x-b3-sampled", "1")];
    let response = bench.ask(get(&multi)).await;
    assert_eq!(
        (&response.headers()["x-b3-traceid"], &response.headers()["x-b3-sampled"]),
        (&TRACE.parse().unwrap(), &"1".parse().unwrap())
    );
    assert!(spans(&mut received, 4).await.iter().all(|span| span["traceId"] == TRACE));
}

#[tokio::test]
async fn without_a_collector_a_trace_passes_untouched() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    bench.server("one", AppProtocol::Http11, Wire::Http1, telling()).await;
    let caller = format!("00-{TRACE}-00000000000000aa-01");
    let response = bench.ask(get(&[("traceparent", &caller), ("x-request-id", "mine")])).await;
    assert_eq!(response.headers()["traceparent"], caller);
    assert_eq!(response.headers()["x-request-id"], "mine");
    let response = bench.ask(get(&[])).await;
    assert!(!response.headers().contains_key("traceparent"));
    assert_eq!(response.headers()["x-request-id"].len(), 36);
}

/// A port that is taken, so that no other test gets it, and on which nobody listens.
fn silent() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_nobody() {
    let taken = silent();
    let gone = taken.local_addr().unwrap();
    let bench = bench(&format!("http://{gone}"), "100").await;
    let started = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(bench.ask(get(&[])).await.status(), StatusCode::OK);
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_failed_sending_has_a_span_of_its_own() {
    let tasks = Tasks::new();
    let (endpoint, mut received) = zipkin(&tasks).await;
    let variables = [("OTEL_EXPORTER_ZIPKIN_ENDPOINT", endpoint.as_str()), ("AMBIT_TRACE_SAMPLING", "100")];
    let mut bench = Bench::new(AppProtocol::Http11, &variables);
    let taken = silent();
    let gone = taken.local_addr().unwrap();
    bench.endpoint("one", "web", AppProtocol::Http11, gone.port());
    assert_eq!(bench.ask(get(&[])).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let all = spans(&mut received, 2).await;
    let failed: Vec<_> = all.iter().filter(|span| span["kind"] == "CLIENT").collect();
    assert!(
        !failed.is_empty() && failed.iter().all(|span| span["tags"]["response_flags"] == "UF"),
        "{all:?}"
    );
    let server = all.iter().find(|span| span["kind"] == "SERVER").unwrap();
    assert_eq!(
        (&server["tags"]["http.status_code"], server["tags"]["error"].is_string()),
        (&"503".into(), true)
    );
}

#[tokio::test]
async fn a_telemetry_changes_live_what_is_sampled_and_said() {
    let tasks = Tasks::new();
    let (endpoint, mut received) = zipkin(&tasks).await;
    let mut bench = bench(&endpoint, "0").await;
    bench.ask(get(&[])).await;
    let telemetry = |scope, percent| Telemetry {
        name: "shop/all".parse().unwrap(),
        created: 0,
        scope,
        tracing: Tracing {
            share: Share::percent(percent),
            tags: [
                ("kind".into(), Tag::Literal("test".into())),
                (
                    "who".into(),
                    Tag::Header { name: http::HeaderName::from_static("x-who"), otherwise: "nobody".into() },
                ),
            ]
            .into(),
            ..Tracing::default()
        },
        logging: Logging::default(),
        metrics: BTreeMap::new(),
    };
    let change = |bench: &mut Bench, telemetry| {
        bench.writer.apply([Change::Telemetry(telemetry)]);
        bench.shard.waypoint.observed.forget();
    };
    change(&mut bench, telemetry(Scope::Namespace, 100.0));
    let response = bench.ask(get(&[("x-who", "me")])).await;
    let all = spans(&mut received, 2).await;
    assert!(all.iter().all(|span| span["traceId"] == parent(response.headers()).0));
    let server = all.iter().find(|span| span["kind"] == "SERVER").unwrap();
    assert_eq!((&server["tags"]["kind"], &server["tags"]["who"]), (&"test".into(), &"me".into()));
    change(&mut bench, telemetry(Scope::Waypoints(vec!["another".into()]), 100.0));
    assert!(!parent(bench.ask(get(&[])).await.headers()).2, "it is for another waypoint");
}

/// A collector of OTLP.
struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.try_send(request.into_inner()).unwrap();
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn a_collector_of_otlp_gets_the_same() {
    let (sender, mut received) = mpsc::channel(64);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let tasks = Tasks::new();
    let routes = Routes::new(TraceServiceServer::new(Collector(sender)));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    drop(tasks.spawn("collector", async move {
        let served =
            tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await;
        served.unwrap_or_default();
    }));
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("AMBIT_TRACE_SAMPLING", "100")];
    let mut bench = Bench::new(AppProtocol::Http11, &variables);
    bench.server("one", AppProtocol::Http11, Wire::Http1, telling()).await;
    let response = bench.ask(get(&[])).await;
    let request = tokio::time::timeout(SOON, received.recv()).await.unwrap().unwrap();
    let [of] = &request.resource_spans[..] else { panic!("{request:?}") };
    let spans: Vec<&Message> = of.scope_spans.iter().flat_map(|scope| &scope.spans).collect();
    assert_eq!(spans.len(), 2);
    let trace = u128::from_str_radix(&parent(response.headers()).0, 16).unwrap().to_be_bytes();
    assert!(spans.iter().all(|span| *span.trace_id == trace && span.span_id.len() == 8));
    let kind = |kind: SpanKind| *spans.iter().find(|span| span.kind == i32::from(kind)).unwrap();
    let (server, client) = (kind(SpanKind::Server), kind(SpanKind::Client));
    assert!(server.parent_span_id.is_empty() && client.parent_span_id == server.span_id);
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    let name =
        of.resource.as_ref().unwrap().attributes.iter().find(|pair| pair.key == "service.name").unwrap();
    let value = name.value.as_ref().and_then(|value| value.value.clone());
    assert_eq!(value, Some(Said::StringValue("gate.shop".into())));
    drop(Arc::new(bench));
}
