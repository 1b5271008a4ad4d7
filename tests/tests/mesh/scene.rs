// SPDX-License-Identifier: Apache-2.0
//! The cluster with the mesh and a shop in it, and how the checks ask them.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use lab::{
    Settings, echo, eventually, http,
    kube::{KubeCluster, Options, Tools, mesh, node::Node},
    observe::Samples,
};
use serde_json::Value;

/// How long something may take to come into force.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a roll-out may take.
pub(crate) const ROLL_OUT: Duration = Duration::from_secs(120);
/// How long a ztunnel that is asked to end may take: less than by default, so that its end can be waited for.
pub(crate) const GRACE: Duration = Duration::from_secs(45);
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];
pub(crate) const LABEL: &str = "istio.io/dataplane-mode=ambient";
/// Denies the clients what they ask of the web.
pub(crate) const NOBODY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody, namespace: shop}\n\
                  spec:\n  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules:\n  - from: [{source: {principals: \
                  [cluster.local/ns/shop/sa/client]}}]\n";
const SHOP: &str = include_str!("shop.yaml");
const METRICS: u16 = 15020;

/// See the module.
pub(crate) struct Scene {
    pub(crate) cluster: KubeCluster,
    pub(crate) settings: Settings,
}

impl Scene {
    /// Starts the cluster, opens the shop, and installs the mesh beside it.
    pub(crate) async fn prepare(settings: Settings, tools: Tools) -> Result<Self> {
        let cluster = KubeCluster::start("mesh", &settings, &tools, Options::default()).await?;
        mesh::load_sample(&cluster, &settings).await?;
        mesh::load_images(&cluster, &settings).await?;
        let scene = Self { cluster, settings };
        // Pods are refused until their namespace has its service account.
        eventually(SOON, "the shop taken", async || scene.apply(SHOP).await).await?;
        scene.cluster.rolled_out("shop", "deployment/web", ROLL_OUT).await?;
        scene.ready("shop", "-l=app=client").await?;
        scene.ready("street", "--all").await?;
        let grace = format!("ztunnel.terminationGracePeriodSeconds={}", GRACE.as_secs());
        scene.ambit(&["install", "--wait", "--timeout", "4m", "--set", &grace]).await?;
        Ok(scene)
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        self.cluster.nodes().iter().find(|node| node.name == name).context("no such node")
    }

    /// Applies manifests, in which `@SAMPLE@` stands for the sample application's image.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.apply(&yaml.replace("@SAMPLE@", mesh::SAMPLE)).await.map(drop)
    }

    /// What the command line says; it must end well.
    pub(crate) async fn ambit(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.run_program("ambit", self.settings.binary("ambit")?, arguments).await
    }

    /// What the command line says, and the code that it ends with.
    pub(crate) async fn ambit_says(&self, arguments: &[&str]) -> Result<(String, i32)> {
        let mut command = std::process::Command::new(self.settings.binary("ambit")?);
        command.args(arguments).arg("--kubeconfig").arg(self.cluster.shape().kubeconfig());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let code = output.status.code().context("killed")?;
        Ok((String::from_utf8(output.stdout)?, code))
    }

    /// Waits until pods, by name or selector, are ready.
    pub(crate) async fn ready(&self, namespace: &str, pods: &str) -> Result<()> {
        let wait = ["-n", namespace, "wait", "pod", pods, "--for=condition=Ready", "--timeout=120s"];
        self.cluster.kubectl(&wait).await.map(drop)
    }

    pub(crate) async fn object(&self, path: &str) -> Result<Value> {
        self.cluster.api().get(path).await
    }

    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Result<Value> {
        self.object(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    /// The first address of a service.
    pub(crate) async fn address_of(&self, namespace: &str, service: &str) -> Result<IpAddr> {
        let service = self.object(&format!("/api/v1/namespaces/{namespace}/services/{service}")).await?;
        let address = service.pointer("/spec/clusterIP").and_then(Value::as_str).context("no address")?;
        address.parse().with_context(|| format!("{address} of a service"))
    }

    /// All pods of a namespace with a label (`app=web`).
    pub(crate) async fn pods(&self, namespace: &str, label: &str) -> Result<Vec<Value>> {
        let list = self.object(&format!("/api/v1/namespaces/{namespace}/pods?labelSelector={label}")).await?;
        Ok(list.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Whether the mesh says that a pod takes HBONE.
    pub(crate) async fn is_captured(&self, namespace: &str, name: &str) -> Result<bool> {
        let pod = self.pod(namespace, name).await?;
        let said = pod.pointer("/metadata/annotations/ambient.istio.io~1redirection").and_then(Value::as_str);
        Ok(said == Some("enabled"))
    }

    pub(crate) async fn becomes_captured(&self, namespace: &str, name: &str, wanted: bool) -> Result<()> {
        eventually(SOON, &format!("{name} captured: {wanted}"), async || {
            ensure!(self.is_captured(namespace, name).await? == wanted, "it is not so");
            Ok(())
        })
        .await
    }

    /// Runs the sample application in a pod; its output, when it succeeds.
    pub(crate) async fn run(&self, pod: (&str, &str), arguments: &[&str]) -> Result<String> {
        let (namespace, name) = pod;
        let exec = ["-n", namespace, "exec", name, "--", "/lab-app"];
        self.cluster.kubectl(&[&exec, arguments].concat()).await
    }

    /// One request from a pod, over a new connection; whom it met.
    pub(crate) async fn call(&self, pod: (&str, &str), url: &str) -> Result<echo::Echo> {
        let answer = self.run(pod, &["call", url, "--timeout-ms", "3000"]).await?;
        let (status, body) = answer.split_once('\n').context("no body")?;
        ensure!(status.starts_with("200"), "{answer}");
        serde_json::from_str(body).with_context(|| format!("reading {body}"))
    }

    /// The request was made, at an address that was known, and the connection came to nothing.
    async fn refuses(&self, pod: (&str, &str), url: &str) -> Result<()> {
        match self.call(pod, url).await {
            Ok(answer) => anyhow::bail!("it answers {answer:?}"),
            Err(error) => {
                let text = format!("{error:#}");
                let asked =
                    text.contains("command terminated with exit code") && !text.contains("no address of");
                ensure!(asked, "it was not asked: {text}");
                Ok(())
            }
        }
    }

    /// Whether such a request is refused, and not just once.
    pub(crate) async fn is_refused(&self, pod: (&str, &str), url: &str) -> Result<()> {
        eventually(SOON, &format!("{url} refusing {}", pod.1), async || self.refuses(pod, url).await).await?;
        self.refuses(pod, url).await.context("refused first")
    }

    pub(crate) async fn answers(&self, pod: (&str, &str), url: &str) -> Result<echo::Echo> {
        eventually(SOON, &format!("{url} answering {}", pod.1), async || self.call(pod, url).await).await
    }

    /// Addresses of the ztunnels of both nodes.
    pub(crate) async fn ztunnels(&self) -> Result<Vec<IpAddr>> {
        let pods = self.pods(mesh::NAMESPACE, "app.kubernetes.io/name=ztunnel").await?;
        // One that is being replaced answers as long as it likes.
        let stay = pods.iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        stay.map(|pod| addresses(pod).first().copied().context("a ztunnel has no address")).collect()
    }

    /// Waits until a client's call is counted as mutual TLS; whom it met. Each ztunnel hears of each mark by itself, and a
    /// call that overtakes one is in plaintext.
    pub(crate) async fn calls_by_mutual_tls(
        &self,
        client: (&str, &str),
        url: &str,
        destination: &str,
    ) -> Result<echo::Echo> {
        eventually(SOON, &format!("{} calling {url} by mutual TLS", client.1), async || {
            let before = self.mutual(client.1, destination).await?;
            let answer = self.call(client, url).await?;
            ensure!(self.mutual(client.1, destination).await? > before, "nobody has counted it");
            Ok(answer)
        })
        .await
    }

    /// Waits until a client's calls of the web go past the mesh: the mark is taken away first, and the pods are released
    /// after it.
    pub(crate) async fn calls_in_plaintext(&self, client: (&str, &str)) -> Result<()> {
        eventually(SOON, "a call in plaintext", async || {
            let before = self.mutual(client.1, "web").await?;
            self.call(client, "http://web/").await?;
            ensure!(self.mutual(client.1, "web").await? <= before, "it went through the mesh");
            Ok(())
        })
        .await
    }

    /// What the ztunnels of both nodes count, together.
    pub(crate) async fn count(&self, metric: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Self::count_at(&self.ztunnels().await?, metric, labels).await
    }

    /// What proxies count, together.
    pub(crate) async fn count_at(proxies: &[IpAddr], metric: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for address in proxies {
            let text = http::get((*address, METRICS).into(), "/metrics").await?;
            sum += Samples::parse(&text).sum(metric, labels);
        }
        Ok(sum)
    }

    /// Connections that a destination's ztunnel has taken from a client by mutual TLS.
    pub(crate) async fn mutual(&self, source: &str, destination: &str) -> Result<f64> {
        Self::mutual_at(&self.ztunnels().await?, source, destination).await
    }

    /// The same, of ztunnels that are known.
    pub(crate) async fn mutual_at(ztunnels: &[IpAddr], source: &str, destination: &str) -> Result<f64> {
        Self::count_at(ztunnels, "istio_tcp_connections_opened_total", &mutual(source, destination)).await
    }

    /// Requires mutual TLS in the shop, or not.
    pub(crate) async fn require_mutual_tls(&self, mode: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: shop, namespace: shop}}\n\
             spec: {{mtls: {{mode: {mode}}}}}\n"
        ))
        .await
    }

    /// Does something while mutual TLS is required in the shop; afterwards it is not, whatever came of it.
    pub(crate) async fn under_strict(&self, what: BoxFuture<'_, Result<()>>) -> Result<()> {
        self.require_mutual_tls("STRICT").await?;
        let outcome = what.await;
        self.require_mutual_tls("PERMISSIVE").await?;
        outcome
    }
}

/// Labels of connections of a pair, as the destination's ztunnel counts them.
pub(crate) fn mutual<'a>(source: &'a str, destination: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("reporter", "destination"),
        ("connection_security_policy", "mutual_tls"),
        ("source_workload", source),
        ("destination_workload", destination),
    ]
}

/// The addresses of a pod.
pub(crate) fn addresses(pod: &Value) -> Vec<IpAddr> {
    let addresses = pod.pointer("/status/podIPs").and_then(Value::as_array);
    let parse = |address: &Value| address.get("ip")?.as_str()?.parse().ok();
    addresses.into_iter().flatten().filter_map(parse).collect()
}

/// A URL at an address of either family.
pub(crate) fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", std::net::SocketAddr::new(address, port))
}

pub(crate) fn name(object: &Value) -> Result<&str> {
    object.pointer("/metadata/name").and_then(Value::as_str).context("it has no name")
}

/// How often the first container of a pod has been started again.
pub(crate) fn restarts(pod: &Value) -> Option<u64> {
    pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64)
}
