// SPDX-License-Identifier: Apache-2.0
//! Authorization: who is let in and who is not, when that is decided again, and what the refused are told.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{Pod, echo, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::scene::{SOON, STRICT, Scenario, Scene, failure_written, reaches, refused, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![
        strict_refuses_plaintext_and_lets_the_mesh_in,
        strict_for_one_port_leaves_the_others_open,
        an_allow_policy_lets_in_whom_it_names_and_nobody_else,
        a_deny_policy_keeps_out_whom_it_names_and_nobody_else,
        a_policy_of_the_root_namespace_holds_everywhere,
        a_refusal_is_written_down_with_the_policy_that_decided,
        a_policy_change_closes_the_open_connections_that_it_denies,
        a_withdrawn_policy_is_forgotten,
    ];
    let on_trial = scenarios![a_policy_on_trial_refuses_nobody_and_says_whom_it_would];
    all.extend(on_trial.into_iter().map(|scenario| scenario.without_peer("the other counts no dry runs")));
    all
}

async fn strict_refuses_plaintext_and_lets_the_mesh_in(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let captured = scene.captured("a", "captured").await?;
    let plain = scene.plain("a", "plain").await?;
    reaches(&plain, &server).await?;
    scene.apply("strict", STRICT).await?;
    for ip in server.addresses().both() {
        refused(&plain, ip).await?;
    }
    reaches(&captured, &server).await?;
    scene.withdraw("strict").await?;
    reaches(&plain, &server).await
}

async fn strict_for_one_port_leaves_the_others_open(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let plain = scene.plain("a", "plain").await?;
    scene
        .apply(
            "ports",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: ports, namespace: NAMESPACE}}\n\
                 spec:\n  selector: {{matchLabels: {{app: server}}}}\n  mtls: {{mode: PERMISSIVE}}\n\
                 \x20 portLevelMtls: {{{}: {{mode: STRICT}}}}\n",
                echo::HTTP
            ),
        )
        .await?;
    refused(&plain, server.v4()).await?;
    let mut stream = plain.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut stream, "through another port").await
}

/// What a rule says, and whether the client `friend` (of a pod on node a, alone in its service account) fits it.
fn rules(server: &Pod, friend: &Pod) -> Vec<(&'static str, String, bool)> {
    let namespace = server.object().namespace;
    let source = |text: String| format!("{{from: [{{source: {{{text}}}}}]}}");
    vec![
        ("everybody", "{}".to_owned(), true),
        ("its principal", source(format!("principals: [cluster.local/ns/{namespace}/sa/friend]")), true),
        (
            "another principal",
            source(format!("principals: [cluster.local/ns/{namespace}/sa/somebody]")),
            false,
        ),
        (
            "a prefix of its principal",
            source(format!("principals: ['cluster.local/ns/{namespace}/*']")),
            true,
        ),
        ("a suffix of its principal", source("principals: ['*/sa/friend']".to_owned()), true),
        ("any principal", source("principals: ['*']".to_owned()), true),
        ("not its principal", source("notPrincipals: ['*/sa/friend']".to_owned()), false),
        ("its service account", source(format!("serviceAccounts: [{namespace}/friend]")), true),
        ("its namespace", source(format!("namespaces: [{namespace}]")), true),
        ("another namespace", source("namespaces: [elsewhere]".to_owned()), false),
        ("its addresses", source(format!("ipBlocks: [{}/32, '{}/128']", friend.v4(), friend.v6())), true),
        ("its network", source("ipBlocks: [10.20.1.0/24, 'fd00:20:1::/64']".to_owned()), true),
        ("another network", source("ipBlocks: [10.20.9.0/24]".to_owned()), false),
        ("not its network", source("notIpBlocks: [10.20.0.0/16, 'fd00:20::/32']".to_owned()), false),
        ("the port", format!("{{to: [{{operation: {{ports: ['{}']}}}}]}}", echo::HTTP), true),
        ("another port", format!("{{to: [{{operation: {{ports: ['{}']}}}}]}}", echo::TCP), false),
        ("not the port", format!("{{to: [{{operation: {{notPorts: ['{}']}}}}]}}", echo::HTTP), false),
        (
            "its namespace and the port",
            format!(
                "{{from: [{{source: {{namespaces: [{namespace}]}}}}], to: [{{operation: {{ports: ['{}']}}}}]}}",
                echo::HTTP
            ),
            true,
        ),
        (
            "its namespace and another port",
            format!(
                "{{from: [{{source: {{namespaces: [{namespace}]}}}}], to: [{{operation: {{ports: ['{}']}}}}]}}",
                echo::TCP
            ),
            false,
        ),
        (
            "its address by condition",
            format!("{{when: [{{key: source.ip, values: [{}, '{}']}}]}}", friend.v4(), friend.v6()),
            true,
        ),
        (
            "the port by condition",
            format!("{{when: [{{key: destination.port, notValues: ['{}']}}]}}", echo::HTTP),
            false,
        ),
    ]
}

fn policy(action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: rule, namespace: NAMESPACE}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: {action}, rules: [{rule}]}}\n"
    )
}

async fn an_allow_policy_lets_in_whom_it_names_and_nobody_else(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    for (whom, rule, fits) in rules(&server, &friend) {
        scene.apply("rule", &policy("ALLOW", &rule)).await?;
        check(&friend, &server, fits).await.with_context(|| format!("ALLOW {whom}: {rule}"))?;
    }
    Ok(())
}

async fn a_deny_policy_keeps_out_whom_it_names_and_nobody_else(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    for (whom, rule, fits) in rules(&server, &friend) {
        scene.apply("rule", &policy("DENY", &rule)).await?;
        check(&friend, &server, !fits).await.with_context(|| format!("DENY {whom}: {rule}"))?;
    }
    Ok(())
}

async fn check(client: &Pod, server: &Pod, allowed: bool) -> Result<()> {
    if allowed {
        return reaches(client, server).await;
    }
    for ip in server.addresses().both() {
        let told = refused(client, ip).await?;
        ensure!(told != "no answer", "the client was left waiting instead of refused");
    }
    Ok(())
}

async fn a_policy_of_the_root_namespace_holds_everywhere(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    scene
        .apply(
            "global",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {name: no-friends, namespace: istio-system}\n\
             spec: {action: DENY, rules: [{from: [{source: {principals: ['*/ns/NAMESPACE/sa/friend']}}]}]}\n",
        )
        .await?;
    check(&friend, &server, false).await?;
    scene.withdraw("global").await?;
    check(&friend, &server, true).await
}

async fn a_refusal_is_written_down_with_the_policy_that_decided(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    scene.apply("rule", &policy("DENY", "{from: [{source: {principals: ['*/sa/friend']}}]}")).await?;
    check(&friend, &server, false).await?;
    let by = format!("explicitly denied by: {}/rule", scene.namespace());
    failure_written(&scene.node("b"), "inbound", &friend, &server, &by).await?;
    failure_written(&scene.node("a"), "outbound", &friend, &server, "401 Unauthorized").await?;
    let denied = [("response_flags", "DENY"), ("source_principal", &friend.identity())];
    // Whoever is refused is told so before it is counted.
    eventually(SOON, "both refusals in the metrics", async || {
        let count = scene.node("b").metrics().await?.sum("istio_tcp_connections_failed_total", &denied);
        ensure!(count >= 2.0, "they know of {count}");
        Ok(())
    })
    .await?;
    scene.apply("rule", &policy("ALLOW", "{from: [{source: {principals: ['*/sa/somebody']}}]}")).await?;
    check(&friend, &server, false).await?;
    failure_written(&scene.node("b"), "inbound", &friend, &server, "none allowed").await
}

async fn a_policy_change_closes_the_open_connections_that_it_denies(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let near = scene.server("a", "near").await?;
    let friend = scene.captured("a", "friend").await?;
    let other = scene.captured("a", "other").await?;
    let mut closing = Vec::new();
    for target in [server.v4(), server.v6(), near.v4()] {
        let mut stream = friend.connect(SocketAddr::new(target, echo::TCP)).await?;
        ask(&mut stream, "before").await?;
        closing.push(stream);
    }
    let mut staying = other.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut staying, "before").await?;
    scene
        .apply(
            "rule",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {name: rule, namespace: NAMESPACE}\n\
             spec: {action: DENY, rules: [{from: [{source: {principals: ['*/sa/friend']}}]}]}\n",
        )
        .await?;
    for mut stream in closing {
        let mut byte = [0; 1];
        let end = timeout(Duration::from_secs(5), stream.read(&mut byte)).await.context("it stays open")?;
        ensure!(!matches!(end, Ok(1..)), "data instead of the end: {byte:?}");
    }
    ask(&mut staying, "after").await
}

async fn a_withdrawn_policy_is_forgotten(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    for _ in 0..3 {
        scene.apply("rule", &policy("DENY", "{}")).await?;
        check(&friend, &server, false).await?;
        scene.withdraw("rule").await?;
        check(&friend, &server, true).await?;
    }
    Ok(())
}

async fn a_policy_on_trial_refuses_nobody_and_says_whom_it_would(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    let plain = scene.plain("a", "plain").await?;
    let name = format!("{}/rule", scene.namespace());
    let friends = "{from: [{source: {principals: ['*/sa/friend']}}]}";
    for (action, verdicts) in [("DENY", ["denied", "open"]), ("ALLOW", ["allowed", "not_allowed"])] {
        let trial = policy(action, friends).replacen(
            "name: rule",
            "annotations: {istio.io/dry-run: 'true'}, name: rule",
            1,
        );
        scene.apply("rule", &trial).await?;
        for (client, verdict) in [&friend, &plain].into_iter().zip(verdicts) {
            reaches(client, &server).await?;
            let labels = [("policy", if verdict == "open" { "-" } else { &name }), ("verdict", verdict)];
            let count = scene.node("b").metrics().await?.sum("ambit_dry_run_total", &labels);
            ensure!(count >= 1.0, "{action}: {count} connections were counted as {verdict}");
        }
    }
    for (message, client) in
        [("dry-run: deny policy match", &friend), ("dry-run: no allow policies match", &plain)]
    {
        let from = format!("{}:", client.v4());
        eventually(SOON, message, async || {
            let told = scene.node("b").access_log().into_iter().any(|line| {
                line.message == message
                    && line.field("src.addr").starts_with(&from)
                    && line.field("policy") == name
            });
            ensure!(told, "{} is not in the log", client.name());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Sends a line over an echo connection and waits for it to come back.
pub(crate) async fn ask(stream: &mut TcpStream, line: &str) -> Result<()> {
    stream.write_all(line.as_bytes()).await?;
    let mut back = vec![0; line.len()];
    timeout(Duration::from_secs(5), stream.read_exact(&mut back)).await.context("no echo")??;
    ensure!(back == line.as_bytes(), "{:?} came back as {:?}", line, String::from_utf8_lossy(&back));
    Ok(())
}
