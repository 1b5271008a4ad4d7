// SPDX-License-Identifier: Apache-2.0
//! Another ztunnel on node b (`AMBIT_LAB_PEER_ZTUNNEL`, in practice Istio's), under our agent and our control: what its
//! pods do, what is done to them, and how it takes what our parts tell it. The other scenarios call from node a to node b;
//! here it is the other way round, too.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use lab::{Cluster, Pod, dns::Over, echo, eventually};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    change,
    hostile::said_of,
    policy::ask,
    scene::{
        SOON, STRICT, Scenario, Scene, a_thousand_bring_back_every_byte, both_answer, failure_written,
        reaches, refused, scenarios, went_through_the_mesh,
    },
};

/// How long another ztunnel may take to find its agent and control again: Istio's waits up to 15 s between two attempts.
const RETURN: Duration = Duration::from_secs(40);
const MARKER: &str = "plaintext-marker-of-the-peer";

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        both_ztunnels_carry_each_others_connections,
        pods_of_the_other_find_services_by_name_and_address,
        pods_of_the_other_talk_to_pods_outside_the_mesh,
        policies_hold_in_both_directions,
        a_policy_change_closes_open_connections_in_both_directions,
        a_pod_of_the_other_is_enrolled_and_released_while_it_talks,
        a_pod_that_the_other_cannot_serve_waits_with_its_words,
        a_thousand_connections_from_the_other_bring_back_every_byte,
        nothing_leaves_in_plaintext_when_the_other_dies,
        the_other_serves_its_pods_on_when_agent_and_control_come_back,
        the_other_accepts_all_that_control_says,
    ]
    .into_iter()
    .map(Scenario::with_peer)
    .collect()
}

async fn both_ztunnels_carry_each_others_connections(scene: Scene) -> Result<()> {
    let ours = scene.server("a", "ours").await?;
    let other = scene.server("b", "other").await?;
    let second = scene.server("b", "second").await?;
    let sniffer = scene.node("a").sniff_for(&[b"/from-the-other", b"/to-the-other"])?;
    for (from, to, path) in [(&other, &ours, "/from-the-other"), (&ours, &other, "/to-the-other")] {
        for ip in to.addresses().both() {
            from.get(ip, path).await?;
        }
    }
    let capture = sniffer.stop()?;
    ensure!(capture.seen > 0 && capture.frames.is_empty(), "in plaintext: {:?}", capture.frames.first());
    for (client, server) in [(&other, &ours), (&ours, &other), (&second, &other)] {
        reaches(client, server).await?;
        went_through_the_mesh(&scene, client, server).await?;
    }
    reaches(&other, &other).await.context("a call to itself")
}

async fn pods_of_the_other_find_services_by_name_and_address(scene: Scene) -> Result<()> {
    let client = scene.captured("b", "client").await?;
    for (node, name) in [("a", "echo-a"), ("b", "echo-b")] {
        let pod = scene.start(scene.pod(node, name).captured().labels(&[("app", "echo")])).await?;
        pod.serve().await?;
    }
    let service = scene.create(scene.service("echo")).await?;
    let addresses = service.addresses.context("no virtual address")?;
    let own = client.addresses().both();
    for (kind, ip, own) in [
        (RecordType::A, IpAddr::V4(addresses.v4), own[0]),
        (RecordType::AAAA, IpAddr::V6(addresses.v6), own[1]),
    ] {
        let answer = client.resolve(&service.host(), kind, Over::Udp).await?;
        ensure!(answer.addresses == [ip], "{answer:?} instead of {ip}");
        both_answer(&client, ip, own).await?;
    }
    // Its listener for DNS over TCP cannot answer from another server's address: that goes to the server itself.
    for over in [Over::Udp, Over::Tcp] {
        let outside = client.resolve("outside.example", RecordType::A, over).await?;
        ensure!(outside.addresses == [IpAddr::V4(scene.cluster.outside().addresses.v4)], "{outside:?}");
    }
    let nowhere = client.resolve("nowhere.example", RecordType::A, Over::Udp).await?;
    ensure!(nowhere.code == ResponseCode::NXDomain, "{nowhere:?}");
    let answer = client.app(&["call", &format!("http://echo:{}/", echo::HTTP)]).await?;
    ensure!(answer.starts_with("200"), "{answer}");
    Ok(())
}

async fn pods_of_the_other_talk_to_pods_outside_the_mesh(scene: Scene) -> Result<()> {
    let captured = scene.server("b", "captured").await?;
    for (node, name) in [("b", "near"), ("a", "far")] {
        let plain = scene.plain(node, name).await?;
        plain.serve().await?;
        reaches(&captured, &plain).await.with_context(|| format!("to {name}"))?;
        reaches(&plain, &captured).await.with_context(|| format!("from {name}"))?;
    }
    let outside = scene.cluster.outside().addresses;
    for ip in [IpAddr::V4(outside.v4), IpAddr::V6(outside.v6)] {
        let echo = captured.get(ip, "/").await?;
        ensure!(echo.name == "outside", "{} answered", echo.name);
    }
    for ip in captured.addresses().both() {
        let target = SocketAddr::new(ip, echo::HTTP);
        let body =
            scene.node("b").namespace().run(async move || lab::http::get(target, "/healthz").await).await;
        body.context("a probe of the node")?;
    }
    Ok(())
}

/// A policy of the whole namespace, but for the servers only.
fn selected(policy: &str) -> String {
    policy.replace("spec:\n", "spec:\n  selector: {matchLabels: {app: server}}\n")
}

/// For the whole namespace.
fn policy(action: &str, account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: rule, namespace: NAMESPACE}}\n\
         spec:\n  action: {action}\n\
         \x20 rules: [{{from: [{{source: {{principals: ['cluster.local/ns/NAMESPACE/sa/{account}']}}}}]}}]\n"
    )
}

async fn server(scene: &Scene, node: &str, name: &str) -> Result<Pod> {
    let pod = scene.start(scene.pod(node, name).captured().labels(&[("app", "server")])).await?;
    pod.serve().await?;
    Ok(pod)
}

async fn policies_hold_in_both_directions(scene: Scene) -> Result<()> {
    for (here, there) in [("a", "b"), ("b", "a")] {
        let friend = scene.captured(here, &format!("friend-{here}")).await?;
        let server = server(&scene, there, &format!("server-{there}")).await?;
        let plain = scene.plain(here, &format!("plain-{here}")).await?;
        let account = friend.name();
        for (action, whom, allowed) in [
            ("ALLOW", account.as_str(), true),
            ("ALLOW", "nobody", false),
            ("DENY", "nobody", true),
            ("DENY", account.as_str(), false),
        ] {
            scene.apply("rule", &selected(&policy(action, whom))).await?;
            let outcome = reaches(&friend, &server).await;
            ensure!(outcome.is_ok() == allowed, "{here} to {there}, {action} {whom}: {outcome:?}");
        }
        let by = format!("explicitly denied by: {}/rule", scene.namespace());
        failure_written(&scene.node(there), "inbound", &friend, &server, &by).await?;
        scene.withdraw("rule").await?;
        reaches(&plain, &server).await?;
        scene.apply("strict", STRICT).await?;
        for ip in server.addresses().both() {
            refused(&plain, ip).await?;
        }
        reaches(&friend, &server).await?;
        scene.withdraw("strict").await?;
    }
    Ok(())
}

async fn a_policy_change_closes_open_connections_in_both_directions(scene: Scene) -> Result<()> {
    for (here, there) in [("a", "b"), ("b", "a")] {
        let friend = scene.captured(here, &format!("friend-{here}")).await?;
        let other = scene.captured(here, &format!("other-{here}")).await?;
        let server = server(&scene, there, &format!("server-{there}")).await?;
        let target = SocketAddr::new(server.v4(), echo::TCP);
        let (mut closing, mut staying) = (friend.connect(target).await?, other.connect(target).await?);
        ask(&mut closing, "before").await?;
        ask(&mut staying, "before").await?;
        // With a selector the other would ask only about connections opened from then on: for those that are open it goes
        // by what its workload was bound to when they began.
        scene.apply("rule", &policy("DENY", &friend.name())).await?;
        let end = timeout(SOON, closing.read(&mut [0; 1])).await;
        let end = end.with_context(|| format!("{here} to {there} stays open"))?;
        ensure!(!matches!(end, Ok(1..)), "data instead of the end");
        ask(&mut staying, "after").await?;
        scene.withdraw("rule").await?;
    }
    Ok(())
}

async fn a_pod_of_the_other_is_enrolled_and_released_while_it_talks(scene: Scene) -> Result<()> {
    let server = scene.server("a", "server").await?;
    let pod = scene.plain("b", "pod").await?;
    pod.serve().await?;
    let mut open = pod.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut open, "before").await?;
    for _ in 0..3 {
        pod.enrol().await?;
        ask(&mut open, "enrolled").await?;
        reaches(&pod, &server).await?;
        reaches(&server, &pod).await?;
        went_through_the_mesh(&scene, &pod, &server).await?;
        went_through_the_mesh(&scene, &server, &pod).await?;
        pod.release().await?;
        ask(&mut open, "released").await?;
        reaches(&pod, &server).await?;
        reaches(&server, &pod).await?;
    }
    Ok(())
}

async fn a_pod_that_the_other_cannot_serve_waits_with_its_words(scene: Scene) -> Result<()> {
    let server = scene.server("a", "server").await?;
    let pod = scene.plain("b", "pod").await?;
    pod.serve().await?;
    let taken = pod.listen(15008).await?;
    let Err(refusal) = pod.enrol().await else { bail!("enrolled with port 15008 taken") };
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("captured, but not served yet"), "{refusal}");
    let status = said_of(&scene, &pod).await?;
    ensure!(status["state"] == "pending" && status["reason"] != Value::Null, "{status}");
    refused(&pod, server.v4()).await?;
    drop(taken);
    eventually(RETURN, "the pod being served once the port is free", async || {
        let status = said_of(&scene, &pod).await?;
        ensure!(status["state"] == "enrolled", "{status}");
        Ok(())
    })
    .await?;
    pod.enrol().await?;
    reaches(&pod, &server).await?;
    reaches(&server, &pod).await
}

async fn a_thousand_connections_from_the_other_bring_back_every_byte(scene: Scene) -> Result<()> {
    let server = scene.server("a", "server").await?;
    let client = scene.captured("b", "client").await?;
    // Its listeners have a backlog of 128.
    a_thousand_bring_back_every_byte(&client, &server, 100).await
}

/// A lab whose parts may be killed: a client behind the other ztunnel and a server behind ours.
async fn victims(name: &str) -> Result<(Cluster, Pod, Pod)> {
    let cluster = Cluster::start(name).await?;
    let server = cluster.node("a").pod("server").service_account("server").captured().start().await?;
    server.serve().await?;
    let client = cluster.node("b").pod("client").service_account("client").captured().start().await?;
    client.serve().await?;
    reaches(&client, &server).await?;
    Ok((cluster, client, server))
}

async fn both_directions(client: &Pod, server: &Pod) -> Result<()> {
    let talk = async {
        reaches(client, server).await?;
        reaches(server, client).await
    };
    timeout(SOON, talk).await.context("no answer")?
}

async fn nothing_leaves_in_plaintext_when_the_other_dies(_shared: Scene) -> Result<()> {
    let (cluster, client, server) = victims("peerdies").await?;
    let target = SocketAddr::new(server.v4(), echo::TCP);
    let sniffer = cluster.node("b").sniff_for(&[MARKER.as_bytes()])?;
    for _ in 0..2 {
        cluster.node("b").ztunnel().kill()?;
        for _ in 0..5 {
            let attempt = timeout(Duration::from_millis(300), async {
                let mut stream = client.connect(target).await?;
                ask(&mut stream, MARKER).await
            });
            ensure!(!matches!(attempt.await, Ok(Ok(()))), "a connection was made without a ztunnel");
        }
        refused(&server, client.v4()).await?;
        cluster.node("b").ztunnel().start_again()?;
        eventually(RETURN, "the return of the other", async || both_directions(&client, &server).await)
            .await?;
    }
    let mut stream = client.connect(target).await?;
    ask(&mut stream, MARKER).await?;
    let capture = sniffer.stop()?;
    ensure!(capture.seen > 100, "the sniffer saw only {} frames", capture.seen);
    ensure!(capture.frames.is_empty(), "in plaintext: {:?}", capture.frames.first());
    cluster.stop()
}

async fn the_other_serves_its_pods_on_when_agent_and_control_come_back(_shared: Scene) -> Result<()> {
    let (cluster, client, server) = victims("peerback").await?;
    let mut open = client.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut open, "before").await?;
    for part in [cluster.node("b").agent(), cluster.control().process()] {
        part.kill()?;
        both_directions(&client, &server).await.with_context(|| format!("{} dead", part.name()))?;
        ask(&mut open, "without it").await?;
    }
    cluster.node("b").agent().start_again()?;
    cluster.control().process().start_again()?;
    cluster.control().ready().await?;
    cluster.node("b").agent_ready().await?;
    cluster.node("b").ztunnel_ready().await?;
    eventually(RETURN, "the mesh following changes again", async || cluster.settle().await).await?;
    let late = cluster.node("b").pod("late").service_account("late").captured().start().await?;
    late.serve().await?;
    both_directions(&late, &server).await.context("a pod that came later")?;
    ask(&mut open, "after").await?;
    cluster.stop()
}

async fn the_other_accepts_all_that_control_says(scene: Scene) -> Result<()> {
    server(&scene, "b", "server").await?;
    scene.apply("rule", &policy("DENY", "nobody")).await?;
    let status = change::status(&scene).await?;
    let proxies = status["proxies"].as_array().context("no list of proxies")?;
    let address = scene.node("b").addresses().v4.to_string();
    let is_other = |proxy: &&Value| proxy["peer"].as_str().is_some_and(|peer| peer.contains(&address));
    let other = proxies.iter().find(is_other).with_context(|| format!("{address} is not in {status}"))?;
    let types = other["types"].as_object().context("no types")?;
    ensure!(types.len() >= 2, "{other}");
    for (kind, progress) in types {
        let refused = progress["refused"].as_object().is_none_or(serde_json::Map::is_empty);
        ensure!(refused, "{kind}: {progress}");
    }
    Ok(())
}
