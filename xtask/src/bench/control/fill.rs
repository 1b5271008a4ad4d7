// SPDX-License-Identifier: Apache-2.0
//! Makes the objects in the cluster, many at a time, and waits until the controllers of the cluster have done their part.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lab::{
    eventually,
    kube::{
        KubeCluster,
        api::{Api, Session},
    },
};
use serde_json::Value;

use super::{
    Scale,
    scene::{self, Item, Pod},
};
use crate::step::{say, seconds};

/// Connections to the API server.
const CONNECTIONS: usize = 24;
/// How long the controllers may take to make endpoint slices and to adopt pods.
const CONTROLLERS: Duration = Duration::from_secs(240);

/// The kinds of Istio that both understand, as the chart has them.
const DEFINITIONS: [&str; 5] = [
    include_str!("../../../../charts/base/files/crds/authorizationpolicies.yaml"),
    include_str!("../../../../charts/base/files/crds/peerauthentications.yaml"),
    include_str!("../../../../charts/base/files/crds/serviceentries.yaml"),
    include_str!("../../../../charts/base/files/crds/workloadentries.yaml"),
    include_str!("../../../../charts/base/files/crds/workloadgroups.yaml"),
];

/// Makes everything.
pub(super) async fn fill(cluster: &KubeCluster, scale: &Scale) -> Result<()> {
    cluster.apply(&DEFINITIONS.join("\n---\n")).await?;
    let api = cluster.api();
    let started = Instant::now();
    let ground = scene::ground(scale);
    // Namespaces before what is in them.
    let (accounts, ground): (Vec<Item>, Vec<Item>) =
        ground.into_iter().partition(|item| item.path.ends_with("/serviceaccounts"));
    create(api, ground).await?;
    create(api, accounts).await?;
    let pods = scene::pods(scale);
    let count = pods.len();
    each(api, pods, async |session, pod: Pod| {
        session.create(&pod.collection(), &pod.object).await?;
        session.merge(&format!("{}/status", pod.path()), &pod.status).await.map(drop)
    })
    .await?;
    say(format!("   {count} pods with their status in {}", seconds(started.elapsed())));
    create(api, scene::services(scale)).await?;
    create(api, scene::controllers(scale)).await?;
    eventually(CONTROLLERS, "definitions in force", async || {
        let path = "/apis/networking.istio.io/v1/workloadentries?limit=1";
        api.get(path).await.map(drop)
    })
    .await?;
    create(api, scene::policies(scale)).await?;
    settled(api, scale).await?;
    say(format!("   everything in {}", seconds(started.elapsed())));
    Ok(())
}

async fn create(api: &Api, items: Vec<Item>) -> Result<()> {
    each(api, items, async |session, item: Item| session.create(&item.path, &item.object).await.map(drop))
        .await
}

/// Does something for each, over a few connections.
async fn each<T>(api: &Api, items: Vec<T>, act: impl AsyncFn(&mut Session, T) -> Result<()>) -> Result<()> {
    let queue = parking_lot::Mutex::new(items.into_iter());
    let worker = async || {
        let mut session = api.session().await?;
        loop {
            let next = queue.lock().next();
            let Some(item) = next else { return anyhow::Ok(()) };
            act(&mut session, item).await?;
        }
    };
    stream::iter(0..CONNECTIONS).map(Ok).try_for_each_concurrent(None, |_| worker()).await
}

/// Waits until the endpoints of every service are written down and every controller has its pods.
async fn settled(api: &Api, scale: &Scale) -> Result<()> {
    let endpoints = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=endpointslice.kubernetes.io/managed-by%3Dendpointslice-controller.k8s.io";
    let started = Instant::now();
    loop {
        let slices = api.get(endpoints).await?;
        let listed: usize =
            items(&slices).filter_map(|slice| Some(slice.get("endpoints")?.as_array()?.len())).sum();
        let sets = api.get("/apis/apps/v1/replicasets").await?;
        let lacking =
            items(&sets).filter(|set| set.pointer("/status/replicas") != set.pointer("/spec/replicas"));
        let lacking = lacking.count();
        if listed >= scale.pods && lacking == 0 {
            return Ok(());
        }
        ensure!(
            started.elapsed() < CONTROLLERS,
            "after {CONTROLLERS:?} {listed} of {} endpoints are listed and {lacking} ReplicaSets lack pods",
            scale.pods
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// A connection for single changes.
pub(super) async fn session(cluster: &KubeCluster) -> Result<Session> {
    cluster.api().session().await.context("a connection to the API server")
}
