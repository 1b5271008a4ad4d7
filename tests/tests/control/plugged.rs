// SPDX-License-Identifier: Apache-2.0
//! An authority of somebody's own, in the Secret and the files that Istio's scripts make: an intermediate with an RSA key
//! under a root whose key is elsewhere.

use anyhow::{Context as _, Result, ensure};
use identity::ca::Subject;
use lab::{
    checks, eventually,
    kube::suite::{Check, say},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};

use crate::{checks::Stage, plane::SOON};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const SECRETS: &str = "/api/v1/namespaces/ambit-system/secrets";

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![an_intermediate_as_istios_scripts_make_it_signs_while_it_is_plugged_in]
}

async fn an_intermediate_as_istios_scripts_make_it_signs_while_it_is_plugged_in(stage: &Stage) -> Result<()> {
    let own = stage.scene.roots("shop").await?;
    let (root, files) = authority()?;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts"}, "stringData": files});
    stage.scene.cluster.api().create(SECRETS, &secret).await?;
    let served = served_with_it(stage, &root).await;
    stage.scene.cluster.kubectl(&["-n", "ambit-system", "delete", "secret", "cacerts"]).await?;
    served?;
    eventually(SOON, "control's own root again", async || {
        ensure!(stage.scene.roots("shop").await? == own, "another is published");
        Ok(())
    })
    .await?;
    // Each replica changes over by itself, and the next check believes this root alone.
    for plane in [&stage.first, &stage.second] {
        eventually(SOON, "a certificate under it again", async || {
            let asked = (stage.token.as_str(), Subject::Impersonated);
            Ok(stage.scene.certificate_under(&own, plane, asked, CART).await??)
        })
        .await?;
    }
    Ok(())
}

async fn served_with_it(stage: &Stage, root: &str) -> Result<()> {
    eventually(SOON, "its root published", async || {
        ensure!(stage.scene.roots("shop").await? == root, "another is published");
        Ok(())
    })
    .await?;
    let later = stage.scene.start("control-4", (16312, 16314))?;
    later.ready().await?;
    // A replica that has changed over, and one that started with it: neither its server nor what it signs has another root.
    for plane in [&stage.first, &later] {
        let asked = (stage.token.as_str(), Subject::Impersonated);
        let issued = eventually(SOON, "a certificate under its root", async || {
            Ok(stage.scene.certificate_under(root, plane, asked, CART).await??)
        })
        .await?;
        let chain = issued.chain();
        ensure!(chain.len() == 2, "not the leaf and the intermediate alone: {chain:?}");
    }
    say("an RSA intermediate signs, under the root that was plugged in");
    later.process().terminate(SOON).await.map(drop)
}

/// The root in PEM, and the files.
fn authority() -> Result<(String, Value)> {
    let made = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Istio");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).context("an RSA key")?;
        anyhow::Ok((params, key))
    };
    let (root, root_key) = made("Root CA")?;
    let (mut intermediate, key) = made("Intermediate CA")?;
    intermediate.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root_certificate = root.self_signed(&root_key)?.pem();
    let certificate = intermediate.signed_by(&key, &Issuer::new(root, root_key))?.pem();
    let files = json!({
        "ca-cert.pem": certificate,
        "ca-key.pem": key.serialize_pem(),
        "root-cert.pem": root_certificate,
        "cert-chain.pem": format!("{certificate}{root_certificate}"),
    });
    Ok((root_certificate, files))
}
