// SPDX-License-Identifier: Apache-2.0
//! Who may talk to whom, and what must get through all the same.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use lab::{checks, echo, eventually, http, kube::suite::Check};
use serde_json::Value;

use crate::scene::{NOBODY, SOON, Scene, addresses, url};

const CLIENT: (&str, &str) = ("shop", "client-a");
const PASSER_BY: (&str, &str) = ("street", "passer-by");

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_policy_applied_with_kubectl_decides_and_ends_an_open_connection,
        a_broken_policy_is_refused_by_the_webhook,
        node_ports_and_balanced_addresses_answer_permissive_and_refuse_under_strict,
        probes_of_every_kind_pass_under_strict,
        connections_that_annotations_name_are_left_alone_under_strict,
        exec_logs_and_port_forward_work_under_strict,
    ]
}

async fn a_policy_applied_with_kubectl_decides_and_ends_an_open_connection(scene: &Scene) -> Result<()> {
    let decided = decides_and_ends(scene).await;
    // Whatever came of it, the next check finds no policy.
    let delete = ["-n", "shop", "delete", "authorizationpolicy/nobody", "--ignore-not-found"];
    scene.cluster.kubectl(&delete).await?;
    decided?;
    scene.answers(CLIENT, "http://web/").await.map(drop)
}

async fn decides_and_ends(scene: &Scene) -> Result<()> {
    let load = ["load", "http://web/", "--connections", "1", "--rate", "20", "--seconds", "30"];
    let refused = async {
        eventually(SOON, "the load being under way", async || {
            let opened = scene.mutual("client-a", "web").await?;
            let closed = scene.closed("client-a", "web").await?;
            ensure!(opened > closed, "{opened} opened, {closed} closed");
            Ok(())
        })
        .await?;
        scene.apply(NOBODY).await?;
        scene.is_refused(CLIENT, "http://web/").await
    };
    let (load, refused) = tokio::join!(scene.run(CLIENT, &load), refused);
    refused?;
    let load: Value = serde_json::from_str(&load?).context("what the load says")?;
    let failed = load.get("failed").and_then(Value::as_u64).unwrap_or_default();
    ensure!(failed > 0, "its connection outlived the policy: {load}");
    scene.answers(PASSER_BY, "http://web.shop/").await.context("who is not named by the policy")?;
    eventually(SOON, "the policy being called accepted", async || {
        let path = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/nobody";
        let policy = scene.object(path).await?;
        let accepted = policy.pointer("/status/conditions/0/status").and_then(Value::as_str);
        ensure!(accepted == Some("True"), "it says {policy}");
        Ok(())
    })
    .await
}

async fn a_broken_policy_is_refused_by_the_webhook(scene: &Scene) -> Result<()> {
    let broken = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: broken, namespace: shop}\n\
                  spec:\n  rules:\n  - from: [{source: {ipBlocks: [ten.dot.zero]}}]\n";
    eventually(SOON, "the webhook refusing it", async || {
        let Err(refused) = scene.apply(broken).await else {
            // The API server lets in what it gets no answer about in time, and what was let in would be in force.
            scene.cluster.kubectl(&["-n", "shop", "delete", "authorizationpolicy/broken"]).await?;
            bail!("it is let in")
        };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("denied the request: spec.rules[0].from[0].source.ipBlocks"), "{refused}");
        Ok(())
    })
    .await
}

async fn node_ports_and_balanced_addresses_answer_permissive_and_refuse_under_strict(
    scene: &Scene,
) -> Result<()> {
    let service = scene.object("/api/v1/namespaces/shop/services/web").await?;
    let port = service.pointer("/spec/ports/0/nodePort").and_then(Value::as_u64).context("no node port")?;
    let balanced = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    let balanced = balanced.into_iter().flatten().filter_map(|address| address.get("ip")?.as_str());
    let mut entrances = Vec::new();
    for address in balanced {
        entrances.push(SocketAddr::new(address.parse()?, 80));
    }
    for node in
        scene.object("/api/v1/nodes").await?.get("items").and_then(Value::as_array).context("no nodes")?
    {
        let own = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
        let internal =
            own.filter(|address| address.get("type").and_then(Value::as_str) == Some("InternalIP"));
        for address in internal.filter_map(|address| address.get("address")?.as_str()) {
            entrances.push(SocketAddr::new(address.parse()?, u16::try_from(port)?));
        }
    }
    ensure!(entrances.len() == 6, "two balanced addresses and two of each node: {entrances:?}");
    for entrance in &entrances {
        let ask = async || http::get(*entrance, "/").await;
        eventually(SOON, &format!("{entrance} answering the machine"), ask).await?;
    }
    scene.require_mutual_tls("STRICT").await?;
    for entrance in &entrances {
        eventually(SOON, &format!("{entrance} refusing the machine"), async || {
            let answer = http::get(*entrance, "/").await;
            ensure!(answer.is_err(), "it answers {answer:?}");
            Ok(())
        })
        .await?;
    }
    scene.answers(CLIENT, "http://web/").await.map(drop)
}

/// Mutual TLS is still required, whatever became of the check before.
async fn probes_of_every_kind_pass_under_strict(scene: &Scene) -> Result<()> {
    scene.require_mutual_tls("STRICT").await?;
    scene.is_refused(PASSER_BY, "http://web.shop/").await?;
    let container = |name: &str, probe: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: probed}}}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: app\n    image: \"@SAMPLE@\"\n    imagePullPolicy: \
             Never\n    args: [serve, --name, {name}]\n    readinessProbe: {{{probe}, periodSeconds: 1, \
             timeoutSeconds: 5, failureThreshold: 1}}\n    livenessProbe: {{{probe}, periodSeconds: 1, \
             timeoutSeconds: 5, failureThreshold: 3}}\n"
        )
    };
    let probes = [
        ("http", "httpGet: {port: 8080, path: /}".to_owned()),
        ("tcp", "tcpSocket: {port: 9000}".to_owned()),
        ("grpc", format!("grpc: {{port: {}}}", echo::GRPC)),
        ("exec", "exec: {command: [/lab-app, call, \"http://127.0.0.1:8080/\"]}".to_owned()),
    ];
    let pods: String = probes.iter().map(|(name, probe)| container(name, probe)).collect();
    scene.apply(&pods).await?;
    scene.ready("shop", "-l=app=probed").await?;
    for pod in scene.pods("shop", "app=probed").await? {
        let address = addresses(&pod).first().copied().context("no address")?;
        let refused = scene.call(PASSER_BY, &url(address, echo::HTTP)).await;
        ensure!(refused.is_err(), "only kubelet may: {refused:?}");
    }
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod", "-l", "app=probed"]).await.map(drop)
}

/// Mutual TLS is still required, whatever became of the check before.
async fn connections_that_annotations_name_are_left_alone_under_strict(scene: &Scene) -> Result<()> {
    scene.require_mutual_tls("STRICT").await?;
    let odd = ("shop", "odd");
    scene
        .apply(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: odd\n  namespace: shop\n  annotations:\n    \
             ambit.mesh/exclude-inbound-ports: \"8080\"\n    ambit.mesh/exclude-outbound-ports: \"8080\"\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - {name: app, image: \"@SAMPLE@\", imagePullPolicy: Never, \
             args: [serve, --name, odd]}\n",
        )
        .await?;
    scene.ready("shop", "odd").await?;
    let own = *addresses(&scene.pod("shop", "odd").await?).first().context("no address")?;
    let web = scene.pods("shop", "app=web").await?;
    let web = *web.iter().flat_map(addresses).collect::<Vec<_>>().first().context("no replica")?;
    scene.answers(PASSER_BY, &url(own, echo::HTTP)).await.context("a port that is left alone")?;
    scene.answers(odd, "http://web/").await.context("another port")?;
    scene.is_refused(odd, &url(web, echo::HTTP)).await.context("it goes in plaintext")?;
    let slip = ["-n", "shop", "annotate", "--overwrite", "pod", "odd"];
    let slip =
        [&slip, ["ambit.mesh/exclude-inbound-ports=8O8O", "ambit.mesh/exclude-outbound-ports-"].as_slice()];
    scene.cluster.kubectl(&slip.concat()).await?;
    scene.is_refused(PASSER_BY, &url(own, echo::HTTP)).await.context("it is captured again")?;
    scene.answers(odd, &url(web, echo::HTTP)).await?;
    eventually(SOON, "an event", async || {
        let events =
            scene.object("/api/v1/namespaces/shop/events?fieldSelector=reason%3DExclusionIgnored").await?;
        let text = events.to_string();
        ensure!(text.contains("8O8O") && text.contains("exclude-inbound-ports"), "events: {text}");
        Ok(())
    })
    .await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod", "odd"]).await.map(drop)
}

/// The last one for which mutual TLS is required.
async fn exec_logs_and_port_forward_work_under_strict(scene: &Scene) -> Result<()> {
    scene.under_strict(Box::pin(exec_logs_and_port_forward(scene))).await
}

async fn exec_logs_and_port_forward(scene: &Scene) -> Result<()> {
    let said = scene.run(CLIENT, &["call", "http://127.0.0.1:8080/"]).await?;
    ensure!(said.contains("client-a"), "exec says {said}");
    scene.cluster.kubectl(&["-n", "shop", "logs", "deployment/web"]).await?;
    let forwarded = scene.cluster.forward("shop", "pod/client-b", echo::HTTP).await?;
    let answer =
        eventually(SOON, "the forwarded port", async || http::get(forwarded.address, "/").await).await?;
    ensure!(answer.contains("client-b"), "it says {answer}");
    drop(forwarded);
    Ok(())
}
