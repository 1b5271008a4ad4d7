// SPDX-License-Identifier: Apache-2.0
//! What a waypoint and the ztunnels on both sides of it count and write of a request, and what a Telemetry changes about it:
//! which requests have a line, what labels say, which metrics are counted, and that nobody makes series without end.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use ::http::{Request, Response, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use lab::{Node, echo, eventually, http};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    scene::{SOON, Scenario, Scene, scenarios},
    waypoint::Behind,
};

/// What a metric may have of values that expressions come to.
const BOUND: usize = 1000;
const REQUESTS: &str = "istio_requests_total";
const OPENED: &str = "istio_tcp_connections_opened_total";
const BODY: &[u8] = &[b'x'; 3000];
/// Where servers in the mesh take tunnels.
const HBONE: u16 = 15008;

pub(crate) fn all() -> Vec<Scenario> {
    let all = scenarios![
        a_filter_says_which_requests_have_a_line,
        labels_say_what_a_telemetry_asks_for,
        nobody_makes_series_without_end,
        every_proxy_on_the_way_counts_its_part,
        a_line_in_json_has_the_route_the_policy_the_server_and_the_reason,
    ];
    let reason = "it is about a waypoint of ours";
    all.into_iter().map(|scenario| scenario.without_peer(reason)).collect()
}

fn telemetry(spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: all, namespace: NAMESPACE}}\n\
         spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate}}]\n{spec}"
    )
}

async fn ask(behind: &Behind, path: &str, fields: &[(&str, &str)]) -> Result<Response<Bytes>> {
    let request = Request::get(path).header(header::HOST, "server");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let stream = behind.client.connect(behind.target()).await?;
    timeout(SOON, http::exchange(stream, request.body(Full::default())?)).await.context("no answer")?
}

async fn a_filter_says_which_requests_have_a_line(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    ask(&behind, "/before", &[]).await?;
    behind.written(|access| access.field("path") == "/before").await?;
    let filter = "  accessLogging: [{filter: {expression: \"response.code >= 400 || request.headers['x-log'] == 'yes'\"}}]\n";
    scene.apply("telemetry", &telemetry(filter)).await?;
    let lines = |path: &str| {
        let log = behind.instance().map(|instance| instance.access_log()).unwrap_or_default();
        log.iter().filter(|access| access.field("path") == path).count()
    };
    // Lines come in the order in which requests end: the second of two is there, the first is not.
    let tries = AtomicU32::new(0);
    eventually(SOON, "the filter in force", async || {
        let tries = tries.fetch_add(1, Ordering::Relaxed);
        let (plain, asked) = (format!("/plain-{tries}"), format!("/asked-{tries}"));
        ask(&behind, &plain, &[]).await?;
        ask(&behind, &asked, &[("x-log", "yes")]).await?;
        behind.written(|access| access.field("path") == asked).await?;
        ensure!(lines(&plain) == 0, "{plain} is logged");
        Ok(())
    })
    .await?;
    for _ in 0..5 {
        ask(&behind, "/plain", &[("x-log", "no")]).await?;
    }
    let refused = ask(&behind, "/broken%00", &[]).await?;
    ensure!(refused.status() == StatusCode::BAD_REQUEST, "{refused:?}");
    let line = behind.written(|access| access.field("status") == "400").await?;
    ensure!(line.field("path") == "/broken%00", "{}", line.line);
    ensure!(lines("/plain") == 0, "requests are logged that are not to be");
    scene.withdraw("telemetry").await?;
    eventually(SOON, "all requests being logged again", async || {
        ask(&behind, "/after", &[]).await?;
        ensure!(lines("/after") > 0, "not yet");
        Ok(())
    })
    .await
}

async fn labels_say_what_a_telemetry_asks_for(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let spec = "\
\x20 metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides:
        who: {value: \"request.headers['x-user']\"}
        shop: {value: \"'corner'\"}
        request_protocol: {value: request.protocol}
        source_principal: {operation: REMOVE}
    - match: {metric: REQUEST_SIZE}
      disabled: true
";
    scene.apply("telemetry", &telemetry(spec)).await?;
    let instance = behind.instance()?;
    eventually(SOON, "the labels", async || {
        ask(&behind, "/", &[("x-user", "alice")]).await?;
        let metrics = instance.metrics().await?;
        ensure!(metrics.sum(REQUESTS, &[("who", "alice"), ("response_code", "200")]) > 0.0, "not yet");
        Ok(())
    })
    .await?;
    let before = instance.metrics().await?;
    for _ in 0..3 {
        ask(&behind, "/", &[]).await?;
    }
    let metrics = eventually(SOON, "requests of nobody", async || {
        let metrics = instance.metrics().await?;
        ensure!(metrics.sum(REQUESTS, &[("who", "unknown")]) == 3.0, "not all are counted");
        Ok(metrics)
    })
    .await?;
    let mut of_alice = metrics.with(REQUESTS, &[("who", "alice"), ("response_code", "200")]);
    let series = of_alice.next().context("it was there")?;
    ensure!(of_alice.next().is_none(), "one label set has two series: {metrics:?}");
    let label = |name: &str| series.labels.get(name).map(String::as_str);
    ensure!(label("shop") == Some("corner") && label("request_protocol") == Some("HTTP/1.1"), "{series:?}");
    ensure!(label("source_principal").is_none() && label("source_workload").is_some(), "{series:?}");
    // What is not named is as it was.
    let durations = "istio_request_duration_milliseconds_count";
    let other = metrics.with(durations, &[("reporter", "waypoint")]).next().context("no durations")?;
    let has = |name: &str| other.labels.contains_key(name);
    ensure!(has("source_principal") && !has("who"), "{other:?}");
    let sizes = "istio_request_bytes_count";
    ensure!(metrics.sum(sizes, &[]) == before.sum(sizes, &[]), "what is disabled is counted");
    scene.withdraw("telemetry").await?;
    eventually(SOON, "the sizes being counted again", async || {
        ask(&behind, "/", &[]).await?;
        ensure!(instance.metrics().await?.sum(sizes, &[]) > before.sum(sizes, &[]), "not yet");
        Ok(())
    })
    .await
}

async fn nobody_makes_series_without_end(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let spec = "\
\x20 metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {who: {value: \"request.headers['x-user']\"}}}]}]
";
    scene.apply("telemetry", &telemetry(spec)).await?;
    let instance = behind.instance()?;
    eventually(SOON, "the label", async || {
        ask(&behind, "/", &[("x-user", "0")]).await?;
        ensure!(
            instance.metrics().await?.sum(REQUESTS, &[("who", "0"), ("response_code", "200")]) > 0.0,
            "not yet"
        );
        Ok(())
    })
    .await?;
    for number in 1..BOUND + 5 {
        ask(&behind, "/", &[("x-user", &number.to_string())]).await?;
    }
    let metrics = eventually(SOON, "the bound", async || {
        let metrics = instance.metrics().await?;
        ensure!(metrics.sum(REQUESTS, &[("who", "other")]) == 5.0, "not all are counted");
        Ok(metrics)
    })
    .await?;
    let series = metrics.with(REQUESTS, &[]).filter(|sample| sample.labels.contains_key("who")).count();
    ensure!(series == BOUND + 1, "there are {series} series");
    let overflowed = metrics.sum("ambit_labels_overflowed_total", &[("metric", REQUESTS)]);
    ensure!(overflowed == 5.0, "{overflowed} are said to be beyond the bound");
    Ok(())
}

async fn every_proxy_on_the_way_counts_its_part(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let request = Request::post("/counted").header(header::HOST, "server").body(Full::from(BODY))?;
    let exchange = http::exchange(behind.client.connect(behind.target()).await?, request);
    let response = timeout(SOON, exchange).await.context("no answer")??;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    let answered = response.body().len() as f64;
    let (instance, namespace) = (behind.instance()?, scene.namespace());
    let gate = instance.pod.name();
    let of_request = [
        ("reporter", "waypoint"),
        ("source_workload", "client"),
        ("destination_workload", "server"),
        ("destination_service_name", "server"),
    ];
    eventually(SOON, "what the waypoint counts", async || {
        let metrics = instance.metrics().await?;
        for (name, expected) in [
            (REQUESTS, 1.0),
            ("istio_request_bytes_count", 1.0),
            ("istio_request_bytes_sum", BODY.len() as f64),
            ("istio_response_bytes_count", 1.0),
            ("istio_response_bytes_sum", answered),
        ] {
            let counted = metrics.sum(name, &of_request);
            ensure!(counted == expected, "{name} is {counted} instead of {expected}");
        }
        Ok(())
    })
    .await?;
    // To the server the client's part is the waypoint's.
    let asked = [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("source_workload_namespace", namespace),
        ("destination_workload", gate.as_str()),
        ("destination_service_name", "server"),
    ];
    carried(&scene.node("a"), &asked, &behind.waypoint.identity(), answered).await?;
    // Its connection rests for the next request: what it carried is counted when it ends.
    instance.process.kill()?;
    let passed_on = [
        ("reporter", "destination"),
        ("source_workload", gate.as_str()),
        ("source_workload_namespace", namespace),
        ("destination_workload", "server"),
        ("destination_service_name", "server"),
    ];
    carried(&scene.node("b"), &passed_on, &behind.server.identity(), answered).await?;
    none_came_past(&scene).await
}

/// No ztunnel counts a connection between client and server themselves.
async fn none_came_past(scene: &Scene) -> Result<()> {
    for (node, other) in [("a", "server"), ("b", "client")] {
        let metrics = scene.node(node).metrics().await?;
        let ends = ["source_workload", "destination_workload"];
        let here = [("source_workload_namespace", scene.namespace())];
        let past = metrics
            .with(OPENED, &here)
            .filter(|sample| ends.iter().any(|end| sample.labels[*end] == other))
            .count();
        ensure!(past == 0, "node {node} counts connections past the waypoint");
    }
    Ok(())
}

/// Waits until a ztunnel counts one connection with these labels that has ended, to this identity, and more bytes than
/// the bodies of the request and of its answer have.
async fn carried(node: &Node, labels: &[(&str, &str)], to: &str, answered: f64) -> Result<()> {
    let labels = [labels, &[("destination_principal", to)]].concat();
    eventually(SOON, &format!("what the ztunnel of node {} counts", node.name()), async || {
        let metrics = node.metrics().await?;
        let sum = |name: &str| metrics.sum(name, &labels);
        let (opened, closed) = (sum(OPENED), sum("istio_tcp_connections_closed_total"));
        ensure!(opened == 1.0 && closed == 1.0, "{opened} opened, {closed} closed with {labels:?}");
        let (received, sent) = (sum("istio_tcp_received_bytes_total"), sum("istio_tcp_sent_bytes_total"));
        ensure!(received > BODY.len() as f64 && sent > answered, "{received} received, {sent} sent");
        Ok(())
    })
    .await
}

/// Who may ask, and a server that is too slow for its route.
const TOO_SLOW: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hasty, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules: [{name: all, timeouts: {request: 200ms}, backendRefs: [{name: slow, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: askers, namespace: NAMESPACE}
spec:
  targetRefs: [{group: '', kind: Service, name: server}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

async fn a_line_in_json_has_the_route_the_policy_the_server_and_the_reason(scene: Scene) -> Result<()> {
    let waypoint = scene.waypoint("b", "gate").variable("LOG_FORMAT", "json");
    let behind = Behind::with(&scene, waypoint, echo::HTTP, "http").await?;
    let slow = scene.captured("b", "slow").await?;
    // Longer than anybody here waits.
    slow.serve_with(&["--delay-ms=60000"]).await?;
    scene.create(scene.service("slow").declared(80, echo::HTTP, "http")).await?;
    scene.apply("slow", TOO_SLOW).await?;
    let response = ask(&behind, "/late", &[]).await?;
    ensure!(response.status() == StatusCode::GATEWAY_TIMEOUT, "{response:?}");
    let process = &behind.instance()?.process;
    let line = eventually(SOON, "a line of the request", async || {
        let log = process.log();
        let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let of_it = |line: &Value| line["target"] == "access" && line["path"] == "/late";
        lines.into_iter().find(of_it).context("not written yet")
    })
    .await?;
    let namespace = scene.namespace();
    for (name, expected) in [
        ("message", json!("request complete")),
        ("src.identity", json!(behind.client.identity())),
        ("dst.workload", json!("slow")),
        ("dst.addr", json!(SocketAddr::new(slow.v4(), HBONE))),
        ("route", json!(format!("HTTPRoute/{namespace}/hasty/all"))),
        ("policy", json!(format!("{namespace}/askers"))),
        ("status", json!(504)),
        ("flags", json!("UT")),
        ("error", json!("no answer within 200ms")),
    ] {
        ensure!(line[name] == expected, "{name} is not {expected}: {line}");
    }
    Ok(())
}
