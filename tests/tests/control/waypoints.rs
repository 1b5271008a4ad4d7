// SPDX-License-Identifier: Apache-2.0
//! Waypoints: who is bound, what is deployed for a Gateway, and what its status says. No node runs pods here, so that it is
//! the test that says when one is ready.

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    checks, eventually,
    kube::{gateway_api, suite::Check},
};
use mesh::policy::Action;
use serde_json::{Value, json};

use crate::{
    checks::{Stage, condition_at},
    plane::{CLASSES, SOON, until},
};

const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/front";
const SERVICE: &str = "/api/v1/namespaces/shop/services/cart";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/front";
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/front";
const FRONT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![
        the_classes_of_waypoints_are_made_when_the_kind_appears,
        a_service_says_whether_its_waypoint_is_in_force,
        a_gateway_is_deployed_and_has_an_address_from_its_first_ready_pod_on,
        what_somebody_changes_or_deletes_of_a_waypoint_comes_back,
        a_bad_overlay_is_named_on_the_gateway_and_nothing_is_applied,
        what_is_not_the_waypoints_is_not_taken_over,
        the_way_past_a_waypoint_is_watched_and_where_it_is_enforced_closed,
        what_runs_a_waypoint_goes_with_its_gateway,
    ]
}

async fn get(stage: &Stage, path: &str) -> Result<Value> {
    stage.scene.cluster.api().get(path).await
}

async fn kubectl(stage: &Stage, words: &str) -> Result<String> {
    stage.scene.cluster.kubectl(&words.split(' ').collect::<Vec<_>>()).await
}

/// Waits for status and words of a condition.
async fn says(stage: &Stage, path: &str, kind: &str, expected: (&str, &str)) -> Result<()> {
    eventually(SOON, kind, async || {
        let (status, message) = condition_at(stage, path, kind).await?;
        ensure!(
            status == expected.0 && message.contains(expected.1),
            "{kind} of {path} is {status}: {message}"
        );
        Ok(())
    })
    .await
}

async fn the_classes_of_waypoints_are_made_when_the_kind_appears(stage: &Stage) -> Result<()> {
    stage.apply(&gateway_api::definitions(&["gatewayclasses", "gateways"])?).await?;
    for class in CLASSES {
        let path = format!("/apis/gateway.networking.k8s.io/v1/gatewayclasses/{class}");
        eventually(SOON * 2, "the class", async || {
            let (status, _) = condition_at(stage, &path, "Accepted").await?;
            ensure!(status == "True", "{class} is {status}");
            Ok(())
        })
        .await?;
        let class = get(stage, &path).await?;
        ensure!(class.pointer("/spec/controllerName") == Some(&json!("ambit.mesh/waypoint")), "{class}");
    }
    Ok(())
}

async fn a_service_says_whether_its_waypoint_is_in_force(stage: &Stage) -> Result<()> {
    const BOUND: &str = "istio.io/WaypointBound";
    kubectl(stage, "-n shop label service cart istio.io/use-waypoint=front").await?;
    says(stage, SERVICE, BOUND, ("False", "Gateway shop/front does not exist")).await?;
    kubectl(stage, "-n shop annotate service cart ambit.mesh/waypoint-enforcement=enforce").await?;
    says(stage, SERVICE, BOUND, ("False", "traffic is refused")).await?;
    until(&stage.proxy, "the way closed, with the Gateway's name", |index| {
        let cart = index.services().find(|service| service.name == "cart");
        let waypoint = cart.and_then(|service| service.waypoint.as_ref());
        waypoint
            .is_some_and(|waypoint| format!("{waypoint:?}").contains("front.shop.gateway-not-ready.invalid"))
    })
    .await?;
    kubectl(stage, "-n shop annotate service cart ambit.mesh/waypoint-enforcement-").await?;
    until(&stage.proxy, "the way open", |index| {
        index.services().any(|service| service.name == "cart" && service.waypoint.is_none())
    })
    .await?;
    Ok(())
}

async fn a_gateway_is_deployed_and_has_an_address_from_its_first_ready_pod_on(stage: &Stage) -> Result<()> {
    stage.apply(FRONT).await?;
    says(stage, GATEWAY, "Accepted", ("True", "control runs a waypoint")).await?;
    says(stage, GATEWAY, "Programmed", ("False", "no pod of it is ready yet")).await?;
    let deployment = get(stage, DEPLOYMENT).await?;
    let owner = deployment.pointer("/metadata/ownerReferences/0").context("no owner")?;
    ensure!(owner["kind"] == "Gateway" && owner["name"] == "front", "its owner is {owner}");
    ensure!(deployment.pointer("/spec/replicas") == Some(&json!(2)), "replicas: {}", deployment["spec"]);
    let budget = get(stage, BUDGET).await?;
    ensure!(budget.pointer("/spec/maxUnavailable") == Some(&json!(1)), "{budget}");
    let service = get(stage, "/api/v1/namespaces/shop/services/front").await?;
    ensure!(service.pointer("/spec/trafficDistribution").is_some(), "{}", service["spec"]);

    let pods = eventually(SOON, "its pods", async || {
        let list = get(
            stage,
            "/api/v1/namespaces/shop/pods?labelSelector=gateway.networking.k8s.io/gateway-name=front",
        )
        .await?;
        let pods = list["items"].as_array().context("no list")?.clone();
        ensure!(pods.len() == 2, "{} pods", pods.len());
        Ok(pods)
    })
    .await?;
    let name = pods.first().and_then(|pod| pod.pointer("/metadata/name")).and_then(Value::as_str);
    let pod = format!("/api/v1/namespaces/shop/pods/{}", name.context("a pod without a name")?);
    let ready = json!({"status": {
        "phase": "Running", "podIP": "10.9.7.1", "podIPs": [{"ip": "10.9.7.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    stage.scene.cluster.api().merge(&format!("{pod}/status"), &ready).await?;
    says(stage, GATEWAY, "Programmed", ("True", "1 pod is ready")).await?;
    let gateway = get(stage, GATEWAY).await?;
    let address = gateway.pointer("/status/addresses/0").context("no address")?;
    ensure!(address["type"] == "Hostname" && address["value"] == "front.shop.svc.cluster.local", "{address}");
    let listener = gateway.pointer("/status/listeners/0").context("no listener")?;
    ensure!(listener["name"] == "mesh" && listener["supportedKinds"].is_array(), "{listener}");
    says(stage, SERVICE, "istio.io/WaypointBound", ("True", "attached to waypoint shop/front")).await?;
    until(&stage.proxy, "the service bound", |index| {
        index.services().any(|service| service.name == "cart" && service.waypoint.is_some())
    })
    .await?;
    Ok(())
}

async fn what_somebody_changes_or_deletes_of_a_waypoint_comes_back(stage: &Stage) -> Result<()> {
    let api = stage.scene.cluster.api();
    api.merge(DEPLOYMENT, &json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}))
        .await?;
    eventually(SOON, "the field again", async || {
        let deployment = get(stage, DEPLOYMENT).await?;
        let grace = deployment.pointer("/spec/template/spec/terminationGracePeriodSeconds");
        ensure!(grace == Some(&json!(60)), "it is {grace:?}");
        Ok(())
    })
    .await?;
    kubectl(stage, "-n shop delete poddisruptionbudget front").await?;
    eventually(SOON, "the budget again", async || get(stage, BUDGET).await).await?;
    // Somebody else's field stays.
    api.merge(DEPLOYMENT, &json!({"metadata": {"annotations": {"example.com/mine": "yes"}}})).await?;
    kubectl(stage, "-n shop delete service front").await?;
    eventually(SOON, "the service again", async || {
        get(stage, "/api/v1/namespaces/shop/services/front").await
    })
    .await?;
    let deployment = get(stage, DEPLOYMENT).await?;
    ensure!(
        deployment.pointer("/metadata/annotations/example.com~1mine") == Some(&json!("yes")),
        "{deployment}"
    );
    Ok(())
}

async fn a_bad_overlay_is_named_on_the_gateway_and_nothing_is_applied(stage: &Stage) -> Result<()> {
    let map = |overlay: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: front, namespace: shop}}\ndata:\n  \
             service: '{{metadata: {{annotations: {{example.com/laid: \"yes\"}}}}}}'\n  deployment: '{overlay}'\n"
        )
    };
    let named = FRONT.replace(
        "  listeners",
        "  infrastructure: {parametersRef: {group: \"\", kind: ConfigMap, name: front}}\n  listeners",
    );
    stage.apply(&named).await?;
    says(stage, GATEWAY, "Accepted", ("False", "there is no ConfigMap shop/front")).await?;
    stage.apply(&map("{spec: {selector: {app: other}}}")).await?;
    let longer = SOON;
    eventually(longer, "the fault", async || {
        let (status, message) = condition_at(stage, GATEWAY, "Accepted").await?;
        ensure!(
            status == "False" && message.contains("key deployment field spec.selector"),
            "{status}: {message}"
        );
        Ok(())
    })
    .await?;
    // What only the API server knows to be wrong.
    stage.apply(&map("{spec: {template: {spec: {nodeSelektor: {a: b}}}}}")).await?;
    says(stage, GATEWAY, "Programmed", ("False", "key deployment")).await?;
    let (_, message) = condition_at(stage, GATEWAY, "Programmed").await?;
    ensure!(message.contains("nodeSelektor"), "{message}");
    let laid = async || {
        let service = get(stage, "/api/v1/namespaces/shop/services/front").await?;
        anyhow::Ok(service.pointer("/metadata/annotations/example.com~1laid").is_some())
    };
    ensure!(!laid().await?, "a part of it is applied");
    stage.apply(&map("{spec: {replicas: 3}}")).await?;
    eventually(SOON, "three replicas", async || {
        let replicas = get(stage, DEPLOYMENT).await?.pointer("/spec/replicas").cloned();
        ensure!(replicas == Some(json!(3)), "replicas: {replicas:?}");
        Ok(())
    })
    .await?;
    eventually(SOON, "the annotation", async || {
        ensure!(laid().await?, "the service has none");
        Ok(())
    })
    .await?;
    says(stage, GATEWAY, "Programmed", ("True", "ready")).await
}

async fn what_is_not_the_waypoints_is_not_taken_over(stage: &Stage) -> Result<()> {
    let taken = FRONT.replace("name: front", "name: cart");
    stage.apply(&taken).await?;
    let path = GATEWAY.replace("front", "cart");
    says(stage, &path, "Programmed", ("False", "is there already and not of this Gateway")).await?;
    let service = get(stage, SERVICE).await?;
    ensure!(service.pointer("/metadata/ownerReferences").is_none(), "{service}");
    ensure!(get(stage, &DEPLOYMENT.replace("front", "cart")).await.is_err(), "a part of it is applied");
    kubectl(stage, "-n shop delete gateway cart").await.map(drop)
}

async fn the_way_past_a_waypoint_is_watched_and_where_it_is_enforced_closed(stage: &Stage) -> Result<()> {
    let guard = async |what: &str, name: &'static str, dry_run: bool| {
        until(&stage.proxy, what, move |index| {
            let policy = index.policies().find(|policy| policy.name.name == name);
            let is_named = index.workloads().any(|workload| {
                workload.name == "cart" && workload.policies.iter().any(|policy| policy.name == name)
            });
            is_named
                && policy.is_some_and(|policy| policy.action == Action::Deny && policy.dry_run == dry_run)
        })
        .await
    };
    guard("a guard on trial", "ambit_waypoint_front_port_8080_audit", true).await?;
    kubectl(stage, "-n shop label gateway front ambit.mesh/waypoint-enforcement=enforce").await?;
    guard("a guard", "ambit_waypoint_front_port_8080", false).await?;
    until(&stage.proxy, "no other", |index| {
        index.policies().filter(|policy| policy.name.name.starts_with("ambit_waypoint_")).count() == 1
    })
    .await?;
    says(stage, SERVICE, "istio.io/WaypointBound", ("True", "Enforced")).await
}

async fn what_runs_a_waypoint_goes_with_its_gateway(stage: &Stage) -> Result<()> {
    kubectl(stage, "-n shop delete gateway front").await?;
    for path in [
        DEPLOYMENT,
        BUDGET,
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/front",
        "/api/v1/namespaces/shop/services/front",
        "/api/v1/namespaces/shop/serviceaccounts/front",
    ] {
        eventually(SOON * 2, "its end", async || {
            let Err(error) = get(stage, path).await else { bail!("{path} is there still") };
            ensure!(format!("{error:#}").contains("404"), "{path}: {error:#}");
            Ok(())
        })
        .await?;
    }
    kubectl(stage, "-n shop label service cart istio.io/use-waypoint-").await?;
    until(&stage.proxy, "no guard", |index| {
        !index.policies().any(|policy| policy.name.name.starts_with("ambit_waypoint_"))
    })
    .await?;
    eventually(SOON, "no condition", async || {
        let left = condition_at(stage, SERVICE, "istio.io/WaypointBound").await;
        ensure!(left.is_err(), "it still has {left:?}");
        Ok(())
    })
    .await
}
