// SPDX-License-Identifier: Apache-2.0
//! Enrolment of pods that run already: nothing that is open breaks, and leaving the mesh leaves nothing behind.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::{Pod, echo, net::Namespace};

use crate::{
    policy::ask,
    scene::{Scenario, Scene, reaches, scenarios, went_through_the_mesh},
};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        a_pod_that_runs_already_can_be_enrolled,
        open_connections_survive_enrolment,
        a_pod_that_leaves_the_mesh_has_plain_networking_again,
        a_deleted_pod_leaves_nothing_on_its_node,
    ]
}

async fn a_pod_that_runs_already_can_be_enrolled(scene: Scene) -> Result<()> {
    let server = scene.plain("b", "server").await?;
    let client = scene.plain("a", "client").await?;
    server.serve().await?;
    reaches(&client, &server).await?;
    server.enrol().await?;
    reaches(&client, &server).await?;
    client.enrol().await?;
    reaches(&client, &server).await?;
    went_through_the_mesh(&scene, &client, &server).await
}

async fn open_connections_survive_enrolment(scene: Scene) -> Result<()> {
    let server = scene.plain("b", "server").await?;
    let client = scene.plain("a", "client").await?;
    server.serve().await?;
    let mut open = Vec::new();
    for ip in server.addresses().both() {
        let mut stream = client.connect(SocketAddr::new(ip, echo::TCP)).await?;
        ask(&mut stream, "before").await?;
        open.push(stream);
    }
    for pod in [&server, &client] {
        pod.enrol().await?;
        for stream in &mut open {
            ask(stream, "after an enrolment").await?;
        }
    }
    reaches(&client, &server).await
}

async fn a_pod_that_leaves_the_mesh_has_plain_networking_again(scene: Scene) -> Result<()> {
    let server = scene.plain("b", "server").await?;
    server.serve().await?;
    let client = scene.plain("a", "client").await?;
    reaches(&client, &server).await?;
    let before = traces(&client).await?;
    for _ in 0..3 {
        client.enrol().await?;
        reaches(&client, &server).await?;
        client.release().await?;
        reaches(&client, &server).await?;
    }
    let after = traces(&client).await?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

/// Everything that enrolment may change in a pod: rules, the routes of all tables, listeners.
async fn traces(pod: &Pod) -> Result<String> {
    let mut all = String::new();
    for arguments in [
        ["-4", "rule", "show", ""].as_slice(),
        &["-6", "rule", "show"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
    ] {
        let arguments: Vec<&str> =
            arguments.iter().copied().filter(|argument| !argument.is_empty()).collect();
        let output = pod.exec("ip", &arguments).await?;
        ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        all.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    let sysctls = pod.exec("sh", &["-c", "cat /proc/sys/net/ipv4/conf/lo/accept_local /proc/sys/net/ipv4/tcp_fwmark_accept /proc/sys/net/ipv4/fwmark_reflect"]);
    all.push_str(&String::from_utf8_lossy(&sysctls.await?.stdout));
    Ok(all)
}

async fn a_deleted_pod_leaves_nothing_on_its_node(scene: Scene) -> Result<()> {
    let node = scene.node("a");
    let links = links(node.namespace())?;
    let pod = scene.captured("a", "pod").await?;
    let uid = pod.object().uid;
    ensure!(node.config_dump().await?.to_string().contains(&uid), "ztunnel does not know the pod");
    pod.delete().await?;
    ensure!(self::links(node.namespace())? == links, "a link stayed");
    lab::eventually(crate::scene::SOON, "ztunnel forgetting the pod", async || {
        ensure!(!node.config_dump().await?.to_string().contains(&uid), "it still knows {uid}");
        Ok(())
    })
    .await
}

fn links(namespace: &Namespace) -> Result<Vec<String>> {
    namespace.on_thread(|| {
        let mut names: Vec<String> = nix::net::if_::if_nameindex()?
            .iter()
            .map(|link| link.name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    })
}
