// SPDX-License-Identifier: Apache-2.0
//! What `ambit check` says of a mesh that runs, and of what is put in its way.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checks, eventually,
    kube::{api::Api, control_plane, mesh, suite::Check},
};
use serde_json::{Value, json};

use crate::{
    balancer::{Balancer, PROGRAM},
    load::on,
    scene::{NODES, SOON, Scene, name},
};

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_program_that_rewrites_service_addresses_at_the_socket_is_named,
        a_rule_that_a_role_has_lost_is_named_with_what_it_breaks,
        an_agent_s_token_changes_only_what_is_of_its_own_node,
        a_bug_report_has_every_part_and_no_secret,
    ]
}

/// The roles of the charts: path below `/apis/rbac.authorization.k8s.io/v1/`, and as the product calls them.
const ROLES: [(&str, &str); 4] = [
    ("clusterroles/ambit-control", "clusterrole/ambit-control"),
    ("clusterroles/ambit-node", "clusterrole/ambit-node"),
    ("namespaces/ambit-system/roles/control", "role/control"),
    ("namespaces/ambit-system/roles/node", "role/node"),
];

/// What `ambit check` finds with one name: `grade: what fix`.
async fn found(scene: &Scene, check: &str) -> Result<Vec<String>> {
    let (said, code) = scene.ambit_says(&["check", "-o", "json"]).await?;
    let verdict: Value = serde_json::from_str(&said).with_context(|| format!("code {code}: {said}"))?;
    let findings = verdict.get("findings").and_then(Value::as_array).context("no findings")?;
    let is_answered = |finding: &Value| finding["check"] != "node report" || finding["grade"] == "ok";
    ensure!(findings.iter().all(is_answered), "a node does not answer: {said}");
    let failed = findings.iter().any(|finding| finding["grade"] == "failure");
    ensure!(failed == (code == 1), "ended with {code}: {said}");
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let texts = findings.iter().filter(|finding| finding["check"] == check).map(|finding| {
        format!("{}: {} {}", text(finding, "grade"), text(finding, "found"), text(finding, "fix"))
    });
    Ok(texts.collect())
}

async fn a_program_that_rewrites_service_addresses_at_the_socket_is_named(scene: &Scene) -> Result<()> {
    nothing_at_sockets(scene).await?;
    let service = scene.object("/api/v1/namespaces/default/services/kubernetes").await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=\
                  kubernetes.io%2Fservice-name%3Dkubernetes";
    let slices = scene.object(slices).await?;
    let address = |object: &Value, ip: &str, port: &str| {
        let ip: Ipv4Addr = object.pointer(ip).and_then(Value::as_str).context("no address")?.parse()?;
        let port = object.pointer(port).and_then(Value::as_u64).context("no port")?;
        anyhow::Ok(SocketAddrV4::new(ip, u16::try_from(port)?))
    };
    let service = address(&service, "/spec/clusterIP", "/spec/ports/0/port")?;
    let slice = slices.get("items").and_then(Value::as_array).into_iter().flatten();
    let slice = slice.into_iter().find(|slice| slice["addressType"] == "IPv4").context("no endpoints")?;
    let endpoint = address(slice, "/endpoints/0/addresses/0", "/ports/0/port")?;
    let balancer = Balancer::attach(service, endpoint)?;
    let found = something_at_sockets(scene, "failure: ").await?;
    let [found] = found.as_slice() else { anyhow::bail!("not once for both nodes: {found:?}") };
    let named = format!("({PROGRAM}, of an unknown owner) at connect4 of the control group /");
    ensure!(found.starts_with("failure: node-a, node-b: program ") && found.contains(&named), "{found}");
    ensure!(found.contains(&format!("{service} became {endpoint}")), "{found}");
    ensure!(found.contains("bpftool prog show id"), "no fix: {found}");
    drop(balancer);

    // It rewrites, but not what was tried.
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1);
    let balancer = Balancer::attach(elsewhere, endpoint)?;
    let found = something_at_sockets(scene, "warning: ").await?;
    ensure!(found.concat().contains("stayed as it was"), "{found:?}");
    drop(balancer);
    nothing_at_sockets(scene).await
}

async fn nothing_at_sockets(scene: &Scene) -> Result<()> {
    eventually(SOON, "nothing at the sockets", async || {
        let found = found(scene, "socket LB").await?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
    .await
}

/// What the nodes say, when all of it begins like this.
async fn something_at_sockets(scene: &Scene, grade: &str) -> Result<Vec<String>> {
    eventually(SOON, &format!("{grade} at the sockets"), async || {
        let found = found(scene, "socket LB").await?;
        // A node that has just looked says what was so then.
        let both = found.len() == 1 && found.concat().contains("node-a, node-b: ");
        ensure!(both && found.iter().all(|text| text.starts_with(grade)), "{found:?}");
        Ok(found)
    })
    .await
}

/// One rule of each role at a time: no two of them break the same.
async fn a_rule_that_a_role_has_lost_is_named_with_what_it_breaks(scene: &Scene) -> Result<()> {
    let mut roles = Vec::new();
    for (path, role) in ROLES {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{path}");
        let rules = scene.object(&path).await?.get("rules").and_then(Value::as_array).cloned();
        roles.push((path, role, rules.context("no rules")?));
    }
    let named = each_loss_is_named(scene, &roles).await;
    // Whatever came of it, the next check finds every rule.
    for (path, _, rules) in &roles {
        scene.cluster.api().merge(path, &json!({"rules": rules})).await?;
    }
    named?;
    eventually(SOON, "a mesh that is well again", async || {
        let (said, code) = scene.ambit_says(&["check"]).await?;
        ensure!(code == 0, "{said}");
        Ok(())
    })
    .await
}

/// Of roles by their path and what they are called.
async fn each_loss_is_named(scene: &Scene, roles: &[(String, &str, Vec<Value>)]) -> Result<()> {
    let most = roles.iter().map(|(_, _, rules)| rules.len()).max().unwrap_or_default();
    for number in 0..most {
        let mut lost = Vec::new();
        for (path, role, rules) in roles {
            let mut rest = rules.clone();
            if number < rest.len() {
                lost.extend(lines(role, &rest.remove(number)));
            }
            scene.cluster.api().merge(path, &json!({"rules": rest})).await?;
        }
        eventually(SOON, &format!("{lost:?} being named"), async || {
            let found = found(scene, "permissions").await?;
            for line in &lost {
                let breaks = format!("{line}: ");
                let named = found.iter().any(|text| text.starts_with("failure: ") && text.contains(&breaks));
                ensure!(named, "{line} is not among {found:?}");
            }
            ensure!(found.len() == lost.len(), "{} lost, and found are {found:?}", lost.len());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What the agent may do by its role, tried with a token as the agent of the first node has it.
async fn an_agent_s_token_changes_only_what_is_of_its_own_node(scene: &Scene) -> Result<()> {
    let agents = scene.pods(mesh::NAMESPACE, "app.kubernetes.io/name=node").await?;
    let agent = agents.iter().find(|pod| on(pod) == Some(NODES[0])).context("no agent on the first node")?;
    let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={}", name(agent)?)];
    let token = ["-n", mesh::NAMESPACE, "create", "token", "node"];
    let ask = async |arguments: &[&str]| {
        let token = scene.cluster.kubectl(arguments).await?;
        let shape = scene.cluster.shape();
        Api::with_token(control_plane::server(shape), &shape.pki(""), token)
    };
    let of_node = ask(&[&token, bound.as_slice()].concat()).await?;
    let of_nobody = ask(&token).await?;
    let mark = json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}});
    let marks = async |who: &Api, pod: &str| {
        who.merge(&format!("/api/v1/namespaces/shop/pods/{pod}/status"), &mark).await
    };
    let replaces = async |node: &str| {
        let path = format!("/api/v1/nodes/{node}");
        of_node.replace(&path, &scene.object(&path).await?).await
    };
    marks(&of_node, "client-a").await.context("a pod of its own node")?;
    for (tried, what) in [
        (marks(&of_node, "client-b").await, "a pod of the other node"),
        (marks(&of_nobody, "client-a").await, "a pod, with a token of no node"),
        (replaces(NODES[1]).await, "the other node"),
    ] {
        let Err(error) = tried else { anyhow::bail!("{what} was changed") };
        let text = format!("{error:#}");
        ensure!(text.contains("of that node only"), "{what}: {text}");
    }
    // Kubelet may write at the same time.
    eventually(SOON, "a change of its own node", async || replaces(NODES[0]).await.map(drop)).await
}

/// What tar says of an archive.
pub(crate) async fn archived(archive: &Path, what: &str) -> Result<String> {
    let mut command = std::process::Command::new("tar");
    command.arg(what).arg("-f").arg(archive);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of each part its log, its metrics and what it knows; of the keys of the mesh only that they are there.
async fn a_bug_report_has_every_part_and_no_secret(scene: &Scene) -> Result<()> {
    let archive = scene.cluster.shape().state.join("report.tar.gz");
    scene.ambit(&["bug-report", "-f", &archive.display().to_string()]).await?;
    let (files, text) = (archived(&archive, "-tz").await?, archived(&archive, "-xzO").await?);
    for (part, knows) in
        [("control", "status.json"), ("node", "checks.json"), ("ztunnel", "config_dump.json")]
    {
        for pod in scene.pods(mesh::NAMESPACE, &format!("app.kubernetes.io/name={part}")).await? {
            for file in ["log.txt", "metrics.txt", knows] {
                let wanted = format!("pods/{}/{file}", name(&pod)?);
                ensure!(files.lines().any(|file| file.ends_with(&wanted)), "no {wanted} among\n{files}");
            }
        }
    }
    let path = format!("/api/v1/namespaces/{}/secrets/ambit-ca", mesh::NAMESPACE);
    let secret = scene.object(&path).await?;
    let values = secret.get("data").and_then(Value::as_object).context("the CA's Secret is empty")?;
    let keys: Vec<&str> = values
        .iter()
        .filter(|(field, _)| field.contains("key"))
        .filter_map(|(_, value)| value.as_str())
        .collect();
    ensure!(!keys.is_empty() && text.contains("ambit-ca"), "no key in {:?}", values.keys());
    let leaked = text.contains("PRIVATE KEY") || keys.iter().any(|key| text.contains(key));
    ensure!(!leaked, "a key is in the report");
    Ok(())
}

/// How the loss of a rule is told, for each of its resources.
fn lines(role: &str, rule: &Value) -> Vec<String> {
    let words = |field: &str| -> Vec<String> {
        let list = rule.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let group = words("apiGroups").concat();
    let verbs = words("verbs").join(", ");
    let resources = words("resources")
        .into_iter()
        .map(|resource| if group.is_empty() { resource } else { format!("{resource}.{group}") });
    resources.map(|resource| format!("{role} does not let it {verbs} {resource}")).collect()
}
