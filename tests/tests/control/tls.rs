// SPDX-License-Identifier: Apache-2.0
//! Policies of TLS with servers outside the mesh: certificates come from ConfigMaps that nobody watches, and the status says,
//! target by target, whether they can be used.

use anyhow::{Context as _, Result, ensure};
use lab::{
    checks, eventually,
    kube::{gateway_api, suite::Check},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::{checks::Stage, plane::SOON};

const PATH: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/backendtlspolicies/cart";
const POLICY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  validation:
    hostname: cart.example.com
    caCertificateRefs: [{group: '', kind: ConfigMap, name: cart-roots}]
";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![a_policy_of_tls_says_whether_its_certificates_can_be_used]
}

/// Waits for the conditions of the only target: type, status and reason of each.
async fn says(stage: &Stage, expected: [(&str, &str, &str); 3]) -> Result<()> {
    // What is named is read every 15 s.
    eventually(SOON, "the status of the policy", async || {
        let policy: Value = stage.scene.cluster.api().get(PATH).await?;
        let ancestors = policy.pointer("/status/ancestors").and_then(Value::as_array);
        let [ancestor] = ancestors.context("no status")?.as_slice() else {
            anyhow::bail!("not one target: {policy}")
        };
        ensure!(ancestor["ancestorRef"]["name"] == "cart", "{ancestor}");
        for (kind, status, reason) in expected {
            let conditions = ancestor["conditions"].as_array().context("no conditions")?;
            let found = conditions.iter().find(|condition| condition["type"] == kind);
            let found = found.with_context(|| format!("no {kind}"))?;
            ensure!(found["status"] == status && found["reason"] == reason, "{found}");
        }
        Ok(())
    })
    .await
}

async fn a_policy_of_tls_says_whether_its_certificates_can_be_used(stage: &Stage) -> Result<()> {
    stage.apply(&gateway_api::definitions(&["backendtlspolicies"])?).await?;
    // The API server serves a new kind after a moment.
    eventually(SOON, "the kind", async || stage.apply(POLICY).await).await?;
    let waypoint = ("ResolvedWaypoints", "False", "NoWaypoint");
    let refused = ("Accepted", "False", "NoValidCACertificate");
    says(stage, [refused, ("ResolvedRefs", "False", "InvalidCACertificateRef"), waypoint]).await?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?.pem();
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cart-roots", "namespace": "shop"},
        "data": {"ca.crt": root},
    });
    stage.apply(&map.to_string()).await?;
    says(stage, [("Accepted", "True", "Accepted"), ("ResolvedRefs", "True", "ResolvedRefs"), waypoint])
        .await?;
    for words in ["-n shop delete configmap cart-roots", "-n shop delete backendtlspolicy cart"] {
        stage.scene.cluster.kubectl(&words.split(' ').collect::<Vec<_>>()).await?;
    }
    Ok(())
}
