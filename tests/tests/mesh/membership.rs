// SPDX-License-Identifier: Apache-2.0
//! Who comes into the mesh, when, and how they find each other there.

use anyhow::{Context as _, Result, ensure};
use lab::{checks, echo, eventually, kube::suite::Check};
use serde_json::Value;

use crate::scene::{LABEL, ROLL_OUT, SOON, Scene, addresses, name, restarts, url};

const CLIENT_A: (&str, &str) = ("shop", "client-a");
const CLIENT_B: (&str, &str) = ("shop", "client-b");

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        running_pods_join_by_the_label_of_their_namespace,
        both_nodes_and_both_families_talk_in_mutual_tls,
        the_command_line_finds_all_well_and_knows_every_pod,
        a_bypassed_namespace_is_called_in_plaintext_and_comes_back,
        a_stateful_pod_is_reached_by_its_name_through_a_headless_service,
        a_job_that_lives_a_second_and_its_init_container_call_under_strict,
        a_pod_on_the_host_network_stays_outside_and_can_be_called,
        another_service_account_is_another_identity_after_a_roll_out,
    ]
}

async fn running_pods_join_by_the_label_of_their_namespace(scene: &Scene) -> Result<()> {
    scene.answers(CLIENT_A, "http://web/").await.context("before the mesh")?;
    ensure!(scene.mutual("client-a", "web").await? < 1.0, "nothing is in the mesh yet");
    scene.cluster.kubectl(&["label", "namespace", "shop", LABEL]).await?;
    for pod in scene.pods("shop", "app").await? {
        scene.becomes_captured("shop", name(&pod)?, true).await?;
    }
    ensure!(!scene.is_captured("street", "passer-by").await?, "it has no label");
    let answer = scene.calls_by_mutual_tls(CLIENT_A, "http://web/", "web").await;
    answer.context("between pods that were there before")?;
    for pod in scene.pods("shop", "app").await? {
        ensure!(restarts(&pod) == Some(0), "{} was restarted", name(&pod)?);
    }
    Ok(())
}

async fn both_nodes_and_both_families_talk_in_mutual_tls(scene: &Scene) -> Result<()> {
    let service = scene.object("/api/v1/namespaces/shop/services/web").await?;
    let own = service.pointer("/spec/clusterIPs").and_then(Value::as_array).context("no addresses")?;
    let mut urls = Vec::new();
    for address in own.iter().filter_map(Value::as_str) {
        urls.push(url(address.parse()?, 80));
    }
    for pod in scene.pods("shop", "app=web").await? {
        urls.extend(addresses(&pod).into_iter().map(|address| url(address, echo::HTTP)));
    }
    ensure!(urls.len() == 6, "a service and two pods with two addresses each: {urls:?}");
    for client in [CLIENT_A, CLIENT_B] {
        let sources = addresses(&scene.pod(client.0, client.1).await?);
        for url in &urls {
            let answer = scene.calls_by_mutual_tls(client, url, "web").await?;
            ensure!(sources.contains(&answer.peer.ip()), "{url} saw {}, not {sources:?}", answer.peer);
        }
    }
    Ok(())
}

async fn the_command_line_finds_all_well_and_knows_every_pod(scene: &Scene) -> Result<()> {
    eventually(SOON, "nothing found wrong", async || scene.ambit(&["check"]).await).await?;
    let status = scene.ambit(&["status"]).await?;
    ensure!(status.contains("shop"), "no word of the namespace: {status}");
    let pods = scene.pods("shop", "app").await?;
    eventually(SOON, "ztunnels that know every pod", async || {
        let workloads = scene.ambit(&["ztunnel", "workloads", "-o", "json"]).await?;
        for pod in &pods {
            ensure!(workloads.contains(name(pod)?), "no ztunnel knows {}: {workloads}", name(pod)?);
        }
        Ok(())
    })
    .await?;
    for table in ["services", "policies", "certificates", "connections"] {
        scene.ambit(&["ztunnel", table]).await?;
    }
    Ok(())
}

async fn a_bypassed_namespace_is_called_in_plaintext_and_comes_back(scene: &Scene) -> Result<()> {
    scene.ambit(&["bypass", "shop", "--for", "10m", "--reason", "a test"]).await?;
    let pods = scene.pods("shop", "app").await?;
    for pod in &pods {
        scene.becomes_captured("shop", name(pod)?, false).await?;
    }
    scene.calls_in_plaintext(CLIENT_A).await?;
    scene.ambit(&["bypass", "shop", "--end"]).await?;
    for pod in &pods {
        scene.becomes_captured("shop", name(pod)?, true).await?;
    }
    scene.calls_by_mutual_tls(CLIENT_A, "http://web/", "web").await.map(drop)
}

async fn a_stateful_pod_is_reached_by_its_name_through_a_headless_service(scene: &Scene) -> Result<()> {
    scene
        .apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: shelf, namespace: shop}\nspec:\n  clusterIP: None\n  \
             selector: {app: shelf}\n  ports: [{name: http, port: 8080}]\n---\napiVersion: apps/v1\nkind: StatefulSet\n\
             metadata: {name: shelf, namespace: shop}\nspec:\n  serviceName: shelf\n  replicas: 2\n  \
             podManagementPolicy: Parallel\n  selector: {matchLabels: {app: shelf}}\n  template:\n    metadata: {labels: \
             {app: shelf}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {name: app, image: \
             \"@SAMPLE@\", imagePullPolicy: Never, args: [serve, --name, shelf]}\n",
        )
        .await?;
    scene.cluster.rolled_out("shop", "statefulset/shelf", ROLL_OUT).await?;
    for number in 0..2 {
        let pod = format!("shelf-{number}");
        scene.becomes_captured("shop", &pod, true).await?;
        let url = format!("http://{pod}.shelf.shop:8080/");
        let answer = scene.calls_by_mutual_tls(CLIENT_A, &url, "shelf").await?;
        let own = addresses(&scene.pod("shop", &pod).await?);
        ensure!(own.contains(&answer.local.ip()), "{pod} is {own:?}, but {} answered", answer.local);
    }
    scene.cluster.kubectl(&["-n", "shop", "delete", "statefulset/shelf", "service/shelf"]).await.map(drop)
}

async fn a_job_that_lives_a_second_and_its_init_container_call_under_strict(scene: &Scene) -> Result<()> {
    scene.under_strict(Box::pin(runs_an_errand(scene))).await
}

async fn runs_an_errand(scene: &Scene) -> Result<()> {
    scene.is_refused(("street", "passer-by"), "http://web.shop/").await?;
    // There is one attempt; how long the first certificate of the account takes is not the question.
    let call = "image: \"@SAMPLE@\", imagePullPolicy: Never, \
                args: [call, \"http://web.shop/\", --timeout-ms, \"20000\"]";
    scene
        .apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: errand, namespace: shop}}\nspec:\n  backoffLimit: 0\n  \
             template:\n    spec:\n      restartPolicy: Never\n      initContainers:\n      - {{name: before, {call}}}\n      \
             containers:\n      - {{name: errand, {call}}}\n"
        ))
        .await?;
    let wait = ["-n", "shop", "wait", "job/errand", "--for=condition=Complete", "--timeout=120s"];
    scene.cluster.kubectl(&wait).await.context("its first connection is of the mesh already")?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "job/errand"]).await.map(drop)
}

async fn a_pod_on_the_host_network_stays_outside_and_can_be_called(scene: &Scene) -> Result<()> {
    scene
        .apply(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: porter, namespace: shop}\nspec:\n  nodeName: node-b\n  \
             hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {name: app, image: \"@SAMPLE@\", \
             imagePullPolicy: Never, args: [serve, --name, porter, --http, \"18080\", --tcp, \"19000\", --banner, \
             \"19001\"]}\n",
        )
        .await?;
    scene.ready("shop", "porter").await?;
    ensure!(!scene.is_captured("shop", "porter").await?, "a node's network is nobody's alone");
    let own = addresses(&scene.pod("shop", "porter").await?);
    for address in own {
        scene.answers(CLIENT_A, &url(address, 18080)).await?;
    }
    let web = scene.pods("shop", "app=web").await?;
    for address in web.iter().flat_map(addresses) {
        scene.answers(("shop", "porter"), &url(address, echo::HTTP)).await?;
    }
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod/porter"]).await.map(drop)
}

async fn another_service_account_is_another_identity_after_a_roll_out(scene: &Scene) -> Result<()> {
    let principal = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let counted = async |account: &str| {
        let principal = principal(account);
        let labels = [
            ("reporter", "source"),
            ("source_workload", "client-a"),
            ("destination_principal", principal.as_str()),
        ];
        scene.count("istio_tcp_connections_opened_total", &labels).await
    };
    ensure!(counted("web").await? >= 1.0, "it was web");
    scene.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: site, namespace: shop}\n").await?;
    let patch = r#"{"spec":{"template":{"spec":{"serviceAccountName":"site"}}}}"#;
    scene.cluster.kubectl(&["-n", "shop", "patch", "deployment/web", "-p", patch]).await?;
    scene.cluster.rolled_out("shop", "deployment/web", ROLL_OUT).await?;
    eventually(SOON, "calls to the new identity", async || {
        scene.call(CLIENT_A, "http://web/").await?;
        ensure!(counted("site").await? >= 1.0, "nobody has counted it");
        Ok(())
    })
    .await
}
