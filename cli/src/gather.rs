// SPDX-License-Identifier: Apache-2.0
//! Looks at a cluster. What cannot be looked at is a fact too: it is named, and the rest is gone on with.

mod parse;

use std::future::Future;

use futures_util::{StreamExt as _, stream};
use kubernetes::{Api, ApiError, PodPort, Resource, Within};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::parse::refused;
use crate::{
    facts::{Answer, Facts, Role},
    say,
};

/// Pods that are asked at the same time.
const AT_ONCE: usize = 8;
/// Of why a pod has not answered, in characters.
const LONGEST_REASON: usize = 200;
/// `:15014` of control: metrics, readiness, status.
pub(crate) const CONTROL: u16 = 15014;
/// `:15000` of ztunnel, on its loopback.
pub(crate) const ZTUNNEL: u16 = 15000;
/// `:15000` of a waypoint, on its loopback.
pub(crate) const WAYPOINT: u16 = 15000;

const NODES: Resource = Resource::core("nodes");
const NAMESPACES: Resource = Resource::core("namespaces");
const PODS: Resource = Resource::core("pods");
const CONFIGS: Resource = Resource::core("configmaps");
const DAEMON_SETS: Resource = Resource::new("apps", "v1", "daemonsets");
const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
const CRDS: Resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");

/// The settings of Istio's CNI agent, in whatever namespace that runs.
const ISTIO_CNI: &str = "istio-cni-config";

/// What the API server knows.
///
/// # Errors
/// When it cannot be reached at all.
pub(crate) async fn cluster(api: &Api, home: &str) -> Result<Facts, ApiError> {
    say::progress("asking the API server ...");
    let version: Value = api.get("/version").await?;
    let mut facts = Facts { home: home.to_owned(), server: parse::server(&version), ..Facts::default() };
    let cilium = CONFIGS.object("kube-system", "cilium-config");
    let istio = format!("{}?fieldSelector=metadata.name%3D{ISTIO_CNI}", CONFIGS.path(&Within::Cluster));
    let (nodes, namespaces, pods, daemon_sets, deployments, crds, cilium, istio) = futures_util::join!(
        all(api, NODES),
        all(api, NAMESPACES),
        all(api, PODS),
        all(api, DAEMON_SETS),
        all(api, DEPLOYMENTS),
        all(api, CRDS),
        api.find::<Value>(&cilium),
        api.list::<Value>(&istio),
    );
    let mut seen = |what: &str, found: Result<Vec<Value>, ApiError>| {
        found.unwrap_or_else(|error| {
            facts.hidden.push(format!("{what}: {error}"));
            Vec::new()
        })
    };
    let nodes = seen("nodes", nodes);
    let namespaces = seen("namespaces", namespaces);
    let pods = seen("pods", pods);
    let daemon_sets = seen("DaemonSets", daemon_sets);
    let deployments = seen("Deployments", deployments);
    let crds = seen("CustomResourceDefinitions", crds);
    let cilium = seen("ConfigMap kube-system/cilium-config", cilium.map(|found| found.into_iter().collect()));
    let istio = seen("ConfigMaps istio-cni-config", istio);
    facts.nodes = nodes.iter().map(parse::node).collect();
    facts.namespaces = namespaces.into_iter().filter_map(parse::namespace).collect();
    facts.pods = pods.into_iter().filter_map(parse::pod).collect();
    facts.workloads = daemon_sets.iter().map(parse::daemon_set).collect();
    facts.workloads.extend(deployments.iter().map(parse::deployment));
    facts.crds = crds.iter().map(parse::crd).collect();
    let data = |maps: &[Value]| maps.first().map(|map| crate::tree::map(map, "/data")).unwrap_or_default();
    (facts.cilium, facts.istio_cni) = (data(&cilium), data(&istio));
    Ok(facts)
}

/// What the mesh's own parts say, added to what the API server knows.
pub(crate) async fn parts(api: &Api, facts: &mut Facts) {
    let running = |role| running(facts, role);
    let (controls, nodes, ztunnels) = (running(Role::Control), running(Role::Node), running(Role::Ztunnel));
    let count = controls.len() + nodes.len() + ztunnels.len();
    if count == 0 {
        return;
    }
    say::progress(&format!("asking {} ...", crate::output::count(count, "pod of the mesh")));
    let (controls, nodes, ztunnels) = futures_util::join!(
        ask_all(api, &facts.home, controls, (CONTROL, "/status")),
        ask_all(api, &facts.home, nodes, (facts.node_port(), "/checks")),
        ask_all(api, &facts.home, ztunnels, (ZTUNNEL, "/config_dump")),
    );
    facts.reports = nodes.into_iter().collect();
    facts.controls = controls.into_iter().collect();
    facts.ztunnels = ztunnels.into_iter().collect();
}

/// Everything.
///
/// # Errors
/// When the API server cannot be reached at all.
pub(crate) async fn everything(api: &Api, home: &str) -> Result<Facts, ApiError> {
    let mut facts = cluster(api, home).await?;
    parts(api, &mut facts).await;
    Ok(facts)
}

/// All objects of a kind.
pub(crate) async fn all(api: &Api, kind: Resource) -> Result<Vec<Value>, ApiError> {
    api.list(&kind.path(&Within::Cluster)).await
}

/// Names of the pods of a part that run.
pub(crate) fn running(facts: &Facts, role: Role) -> Vec<String> {
    let runs = |pod: &&&crate::facts::Pod| pod.object.phase == membership::objects::Phase::Running;
    facts.pods_of(role).iter().filter(runs).map(|pod| pod.object.name.clone()).collect()
}

/// The same question to many pods, a few at a time.
pub(crate) async fn ask_all<T: DeserializeOwned>(
    api: &Api,
    namespace: &str,
    pods: Vec<String>,
    (port, path): (u16, &str),
) -> Vec<(String, Answer<T>)> {
    let asking = pods.into_iter().map(|pod| {
        let at = PodPort { namespace: namespace.to_owned(), pod: pod.clone(), port };
        async move { (pod, ask(api, &at, path).await) }
    });
    at_once(asking).await
}

/// Futures, a few at a time, in any order.
pub(crate) async fn at_once<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(futures).buffer_unordered(AT_ONCE).collect().await
}

/// What a port of a pod answers, as text.
pub(crate) async fn text(api: &Api, at: &PodPort, path: &str) -> Answer<String> {
    let body = at
        .get(api, path)
        .await
        .map_err(|error| chain(&error).chars().take(LONGEST_REASON).collect::<String>())?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// What a port of a pod answers, read as JSON.
pub(crate) async fn ask<T: DeserializeOwned>(api: &Api, at: &PodPort, path: &str) -> Answer<T> {
    // Kubelet repeats itself at length.
    let short =
        |error: kubernetes::ForwardError| chain(&error).chars().take(LONGEST_REASON).collect::<String>();
    let body = at.get(api, path).await.map_err(short)?;
    serde_json::from_slice(&body).map_err(|error| format!("the answer of {at} cannot be read: {error}"))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
