// SPDX-License-Identifier: Apache-2.0
//! control as a process beside a real API server, under its own service account and roles, and what a node proxy does
//! with it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use identity::{
    Authority as _, AuthorityError, CaClient, CaSettings, Certificate, Compliance, Connector, Credentials,
    PrivateKey, Profile, RootSource, SigningRequest, Token, Trust, ca::Subject,
};
use lab::{
    Settings, eventually, http,
    kube::{KubeCluster, addresses::MACHINE, control_plane},
    process::{Launch, Process},
};
use mesh::{Index, SpiffeId};
use runtime::Tasks;
use serde_json::{Value, json};
use xds::{Client, ClientConfig, Replica, Writer};

use crate::link::Link;

/// Nothing takes longer, unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const HOUR: u64 = 3600;

/// The cluster and the tests' own tasks.
pub(crate) struct Scene {
    pub(crate) cluster: KubeCluster,
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
    kubeconfig: PathBuf,
}

/// A replica of control.
pub(crate) struct Plane {
    process: Process,
    address: IpAddr,
    ports: (u16, u16),
}

/// What a replica has signed.
pub(crate) struct Signed {
    identity: SpiffeId,
    key: PrivateKey,
    chain: Vec<String>,
    at: SystemTime,
}

/// The webhook's port is so much above that of metrics.
const WEBHOOK: u16 = 3;
/// The ValidatingWebhookConfiguration that replicas keep the roots in, by the name that the chart's role knows.
pub(crate) const CONFIGURATION: &str = "ambit-control";
/// The classes whose Gateways it deploys.
pub(crate) const CLASSES: [&str; 2] = ["ambit-waypoint", "istio-waypoint"];
/// What control may do in a cluster, as the chart says it.
pub(crate) async fn roles(cluster: &KubeCluster) -> Result<String> {
    const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/control");
    const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: ambit-system}}";
    let only = ["--show-only", "templates/role.yaml", "--show-only", "templates/serviceaccount.yaml"];
    let template = ["template", "ambit", CHART, "--namespace", "ambit-system"];
    let roles = cluster.helm(&[template.as_slice(), only.as_slice()].concat()).await?;
    Ok(format!("{NAMESPACE}\n---\n{roles}"))
}

impl Scene {
    /// Gives control its roles, and makes some nodes and pods.
    pub(crate) async fn prepare(cluster: KubeCluster, settings: Settings) -> Result<Self> {
        cluster.apply(&roles(&cluster).await?).await?;
        eventually(SOON, "manifests taken", async || cluster.apply(include_str!("mesh.yaml")).await).await?;
        for (pod, ip) in [("cart", "10.9.0.1"), ("till", "10.9.0.2")] {
            let status = json!({"status": {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True"}],
            }});
            cluster.api().merge(&format!("/api/v1/namespaces/shop/pods/{pod}/status"), &status).await?;
        }
        let kubeconfig = cluster.shape().state.join("control.kubeconfig");
        let scene = Self { cluster, settings, tasks: Tasks::new(), kubeconfig };
        fs::write(&scene.kubeconfig, scene.kubeconfig().await?.to_string())
            .context("writing a kubeconfig")?;
        Ok(scene)
    }

    /// A way to the API server, and a kubeconfig that takes it.
    pub(crate) async fn link(&self) -> Result<(Link, PathBuf)> {
        let server = control_plane::server(self.cluster.shape());
        let link = Link::start(server, &self.tasks).await?;
        let mut config = self.kubeconfig().await?;
        let cluster = config.pointer_mut("/clusters/0/cluster").context("a kubeconfig without a cluster")?;
        cluster["server"] = json!(format!("https://{}", link.address()));
        cluster["tls-server-name"] = json!(server.ip().to_string());
        let path = self.cluster.shape().state.join("link.kubeconfig");
        fs::write(&path, config.to_string()).context("writing a kubeconfig")?;
        Ok((link, path))
    }

    /// A kubeconfig with a token of control's service account, for control runs as no pod here.
    async fn kubeconfig(&self) -> Result<Value> {
        let path = "/api/v1/namespaces/ambit-system/serviceaccounts/control/token";
        let token = self.token(path, &json!({"expirationSeconds": 12 * HOUR})).await?;
        let admin = fs::read_to_string(self.cluster.shape().kubeconfig())?;
        let mut config: Value = serde_saphyr::from_str(&admin).context("the administrator's kubeconfig")?;
        let user = config.pointer_mut("/users/0/user").context("a kubeconfig without a user")?;
        *user = json!({"token": token});
        Ok(config)
    }

    /// A token of a pod's service account, bound to the pod.
    pub(crate) async fn pod_token(&self, namespace: &str, pod: &str, audience: &str) -> Result<String> {
        let found = self.cluster.api().get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}")).await?;
        let text =
            |pointer: &str| found.pointer(pointer).and_then(Value::as_str).context("a field of the pod");
        let account = text("/spec/serviceAccountName")?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": text("/metadata/uid")?});
        let spec = json!({"audiences": [audience], "expirationSeconds": HOUR, "boundObjectRef": bound});
        self.token(&path, &spec).await
    }

    async fn token(&self, path: &str, spec: &Value) -> Result<String> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.cluster.api().create(path, &request).await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        token.map(str::to_owned).context("an answer without a token")
    }

    /// Starts a replica; it need not be ready.
    pub(crate) fn start(&self, name: &str, ports: (u16, u16)) -> Result<Plane> {
        self.start_with(name, ports, &[])
    }

    /// The same, with settings that go before the usual ones.
    pub(crate) fn start_with(
        &self,
        name: &str,
        ports: (u16, u16),
        settings: &[(&str, &str)],
    ) -> Result<Plane> {
        let address = IpAddr::V4(self.cluster.shape().block.fabric(MACHINE).v4);
        let variables = [
            ("AMBIT_SOURCE", "kubernetes".to_owned()),
            ("AMBIT_KUBECONFIG", self.kubeconfig.display().to_string()),
            ("POD_NAMESPACE", "ambit-system".to_owned()),
            ("POD_NAME", name.to_owned()),
            ("AMBIT_XDS_ADDR", SocketAddr::new(address, ports.0).to_string()),
            ("AMBIT_METRICS_ADDR", SocketAddr::new(address, ports.1).to_string()),
            ("AMBIT_WEBHOOK_ADDR", SocketAddr::new(address, ports.1 + WEBHOOK).to_string()),
            ("AMBIT_WEBHOOK", CONFIGURATION.to_owned()),
            ("AMBIT_TLS_NAMES", format!("{address},localhost")),
            ("AMBIT_WAYPOINT_IMAGE", "localhost/ambit/waypoint:none".to_owned()),
            ("AMBIT_WAYPOINT_CLASSES", CLASSES.join(",")),
            ("RUST_LOG", self.settings.log.clone()),
        ];
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let process = self.cluster.start_program(Launch {
            name: name.to_owned(),
            program: self.settings.binary("control")?,
            arguments: Vec::new(),
            // Of two values of a name the later one counts.
            environment: variables
                .into_iter()
                .chain(settings)
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            namespace: None,
            resolv_conf: None,
            log: self.cluster.shape().log(name),
        })?;
        Ok(Plane { process, address, ports })
    }

    /// The roots as pods of a namespace find them.
    pub(crate) async fn roots(&self, namespace: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert");
        let map = self.cluster.api().get(&path).await?;
        let text = map.pointer("/data/root-cert.pem").and_then(Value::as_str);
        text.map(str::to_owned).context("a ConfigMap without roots")
    }

    fn connector(roots: &str, plane: &Plane) -> Result<Connector> {
        let profile = Profile::new(Compliance::Preferred, Trust::default());
        let address = format!("https://{}", SocketAddr::new(plane.address, plane.ports.0));
        Connector::new(&address, RootSource::Pem(roots.to_owned()), None, profile)
            .map_err(|error| anyhow!(error))
    }

    /// Follows a replica as a node proxy with this token.
    pub(crate) async fn subscribe(&self, plane: &Plane, token: &str) -> Result<Replica> {
        self.subscribe_under(&self.roots("shop").await?, plane, token)
    }

    /// The same, with roots that are known already.
    pub(crate) fn subscribe_under(&self, roots: &str, plane: &Plane, token: &str) -> Result<Replica> {
        let (connector, token) = (Self::connector(roots, plane)?, token.to_owned());
        let writer = Writer::new();
        let replica = writer.replica();
        let config = ClientConfig {
            channel: Arc::new(move || {
                let connector = connector.clone();
                Box::pin(async move { Ok(connector.open().await?) })
            }),
            token: Some(Arc::new(move || Ok(token.clone()))),
            headers: vec![("clusterid".to_owned(), "Kubernetes".to_owned())],
            node_id: "ztunnel~10.9.0.9~ztunnel-a.ambit-system~ambit-system.svc.cluster.local".to_owned(),
            node_metadata: serde_json::Map::new(),
            kinds: &xds::Kind::L4,
            on_demand: false,
        };
        let client = Client::new(config, writer)?;
        let shutdown = self.tasks.shutdown();
        drop(self.tasks.spawn("proxy", client.run(async move { shutdown.requested().await })));
        Ok(replica)
    }

    /// Asks for a certificate.
    pub(crate) async fn certificate(
        &self,
        plane: &Plane,
        (token, subject): (&str, Subject),
        identity: &str,
    ) -> Result<std::result::Result<Certificate, AuthorityError>> {
        self.certificate_under(&self.roots("shop").await?, plane, (token, subject), identity).await
    }

    /// The same, with roots that are known already.
    pub(crate) async fn certificate_under(
        &self,
        roots: &str,
        plane: &Plane,
        (token, subject): (&str, Subject),
        identity: &str,
    ) -> Result<std::result::Result<Certificate, AuthorityError>> {
        match self.signed_under(roots, plane, (token, subject), identity).await? {
            Ok(signed) => Ok(Ok(signed.under(signed.bundle()?)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Has a request signed; under which roots that is believed is for the test to say.
    pub(crate) async fn signed_under(
        &self,
        roots: &str,
        plane: &Plane,
        (token, subject): (&str, Subject),
        identity: &str,
    ) -> Result<std::result::Result<Signed, AuthorityError>> {
        let identity: SpiffeId = identity.parse()?;
        let credentials = Credentials::new(Some(Token::Literal(token.to_owned())), "Kubernetes", [])?;
        let settings = CaSettings { connector: Self::connector(roots, plane)?, credentials, subject };
        let client = CaClient::new(settings);
        let key = PrivateKey::generate()?;
        let request = SigningRequest {
            csr: key.csr(&identity)?,
            identity: identity.clone(),
            validity: Duration::from_secs(HOUR),
        };
        let signed = client.sign(request).await;
        Ok(signed.map(|chain| Signed { identity, key, chain, at: SystemTime::now() }))
    }
}

impl Signed {
    /// The roots that came along.
    pub(crate) fn bundle(&self) -> Result<&str> {
        self.chain.last().map(String::as_str).context("an empty chain")
    }

    /// The certificate, if who believes these roots believes it.
    pub(crate) fn under(&self, roots: &str) -> Result<Certificate> {
        let (_, path) = self.chain.split_last().context("an empty chain")?;
        let chain = [path, &[roots.to_owned()]].concat();
        Ok(Certificate::issued(&self.identity, &self.key, &chain, self.at)?)
    }
}

impl Plane {
    /// The program.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until it serves.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.process.ready(SOON, async || self.read("/healthz/ready").await.map(drop)).await
    }

    pub(crate) async fn read(&self, path: &str) -> Result<String> {
        http::get(SocketAddr::new(self.address, self.ports.1), path).await
    }

    /// Where the API server may ask it about objects.
    pub(crate) fn webhook(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.1 + WEBHOOK)
    }

    /// What it says about itself.
    pub(crate) async fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.read("/status").await?).context("reading the status")
    }

    /// What it says about one object: field and message of each report.
    pub(crate) async fn reports(&self, object: &str) -> Result<Vec<(String, String)>> {
        let status = self.status().await?;
        let reports = status.get("reports").and_then(Value::as_array).context("no reports")?;
        let text = |report: &Value, key: &str| report.get(key).and_then(Value::as_str).map(str::to_owned);
        let about = reports.iter().filter(|report| text(report, "object").as_deref() == Some(object));
        Ok(about.filter_map(|report| Some((text(report, "field")?, text(report, "message")?))).collect())
    }
}

/// Waits until a replica is as wanted; says how long that took.
pub(crate) async fn until(
    replica: &Replica,
    what: &str,
    wanted: impl Fn(&Index) -> bool,
) -> Result<Duration> {
    let started = Instant::now();
    let mut changed = replica.changed();
    let waiting = async {
        replica.wait_synced().await;
        while !replica.read(&wanted) {
            changed.changed().await.context("the client has ended")?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, waiting).await.with_context(|| format!("{what}: not within {SOON:?}"))??;
    ensure!(replica.synced(), "it is not synced");
    Ok(started.elapsed())
}
