// SPDX-License-Identifier: Apache-2.0
//! What a waypoint adds to the shop: a route by header, a canary by weight, a path that a policy refuses, and one trace
//! over two services. The same in the lab and on Kubernetes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::StatusCode;
use lab::{echo::Echo, eventually, observe::Access};
use serde_json::Value;

use super::{Progress, show};
use crate::step::say;

/// Name of the waypoint.
pub(super) const WAYPOINT: &str = "waypoint";
/// The services behind it.
pub(super) const BEHIND: [&str; 2] = ["cart", "catalog"];
/// The next version of the catalog, a service of its own.
pub(super) const NEXT: &str = "catalog-next";
/// Callers of the catalog are judged by the waypoint now: behind it the catalog's pods see the waypoint alone.
pub(super) const GUARDS: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: catalog-callers, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: catalog}]
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/shop/sa/frontend, cluster.local/ns/shop/sa/cart]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-is-admin, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: catalog}]
  action: DENY
  rules:
  - to:
    - operation: {paths: [/admin*]}
";
/// Testers get the next version, and one in four of the others.
pub(super) const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: catalog, port: 80}]
  rules:
  - name: testers
    matches: [{headers: [{name: x-tester, value: \"yes\"}]}]
    backendRefs: [{name: catalog-next, port: 80}]
  - name: canary
    backendRefs:
    - {name: catalog, port: 80, weight: 75}
    - {name: catalog-next, port: 80, weight: 25}
";
const BOOKS: &str = "http://catalog.shop/books";
const ADMIN: &str = "http://catalog.shop/admin/prices";
/// The cart asks the catalog, as it is asked to.
const BOTH: &str = "http://cart.shop/ask/catalog.shop/books";
/// How many requests show the weights: that none of them meets the canary happens once in 100,000 times.
const ASKED: u32 = 40;
const SOON: Duration = Duration::from_secs(30);
/// Of either service, the waypoint as its server and as its client.
const SPANS: usize = 4;

/// A place where the shop is open.
pub(super) trait Place {
    /// A request of frontend's; status and body.
    async fn ask(&self, url: &str, header: Option<(&str, &str)>) -> Result<(StatusCode, String)>;
    /// The access log of the waypoint.
    async fn log(&self) -> Result<Vec<Access>>;
    /// What Zipkin has of a trace.
    async fn spans(&self, trace: &str) -> Result<Vec<Value>>;
}

/// Shows all of it, once the objects above are there.
pub(super) async fn show(place: &impl Place) -> Result<()> {
    by_header(place).await?;
    by_weight(place).await?;
    denied(place).await?;
    trace(place).await
}

async fn by_header(place: &impl Place) -> Result<()> {
    Progress::heading("a request with `x-tester: yes` goes to the next version of the catalog");
    let echo = eventually(SOON, "the route in force", async || {
        let echo = answered(place, BOOKS, Some(("x-tester", "yes"))).await?;
        ensure!(is_next(&echo), "{} answered", echo.name);
        Ok(echo)
    })
    .await?;
    say(format!("frontend: GET {BOOKS}, x-tester: yes → answered by {}", echo.name));
    written(place, |access| access.field("route").contains("testers")).await
}

async fn by_weight(place: &impl Place) -> Result<()> {
    Progress::heading("a canary: one in four of the other requests goes there too");
    let mut versions = BTreeMap::from([("catalog", 0_u32), (NEXT, 0)]);
    for _ in 0..ASKED {
        let echo = answered(place, BOOKS, None).await?;
        let version = if is_next(&echo) { NEXT } else { "catalog" };
        versions.entry(version).and_modify(|count| *count += 1);
    }
    for (version, count) in &versions {
        say(format!("frontend: GET {BOOKS}: {count} of {ASKED} answered by {version}"));
        ensure!(*count > 0, "{version} answered none of {ASKED} requests");
    }
    Ok(())
}

async fn denied(place: &impl Place) -> Result<()> {
    Progress::heading("a path that is denied: /admin of the catalog");
    let (status, body) = eventually(SOON, "the policy in force", async || {
        let (status, body) = place.ask(ADMIN, None).await?;
        ensure!(status == StatusCode::FORBIDDEN, "{status}: {body}");
        Ok((status, body))
    })
    .await?;
    say(format!("frontend: GET {ADMIN} → {status}: {body}"));
    written(place, |access| access.field("path").starts_with("/admin") && access.field("status") == "403")
        .await
}

async fn trace(place: &impl Place) -> Result<()> {
    Progress::heading("one trace over two services: frontend → cart → catalog, as Zipkin has it");
    let trace = format!("{:032x}", rand::random::<u128>());
    let parent = format!("00-{trace}-{:016x}-01", rand::random::<u64>());
    let (status, body) = place.ask(BOTH, Some(("traceparent", &parent))).await?;
    ensure!(status.is_success(), "{BOTH}: {status}: {body}");
    say(format!("frontend: GET {BOTH}, traceparent: {parent}"));
    let spans = eventually(SOON, "the trace in Zipkin", async || {
        let spans = place.spans(&trace).await?;
        ensure!(spans.len() == SPANS, "{} of {SPANS} spans", spans.len());
        Ok(spans)
    })
    .await?;
    let mut depth = 0;
    let mut inside = root(&spans);
    while let Some(span) = inside {
        say(line(span, depth));
        inside = spans.iter().find(|other| other["parentId"] == span["id"]);
        depth += 1;
    }
    ensure!(depth == SPANS, "the spans are not inside each other: {spans:?}");
    Ok(())
}

/// The span whose parent is not among them.
fn root(spans: &[Value]) -> Option<&Value> {
    spans.iter().find(|span| spans.iter().all(|other| other["id"] != span["parentId"]))
}

fn line(span: &Value, depth: usize) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let tags = &span["tags"];
    format!(
        "  {:<10} {:<8} {:>6} µs  {} → {}  {}",
        "  ".repeat(depth),
        text(&span["kind"]),
        span["duration"],
        text(&tags["istio.source_workload"]),
        text(&tags["istio.destination_workload"]),
        text(&tags["http.url"]),
    )
}

async fn answered(place: &impl Place, url: &str, header: Option<(&str, &str)>) -> Result<Echo> {
    let (status, body) = place.ask(url, header).await?;
    ensure!(status.is_success(), "{url}: {status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("{url} answered {body}"))
}

fn is_next(echo: &Echo) -> bool {
    echo.name.starts_with(NEXT)
}

/// Shows the newest line of the waypoint that fits, once it is there.
async fn written(place: &impl Place, fits: impl Fn(&Access) -> bool) -> Result<()> {
    let access = eventually(SOON, "the line of that request in the waypoint's access log", async || {
        place.log().await?.into_iter().rfind(&fits).context("no line yet")
    })
    .await?;
    say("access log of the waypoint:");
    show::print_access(&access);
    Ok(())
}
