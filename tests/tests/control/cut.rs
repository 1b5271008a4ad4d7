// SPDX-License-Identifier: Apache-2.0
//! A replica that alone has lost the API server, while it leads: another one takes over, and it serves on with what it knows.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use identity::{AuthorityError, ca::Subject};
use lab::{checks, eventually, kube::suite::Check};
use serde_json::{Value, json};

use crate::{
    checks::{Stage, knows_pod},
    plane::{Plane, SOON, until},
};

/// Until a lease that nobody renews is another's, or a picture counts as old.
const LATE: Duration = Duration::from_secs(90);
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const PODS: &str = "/api/v1/namespaces/shop/pods";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![a_leader_that_alone_has_lost_the_api_server_is_followed_by_another_and_serves_on]
}

/// Whether it leads, and of how many kinds its picture is old.
pub(crate) async fn standing(plane: &Plane) -> Result<(bool, usize)> {
    let status = plane.status().await?;
    let leads = status.pointer("/cluster/leads").and_then(Value::as_bool).context("no word of the lease")?;
    let stale = status.pointer("/cluster/stale").and_then(Value::as_array).context("no word of age")?;
    Ok((leads, stale.len()))
}

async fn leads(plane: &Plane, expected: bool) -> Result<()> {
    eventually(LATE, "the lease", async || {
        let (leads, _) = standing(plane).await?;
        ensure!(leads == expected, "it leads: {leads}");
        Ok(())
    })
    .await
}

async fn a_leader_that_alone_has_lost_the_api_server_is_followed_by_another_and_serves_on(
    stage: &Stage,
) -> Result<()> {
    let (alone, other) = (&stage.second, &stage.first);
    let other_leads = eventually(LATE, "a leader", async || {
        let both = (standing(alone).await?.0, standing(other).await?.0);
        match both {
            (true, false) => Ok(false),
            (false, true) => Ok(true),
            _ => bail!("leaders: {both:?}"),
        }
    })
    .await?;
    // That it leads takes that the other one does not.
    if other_leads {
        other.process().kill()?;
        let led = leads(alone, true).await;
        other.process().start_again()?;
        led?;
        other.ready().await?;
    }
    leads(alone, true).await?;
    let follower = stage.scene.subscribe(alone, &stage.token).await?;
    until(&follower, "the mesh", |index| knows_pod(index, "cart")).await?;
    stage.link.cut();
    let apart = while_apart(stage).await;
    stage.link.mend();
    apart?;
    until(&follower, "what came meanwhile, on the same stream", |index| knows_pod(index, "apart")).await?;
    eventually(LATE, "a picture that is new again", async || {
        let (_, stale) = standing(alone).await?;
        ensure!(stale == 0, "{stale} kinds are old");
        let asked = (stage.token.as_str(), Subject::Impersonated);
        Ok(stage.scene.certificate(alone, asked, CART).await??)
    })
    .await?;
    ensure!(!standing(alone).await?.0, "it has taken the lease from who had it");
    Ok(())
}

async fn while_apart(stage: &Stage) -> Result<()> {
    let (alone, other) = (&stage.second, &stage.first);
    refuses(stage).await?;
    leads(other, true).await?;
    leads(alone, false).await?;
    // What only a leader writes is written.
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: apart}}").await?;
    eventually(SOON, "the roots in a new namespace", async || stage.scene.roots("apart").await).await?;
    eventually(LATE, "its word that its picture is old", async || {
        let (_, stale) = standing(alone).await?;
        ensure!(stale > 5, "{stale} kinds are old");
        Ok(())
    })
    .await?;
    eventually(LATE, "the other one being well", async || {
        let found = standing(other).await?;
        ensure!(found == (true, 0), "whether it leads, and how many kinds are old: {found:?}");
        Ok(())
    })
    .await?;

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "apart", "namespace": "shop"},
        "spec": {"nodeName": "node-a", "serviceAccountName": "cart", "containers": [{"name": "app", "image": "none"}]},
    });
    let api = stage.scene.cluster.api();
    api.create(PODS, &pod).await?;
    api.merge(
        &format!("{PODS}/apart/status"),
        &json!({"status": {"phase": "Running", "podIP": "10.9.0.10"}}),
    )
    .await?;
    until(&stage.proxy, "the pod, from the other one", |index| knows_pod(index, "apart")).await?;
    // A new stream of a proxy that was known is served with the last state.
    let again = stage.scene.subscribe(alone, &stage.token).await?;
    until(&again, "the last state", |index| knows_pod(index, "cart") && !knows_pod(index, "apart")).await?;
    alone.read("/healthz/ready").await?;
    refuses(stage).await?;
    ensure!(!standing(alone).await?.0, "it leads again");
    eventually(SOON, "a certificate from the other one", async || {
        let asked = (stage.token.as_str(), Subject::Impersonated);
        Ok(stage.scene.certificate(other, asked, CART).await??)
    })
    .await?;
    Ok(())
}

/// Nobody gets a certificate from the one that is apart: it cannot ask whose a token is.
async fn refuses(stage: &Stage) -> Result<()> {
    let asked = (stage.token.as_str(), Subject::Impersonated);
    match stage.scene.certificate(&stage.second, asked, CART).await? {
        Err(AuthorityError::Unreachable { source }) => {
            let reason = source.to_string();
            ensure!(reason.contains("cannot be judged now"), "another reason: {reason}");
            Ok(())
        }
        other => bail!("without the API server: {other:?}"),
    }
}
