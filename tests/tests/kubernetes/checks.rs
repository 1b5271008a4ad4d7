// SPDX-License-Identifier: Apache-2.0
//! What a cluster does for its users before any mesh is in it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checks, echo, eventually, http,
    kube::{KubeCluster, mesh::SAMPLE, suite::Check},
    net::link,
};
use serde_json::Value;
use tokio::time::timeout;

const SHOP: &str = include_str!("shop.yaml");
const SOON: Duration = Duration::from_secs(60);
/// How long one call in a pod may take.
const ONE_ANSWER: Duration = Duration::from_secs(10);
const ROLL_OUT: Duration = Duration::from_secs(120);
const CLIENTS: [(&str, &str); 2] = [("client-a", "node-a"), ("client-b", "node-b")];

/// The cluster with a service of two replicas, one on each node, and a client on each node.
pub(crate) struct Scene {
    cluster: KubeCluster,
}

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        every_node_has_an_address_in_both_families,
        a_service_answers_in_both_families_and_by_name_on_both_nodes,
        a_load_balanced_address_answers_the_machine_in_both_families,
        exec_and_logs_reach_a_pod,
        a_kubelet_is_alone_in_its_control_group,
        nodes_do_not_see_each_others_network_namespaces,
        pods_share_a_bridge_and_on_the_last_node_have_links_of_their_own,
        helm_installs_and_uninstalls,
        a_kubelet_and_a_containerd_that_were_killed_come_back,
    ]
}

impl Scene {
    /// Deploys the shop.
    pub(crate) async fn prepare(cluster: KubeCluster) -> Result<Self> {
        cluster.apply(&SHOP.replace("@IMAGE@", SAMPLE)).await?;
        cluster.rolled_out("shop", "deployment/web", ROLL_OUT).await?;
        let ready =
            ["-n", "shop", "wait", "pod", "-l", "app=client", "--for=condition=Ready", "--timeout=120s"];
        cluster.kubectl(&ready).await?;
        Ok(Self { cluster })
    }

    async fn call(&self, client: &str, host: &str) -> Result<String> {
        let url = format!("http://{host}:{}/", echo::HTTP);
        self.cluster.kubectl(&["-n", "shop", "exec", client, "--", "/lab-app", "call", &url]).await
    }

    async fn service(&self, name: &str) -> Result<Value> {
        self.cluster.api().get(&format!("/api/v1/namespaces/shop/services/{name}")).await
    }
}

async fn every_node_has_an_address_in_both_families(scene: &Scene) -> Result<()> {
    scene.cluster.nodes_ready().await?;
    let nodes = scene.cluster.api().get("/api/v1/nodes").await?;
    for node in nodes.get("items").and_then(Value::as_array).context("no nodes")? {
        let addresses = texts(node, "/status/addresses", "address");
        let families: BTreeSet<bool> =
            addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv4()).collect();
        ensure!(families.len() == 2, "addresses are {addresses:?}");
    }
    Ok(())
}

async fn a_service_answers_in_both_families_and_by_name_on_both_nodes(scene: &Scene) -> Result<()> {
    let service = scene.service("web").await?;
    let mut hosts = vec!["web".to_owned(), "web.shop.svc.cluster.local".to_owned()];
    for ip in service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten() {
        hosts.push(in_url(ip.as_str().unwrap_or_default().parse()?));
    }
    ensure!(hosts.len() == 4, "the service has one family only: {hosts:?}");
    for (client, node) in CLIENTS {
        for host in &hosts {
            let what = format!("{host} answering on {node}");
            let answer = eventually(SOON, &what, async || scene.call(client, host).await).await?;
            ensure!(answer.starts_with("200"), "{what}: {answer}");
        }
    }
    Ok(())
}

async fn a_load_balanced_address_answers_the_machine_in_both_families(scene: &Scene) -> Result<()> {
    for name in ["front", "front-local"] {
        let addresses = eventually(SOON, "addresses of the load-balancer", async || {
            let service = scene.service(name).await?;
            let addresses = texts(&service, "/status/loadBalancer/ingress", "ip");
            ensure!(addresses.len() == 2, "{name} has {addresses:?}");
            Ok(addresses)
        })
        .await?;
        for address in addresses {
            let address = SocketAddr::new(address.parse()?, 80);
            let what = format!("{name} answering at {address}");
            eventually(SOON, &what, async || http::get(address, "/").await).await?;
        }
    }
    Ok(())
}

async fn exec_and_logs_reach_a_pod(scene: &Scene) -> Result<()> {
    let said = scene.cluster.kubectl(&["-n", "shop", "exec", "client-a", "--", "/lab-app", "--help"]).await?;
    ensure!(said.contains("Usage"), "exec says {said}");
    let logs = ["-n", "kube-system", "logs", "deployment/coredns"];
    let said = scene.cluster.kubectl(&logs).await?;
    ensure!(said.contains("CoreDNS"), "logs say {said}");
    Ok(())
}

async fn a_kubelet_is_alone_in_its_control_group(scene: &Scene) -> Result<()> {
    for node in scene.cluster.nodes() {
        let pid = node.kubelet.pid().context("kubelet does not run")?;
        let group = unified_group(&pid.to_string())?;
        if group == "/" {
            // A machine without cgroup2.
            continue;
        }
        ensure!(group.ends_with(&format!("{}/kubelet", node.name)), "it is in {group}");
        // What it runs to mount a volume is there for a moment.
        eventually(SOON, "a group of one", async || {
            let mut members = Vec::new();
            for entry in fs::read_dir("/proc")? {
                let other = entry?.file_name().to_string_lossy().into_owned();
                if other.parse::<u32>().is_ok() && unified_group(&other).is_ok_and(|own| own == group) {
                    members.push(other);
                }
            }
            ensure!(members == [pid.to_string()], "{group} holds {members:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn nodes_do_not_see_each_others_network_namespaces(scene: &Scene) -> Result<()> {
    for node in scene.cluster.nodes() {
        let pid = node.containerd.pid().context("containerd does not run")?;
        let folder = Path::new("/proc").join(pid.to_string()).join("root/run/netns");
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName={},spec.hostNetwork=false", node.name);
        eventually(SOON, "as many namespaces as pods", async || {
            let pods = fs::read_dir(&folder)?.count();
            let listed = scene.cluster.api().get(&path).await?;
            let expected = listed.get("items").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(pods == expected && pods > 0, "{} has {expected} pods and {pods} namespaces", node.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn pods_share_a_bridge_and_on_the_last_node_have_links_of_their_own(scene: &Scene) -> Result<()> {
    let web = scene.cluster.api().get("/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb").await?;
    let pods = web.get("items").and_then(Value::as_array).context("no pods")?;
    let addresses = pods.iter().flat_map(|pod| texts(pod, "/status/podIPs", "ip"));
    let addresses: Vec<String> = addresses.map(|text| Ok(in_url(text.parse()?))).collect::<Result<_>>()?;
    ensure!(addresses.len() == 4, "two pods of two families have {addresses:?}");
    for ((client, node), expected) in CLIENTS.into_iter().zip([true, false]) {
        let namespace = scene.cluster.shape().namespace(node);
        let has_bridge = namespace
            .netlink(async move |netlink| Ok(link::index_of(&netlink, "cni0").await.is_ok()))
            .await?;
        ensure!(has_bridge == expected, "{node} has a bridge: {has_bridge}");
        // One is on the node itself, the other is not.
        for address in &addresses {
            let what = format!("{address} answering {client}");
            let answer = eventually(SOON, &what, async || scene.call(client, address).await).await?;
            ensure!(answer.starts_with("200"), "{what}: {answer}");
        }
    }
    Ok(())
}

async fn helm_installs_and_uninstalls(scene: &Scene) -> Result<()> {
    let chart = scene.cluster.shape().state.join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: note\nversion: 0.1.0\n")?;
    let note =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\ndata: {by: \"{{ .Release.Name }}\"}\n";
    fs::write(chart.join("templates/note.yaml"), note)?;
    scene.cluster.helm(&["install", "first", &chart.display().to_string(), "-n", "shop"]).await?;
    let note = scene.cluster.api().get("/api/v1/namespaces/shop/configmaps/note").await?;
    ensure!(note.pointer("/data/by").and_then(Value::as_str) == Some("first"), "it says {note}");
    scene.cluster.helm(&["uninstall", "first", "-n", "shop"]).await?;
    let gone = scene.cluster.api().get("/api/v1/namespaces/shop/configmaps/note").await;
    ensure!(gone.is_err(), "the note is still there");
    Ok(())
}

/// They come back into the view that the node had, where their pods still run.
async fn a_kubelet_and_a_containerd_that_were_killed_come_back(scene: &Scene) -> Result<()> {
    let node = scene.cluster.nodes().first().context("no node")?;
    for program in [&node.kubelet, &node.containerd] {
        program.kill()?;
    }
    ensure!(scene.call("client-b", "web").await?.starts_with("200"), "pods do not need a kubelet to answer");
    node.start_again(scene.cluster.shape()).await?;
    let what = "exec on the node that came back";
    // What is asked before the runtime has found its containers again never gets an answer.
    let ask = async || timeout(ONE_ANSWER, scene.call("client-a", "web")).await?;
    let answer = eventually(ROLL_OUT, what, ask).await?;
    ensure!(answer.starts_with("200"), "{answer}");
    Ok(())
}

fn texts(object: &Value, list: &str, field: &str) -> Vec<String> {
    let items = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.get(field).and_then(Value::as_str).map(str::to_owned)).collect()
}

fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn unified_group(pid: &str) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let line = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(line.to_owned())
}
