// SPDX-License-Identifier: Apache-2.0
//! Waypoints where the API server has metrics: an autoscaler is made, and the number of pods is left to it.

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    checks, eventually,
    kube::{gateway_api, suite::Check},
};
use serde_json::{Value, json};

use crate::{
    checks::{Stage, condition_at},
    plane::SOON,
};

const NAMESPACE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/crowd/gateways";
/// One that is there before the metrics, and one that comes after them, of the class that Istio's own waypoints have.
const EARLY: (&str, &str) = ("early", "ambit-waypoint");
const LATE: (&str, &str) = ("late", "istio-waypoint");
/// Nobody tells control that there are metrics: it looks every 15 s.
const LOOKED: std::time::Duration = std::time::Duration::from_secs(60);
const MANAGER: &str = "ambit-waypoints";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![with_metrics_an_autoscaler_has_the_number_of_pods]
}

fn gateway((name, class): (&str, &str)) -> String {
    let listener = "{name: mesh, port: 15008, protocol: HBONE}";
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: crowd}}\nspec: \
         {{gatewayClassName: {class}, listeners: [{listener}]}}\n"
    )
}

/// A kind of the group of metrics, which makes the API server serve the group.
fn metrics() -> String {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "trials.metrics.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "metrics.k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "Trial", "plural": "trials", "singular": "trial"},
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }],
        },
    });
    definition.to_string()
}

fn deployment(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/crowd/deployments/{name}")
}

fn autoscaler(name: &str) -> String {
    format!("/apis/autoscaling/v2/namespaces/crowd/horizontalpodautoscalers/{name}")
}

async fn get(stage: &Stage, path: &str) -> Result<Value> {
    stage.scene.cluster.api().get(path).await
}

/// Waits for a number of pods that are wanted.
async fn replicas(stage: &Stage, name: &str, expected: u32) -> Result<()> {
    eventually(SOON, "the number of pods", async || {
        let found = get(stage, &deployment(name)).await?.pointer("/spec/replicas").cloned();
        ensure!(found == Some(json!(expected)), "{name} has {found:?}");
        Ok(())
    })
    .await
}

/// Which fields of a Deployment's `spec` a manager has set.
async fn set_by(stage: &Stage, name: &str, manager: &str) -> Result<Vec<String>> {
    let found = get(stage, &deployment(name)).await?;
    let managed =
        found.pointer("/metadata/managedFields").and_then(Value::as_array).context("no managers")?;
    let by = managed.iter().filter(|entry| entry["manager"] == manager);
    let fields = by.filter_map(|entry| entry.pointer("/fieldsV1/f:spec")?.as_object());
    Ok(fields.flat_map(|fields| fields.keys().cloned()).collect())
}

async fn with_metrics_an_autoscaler_has_the_number_of_pods(stage: &Stage) -> Result<()> {
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: crowd}}").await?;
    stage.apply(&gateway_api::definitions(&["gatewayclasses", "gateways"])?).await?;
    // The API server serves a new kind after a moment.
    eventually(SOON, "the kind", async || stage.apply(&gateway(EARLY)).await).await?;
    eventually(LOOKED, "a Deployment", async || get(stage, &deployment(EARLY.0)).await).await?;
    replicas(stage, EARLY.0, 2).await?;
    ensure!(get(stage, &autoscaler(EARLY.0)).await.is_err(), "an autoscaler without metrics");

    stage.apply(&metrics()).await?;
    let scaled = scaled(stage).await;
    stage.scene.cluster.kubectl(&["delete", "crd", "trials.metrics.k8s.io"]).await?;
    scaled?;
    for (name, _) in [EARLY, LATE] {
        eventually(LOOKED, "the autoscaler's end", async || {
            let Err(error) = get(stage, &autoscaler(name)).await else { bail!("{name} has it still") };
            ensure!(format!("{error:#}").contains("404"), "{error:#}");
            Ok(())
        })
        .await?;
        replicas(stage, name, 2).await?;
    }
    stage.scene.cluster.kubectl(&["delete", "namespace", "crowd", "--wait=false"]).await.map(drop)
}

async fn scaled(stage: &Stage) -> Result<()> {
    let api = stage.scene.cluster.api();
    let autoscaled = async |name: &str| {
        let found = eventually(LOOKED, "an autoscaler", async || get(stage, &autoscaler(name)).await).await?;
        let spec = &found["spec"];
        ensure!(spec["scaleTargetRef"]["name"] == name && spec["minReplicas"] == 2, "{spec}");
        ensure!(found.pointer("/metadata/ownerReferences/0/kind") == Some(&json!("Gateway")), "{found}");
        Ok(())
    };
    autoscaled(EARLY.0).await?;
    // What it had stays until somebody asks for another number.
    replicas(stage, EARLY.0, 2).await?;
    api.merge(&format!("{}/scale", deployment(EARLY.0)), &json!({"spec": {"replicas": 5}})).await?;
    // Control applies the Deployment anew.
    let spec = json!({"template": {"spec": {"terminationGracePeriodSeconds": 1}}});
    api.merge(&deployment(EARLY.0), &json!({"spec": spec})).await?;
    eventually(SOON, "a field again", async || {
        let found = get(stage, &deployment(EARLY.0)).await?;
        let grace = found.pointer("/spec/template/spec/terminationGracePeriodSeconds");
        ensure!(grace == Some(&json!(60)), "it is {grace:?}");
        Ok(())
    })
    .await?;
    replicas(stage, EARLY.0, 5).await?;

    stage.apply(&gateway(LATE)).await?;
    autoscaled(LATE.0).await?;
    let ours = eventually(SOON, "the Deployment of the late one", async || {
        let ours = set_by(stage, LATE.0, MANAGER).await?;
        ensure!(ours.iter().any(|field| field == "f:template"), "we have set {ours:?}");
        Ok(ours)
    })
    .await?;
    ensure!(!ours.iter().any(|field| field == "f:replicas"), "we have set {ours:?}");
    let count = set_by(stage, LATE.0, &format!("{MANAGER}-replicas")).await?;
    ensure!(count.is_empty(), "we have set {count:?}");
    eventually(SOON, "the Gateway of Istio's class", async || {
        let (status, _) = condition_at(stage, &format!("{NAMESPACE}/{}", LATE.0), "Accepted").await?;
        ensure!(status == "True", "it is {status}");
        Ok(())
    })
    .await
}
