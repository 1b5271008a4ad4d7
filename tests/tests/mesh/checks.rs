// SPDX-License-Identifier: Apache-2.0
//! What `ambit check` says of a mesh that runs, and of what is put in its way.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use lab::{checks, kube::suite::Check};
use serde_json::Value;

use crate::{
    balancer::{Balancer, PROGRAM},
    scene::Scene,
};

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![a_program_that_rewrites_service_addresses_at_the_socket_is_named]
}

/// What the nodes find wrong with their sockets: `grade: what`.
async fn at_sockets(scene: &Scene) -> Result<Vec<String>> {
    let (said, code) = scene.ambit_says(&["check", "-o", "json"]).await?;
    let verdict: Value = serde_json::from_str(&said).with_context(|| format!("code {code}: {said}"))?;
    let findings = verdict.get("findings").and_then(Value::as_array).context("no findings")?;
    ensure!(
        findings.iter().all(|finding| finding["check"] != "node report" || finding["grade"] == "ok"),
        "{said}"
    );
    let found = findings.iter().filter(|finding| finding["check"] == "socket LB");
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let found: Vec<String> = found
        .map(|finding| {
            format!("{}: {} {}", text(finding, "grade"), text(finding, "found"), text(finding, "fix"))
        })
        .collect();
    ensure!(
        found.is_empty() || code == 1 || !found.concat().contains("failure:"),
        "ended with {code}: {said}"
    );
    Ok(found)
}

async fn a_program_that_rewrites_service_addresses_at_the_socket_is_named(scene: &Scene) -> Result<()> {
    let before = at_sockets(scene).await?;
    ensure!(before.is_empty(), "before there is one: {before:?}");
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
    let found = at_sockets(scene).await?;
    let [found] = found.as_slice() else { anyhow::bail!("not once for both nodes: {found:?}") };
    let named = format!("({PROGRAM}, of an unknown owner) at connect4 of the control group /");
    ensure!(found.starts_with("failure: node-a, node-b: program ") && found.contains(&named), "{found}");
    ensure!(found.contains(&format!("{service} became {endpoint}")), "{found}");
    ensure!(found.contains("bpftool prog show id"), "no fix: {found}");
    drop(balancer);

    // It rewrites, but not what was tried.
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1);
    let balancer = Balancer::attach(elsewhere, endpoint)?;
    let found = at_sockets(scene).await?;
    ensure!(found.concat().contains("warning: ") && found.concat().contains("stayed as it was"), "{found:?}");
    drop(balancer);
    let after = at_sockets(scene).await?;
    ensure!(after.is_empty(), "after it has gone: {after:?}");
    Ok(())
}
