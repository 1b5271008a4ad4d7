// SPDX-License-Identifier: Apache-2.0
//! The shop: four services with identities of their own, replicas on both nodes, policies, steady traffic.
//!
//! ```text
//! frontend ──► cart ──► payments      (payments: only cart may)
//!     └──────► catalog ◄── cart       (catalog: only frontend and cart may)
//! ```

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use lab::{Cluster, Pod};

use super::Progress;

/// Namespace of the shop.
pub(crate) const NAMESPACE: &str = "shop";
const SERVICES: [&str; 4] = ["frontend", "cart", "catalog", "payments"];
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
        cluster.service(service).namespace(NAMESPACE).port(80, lab::echo::HTTP).create().await?;
        for node in ["a", "b"] {
            let name = format!("{service}-{node}");
            let builder = cluster.node(node).pod(&name).namespace(NAMESPACE).service_account(service);
            let pod = builder.labels(&[("app", service)]).captured().start().await?;
            pod.serve().await?;
            pods.insert(name, pod);
        }
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
