// SPDX-License-Identifier: Apache-2.0
//! What a Telemetry changes about a waypoint's access log and metrics: which requests have a line, what labels say, which
//! metrics are counted, and that nobody makes series without end.

use std::sync::atomic::{AtomicU32, Ordering};

use ::http::{Request, Response, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use lab::{echo, eventually, http};
use tokio::time::timeout;

use crate::{
    scene::{SOON, Scenario, Scene, scenarios},
    waypoint::Behind,
};

/// What a metric may have of values that expressions come to.
const BOUND: usize = 1000;
const REQUESTS: &str = "istio_requests_total";

pub(crate) fn all() -> Vec<Scenario> {
    let all = scenarios![
        a_filter_says_which_requests_have_a_line,
        labels_say_what_a_telemetry_asks_for,
        nobody_makes_series_without_end,
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
