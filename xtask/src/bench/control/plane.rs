// SPDX-License-Identifier: Apache-2.0
//! The two control planes as processes on this machine, one at a time, against the same API server.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lab::{
    http,
    kube::{KubeCluster, addresses::MACHINE},
    process::{Launch, Process},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::{super::cost, scene::ROOT, subscriber::Target};

/// How long a control plane may take to know everything.
const READY: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(30);
/// Before anything is measured, nobody has used more processor time than this within a second, or this long has passed.
const IDLE: Duration = Duration::from_millis(100);
const RESTLESS: Duration = Duration::from_secs(45);
const HOUR: u64 = 3600;

/// Which control plane.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Ours: the binary.
    Ambit(PathBuf),
    /// Istio's `pilot-discovery`.
    Istiod(PathBuf),
}

impl Kind {
    /// Its name in the report.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Ambit(_) => "ambit",
            Self::Istiod(_) => "istiod",
        }
    }
}

/// A control plane that is ready and has nothing to do.
pub(super) struct Plane {
    process: Process,
    pub(super) target: Target,
    pub(super) pid: u32,
    /// From its start until it said that it was ready.
    pub(super) ready: Duration,
}

/// Roles, accounts and files that the two need, once for all turns.
pub(super) async fn prepare(cluster: &KubeCluster) -> Result<()> {
    let api = cluster.api();
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ambit-system"}});
    api.create("/api/v1/namespaces", &object).await?;
    let chart = lab::kube::mesh::repository().join("charts/control").display().to_string();
    let only = ["--show-only", "templates/role.yaml", "--show-only", "templates/serviceaccount.yaml"];
    let template = ["template", "ambit", &chart, "--namespace", "ambit-system"];
    cluster.apply(&cluster.helm(&[template.as_slice(), only.as_slice()].concat()).await?).await?;
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ztunnel"}});
    api.create("/api/v1/namespaces/ambit-system/serviceaccounts", &object).await?;
    let folder = cluster.shape().state.join("istiod");
    fs::create_dir_all(&folder).context("a folder for istiod")?;
    fs::write(folder.join("mesh.yaml"), format!("rootNamespace: {ROOT}\n"))
        .context("istiod's mesh configuration")?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio"},
        "data": {"mesh": format!("rootNamespace: {ROOT}\n")},
    });
    api.create(&format!("/api/v1/namespaces/{ROOT}/configmaps"), &map).await.map(drop)
}

impl Plane {
    /// Starts one, waits until it is ready and until nobody has anything to do.
    pub(super) async fn start(kind: &Kind, cluster: &KubeCluster) -> Result<Self> {
        let address = IpAddr::V4(cluster.shape().block.fabric(MACHINE).v4);
        let launch = match kind {
            Kind::Ambit(program) => ambit(program.clone(), cluster, address).await?,
            Kind::Istiod(program) => istiod(program.clone(), cluster, address),
        };
        let probe = match kind {
            Kind::Ambit(_) => (SocketAddr::new(address, 15014), "/healthz/ready"),
            Kind::Istiod(_) => (SocketAddr::new(address, 8080), "/ready"),
        };
        let started = Instant::now();
        let process = cluster.start_program(launch)?;
        process.ready(READY, async || http::get(probe.0, probe.1).await.map(drop)).await?;
        let ready = started.elapsed();
        let pid = process.pid().context("it has ended")?;
        quiet(cluster, pid).await?;
        let target = match kind {
            Kind::Ambit(_) => Target {
                address: SocketAddr::new(address, 15012),
                tls: Some(roots(cluster).await?),
                token: Some(token(cluster, "ztunnel", "istio-ca").await?),
            },
            Kind::Istiod(_) => Target { address: SocketAddr::new(address, 15010), tls: None, token: None },
        };
        Ok(Self { process, target, pid, ready })
    }

    /// Asks it to end and waits for that.
    pub(super) async fn stop(self) -> Result<()> {
        if self.process.terminate(END).await.is_err() {
            self.process.kill()?;
        }
        Ok(())
    }
}

/// Waits until the control plane, the API server, etcd and the controllers of the cluster have nothing to do.
pub(super) async fn quiet(cluster: &KubeCluster, pid: u32) -> Result<()> {
    let control = cluster.control();
    let others = [&control.apiserver, &control.etcd, &control.controller_manager];
    let pids: Vec<u32> = others.into_iter().filter_map(Process::pid).chain([pid]).collect();
    let started = Instant::now();
    let mut calm = 0;
    while calm < 2 && started.elapsed() < RESTLESS {
        let before = cost::processor(&pids)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        calm = if cost::processor(&pids)? - before <= IDLE { calm + 1 } else { 0 };
    }
    Ok(())
}

async fn ambit(program: PathBuf, cluster: &KubeCluster, address: IpAddr) -> Result<Launch> {
    let token = token(cluster, "control", "").await?;
    let config = cluster.kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).await?;
    let mut config: Value = serde_json::from_str(&config).context("the administrator's kubeconfig")?;
    let user = config.pointer_mut("/users/0/user").context("a kubeconfig without a user")?;
    *user = json!({"token": token});
    let kubeconfig = cluster.shape().state.join("control.kubeconfig");
    fs::write(&kubeconfig, config.to_string()).context("writing a kubeconfig")?;
    let environment = [
        ("AMBIT_SOURCE", "kubernetes".to_owned()),
        ("AMBIT_KUBECONFIG", kubeconfig.display().to_string()),
        ("POD_NAMESPACE", "ambit-system".to_owned()),
        ("POD_NAME", "control-bench".to_owned()),
        ("AMBIT_XDS_ADDR", SocketAddr::new(address, 15012).to_string()),
        ("AMBIT_METRICS_ADDR", SocketAddr::new(address, 15014).to_string()),
        ("AMBIT_WEBHOOK_ADDR", SocketAddr::new(address, 15017).to_string()),
        ("AMBIT_TLS_NAMES", format!("{address},localhost")),
        ("AMBIT_ROOT_NAMESPACE", ROOT.to_owned()),
        ("RUST_LOG", "info".to_owned()),
    ];
    Ok(launch("ambit", program, Vec::new(), &environment, cluster))
}

fn istiod(program: PathBuf, cluster: &KubeCluster, address: IpAddr) -> Launch {
    let folder = cluster.shape().state.join("istiod");
    let port = |port: u16| SocketAddr::new(address, port).to_string();
    let flags = [
        format!("--kubeconfig={}", cluster.shape().kubeconfig().display()),
        format!("--meshConfig={}", folder.join("mesh.yaml").display()),
        format!("--httpAddr={}", port(8080)),
        format!("--httpsAddr={}", port(15017)),
        format!("--grpcAddr={}", port(15010)),
        format!("--secureGRPCAddr={}", port(15012)),
        format!("--monitoringAddr={}", port(15014)),
        "--ctrlz_port=0".to_owned(),
    ];
    let environment = [
        ("POD_NAME", "istiod-bench".to_owned()),
        ("POD_NAMESPACE", ROOT.to_owned()),
        ("CLUSTER_ID", "Kubernetes".to_owned()),
        ("PILOT_ENABLE_AMBIENT", "true".to_owned()),
        ("REVISION", "default".to_owned()),
        ("HOME", folder.display().to_string()),
    ];
    // It makes files where it is started.
    let arguments = [
        "--chdir".to_owned(),
        folder.display().to_string(),
        program.display().to_string(),
        "discovery".to_owned(),
    ];
    let arguments = arguments.into_iter().chain(flags).collect();
    launch("istiod", PathBuf::from("/usr/bin/env"), arguments, &environment, cluster)
}

fn launch(
    name: &str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: &[(&str, String)],
    cluster: &KubeCluster,
) -> Launch {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let log = cluster.shape().log(name);
    Launch { name: name.to_owned(), program, arguments, environment, namespace: None, resolv_conf: None, log }
}

/// A token of a service account of the mesh.
async fn token(cluster: &KubeCluster, account: &str, audience: &str) -> Result<String> {
    let audiences: Vec<&str> = Some(audience).filter(|audience| !audience.is_empty()).into_iter().collect();
    let spec = json!({"audiences": audiences, "expirationSeconds": 12 * HOUR});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/ambit-system/serviceaccounts/{account}/token");
    let answer = cluster.api().create(&path, &request).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    token.map(str::to_owned).context("an answer without a token")
}

/// What our control plane is believed by; from its Secret, as the ConfigMaps may be the other's.
async fn roots(cluster: &KubeCluster) -> Result<Arc<ClientConfig>> {
    let template = "go-template={{index .data \"root-cert.pem\" | base64decode}}";
    let arguments = ["-n", "ambit-system", "get", "secret", "ambit-ca", "-o", template];
    let text = cluster.kubectl(&arguments).await?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(certificate.context("a root")?).context("a root")?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
