// SPDX-License-Identifier: Apache-2.0
//! The shop: four services with identities of their own, replicas on both nodes, policies, steady traffic.
//!
//! ```text
//! frontend ──► cart ──► payments      (payments: only cart may)
//!     └──────► catalog ◄── cart       (catalog: only frontend and cart may)
//! ```
//! Later cart and catalog get a waypoint, and the catalog a next version.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use lab::{
    Cluster, Pod,
    cluster::{Instance, Waypoint},
    collectors,
    dns::{Over, RecordType},
    http::exchange,
    observe::Access,
};
use serde_json::Value;
use tokio::time::timeout;

use super::{Progress, requests};

/// Namespace of the shop.
pub(crate) const NAMESPACE: &str = "shop";
const SERVICES: [&str; 4] = ["frontend", "cart", "catalog", "payments"];
const PATIENCE: Duration = Duration::from_secs(10);
/// Who calls whom, how often a second, and how many of these calls open a connection of their own.
const TRAFFIC: [(&str, &str, u32, u32); 4] = [
    ("frontend", "catalog", 20, 2),
    ("frontend", "cart", 10, 1),
    ("cart", "catalog", 5, 1),
    ("cart", "payments", 5, 1),
];

/// Who may call whom. Only ALLOW policies would say that nobody allowed it; a DENY says itself who decided.
pub(super) const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: only-mtls, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: catalog-callers, namespace: shop}
spec:
  selector: {matchLabels: {app: catalog}}
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/shop/sa/frontend, cluster.local/ns/shop/sa/cart]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments-only-from-cart, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules:
  - from:
    - source:
        notPrincipals: [cluster.local/ns/shop/sa/cart]
";

/// The open shop.
pub(crate) struct Shop {
    pods: BTreeMap<String, Pod>,
}

impl Shop {
    /// A replica: `cart-a` is the cart on node a.
    pub(crate) fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("the shop has no {name}"))
    }
}

/// Opens the shop in a running lab.
pub(crate) async fn open(cluster: &Cluster, progress: &Progress) -> Result<Shop> {
    progress.say("opening the shop: frontend, cart, catalog, payments, each on both nodes");
    let mut pods = BTreeMap::new();
    for service in SERVICES {
        open_service(cluster, service, &mut pods).await?;
    }
    progress.say("who may call whom: catalog only from frontend and cart, payments only from cart, nothing in plaintext");
    cluster.apply("policies", POLICIES).await?;
    progress.say("customers come in: steady traffic");
    let program = cluster.settings().binary("lab-app")?.display().to_string();
    for (from, to, rate, fresh) in TRAFFIC {
        let url = format!("http://{to}.{NAMESPACE}/");
        for node in ["a", "b"] {
            let name = format!("{from}-{node}");
            let pod = pods.get(&name).with_context(|| format!("the shop has no {name}"))?;
            let (kept, each) = (rate.to_string(), fresh.to_string());
            pod.start_program(
                &format!("to {to}"),
                &program,
                &["load", &url, "--connections=2", "--rate", &kept],
            )?;
            pod.start_program(
                &format!("new to {to}"),
                &program,
                &["load", &url, "--fresh", "--rate", &each],
            )?;
        }
    }
    Ok(Shop { pods })
}

/// Those that are to be behind a waypoint say so from the beginning: until it is there they are reached without it.
async fn open_service(cluster: &Cluster, service: &str, pods: &mut BTreeMap<String, Pod>) -> Result<()> {
    let mut builder = cluster.service(service).namespace(NAMESPACE).declared(80, lab::echo::HTTP, "http");
    if requests::BEHIND.contains(&service) {
        builder = builder.behind(requests::WAYPOINT);
    }
    builder.create().await?;
    for node in ["a", "b"] {
        let name = format!("{service}-{node}");
        let builder = cluster.node(node).pod(&name).namespace(NAMESPACE).service_account(service);
        let pod = builder.labels(&[("app", service)]).captured().start().await?;
        pod.serve().await?;
        pods.insert(name, pod);
    }
    Ok(())
}

impl Shop {
    /// Puts a waypoint before cart and catalog, which sends its spans to a Zipkin, and opens the next version of the catalog.
    pub(crate) async fn extend<'a>(
        &'a mut self,
        cluster: &Cluster,
        progress: &Progress,
    ) -> Result<Extended<'a>> {
        progress.say("starting Zipkin, the next version of the catalog, and a waypoint on both nodes for cart and catalog");
        let zipkin = cluster.node("a").pod("zipkin").namespace("observe").start().await?;
        collectors::start_zipkin(&zipkin).await?;
        open_service(cluster, requests::NEXT, &mut self.pods).await?;
        let before: Vec<&str> =
            POLICIES.split("---\n").filter(|policy| !policy.contains("catalog-callers")).collect();
        cluster.apply("policies", &[before.join("---\n").as_str(), requests::GUARDS].join("---\n")).await?;
        cluster.apply("routes", requests::ROUTES).await?;
        let endpoint = format!("http://{}:{}/api/v2/spans", zipkin.v4(), collectors::ZIPKIN);
        let waypoint = cluster.node("a").waypoint(requests::WAYPOINT).namespace(NAMESPACE);
        let waypoint =
            waypoint.and_on(&cluster.node("b")).variable("OTEL_EXPORTER_ZIPKIN_ENDPOINT", &endpoint);
        let waypoint = waypoint.start().await?;
        Ok(Extended { frontend: self.pod("frontend-a")?, waypoint, zipkin })
    }
}

/// The shop with a waypoint.
pub(crate) struct Extended<'a> {
    frontend: &'a Pod,
    waypoint: Waypoint,
    zipkin: Pod,
}

impl requests::Place for Extended<'_> {
    async fn ask(&self, url: &str, header: Option<(&str, &str)>) -> Result<(StatusCode, String)> {
        let url: Uri = url.parse()?;
        let host = url.host().context("no host")?;
        let name = format!("{host}.svc.cluster.local");
        let found = self.frontend.resolve(&name, RecordType::A, Over::Udp).await?;
        let ip = found.addresses.first().with_context(|| format!("{name} has no address"))?;
        let stream = self.frontend.connect(SocketAddr::new(*ip, 80)).await?;
        let mut request = Request::get(url.path()).header(http::header::HOST, host);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = timeout(PATIENCE, exchange(stream, request.body(Full::default())?)).await;
        let answer = answer.with_context(|| format!("{url} does not answer"))??;
        Ok((answer.status(), String::from_utf8_lossy(answer.body()).into_owned()))
    }

    async fn log(&self) -> Result<Vec<Access>> {
        Ok(self.waypoint.instances.iter().flat_map(Instance::access_log).collect())
    }

    async fn spans(&self, trace: &str) -> Result<Vec<Value>> {
        collectors::zipkin_spans(self.zipkin.namespace(), trace).await
    }
}
