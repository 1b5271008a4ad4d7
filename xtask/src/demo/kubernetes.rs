// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo --kubernetes`: the way of a platform team. A cluster with a shop that knows no mesh, Helm, a label,
//! policies with kubectl. Every command that is shown is run, and what follows it is what it wrote.

mod waypoint;

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    Settings, echo, eventually,
    kube::{KubeCluster, Options, clean, gateway_api, mesh},
    net::sniffer::Sniffer,
    observe::Access,
};
use serde_json::Value;

use super::{
    NAME, Progress,
    prometheus::{self, Prometheus},
    requests,
    shop::{NAMESPACE, POLICIES},
    show::{self, SECRET},
};
use crate::{
    cluster::tools,
    lab::runtime,
    packages,
    plugin::{self, Profile},
    step::say,
};
use waypoint::{Extended, Zipkin};

const SHOP: &str = include_str!("kubernetes/shop.yaml");
const SOON: Duration = Duration::from_secs(60);
const ROLL_OUT: Duration = Duration::from_secs(120);
/// Whether a pod is in the mesh is said on the pod.
const MEMBERS: &str = "custom-columns=POD:.metadata.name,NODE:.spec.nodeName,MESH:.metadata.annotations.ambient\\.istio\\.io/redirection,\
                       RESTARTS:.status.containerStatuses[0].restartCount";

/// Runs it on a cluster of its own.
pub(super) fn run(progress: &Progress, server: &Path, keep: bool) -> Result<()> {
    packages::ensure_installed(&packages::CLUSTER)?;
    progress.say("Kubernetes: etcd, API server, kubelets, containerd, built from source where the cache does not have them");
    let tools = tools()?;
    let mut settings = Settings::from_environment()?;
    settings.plugin = Some(plugin::build(Profile::Dev, None)?);
    // A demo that was kept is replaced.
    clean::remove(NAME)?;
    runtime()?.block_on(async {
        let shown = async {
            progress.say("starting a cluster of two nodes, and giving them the images");
            let cluster = KubeCluster::start(NAME, &settings, &tools, Options::default()).await?;
            mesh::load_sample(&cluster, &settings).await?;
            mesh::load_images(&cluster, &settings).await?;
            Demo { cluster, settings: &settings, progress }.show(server, keep).await
        };
        tokio::select! {
            outcome = shown => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
        }
    })
}

struct Demo<'a> {
    cluster: KubeCluster,
    settings: &'a Settings,
    progress: &'a Progress,
}

impl Demo<'_> {
    async fn show(self, server: &Path, keep: bool) -> Result<()> {
        self.open_the_shop().await?;
        let zipkin = self.start_zipkin().await?;
        self.install(&zipkin).await?;
        self.join().await?;
        let prometheus = prometheus::start_beside(&self.cluster, server).await?;
        self.progress
            .say("a real Prometheus scrapes every pod of the mesh; waiting for it to have seen both nodes");
        eventually(SOON, "both nodes in prometheus", async || {
            let rows = prometheus.query("count by (job) (istio_tcp_connections_opened_total)").await?;
            ensure!(rows.len() == 2, "it has seen {} nodes", rows.len());
            Ok(())
        })
        .await?;
        show::who_talks_to_whom(&prometheus).await?;
        self.decide().await?;
        self.on_the_wire().await?;
        Progress::heading("what Prometheus knows of refusals");
        show::denied(&prometheus).await?;
        self.extend().await?;
        requests::show(&Extended { demo: &self, zipkin: &zipkin }).await?;
        self.end((prometheus, zipkin), keep).await
    }

    async fn open_the_shop(&self) -> Result<()> {
        Progress::heading("a shop that knows no mesh");
        self.cluster.apply(&SHOP.replace("@SAMPLE@", mesh::SAMPLE)).await?;
        for service in ["frontend", "cart", "catalog", "payments"] {
            self.cluster.rolled_out(NAMESPACE, &format!("deployment/{service}"), ROLL_OUT).await?;
        }
        self.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", MEMBERS]).await
    }

    /// The Gateway API's definitions are there before the mesh, as on most clusters, and somebody runs a Zipkin.
    async fn install(&self, zipkin: &Zipkin) -> Result<()> {
        Progress::heading("the mesh, by Helm");
        self.cluster.apply(&gateway_api::all()?).await?;
        let providers = format!("control.env.AMBIT_PROVIDERS=zipkin=zipkin://{}", zipkin.address);
        say(format!(
            "$ helm install {} charts/ambit -n {} --create-namespace --wait --set {providers}",
            mesh::RELEASE,
            mesh::NAMESPACE
        ));
        say(mesh::install(&self.cluster, &["--set", &providers]).await?);
        self.kubectl(&["-n", mesh::NAMESPACE, "get", "pods", "-o", "wide"]).await
    }

    async fn join(&self) -> Result<()> {
        Progress::heading("one label, and the pods that run already are in the mesh");
        self.kubectl(&["label", "namespace", NAMESPACE, "istio.io/dataplane-mode=ambient"]).await?;
        let redirection = "jsonpath={.items[*].metadata.annotations.ambient\\.istio\\.io/redirection}";
        eventually(SOON, "every pod in the mesh", async || {
            let said = self.cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", redirection]).await?;
            let members = said.split_whitespace().filter(|word| *word == "enabled").count();
            ensure!(members == 8, "{members} of 8 pods are");
            Ok(())
        })
        .await?;
        self.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", MEMBERS]).await
    }

    async fn decide(&self) -> Result<()> {
        Progress::heading("who may call whom, with kubectl");
        self.apply("policies.yaml", POLICIES).await?;
        Progress::heading("an allowed call: frontend → catalog");
        self.call("http://catalog/books").await?;
        self.written(|access| access.field("dst.identity").ends_with("/sa/catalog")).await?;
        Progress::heading("a denied call: frontend → payments, where only cart may go");
        eventually(SOON, "the policy in force", async || {
            ensure!(self.ask("http://payments/charge").await.is_err(), "payments still answers");
            Ok(())
        })
        .await?;
        if let Ok(answer) = self.ask("http://payments/charge").await {
            bail!("payments answered frontend: {answer}");
        }
        say("$ kubectl -n shop exec deployment/frontend -c app -- /lab-app call http://payments/charge");
        say("frontend's connection was closed without an answer");
        self.written(|access| access.field("error").contains("policy rejection")).await
    }

    async fn on_the_wire(&self) -> Result<()> {
        Progress::heading("one request, in the pod and on the wire between the nodes");
        let (frontend, catalog) =
            (self.pod("frontend", "node-a").await?, self.pod("catalog", "node-b").await?);
        let host = format!("{}:{}", catalog.1, echo::HTTP);
        let path = format!("/pay?{SECRET}");
        let sniffer = Sniffer::everything(&self.cluster.shape().namespace("node-a"), "eth0")?;
        let url = format!("http://{host}{path}");
        let exec = ["-n", NAMESPACE, "exec", &frontend.0, "-c", "app", "--", "/lab-app", "call", &url];
        self.cluster.kubectl(&exec).await?;
        let frames = sniffer.stop()?.frames;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        show::tunnel(&frames, (&frontend.0, frontend.1), (&catalog.0, catalog.1), &request)
    }

    async fn end(self, beside: (Prometheus, Zipkin), keep: bool) -> Result<()> {
        if !keep {
            drop(beside);
            self.cluster.stop().context("removing the demo")?;
            self.progress
                .say("everything is removed; `cargo xtask demo --kubernetes --keep` leaves it running");
            return Ok(());
        }
        self.cluster.keep()?;
        Progress::heading("more to try");
        let shape = self.cluster.shape();
        say(format!("  export KUBECONFIG={}", shape.kubeconfig().display()));
        say(format!("  export PATH={}:$PATH", shape.tools.binaries().display()));
        for line in [
            "kubectl -n ambit-system logs daemonset/ztunnel",
            "kubectl -n shop delete authorizationpolicy payments-only-from-cart",
            "kubectl -n shop edit httproute catalog",
            "kubectl -n shop logs -l gateway.networking.k8s.io/gateway-name=waypoint",
            "helm uninstall ambit -n ambit-system          # pods keep talking",
            "cargo xtask cluster down --name demo",
        ] {
            say(format!("  {line}"));
        }
        say(format!("  Prometheus: http://{}", beside.0.address()));
        say(format!("  Zipkin: http://{}", beside.1.address));
        Ok(())
    }

    /// Shows objects, and applies them.
    async fn apply(&self, file: &str, objects: &str) -> Result<()> {
        let path = self.cluster.shape().state.join(file);
        std::fs::write(&path, objects).with_context(|| format!("writing {file}"))?;
        say(objects.trim_end());
        self.kubectl(&["apply", "-f", &path.display().to_string()]).await
    }

    /// Shows a command and what it wrote.
    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        say(format!("$ kubectl {}", arguments.join(" ")));
        say(self.cluster.kubectl(arguments).await?);
        Ok(())
    }

    async fn call(&self, url: &str) -> Result<()> {
        say(format!("$ kubectl -n {NAMESPACE} exec deployment/frontend -c app -- /lab-app call {url}"));
        say(self.ask(url).await?);
        Ok(())
    }

    async fn ask(&self, url: &str) -> Result<String> {
        let exec =
            ["-n", NAMESPACE, "exec", "deployment/frontend", "-c", "app", "--", "/lab-app", "call", url];
        self.cluster.kubectl(&exec).await
    }

    /// Shows the newest line about a call of frontend's in an access log, once it is there.
    async fn written(&self, fits: impl Fn(&Access) -> bool) -> Result<()> {
        let logs = ["-n", mesh::NAMESPACE, "logs", "-l", "app.kubernetes.io/name=ztunnel", "--tail=2000"];
        let fits = |access: &Access| {
            access.field("direction") == "inbound"
                && access.field("src.identity").ends_with("/sa/frontend")
                && fits(access)
        };
        let access = eventually(SOON, "the line of that call in an access log", async || {
            let lines = Access::parse(&self.cluster.kubectl(&logs).await?);
            lines.into_iter().rfind(|access| fits(access)).context("no line yet")
        })
        .await?;
        say("access log of the server's node:");
        show::print_access(&access);
        Ok(())
    }

    /// Name and address of a replica on a node.
    async fn pod(&self, app: &str, node: &str) -> Result<(String, IpAddr)> {
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3D{app}&fieldSelector=spec.nodeName%3D{node}"
        );
        let pods = self.cluster.api().get(&path).await?;
        let pod = pods.pointer("/items/0").with_context(|| format!("no {app} on {node}"))?;
        let text = |field: &str| pod.pointer(field).and_then(Value::as_str).map(str::to_owned);
        let address = text("/status/podIP").context("it has no address")?;
        Ok((text("/metadata/name").context("it has no name")?, address.parse()?))
    }
}
