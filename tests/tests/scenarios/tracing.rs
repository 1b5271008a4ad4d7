// SPDX-License-Identifier: Apache-2.0
//! Traces in a real Zipkin and a real OpenTelemetry Collector, what a Telemetry changes, and what proxies say of requests:
//! `/explain` and `/tap`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ::http::{Request, header};
use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use lab::{
    Pod,
    cluster::Service,
    collectors::{self, OTLP, ZIPKIN},
    echo::{self, Echo},
    eventually, http,
};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    scene::{SOON, Scenario, Scene, scenarios},
    waypoint::Behind,
};

/// A batch is sent after a second, and Zipkin takes a moment to have it.
const SEEN: Duration = Duration::from_secs(20);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7";

pub(crate) fn all() -> Vec<Scenario> {
    let all = scenarios![
        one_trace_joins_two_services_in_zipkin,
        a_collector_has_the_spans_of_a_request_and_its_retry,
        a_caller_decides_what_is_sampled_and_a_telemetry_the_rest,
        proxies_explain_what_they_would_do,
        who_looks_sees_requests_as_they_end,
    ];
    let reason = "it is about our own ztunnel on both sides of a waypoint";
    all.into_iter().map(|scenario| scenario.without_peer(reason)).collect()
}

fn address(service: &Service) -> Result<SocketAddr> {
    Ok(SocketAddr::new(IpAddr::V4(service.addresses.context("no virtual address")?.v4), 80))
}

/// One request from a pod, with more headers; what the sample application saw of it.
async fn ask(client: &Pod, target: SocketAddr, fields: &[(&str, &str)]) -> Result<Echo> {
    ask_for("/headers", client, target, fields).await
}

async fn ask_for(path: &str, client: &Pod, target: SocketAddr, fields: &[(&str, &str)]) -> Result<Echo> {
    let request = Request::get(path).header(header::HOST, "server");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(Full::default())?;
    let stream = client.connect(target).await?;
    let response = timeout(SOON, http::exchange(stream, request)).await.context("no answer")??;
    ensure!(response.status().is_success(), "{response:?}");
    serde_json::from_slice(response.body()).context("no answer of the sample application")
}

async fn one_trace_joins_two_services_in_zipkin(scene: Scene) -> Result<()> {
    let zipkin = scene.plain("a", "zipkin").await?;
    collectors::start_zipkin(&zipkin).await?;
    let endpoint = format!("http://{}:{ZIPKIN}/api/v2/spans", zipkin.v4());
    let waypoint = scene.waypoint("b", "gate").variable("OTEL_EXPORTER_ZIPKIN_ENDPOINT", &endpoint);
    scene.begin(waypoint.variable("AMBIT_TRACE_SAMPLING", "100")).await?;
    scene.server("b", "back").await?;
    let back = scene.create(scene.service("back").declared(80, echo::HTTP, "http").behind("gate")).await?;
    scene.server("a", "front").await?;
    let front = scene.create(scene.service("front").declared(80, echo::HTTP, "http").behind("gate")).await?;
    let client = scene.captured("a", "client").await?;

    let path = format!("/ask/{}/headers", address(&back)?);
    let echo = ask_for(&path, &client, address(&front)?, &[]).await?;
    ensure!(echo.name == "back", "{echo:?}");
    let told = echo.headers.get("traceparent").context("the last server was told of no trace")?;
    let trace = told.split('-').nth(1).context("no trace")?.to_owned();
    ensure!(echo.headers.contains_key("x-b3-traceid") && echo.headers.contains_key("x-request-id"));
    let spans = eventually(SEEN, "four spans in Zipkin", async || {
        let spans = collectors::zipkin_spans(zipkin.namespace(), &trace).await?;
        ensure!(spans.len() == 4, "{} spans of {trace}: {spans:?}", spans.len());
        Ok(spans)
    })
    .await?;
    // From the last one upwards: each is inside the one before it.
    let mut inside = told.split('-').nth(2).map(str::to_owned);
    let mut chain = Vec::new();
    while let Some(id) = inside {
        let span = spans.iter().find(|span| span["id"] == id.as_str());
        let span = span.with_context(|| format!("Zipkin has no span {id}: {spans:?}"))?;
        chain.push(format!("{} {}", text(&span["kind"]), text(&span["tags"]["istio.destination_workload"])));
        inside = span["parentId"].as_str().map(str::to_owned);
    }
    ensure!(chain == ["CLIENT back", "SERVER back", "CLIENT front", "SERVER front"], "{chain:?}");
    let gate = format!("gate.{}", scene.namespace());
    ensure!(spans.iter().all(|span| span["localEndpoint"]["serviceName"] == gate.as_str()), "{spans:?}");
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn a_collector_has_the_spans_of_a_request_and_its_retry(scene: Scene) -> Result<()> {
    let pod = scene.plain("a", "otel").await?;
    let collector = collectors::start_collector(&pod, scene.cluster.state()).await?;
    let endpoint = format!("http://{}:{OTLP}", pod.v4());
    let waypoint = scene.waypoint("b", "gate").variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    scene.begin(waypoint).await?;
    scene.server("b", "server").await?;
    // Ready, and nobody listens: what is sent there first is sent again.
    scene.start(scene.pod("a", "mute").captured().labels(&[("app", "server")])).await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let target = address(&scene.create(service).await?)?;
    let client = scene.captured("a", "client").await?;
    let caller = format!("{CALLER}-01");
    // That none of them is sent to the silent one first has a chance of one in 10^12.
    for _ in 0..40 {
        let echo = ask(&client, target, &[("traceparent", &caller), ("tracestate", "one=two")]).await?;
        ensure!(echo.headers.get("tracestate").is_some_and(|state| state == "one=two"), "{echo:?}");
    }
    eventually(SEEN, "the spans in the collector's log", async || {
        let log = collector.log();
        ensure!(log.contains(TRACE), "it has not got the trace");
        let parts = [
            "service.name: Str(gate.",
            "Kind           : Server",
            "Kind           : Client",
            "http.request.resend_count: Str(1)",
            "response_flags: Str(UF)",
            "Status code    : Error",
        ];
        for part in parts {
            ensure!(log.contains(part), "it does not say {part:?}");
        }
        Ok(())
    })
    .await
}

async fn a_caller_decides_what_is_sampled_and_a_telemetry_the_rest(scene: Scene) -> Result<()> {
    let zipkin = scene.plain("a", "zipkin").await?;
    collectors::start_zipkin(&zipkin).await?;
    let endpoint = format!("http://{}:{ZIPKIN}/api/v2/spans", zipkin.v4());
    let waypoint = scene.waypoint("b", "gate").variable("OTEL_EXPORTER_ZIPKIN_ENDPOINT", &endpoint);
    let waypoint = scene.begin(waypoint.variable("AMBIT_TRACE_SAMPLING", "0")).await?;
    scene.server("b", "server").await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let target = address(&scene.create(service).await?)?;
    let client = scene.captured("a", "client").await?;
    let flag = async |fields: &[(&str, &str)]| {
        let echo = ask(&client, target, fields).await?;
        let told = echo.headers.get("traceparent").context("the server was told of no trace")?;
        Ok::<_, anyhow::Error>(told.ends_with("-01"))
    };
    ensure!(!flag(&[]).await?, "by chance of none it was sampled");
    let (yes, no) = (format!("{CALLER}-01"), format!("{CALLER}-00"));
    ensure!(flag(&[("traceparent", &yes)]).await?, "the caller's wish does not count");
    let telemetry = |percent: u8, disabled: bool| {
        format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: all, namespace: NAMESPACE}}\n\
             spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gate}}]\n\
             \x20 tracing: [{{randomSamplingPercentage: {percent}, customTags: {{kind: {{literal: {{value: test}}}}}}}}]\n\
             \x20 accessLogging: [{{disabled: {disabled}}}]\n"
        )
    };
    scene.apply("telemetry", &telemetry(100, false)).await?;
    eventually(SOON, "the waypoint to sample all", async || {
        ensure!(flag(&[]).await?, "not sampled yet");
        Ok(())
    })
    .await?;
    ensure!(!flag(&[("traceparent", &no)]).await?, "the caller's wish not to be sampled does not count");
    let spans = eventually(SEEN, "the caller's trace in Zipkin", async || {
        let spans = collectors::zipkin_spans(zipkin.namespace(), TRACE).await?;
        ensure!(spans.len() == 2, "{spans:?}");
        Ok(spans)
    })
    .await?;
    ensure!(spans.iter().any(|span| span["parentId"] == "00f067aa0ba902b7"), "{spans:?}");
    scene.apply("telemetry", &telemetry(0, true)).await?;
    eventually(SOON, "the waypoint to sample none", async || {
        ensure!(!flag(&[]).await?, "still sampled");
        Ok(())
    })
    .await?;
    let instance = waypoint.instance()?;
    let lines = instance.access_log().len();
    for _ in 0..5 {
        flag(&[]).await?;
    }
    ensure!(instance.access_log().len() == lines, "requests are logged that are not to be");
    Ok(())
}

/// A pod as proxies are asked about it.
fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.object().namespace, pod.name())
}

/// What an admin endpoint in a pod answers.
async fn admin(pod: &Pod, path: &str) -> Result<Value> {
    let asked = path.to_owned();
    let body = pod.run(async move || http::get(ADMIN, &asked).await).await?;
    serde_json::from_str(&body).with_context(|| format!("{path} answers {body}"))
}

async fn proxies_explain_what_they_would_do(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let other = scene.server("a", "other").await?;
    scene.create(scene.service("other").declared(80, echo::HTTP, "http")).await?;
    let route = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
  - name: canary
    matches: [{path: {type: PathPrefix, value: /new}}]
    backendRefs: [{name: server, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
  - backendRefs: [{name: server, port: 80}]
";
    scene.apply("route", route).await?;
    let deny = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: no, namespace: NAMESPACE}}\n\
         spec:\n  selector: {{matchLabels: {{app: other}}}}\n  action: DENY\n\
         \x20 rules: [{{from: [{{source: {{principals: ['{}']}}}}]}}]\n",
        behind.waypoint.identity().trim_start_matches("spiffe://")
    );
    scene.apply("deny", &deny).await?;

    let authority = explained_by_the_client_s_node(&scene, &behind).await?;
    explained_by_the_waypoint(&behind, &other, &authority).await?;
    let servers = [(&behind.server, "b", true), (&other, "a", false)];
    explained_by_the_servers_nodes(&scene, &behind, &servers).await
}

/// What the tunnel of a request would be asked for.
async fn explained_by_the_client_s_node(scene: &Scene, behind: &Behind) -> Result<String> {
    let client = named(&behind.client);
    let question = format!("/explain?direction=outbound&source={client}&destination={}", behind.target());
    let said = scene.node("a").admin(&question).await?;
    let hop = &said["hop"];
    ensure!(hop["to"] == "waypoint" && hop["transport"] == "hbone", "{said}");
    ensure!(hop["next"]["identity"] == behind.waypoint.identity().as_str(), "{said}");
    ensure!(said["source"]["identity"] == behind.client.identity().as_str(), "{said}");
    Ok(text(&hop["authority"]).to_owned())
}

async fn explained_by_the_waypoint(behind: &Behind, other: &Pod, authority: &str) -> Result<()> {
    let gate = &behind.instance()?.pod;
    let asked = format!(
        "/explain?destination={}&identity={}&path=/new/1&header.x=y",
        authority,
        behind.client.identity()
    );
    let said = eventually(SOON, "the route in the waypoint's answer", async || {
        let said = admin(gate, &asked).await?;
        ensure!(said["route"]["rule"] == "canary", "{said}");
        Ok(said)
    })
    .await?;
    let shares: Vec<_> = said["route"]["backends"].as_array().into_iter().flatten().collect();
    ensure!(shares.len() == 2 && shares[0]["share"] == 75.0 && shares[1]["share"] == 25.0, "{said}");
    ensure!(shares[1]["hop"]["next"]["identity"] == other.identity().as_str(), "{said}");
    Ok(())
}

async fn explained_by_the_servers_nodes(
    scene: &Scene,
    behind: &Behind,
    servers: &[(&Pod, &str, bool)],
) -> Result<()> {
    let gate = &behind.instance()?.pod;
    for (pod, node, allowed) in servers.iter().copied() {
        let question = format!(
            "/explain?direction=inbound&destination={}&port={}&source={}&identity={}",
            named(pod),
            echo::HTTP,
            gate.v4(),
            behind.waypoint.identity()
        );
        let said = eventually(SOON, "the policy in ztunnel's answer", async || {
            let said = scene.node(node).admin(&question).await?;
            let verdict = said["policies"]["verdict"]["allowed"] == true;
            ensure!(verdict == allowed, "{said}");
            Ok(said)
        })
        .await?;
        ensure!(allowed || text(&said["policies"]["failure"]["reason"]).contains("/no"), "{said}");
    }
    Ok(())
}

async fn who_looks_sees_requests_as_they_end(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let gate = behind.instance()?.pod.clone();
    let mut looking = JoinSet::new();
    looking.spawn(async move {
        let path = "/tap?path=/headers&count=3&seconds=60";
        gate.run(async move || http::get(ADMIN, path).await).await
    });
    // Whoever looks sees what comes after: ask until it has seen enough.
    let asking = async {
        loop {
            ask(&behind.client, behind.target(), &[("authorization", "Bearer secret")]).await?;
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<(), anyhow::Error>(())
    };
    let seen = tokio::select! {
        seen = looking.join_next() => seen.context("nobody looks")???,
        failed = asking => return failed,
    };
    let lines: Vec<Value> = seen.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [first, _, _, end] = &lines[..] else { anyhow::bail!("{seen}") };
    ensure!(end["end"] == "count" && end["shown"] == 3, "{end}");
    ensure!(first["source"]["identity"] == behind.client.identity().as_str(), "{first}");
    ensure!(first["status"] == 200 && first["destination"]["workload"] == "server", "{first}");
    ensure!(first["headers"]["authorization"] == "[redacted]" && !seen.contains("secret"), "{first}");
    Ok(())
}
