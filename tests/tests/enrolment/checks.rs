// SPDX-License-Identifier: Apache-2.0
//! What becomes of pods when labels, the agent, ztunnel and the CNI configuration come and go.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    Settings, checks, echo, eventually, http,
    kube::{KubeCluster, mesh::SAMPLE, suite::Check},
    process::Process,
};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::Value;

use crate::node::{Files, NODE, holds};

const SOON: Duration = Duration::from_secs(60);
/// For what must not happen.
const WHILE: Duration = Duration::from_secs(3);
const LABEL: &str = "istio.io/dataplane-mode=ambient";
const OWN: &str = "00-ambit.conflist";

/// The cluster, and what runs of the mesh.
pub(crate) struct Scene {
    cluster: KubeCluster,
    files: Files,
    agent: Mutex<Option<Arc<Process>>>,
    ztunnel: Mutex<Option<Process>>,
}

/// In the order in which they build on each other.
pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a1_a_pod_that_was_there_before_joins_and_leaves_by_the_label_of_its_namespace,
        a1b_a_bypassed_namespace_leaves_the_mesh_and_comes_back_by_itself,
        a2_a_pod_starts_only_when_ztunnel_serves_it,
        a2b_a_pod_that_runs_already_and_cannot_be_served_says_why,
        a3_kubelet_s_probes_reach_a_pod_and_other_processes_of_the_node_do_not,
        a4_without_the_agent_a_pod_waits_but_not_in_a_listed_namespace,
        a5_the_cni_configuration_is_put_right_again,
        a6_a_job_of_a_second_comes_and_goes,
        a7_the_taint_goes_when_the_node_is_ready,
        a7b_an_agent_of_a_revision_enrols_what_is_of_it_and_nothing_else,
        a8_an_agent_that_is_replaced_leaves_everything_and_one_that_is_uninstalled_nothing,
    ]
}

impl Scene {
    pub(crate) fn prepare(cluster: KubeCluster, settings: Settings) -> Result<Self> {
        let files = Files::of(&cluster, settings)?;
        Ok(Self { cluster, files, agent: Mutex::default(), ztunnel: Mutex::default() })
    }

    async fn start_agent(&self) -> Result<()> {
        self.start_agent_of(None).await
    }

    async fn start_agent_of(&self, revision: Option<&str>) -> Result<()> {
        let agent = self.files.agent(&self.cluster, revision).await?;
        *self.agent.lock() = Some(Arc::new(agent));
        Ok(())
    }

    fn take_agent(&self) -> Result<Arc<Process>> {
        self.agent.lock().take().context("no agent runs")
    }

    async fn namespace(&self, name: &str, labels: &str) -> Result<()> {
        let yaml =
            format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{{labels}}}\n");
        self.cluster.apply(&yaml).await.map(drop)
    }

    async fn pod(&self, namespace: &str, name: &str, more: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             nodeName: {NODE}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: app\n    image: {SAMPLE}\n    \
             imagePullPolicy: Never\n    args: [serve, --name, {name}]\n{more}"
        );
        // Pods are refused until their namespace has its service account.
        eventually(SOON, &format!("{name} taken"), async || self.cluster.apply(&yaml).await).await.map(drop)
    }

    /// The command line, as an administrator.
    async fn ambit(&self, arguments: &[&str]) -> Result<()> {
        let program = self.files.binary("ambit")?;
        self.cluster.run_program("ambit", program, arguments).await.map(drop)
    }

    async fn object(&self, namespace: &str, name: &str) -> Result<Value> {
        self.cluster.api().get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    async fn becomes(&self, namespace: &str, name: &str, condition: &str) -> Result<()> {
        let pod = format!("pod/{name}");
        let wait = format!("--for={condition}");
        self.cluster.kubectl(&["-n", namespace, "wait", &pod, &wait, "--timeout=120s"]).await.map(drop)
    }

    async fn runs(&self, namespace: &str, name: &str) -> Result<()> {
        self.becomes(namespace, name, "jsonpath={.status.phase}=Running").await
    }

    /// Waits until the events of the shop have these words; its pod has not started.
    async fn is_kept_waiting(&self, pod: &str, words: &[&str]) -> Result<()> {
        eventually(SOON, "the reason in the pod's events", async || {
            let events = self.cluster.kubectl(&["-n", "shop", "get", "events", "-o", "json"]).await?;
            ensure!(words.iter().all(|word| events.contains(word)), "{events}");
            Ok(())
        })
        .await?;
        let pod = self.object("shop", pod).await?;
        ensure!(pod.pointer("/status/phase").and_then(Value::as_str) == Some("Pending"), "it runs: {pod}");
        Ok(())
    }

    /// The first address of a pod.
    async fn address(&self, namespace: &str, name: &str) -> Result<SocketAddr> {
        let pod = self.object(namespace, name).await?;
        let ip = pod.pointer("/status/podIP").and_then(Value::as_str).context("it has no address")?;
        Ok(SocketAddr::new(ip.parse::<IpAddr>()?, echo::HTTP))
    }

    /// From a process of the node that is not kubelet.
    async fn call_from_node(&self, address: SocketAddr) -> Result<String> {
        let call = async move || tokio::time::timeout(WHILE, http::get(address, "/")).await?;
        self.cluster.shape().namespace(NODE).run(call).await
    }
}

async fn a1_a_pod_that_was_there_before_joins_and_leaves_by_the_label_of_its_namespace(
    scene: &Scene,
) -> Result<()> {
    scene.namespace("old", "").await?;
    scene.pod("old", "first", "").await?;
    scene.runs("old", "first").await?;
    let address = scene.address("old", "first").await?;
    eventually(SOON, "the pod answering", async || scene.call_from_node(address).await).await?;
    scene.start_agent().await?;
    *scene.ztunnel.lock() = Some(scene.files.ztunnel(&scene.cluster)?);
    scene.files.reaches("first", None).await?;
    scene.cluster.kubectl(&["label", "namespace", "old", LABEL]).await?;
    scene.files.reaches("first", Some("enrolled")).await?;
    ensure!(scene.call_from_node(address).await.is_err(), "nobody has allowed this connection");
    scene.cluster.kubectl(&["-n", "old", "label", "pod", "first", "istio.io/dataplane-mode=none"]).await?;
    scene.files.reaches("first", None).await?;
    eventually(SOON, "the pod answering again", async || scene.call_from_node(address).await).await?;
    scene.cluster.kubectl(&["-n", "old", "label", "pod", "first", "istio.io/dataplane-mode-"]).await?;
    scene.files.reaches("first", Some("enrolled")).await?;
    scene.cluster.kubectl(&["label", "namespace", "old", "istio.io/dataplane-mode-"]).await?;
    scene.files.reaches("first", None).await
}

async fn a1b_a_bypassed_namespace_leaves_the_mesh_and_comes_back_by_itself(scene: &Scene) -> Result<()> {
    scene.cluster.kubectl(&["label", "namespace", "old", LABEL]).await?;
    scene.files.reaches("first", Some("enrolled")).await?;
    let address = scene.address("old", "first").await?;
    scene.ambit(&["bypass", "old", "--for", "15s", "--reason", "a test"]).await?;
    scene.files.reaches("first", None).await?;
    eventually(SOON, "it answering outside the mesh", async || scene.call_from_node(address).await).await?;
    // Nobody says anything more.
    scene.files.reaches("first", Some("enrolled")).await?;

    let far = "ambit.mesh/bypass-until=9999-01-01T00:00:00Z";
    scene.cluster.kubectl(&["annotate", "namespace", "old", "--overwrite", far]).await?;
    eventually(SOON, "the reason in an event", async || {
        let events = scene.cluster.kubectl(&["-n", "old", "get", "events"]).await?;
        ensure!(events.contains("BypassIgnored") && events.contains("within 24 hours"), "{events}");
        Ok(())
    })
    .await?;
    ensure!(
        scene.files.state("first").await?.as_deref() == Some("enrolled"),
        "a bypass for ever was honoured"
    );

    scene.ambit(&["bypass", "old", "--for", "1h", "--reason", "a test"]).await?;
    scene.files.reaches("first", None).await?;
    scene.pod("old", "second", "").await?;
    scene.runs("old", "second").await?;
    scene.files.reaches("second", None).await?;
    scene.ambit(&["bypass", "old", "--end"]).await?;
    for pod in ["first", "second"] {
        scene.files.reaches(pod, Some("enrolled")).await?;
    }
    scene.cluster.kubectl(&["label", "namespace", "old", "istio.io/dataplane-mode-"]).await?;
    scene.files.reaches("first", None).await?;
    scene.files.reaches("second", None).await
}

async fn a2_a_pod_starts_only_when_ztunnel_serves_it(scene: &Scene) -> Result<()> {
    let ztunnel = scene.ztunnel.lock().take().context("no ztunnel runs")?;
    ztunnel.kill()?;
    let waits = async {
        scene.namespace("shop", "istio.io/dataplane-mode: ambient").await?;
        scene.pod("shop", "web", "").await?;
        scene.is_kept_waiting("web", &["no ztunnel connected", "FailedCreatePodSandBox"]).await
    };
    let waits = waits.await;
    ztunnel.start_again()?;
    *scene.ztunnel.lock() = Some(ztunnel);
    waits?;
    scene.runs("shop", "web").await?;
    ensure!(scene.files.state("web").await?.as_deref() == Some("enrolled"), "it runs before it is enrolled");
    scene.pod("shop", "out", "").await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod", "out", "--wait=true"]).await?;
    scene.files.reaches("out", None).await
}

async fn a2b_a_pod_that_runs_already_and_cannot_be_served_says_why(scene: &Scene) -> Result<()> {
    scene.namespace("calm", "").await?;
    scene.pod("calm", "still", "").await?;
    scene.runs("calm", "still").await?;
    let ztunnel = scene.ztunnel.lock().take().context("no ztunnel runs")?;
    ztunnel.kill()?;
    scene.cluster.kubectl(&["label", "namespace", "calm", LABEL]).await?;
    let told = eventually(SOON, "the reason in an event", async || {
        let only = "--field-selector=reason=NotEnrolled,involvedObject.name=still";
        let events = scene.cluster.kubectl(&["-n", "calm", "get", "events", only, "-o", "json"]).await?;
        ensure!(events.contains("captured, but not served yet: no ztunnel connected"), "{events}");
        Ok(())
    })
    .await;
    let state = scene.files.state("still").await;
    ztunnel.start_again()?;
    *scene.ztunnel.lock() = Some(ztunnel);
    told?;
    ensure!(state?.as_deref() == Some("pending"), "it is not captured");
    scene.files.reaches("still", Some("enrolled")).await?;
    scene.cluster.kubectl(&["delete", "namespace", "calm", "--wait=true"]).await.map(drop)
}

async fn a3_kubelet_s_probes_reach_a_pod_and_other_processes_of_the_node_do_not(scene: &Scene) -> Result<()> {
    let probe = format!(
        "    readinessProbe: {{httpGet: {{path: /, port: {}}}, periodSeconds: 1, timeoutSeconds: 2}}\n",
        echo::HTTP
    );
    scene.pod("shop", "probed", &probe).await?;
    scene.becomes("shop", "probed", "condition=Ready").await?;
    let list = scene.files.ask("GET", "/pods").await?;
    let pods = list.get("pods").and_then(Value::as_array).context("no list")?;
    let pod = pods.iter().find(|pod| pod.get("name").and_then(Value::as_str) == Some("probed"));
    let count = |name: &str| {
        pod.and_then(|pod| pod.pointer(&format!("/counters/{name}"))?.as_u64()).unwrap_or_default()
    };
    ensure!(count("probed") > 0 && count("exempted") == 0, "{list}");
    let address = scene.address("shop", "probed").await?;
    if let Ok(answer) = scene.call_from_node(address).await {
        bail!("a process of the node that is not kubelet got {answer}");
    }
    Ok(())
}

async fn a4_without_the_agent_a_pod_waits_but_not_in_a_listed_namespace(scene: &Scene) -> Result<()> {
    scene.take_agent()?.kill()?;
    let waits = async {
        scene.pod("shop", "waits", "").await?;
        scene.pod("kube-system", "passes", "").await?;
        scene.runs("kube-system", "passes").await?;
        scene.is_kept_waiting("waits", &["the node agent does not answer"]).await
    };
    let waits = waits.await;
    scene.start_agent().await?;
    waits?;
    scene.runs("shop", "waits").await?;
    for pod in ["waits", "web", "probed"] {
        scene.files.reaches(pod, Some("enrolled")).await?;
    }
    Ok(())
}

async fn a5_the_cni_configuration_is_put_right_again(scene: &Scene) -> Result<()> {
    let (own, plugin) = (scene.files.configurations().join(OWN), scene.files.plugins().join("ambit-cni"));
    let text = fs::read_to_string(&own).context("our configuration")?;
    ensure!(text.contains("ambit-cni") && text.contains("bridge"), "{text}");
    fs::remove_file(&own)?;
    fs::write(&plugin, "not the plugin")?;
    eventually(SOON, "the configuration", async || holds(&own, Some(&text))).await?;
    eventually(SOON, "the plugin", async || {
        ensure!(fs::metadata(&plugin)?.len() > 100_000, "it is short");
        Ok(())
    })
    .await?;
    let primary = scene.files.configurations().join("10-ambit.conflist");
    let changed = fs::read_to_string(&primary)?.replace("\"hairpinMode\": true", "\"hairpinMode\": false");
    fs::write(&primary, changed)?;
    eventually(SOON, "the change of the primary", async || holds(&own, Some("\"hairpinMode\": false"))).await
}

async fn a6_a_job_of_a_second_comes_and_goes(scene: &Scene) -> Result<()> {
    let yaml = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: short, namespace: shop}}\nspec:\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers:\n      - {{name: app, image: {SAMPLE}, imagePullPolicy: Never, args: [--help]}}\n"
    );
    scene.cluster.apply(&yaml).await?;
    scene
        .cluster
        .kubectl(&["-n", "shop", "wait", "job/short", "--for=condition=Complete", "--timeout=120s"])
        .await?;
    let pods =
        scene.cluster.kubectl(&["-n", "shop", "get", "pods", "-l", "job-name=short", "-o", "name"]).await?;
    let name = pods.trim().trim_start_matches("pod/").to_owned();
    scene.files.reaches(&name, None).await
}

async fn a7_the_taint_goes_when_the_node_is_ready(scene: &Scene) -> Result<()> {
    scene.take_agent()?.kill()?;
    let taints =
        async || scene.cluster.kubectl(&["get", "node", NODE, "-o", "jsonpath={.spec.taints[*].key}"]).await;
    for taint in ["cni.istio.io/not-ready=:NoSchedule", "example.org/other=:PreferNoSchedule"] {
        scene.cluster.kubectl(&["taint", "node", NODE, taint]).await?;
    }
    scene.start_agent().await?;
    eventually(SOON, "the taint's end", async || {
        let taints = taints().await?;
        ensure!(taints == "example.org/other", "{taints}");
        Ok(())
    })
    .await?;
    scene.cluster.kubectl(&["taint", "node", NODE, "example.org/other-"]).await.map(drop)
}

async fn a7b_an_agent_of_a_revision_enrols_what_is_of_it_and_nothing_else(scene: &Scene) -> Result<()> {
    let label = async |label: &str| {
        scene.cluster.kubectl(&["label", "namespace", "shop", "--overwrite", label]).await.map(drop)
    };
    let address = scene.address("shop", "web").await?;
    let is_out = async || {
        scene.files.reaches("web", None).await?;
        eventually(SOON, "it answering", async || scene.call_from_node(address).await).await.map(drop)
    };
    let is_in = async || {
        scene.files.reaches("web", Some("enrolled")).await?;
        ensure!(scene.call_from_node(address).await.is_err(), "nobody has allowed this connection");
        Ok(())
    };
    is_in().await?;
    scene.take_agent()?.kill()?;
    scene.start_agent_of(Some("ambit")).await?;
    is_out().await.context("no revision")?;
    scene.pod("shop", "late", "").await?;
    scene.runs("shop", "late").await?;
    ensure!(scene.files.state("late").await?.is_none(), "a pod of no revision was enrolled at its start");

    label("istio.io/rev=ambit").await?;
    is_in().await.context("its revision")?;
    scene.files.reaches("late", Some("enrolled")).await?;
    label("istio.io/rev=other").await?;
    is_out().await.context("another revision")?;
    label("istio.io/rev-").await?;
    scene.files.reaches("late", None).await?;
    is_out().await.context("no revision any more")?;

    scene.take_agent()?.kill()?;
    scene.start_agent().await?;
    is_in().await.context("an agent without a revision")
}

async fn a8_an_agent_that_is_replaced_leaves_everything_and_one_that_is_uninstalled_nothing(
    scene: &Scene,
) -> Result<()> {
    let (own, plugin) = (scene.files.configurations().join(OWN), scene.files.plugins().join("ambit-cni"));
    scene.namespace("ambit-system", "").await?;
    // It selects the node, and its own pods never start: the agent here is none of them.
    let daemon_set = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: node, namespace: ambit-system}\nspec:\n  \
                      selector: {matchLabels: {app: node}}\n  template:\n    metadata: {labels: {app: node}}\n    spec:\n      \
                      containers: [{name: node, image: ambit.local/not-there, imagePullPolicy: Never}]\n";
    scene.cluster.apply(daemon_set).await?;
    let address = scene.address("shop", "web").await?;
    let agent = scene.take_agent()?;
    agent.signal(Signal::SIGTERM)?;
    agent.end(SOON).await?;
    ensure!(own.exists() && plugin.exists(), "the configuration is gone");
    ensure!(scene.call_from_node(address).await.is_err(), "a pod of the mesh was let out");

    scene.start_agent().await?;
    scene.files.reaches("web", Some("enrolled")).await?;
    scene.cluster.kubectl(&["-n", "ambit-system", "delete", "daemonset", "node"]).await?;
    let agent = scene.take_agent()?;
    agent.signal(Signal::SIGTERM)?;
    let status = agent.end(SOON).await?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(!own.exists() && !plugin.exists(), "the configuration is still there");
    ensure!(scene.files.configurations().join("10-ambit.conflist").exists(), "the primary's is gone too");
    eventually(SOON, "a pod that is out of the mesh", async || scene.call_from_node(address).await).await?;
    scene.pod("shop", "after", "").await?;
    scene.runs("shop", "after").await
}
