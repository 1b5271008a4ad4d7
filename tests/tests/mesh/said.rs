// SPDX-License-Identifier: Apache-2.0
//! What the mesh says in the status of objects: there while the mesh is, gone with it, and what others say beside it stays.

use anyhow::{Context as _, Result, ensure};
use lab::{eventually, kube::gateway_api};
use serde_json::{Value, json};

use crate::scene::{ROLL_OUT, SOON, Scene};

/// One object for each way in which something is said of it.
const OBJECTS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: said, namespace: shop}
spec:
  selector: {matchLabels: {app: nobody}}
  rules: [{from: [{source: {namespaces: [shop]}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: said, namespace: shop}
spec: {hosts: [said.example], ports: [{number: 80, protocol: TCP, name: tcp}], resolution: DNS}
---
apiVersion: v1
kind: Service
metadata: {name: said, namespace: street, labels: {istio.io/use-waypoint: nowhere}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: said, namespace: street}
spec:
  parentRefs: [{group: \"\", kind: Service, name: said, port: 80}]
  rules: [{backendRefs: [{name: said, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: alone, namespace: street}
spec:
  parentRefs: [{group: \"\", kind: Service, name: said, port: 80}]
  rules: [{backendRefs: [{name: said, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: said, namespace: street}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: none-of-a-waypoint, port: 80, protocol: HTTP}]
";
const ENTRY: &str = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/said";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/street/httproutes/said";
const STREET: &str = "/api/v1/namespaces/street";
const PLACES: [&str; 7] = [
    "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/said",
    ENTRY,
    STREET,
    "/api/v1/namespaces/street/services/said",
    ROUTE,
    "/apis/gateway.networking.k8s.io/v1/namespaces/street/httproutes/alone",
    "/apis/gateway.networking.k8s.io/v1/namespaces/street/gateways/said",
];
/// All kinds in whose status the mesh writes.
const KINDS: [&str; 15] = [
    "/api/v1/namespaces",
    "/api/v1/services",
    "/apis/security.istio.io/v1/authorizationpolicies",
    "/apis/security.istio.io/v1/peerauthentications",
    "/apis/security.istio.io/v1/requestauthentications",
    "/apis/networking.istio.io/v1/serviceentries",
    "/apis/networking.istio.io/v1/workloadentries",
    "/apis/networking.istio.io/v1/workloadgroups",
    "/apis/telemetry.istio.io/v1/telemetries",
    "/apis/gateway.networking.k8s.io/v1/gateways",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    "/apis/gateway.networking.k8s.io/v1/tlsroutes",
    "/apis/gateway.networking.k8s.io/v1/tcproutes",
    "/apis/gateway.networking.k8s.io/v1/backendtlspolicies",
];
const CONDITIONS: [&str; 4] =
    ["AmbitAccepted", "ZtunnelAccepted", "WaypointAccepted", "istio.io/WaypointBound"];
const CONTROLLER: &str = "ambit.mesh/waypoint";
const WRITERS: [&str; 2] = ["ambit-control", "ambit-waypoints"];
/// What somebody else says.
const SEEN: &str = "example.com/Seen";

/// Makes objects of which the mesh says something, and somebody else of two of them.
pub(crate) async fn of_objects(scene: &Scene) -> Result<()> {
    scene.cluster.apply(&gateway_api::all()?).await?;
    eventually(ROLL_OUT, "the class of waypoints", async || {
        scene.object("/apis/gateway.networking.k8s.io/v1/gatewayclasses/ambit-waypoint").await
    })
    .await?;
    scene.apply(OBJECTS).await?;
    scene.cluster.kubectl(&["label", "namespace", "street", "istio.io/use-waypoint=nowhere"]).await?;
    let seen = json!({
        "type": SEEN, "status": "True", "reason": "Seen", "message": "by somebody else",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let parent = json!({
        "parentRef": {"name": "front"}, "controllerName": "example.com/controller", "conditions": [seen],
    });
    for (place, status) in [(ENTRY, json!({"conditions": [seen]})), (ROUTE, json!({"parents": [parent]}))] {
        scene.cluster.api().merge(&format!("{place}/status"), &json!({"status": status})).await?;
    }
    for place in PLACES {
        eventually(SOON, "words of the mesh", async || {
            let object = scene.object(place).await?;
            ensure!(!words(&object).is_empty(), "{place} has none: {object}");
            ensure!(is_seen(&object) == [ENTRY, ROUTE].contains(&place), "words of others: {object}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Fails when the mesh still says anything, or more than that is gone.
pub(crate) async fn is_taken_back(scene: &Scene) -> Result<()> {
    for kind in KINDS {
        let list = scene.object(kind).await?;
        for object in list.get("items").and_then(Value::as_array).context("no list")? {
            let words = words(object);
            // A list in which others say something has one owner.
            let left = words.iter().any(|word| !is_seen(object) || !WRITERS.contains(&word.as_str()));
            ensure!(!left, "{kind} still has {words:?}: {object}");
        }
    }
    for place in [ENTRY, ROUTE] {
        let object = scene.object(place).await?;
        ensure!(is_seen(&object), "what others say is gone: {object}");
    }
    let street = scene.object(STREET).await?;
    ensure!(street.pointer("/status/phase") == Some(&json!("Active")), "{street}");
    Ok(())
}

/// What the mesh says in a status, and under which names it has any of it.
fn words(object: &Value) -> Vec<String> {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = list("/status/conditions").map(|condition| text(condition, "type"));
    let parents = list("/status/parents").chain(list("/status/ancestors"));
    let controllers = parents.map(|parent| text(parent, "controllerName"));
    let shares = list("/metadata/managedFields").filter(|share| text(share, "subresource") == "status");
    let writers = shares.map(|share| text(share, "manager"));
    conditions
        .filter(|kind| CONDITIONS.contains(&kind.as_str()))
        .chain(controllers.filter(|controller| controller == CONTROLLER))
        .chain(writers.filter(|writer| WRITERS.contains(&writer.as_str())))
        .collect()
}

fn is_seen(object: &Value) -> bool {
    object.get("status").is_some_and(|status| status.to_string().contains(SEEN))
}
