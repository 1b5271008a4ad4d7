// SPDX-License-Identifier: Apache-2.0
//! `ambit waypoint`: what it writes and what it says. Nobody runs waypoints here.

use anyhow::{Result, ensure};
use lab::{
    checks, eventually,
    kube::{gateway_api, suite::Check},
};
use serde_json::json;

use crate::checks::{SOON, Stage};

const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/front/gateways";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![
        a_waypoint_is_printed_without_a_cluster,
        without_the_gateway_api_there_are_no_waypoints,
        a_waypoint_is_made_and_its_namespace_bound,
        what_is_bound_to_another_waypoint_is_bound_anew_only_on_request,
        a_service_account_is_bound_to_a_waypoint_for_workloads,
        a_service_and_a_pod_are_bound_to_a_waypoint_for_both,
        status_tells_what_is_bound_and_what_does_not_run,
        a_waypoint_that_is_deleted_is_gone,
    ]
}

async fn a_waypoint_is_printed_without_a_cluster(stage: &Stage) -> Result<()> {
    let nowhere = stage.file("no-such-file");
    let generate =
        ["waypoint", "generate", "-n", "front", "--for", "all", "-r", "blue", "--enforce", "-o", "json"];
    let generated = stage.ambit_as(&nowhere, &generate).await?;
    generated.is(0)?;
    let gateway = generated.json()?;
    ensure!(gateway["spec"]["gatewayClassName"] == "ambit-waypoint", "{gateway}");
    let labels = json!({
        "istio.io/waypoint-for": "all", "istio.io/rev": "blue", "ambit.mesh/waypoint-enforcement": "enforce",
    });
    ensure!(
        gateway["metadata"] == json!({"name": "waypoint", "namespace": "front", "labels": labels}),
        "{gateway}"
    );
    let yaml = stage.ambit_as(&nowhere, &["waypoint", "generate"]).await?;
    ensure!(yaml.said.contains("kind: Gateway"), "{}", yaml.said);
    stage.ambit_as(&nowhere, &["waypoint", "generate", "--for", "nobody"]).await?.is(2)
}

async fn without_the_gateway_api_there_are_no_waypoints(stage: &Stage) -> Result<()> {
    stage.cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: front}}").await?;
    let apply = stage.ambit(&["waypoint", "apply", "-n", "front"]).await?;
    apply.is(1)?;
    ensure!(apply.noted.contains("Gateway API's definitions"), "{}", apply.noted);
    stage.cluster.apply(&gateway_api::definitions(&["gatewayclasses", "gateways"])?).await?;
    eventually(SOON, "the kind", async || stage.cluster.api().get(GATEWAYS).await.map(drop)).await
}

async fn a_waypoint_is_made_and_its_namespace_bound(stage: &Stage) -> Result<()> {
    let apply = ["waypoint", "apply", "-n", "front", "--enroll-namespace", "-o", "json"];
    let applied = stage.ambit(&apply).await?;
    applied.is(0)?;
    ensure!(applied.json()?["enforcement"] == "audit", "{}", applied.said);
    ensure!(applied.noted.contains("has no label istio.io/dataplane-mode=ambient"), "{}", applied.noted);
    let namespace = stage.cluster.api().get("/api/v1/namespaces/front").await?;
    let bound = namespace.pointer("/metadata/labels/istio.io~1use-waypoint");
    ensure!(bound == Some(&json!("waypoint")), "the namespace is bound to {bound:?}");
    let gateway = stage.cluster.api().get(&format!("{GATEWAYS}/waypoint")).await?;
    ensure!(gateway.pointer("/spec/listeners/0/protocol") == Some(&json!("HBONE")), "{gateway}");
    // Nobody runs it.
    let wait = ["waypoint", "apply", "-n", "front", "--wait", "--waypoint-timeout", "1s"];
    let waited = stage.ambit(&wait).await?;
    waited.is(1)?;
    ensure!(waited.noted.contains("does not run yet"), "{}", waited.noted);
    Ok(())
}

async fn what_is_bound_to_another_waypoint_is_bound_anew_only_on_request(stage: &Stage) -> Result<()> {
    let other = ["waypoint", "apply", "-n", "front", "--name", "other", "--enroll-namespace"];
    let refused = stage.ambit(&other).await?;
    refused.is(1)?;
    ensure!(refused.noted.contains("--overwrite"), "{}", refused.noted);
    ensure!(stage.cluster.api().get(&format!("{GATEWAYS}/other")).await.is_err(), "it was made all the same");
    stage.ambit(&[&other[..], &["--overwrite"]].concat()).await?.is(0)?;
    let listed = stage.ambit(&["waypoint", "list", "-A", "-o", "json"]).await?.json()?;
    let names: Vec<_> = listed.as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
    ensure!(names == ["other", "waypoint"], "{listed}");
    Ok(())
}

async fn a_service_account_is_bound_to_a_waypoint_for_workloads(stage: &Stage) -> Result<()> {
    stage
        .cluster
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: front}}")
        .await?;
    let apply = ["waypoint", "apply", "-n", "front", "--name", "carts", "--service-account", "cart"];
    stage.ambit(&[&apply[..], &["--for", "service"]].concat()).await?.is(1)?;
    stage.ambit(&apply).await?.is(0)?;
    let account = stage.cluster.api().get("/api/v1/namespaces/front/serviceaccounts/cart").await?;
    ensure!(account.pointer("/metadata/labels/istio.io~1use-waypoint") == Some(&json!("carts")), "{account}");
    let gateway = stage.cluster.api().get(&format!("{GATEWAYS}/carts")).await?;
    ensure!(
        gateway.pointer("/metadata/labels/istio.io~1waypoint-for") == Some(&json!("workload")),
        "{gateway}"
    );
    Ok(())
}

async fn a_service_and_a_pod_are_bound_to_a_waypoint_for_both(stage: &Stage) -> Result<()> {
    let objects = "{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: front}, spec: {ports: [{port: 80}]}}\n---\n\
                   {apiVersion: v1, kind: Pod, metadata: {name: stock-0, namespace: front}, \
                   spec: {containers: [{name: app, image: none}]}}";
    stage.cluster.apply(objects).await?;
    let apply = [
        "waypoint",
        "apply",
        "-n",
        "front",
        "--name",
        "stock",
        "--service",
        "stock",
        "--workload",
        "stock-0",
    ];
    let refused = stage.ambit(&[&apply[..], &["--for", "workload"]].concat()).await?;
    refused.is(1)?;
    ensure!(refused.noted.contains("--for service or --for all"), "{}", refused.noted);
    stage.ambit(&apply).await?.is(0)?;
    for path in ["services/stock", "pods/stock-0"] {
        let object = stage.cluster.api().get(&format!("/api/v1/namespaces/front/{path}")).await?;
        let bound = object.pointer("/metadata/labels/istio.io~1use-waypoint");
        ensure!(bound == Some(&json!("stock")), "{object}");
    }
    let gateway = stage.cluster.api().get(&format!("{GATEWAYS}/stock")).await?;
    ensure!(gateway.pointer("/metadata/labels/istio.io~1waypoint-for") == Some(&json!("all")), "{gateway}");
    stage.ambit(&["waypoint", "delete", "-n", "front", "stock"]).await?.is(0)
}

async fn status_tells_what_is_bound_and_what_does_not_run(stage: &Stage) -> Result<()> {
    let status = stage.ambit(&["waypoint", "status", "-n", "front", "carts", "-o", "json"]).await?;
    status.is(1)?;
    let json = status.json()?;
    let (one, bound) = (&json[0], &json[0]["bound"][0]);
    ensure!(one["name"] == "carts" && one["wouldStop"].is_null(), "{json}");
    ensure!(
        bound["kind"] == "ServiceAccount" && bound["name"] == "cart" && bound["isCanary"] == false,
        "{json}"
    );
    let table = stage.ambit(&["waypoint", "status", "-n", "front"]).await?;
    ensure!(
        table.said.contains("front/other") && table.said.contains("nobody runs Gateways"),
        "{}",
        table.said
    );
    stage.ambit(&["waypoint", "status", "-n", "front", "none-such"]).await?.is(1)
}

async fn a_waypoint_that_is_deleted_is_gone(stage: &Stage) -> Result<()> {
    stage.ambit(&["waypoint", "delete", "-n", "front"]).await?.is(2)?;
    stage.ambit(&["waypoint", "delete", "-n", "front", "none-such"]).await?.is(1)?;
    stage.ambit(&["waypoint", "delete", "-n", "front", "waypoint"]).await?.is(0)?;
    let rest = stage.ambit(&["waypoint", "delete", "-n", "front", "--all"]).await?;
    rest.is(0)?;
    ensure!(rest.noted.contains("still names waypoint other"), "{}", rest.noted);
    // They go when what they own has gone.
    eventually(SOON, "their end", async || {
        let left = stage.ambit(&["waypoint", "list", "-n", "front"]).await?;
        ensure!(left.said.contains("no waypoints"), "{}", left.said);
        Ok(())
    })
    .await
}
