// SPDX-License-Identifier: Apache-2.0
//! A new root while the mesh runs: what either replica signs is believed at every step by who knows the roots of this step,
//! and by who still knows those of the step before.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use identity::ca::Subject;
use lab::{
    checks, eventually,
    kube::suite::{Check, say},
};
use serde_json::{Value, json};

use crate::{
    checks::Stage,
    plane::{Plane, SOON},
};

const SECRET: &str = "/api/v1/namespaces/ambit-system/secrets/ambit-ca";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
/// Each step waits for 1.25 times as long.
const TTL: &str = "16s";
/// Until a step has been made, and a replica that had the Lease before is known to be gone.
const STEP: Duration = Duration::from_secs(120);

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![a_root_is_replaced_step_by_step_and_nobody_meets_one_that_he_does_not_believe_in]
}

/// How far it is: what every pod believes, what signs, and what the Secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    believed: String,
    signing: String,
    keys: Vec<String>,
}

impl Standing {
    async fn read(stage: &Stage) -> Result<Self> {
        let secret = stage.scene.cluster.api().get(SECRET).await?;
        let data = secret.get("data").and_then(Value::as_object).context("a Secret without data")?;
        let text = data.get("ca-cert.pem").and_then(Value::as_str).context("no certificate")?;
        let signing = BASE64_STANDARD.decode(text).context("a value that is not base64")?;
        Ok(Self {
            believed: stage.scene.roots("shop").await?,
            signing: String::from_utf8(signing).context("a certificate that is no text")?,
            keys: data.keys().cloned().collect(),
        })
    }

    fn roots(&self) -> usize {
        self.believed.matches("BEGIN CERTIFICATE").count()
    }

    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|found| found == key)
    }
}

async fn a_root_is_replaced_step_by_step_and_nobody_meets_one_that_he_does_not_believe_in(
    stage: &Stage,
) -> Result<()> {
    // They would wait for a day before each step.
    for plane in [&stage.first, &stage.second] {
        plane.process().kill()?;
    }
    let life = [("AMBIT_CERT_TTL", TTL)];
    let planes = [
        stage.scene.start_with("control-6", (16612, 16614), &life)?,
        stage.scene.start_with("control-7", (16712, 16714), &life)?,
    ];
    for plane in &planes {
        plane.ready().await?;
    }
    let begin = Standing::read(stage).await?;
    ensure!(begin.roots() == 1, "{} roots before anybody asked", begin.roots());
    believed(stage, &planes, (&begin, &begin)).await?;
    stage.scene.cluster.api().merge(SECRET, &json!({"stringData": {"rotate": "now"}})).await?;

    let announced = step(stage, "both roots believed", |now| {
        now.roots() == 2 && now.signing == begin.signing && now.has("next-ca-cert.pem")
    })
    .await?;
    ensure!(!announced.has("rotate"), "it is still asked for");
    believed(stage, &planes, (&begin, &announced)).await?;

    let switched = step(stage, "the new root signing", |now| {
        now.believed == announced.believed && now.signing != begin.signing && !now.has("next-ca-cert.pem")
    })
    .await?;
    believed(stage, &planes, (&announced, &switched)).await?;

    let finished = step(stage, "only the new root believed", |now| {
        now.roots() == 1 && now.signing == switched.signing && !now.has("rotation-since")
    })
    .await?;
    ensure!(finished.believed != begin.believed, "it is the old root");
    believed(stage, &planes, (&switched, &finished)).await?;
    for plane in &planes {
        let asked = (stage.token.as_str(), Subject::Impersonated);
        let Err(error) = stage.scene.signed_under(&begin.believed, plane, asked, CART).await? else {
            bail!("who believes in the old root alone is still served")
        };
        let error = anyhow::Error::new(error);
        ensure!(is_doubt(&error), "another reason: {error:#}");
        plane.process().terminate(SOON).await?;
    }
    Ok(())
}

async fn step(stage: &Stage, what: &str, is_there: impl Fn(&Standing) -> bool) -> Result<Standing> {
    let now = eventually(STEP, what, async || {
        let now = Standing::read(stage).await?;
        ensure!(is_there(&now), "{} roots are believed, and the Secret has {:?}", now.roots(), now.keys);
        Ok(now)
    })
    .await?;
    say(what);
    Ok(now)
}

/// Until each replica has made this step: its server, and what it signs, is believed by who knows its roots, and by who knows
/// those of the step before.
async fn believed(stage: &Stage, planes: &[Plane], (before, now): (&Standing, &Standing)) -> Result<()> {
    for plane in planes {
        eventually(SOON, "a replica that has heard of it", async || {
            for roots in [&before.believed, &now.believed] {
                let asked = (stage.token.as_str(), Subject::Impersonated);
                let signed = match stage.scene.signed_under(roots, plane, asked, CART).await? {
                    Ok(signed) => signed,
                    Err(error) => {
                        let error = anyhow::Error::new(error);
                        // The outer answer waits, the inner one does not: who was not believed once is a fault.
                        return if is_doubt(&error) { Ok(Err(error)) } else { Err(error) };
                    }
                };
                if let Err(error) = signed.under(&before.believed).and_then(|_| signed.under(&now.believed)) {
                    return Ok(Err(error));
                }
                ensure!(signed.bundle()? == now.believed, "it hands out other roots");
                signed.under(&now.signing).context("another root signs")?;
            }
            Ok(Ok(()))
        })
        .await??;
    }
    Ok(())
}

/// Whether a server was not believed.
fn is_doubt(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("invalid peer certificate")
}
