// SPDX-License-Identifier: Apache-2.0
//! What control does when the API server is gone, when it has forgotten, and when a role is missing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use identity::{AuthorityError, ca::Subject};
use lab::{
    checks, eventually,
    kube::suite::{Check, say},
};
use mesh::Index;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    checks::{Stage, knows_pod},
    cut::standing,
    plane::{SOON, roles, until},
};

/// Until a picture counts as old, and a little.
const OLD: Duration = Duration::from_secs(60);
const API_READY: Duration = Duration::from_secs(120);

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![
        without_the_api_server_control_serves_on_says_so_and_certifies_nobody,
        what_happened_while_control_slept_is_known_although_the_store_has_forgotten,
        another_leader_takes_over_when_the_first_is_killed,
        a_role_that_is_missing_is_named,
        a_root_whose_secret_is_deleted_stays_and_its_secret_comes_back,
        a_replica_that_was_asked_to_end_gives_the_lease_back,
    ]
}

async fn without_the_api_server_control_serves_on_says_so_and_certifies_nobody(stage: &Stage) -> Result<()> {
    // Who is known now may read on.
    until(&stage.proxy, "the mesh", |index| knows_pod(index, "cart")).await?;
    let api_server = &stage.scene.cluster.control().apiserver;
    api_server.kill()?;
    let outage = during_the_outage(stage).await;
    api_server.start_again()?;
    outage?;
    let api = stage.scene.cluster.api();
    api_ready(stage).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "after", "namespace": "shop"},
        "spec": {"nodeName": "node-a", "serviceAccountName": "cart", "containers": [{"name": "app", "image": "none"}]},
    });
    eventually(SOON, "a pod", async || api.create("/api/v1/namespaces/shop/pods", &pod).await).await?;
    let status = json!({"status": {"phase": "Running", "podIP": "10.9.0.7"}});
    let started = Instant::now();
    api.merge("/api/v1/namespaces/shop/pods/after/status", &status).await?;
    until(&stage.proxy, "what came after", |index| knows_pod(index, "after")).await?;
    say(&format!("after the return of the API server a change took {:?}", started.elapsed()));
    eventually(SOON, "certificates again", async || {
        let cart = "spiffe://cluster.local/ns/shop/sa/cart";
        Ok(stage.scene.certificate(&stage.first, (&stage.token, Subject::Impersonated), cart).await??)
    })
    .await?;
    Ok(())
}

async fn during_the_outage(stage: &Stage) -> Result<()> {
    let roots = stage.roots.clone();
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let asked = stage
        .scene
        .certificate_under(&roots, &stage.first, (&stage.token, Subject::Impersonated), cart)
        .await?;
    match asked {
        Err(AuthorityError::Refused { .. } | AuthorityError::Unreachable { .. }) => {}
        other => bail!("without the API server: {other:?}"),
    }
    eventually(OLD, "control saying that its picture is old", async || {
        let status = stage.first.status().await?;
        let stale = status.pointer("/cluster/stale").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(stale > 5, "{stale} kinds are old");
        Ok(())
    })
    .await?;
    for plane in [&stage.first, &stage.second] {
        eventually(OLD, "a replica that does not lead any more", async || {
            ensure!(!standing(plane).await?.0, "it leads");
            Ok(())
        })
        .await?;
    }
    // A new stream of a proxy that was known is served with the last state; a stranger is not.
    let again = stage.scene.subscribe_under(&roots, &stage.first, &stage.token)?;
    until(&again, "the last state", |index| knows_pod(index, "cart")).await?;
    stage.first.read("/healthz/ready").await?;
    Ok(())
}

/// A watch that is taken up again where it was would say nothing of what is gone.
async fn what_happened_while_control_slept_is_known_although_the_store_has_forgotten(
    stage: &Stage,
) -> Result<()> {
    let api = stage.scene.cluster.api();
    let pods = "/api/v1/namespaces/shop/pods";
    let made = async |name: &str, address: &str| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"nodeName": "node-a", "serviceAccountName": "cart", "containers": [{"name": "app", "image": "none"}]},
        });
        api.create(pods, &pod).await?;
        let status = json!({"status": {"phase": "Running", "podIP": address}});
        api.merge(&format!("{pods}/{name}/status"), &status).await
    };
    made("dream", "10.9.0.8").await?;
    until(&stage.proxy, "a pod", |index| knows_pod(index, "dream")).await?;
    let planes = [&stage.first, &stage.second];
    for plane in planes {
        plane.process().signal(Signal::SIGSTOP)?;
    }
    let meanwhile = async {
        let gone = ["-n", "shop", "delete", "pod", "dream", "--force", "--grace-period=0"];
        stage.scene.cluster.kubectl(&gone).await?;
        let last = made("awake", "10.9.0.9").await?;
        let version = last.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let control = stage.scene.cluster.control();
        control.compact(stage.scene.cluster.shape(), version.context("no version")?.parse()?).await?;
        // The API server has a memory of its own.
        control.apiserver.kill()?;
        control.apiserver.start_again()?;
        api_ready(stage).await
    };
    let meanwhile = meanwhile.await;
    for plane in planes {
        plane.process().signal(Signal::SIGCONT)?;
    }
    meanwhile?;
    let is_so = |index: &Index| knows_pod(index, "awake") && !knows_pod(index, "dream");
    until(&stage.proxy, "what is there now", is_so).await.map(drop)
}

async fn api_ready(stage: &Stage) -> Result<()> {
    let cluster = &stage.scene.cluster;
    let ready = async || {
        ensure!(cluster.api().text("/readyz").await? == "ok", "it is not ready");
        Ok(())
    };
    cluster.control().apiserver.ready(API_READY, ready).await
}

async fn another_leader_takes_over_when_the_first_is_killed(stage: &Stage) -> Result<()> {
    let leads = async |plane| anyhow::Ok(standing(plane).await?.0);
    let (leader, other) = eventually(SOON, "a leader", async || {
        match (leads(&stage.first).await?, leads(&stage.second).await?) {
            (true, false) => Ok((&stage.first, &stage.second)),
            (false, true) => Ok((&stage.second, &stage.first)),
            both => bail!("leaders: {both:?}"),
        }
    })
    .await?;
    leader.process().kill()?;
    let taken = eventually(SOON, "another leader", async || {
        ensure!(leads(other).await?, "it does not lead");
        Ok(())
    })
    .await;
    leader.process().start_again()?;
    taken?;
    // What only a leader writes is written.
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: later}}").await?;
    eventually(SOON, "the roots in a new namespace", async || stage.scene.roots("later").await).await?;
    leader.ready().await
}

async fn a_role_that_is_missing_is_named(stage: &Stage) -> Result<()> {
    let roles = roles(&stage.scene.cluster).await?;
    let without = roles.replace("namespaces, nodes, pods, services,", "namespaces, nodes, services,");
    ensure!(without != roles, "the roles have changed");
    stage.apply(&without).await?;
    let third = stage.scene.start("control-2", (16012, 16014))?;
    let named = eventually(SOON, "the missing role named", async || {
        let log = third.process().log();
        let named = log.lines().any(|line| line.contains("list and watch") && line.contains("pods"));
        ensure!(named, "it is not");
        let status = third.status().await?;
        let ready = status.get("ready").and_then(Value::as_bool);
        ensure!(ready == Some(false), "it claims to be ready");
        Ok(())
    })
    .await;
    stage.apply(&roles).await?;
    named?;
    third.ready().await
}

/// Whoever started without it would begin another mesh.
async fn a_root_whose_secret_is_deleted_stays_and_its_secret_comes_back(stage: &Stage) -> Result<()> {
    let path = "/api/v1/namespaces/ambit-system/secrets/ambit-ca";
    let of = async || stage.scene.cluster.api().get(path).await;
    let before = of().await?;
    let published = stage.scene.roots("shop").await?;
    stage.scene.cluster.kubectl(&["-n", "ambit-system", "delete", "secret", "ambit-ca"]).await?;
    let after = eventually(SOON, "the Secret again", of).await?;
    ensure!(after.pointer("/metadata/uid") != before.pointer("/metadata/uid"), "it was not deleted");
    ensure!(after.get("data") == before.get("data"), "it has another content");
    let fourth = stage.scene.start("control-3", (16212, 16214))?;
    fourth.ready().await?;
    // Its server is believed by who believes what was published before.
    let again = stage.scene.subscribe_under(&published, &fourth, &stage.token)?;
    until(&again, "the mesh", |index| knows_pod(index, "cart")).await?;
    ensure!(stage.scene.roots("shop").await? == published, "other roots are published");
    fourth.process().terminate(SOON).await.map(drop)
}

async fn a_replica_that_was_asked_to_end_gives_the_lease_back(stage: &Stage) -> Result<()> {
    for plane in [&stage.first, &stage.second] {
        // Who has the lease gives it back; for the second one that takes that it has got it from the first.
        if std::ptr::eq(plane, &stage.second) {
            eventually(SOON, "the lease", async || {
                ensure!(standing(plane).await?.0, "it does not lead");
                Ok(())
            })
            .await?;
        }
        let status = plane.process().terminate(SOON).await?;
        ensure!(status.success(), "it ended with {status}");
    }
    let path = "/apis/coordination.k8s.io/v1/namespaces/ambit-system/leases/ambit-control";
    let lease = stage.scene.cluster.api().get(path).await?;
    let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
    ensure!(holder.is_empty(), "{holder} holds it");
    Ok(())
}
