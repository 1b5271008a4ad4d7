// SPDX-License-Identifier: Apache-2.0
//! The control plane of a cluster on one host: etcd, the API server, the controllers, the scheduler. The load-balancer
//! runs beside them, in the router.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::net::TcpStream;

use super::{
    addresses::CONTROL,
    api::Api,
    certificates::{self, Authority, Subject},
    cgroup,
    place::{Place, Program},
    shape::Shape,
};
use crate::{config::Settings, http::exchange, net::Namespace, process::Process, record::Records};

/// Where the API server listens.
pub const PORT: u16 = 6443;
/// Where the API server finds its store, on their own host.
const ETCD: &str = "127.0.0.1:2379";
/// How long the API server may take to get ready on a busy machine.
const READY: Duration = Duration::from_secs(120);
const MASTERS: Option<&str> = Some("system:masters");

/// The running programs of a control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// The store.
    pub etcd: Process,
    /// The API server.
    pub apiserver: Process,
    /// Deployments, service accounts, endpoints and so on.
    pub controller_manager: Process,
    /// Chooses nodes for pods.
    pub scheduler: Process,
    /// Serves Services of type LoadBalancer.
    pub balancer: Process,
}

/// Where the API server is, for whoever is on the machine or on the fabric.
#[must_use]
pub fn server(shape: &Shape) -> SocketAddr {
    SocketAddr::from((shape.block.fabric(CONTROL).v4, PORT))
}

/// Makes all keys and certificates of the control plane, and the kubeconfigs of its parts.
///
/// # Errors
/// When they cannot be made or written.
pub fn certify(shape: &Shape) -> Result<Authority> {
    let folder = shape.pki("");
    let authority = Authority::create(&folder)?;
    certificates::write_token_key(&folder)?;
    let mut addresses = shape.block.fabric(CONTROL).both().to_vec();
    addresses.extend(shape.block.service(1).both());
    addresses.extend([SocketAddr::from(([127, 0, 0, 1], 0)).ip()]);
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    certificates::write(&folder, "server", &authority.server("kube-apiserver", &names, &addresses)?)?;
    for (file, user, group) in [
        ("admin", "admin", MASTERS),
        ("balancer", "ambit:balancer", MASTERS),
        ("apiserver-kubelet", "kube-apiserver", MASTERS),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
    ] {
        let identity = authority.client(Subject { user, group })?;
        certificates::write(&folder, file, &identity)?;
        let path =
            if file == "admin" { shape.kubeconfig() } else { folder.join(format!("{file}.kubeconfig")) };
        let url = format!("https://{}", server(shape));
        certificates::write_kubeconfig(&path, &shape.name, &url, &authority, &identity)?;
    }
    Ok(authority)
}

impl ControlPlane {
    /// Starts all of it and waits until the API server is ready.
    ///
    /// # Errors
    /// When a program ends or the API server does not get ready.
    pub async fn start(
        shape: &Shape,
        namespaces: (&Namespace, &Namespace),
        settings: &Settings,
        records: &Arc<Records>,
        api: &Api,
    ) -> Result<Self> {
        let group = cgroup::create(&shape.name, "control")?;
        let (control, fabric) = namespaces;
        let place = Place { network: Some(control.clone()), views: None, group: group.clone() };
        let start = |name: &str, arguments: Vec<String>| {
            let program = Program {
                name: name.to_owned(),
                path: shape.tools.program(name),
                arguments,
                environment: Vec::new(),
                log: shape.log(name),
            };
            place.start(program, records)
        };
        let etcd = start("etcd", etcd(shape))?;
        let apiserver = start("kube-apiserver", apiserver(shape))?;
        // While the API server gets ready they ask again and again, which costs nothing and saves their start.
        let controller_manager = start("kube-controller-manager", controller_manager(shape))?;
        let scheduler = start("kube-scheduler", scheduler(shape))?;
        apiserver
            .ready(READY, async || {
                ensure!(etcd.ended().is_none(), "etcd has ended:\n{}", etcd.log());
                let answer = api.text("/readyz").await?;
                ensure!(answer == "ok", "it says {answer}");
                Ok(())
            })
            .await?;
        let router = Place { network: Some(fabric.clone()), views: None, group };
        let balancer = router.start(balancer(shape, &settings.binary("cluster-balancer")?), records)?;
        Ok(Self { etcd, apiserver, controller_manager, scheduler, balancer })
    }

    /// Makes the store forget all that was before a revision, the `resourceVersion` of an object: whoever watched from
    /// there has to list anew.
    ///
    /// # Errors
    /// When etcd does not answer, or refuses.
    pub async fn compact(&self, shape: &Shape, revision: u64) -> Result<()> {
        let body = json!({"revision": revision.to_string(), "physical": true}).to_string();
        let request = Request::post("/v3/kv/compaction")
            .header("host", ETCD)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = shape
            .namespace("control")
            .run(async move || exchange(TcpStream::connect(ETCD).await?, request).await)
            .await
            .context("asking etcd to compact")?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        ensure!(answer.status().is_success(), "etcd does not compact: {}: {text}", answer.status());
        Ok(())
    }

    /// All of them.
    #[must_use]
    pub fn programs(&self) -> [&Process; 5] {
        [&self.balancer, &self.scheduler, &self.controller_manager, &self.apiserver, &self.etcd]
    }
}

/// `--name=value` of each pair.
pub(super) fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(shape: &Shape) -> Vec<String> {
    let client = format!("http://{ETCD}");
    flags([
        ("data-dir", shape.state.join("etcd").display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", "http://127.0.0.1:2380".to_owned()),
        // What would be lost in a power cut is gone after it anyway.
        ("unsafe-no-fsync", "true".to_owned()),
        ("log-level", "warn".to_owned()),
    ])
}

fn apiserver(shape: &Shape) -> Vec<String> {
    let pki = |file: &str| shape.pki(file).display().to_string();
    flags([
        ("etcd-servers", format!("http://{ETCD}")),
        ("bind-address", "::".to_owned()),
        ("secure-port", PORT.to_string()),
        ("advertise-address", shape.block.fabric(CONTROL).v4.to_string()),
        ("tls-cert-file", pki("server.crt")),
        ("tls-private-key-file", pki("server.key")),
        ("client-ca-file", pki("ca.crt")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-client-certificate", pki("apiserver-kubelet.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet.key")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
        ("service-account-key-file", pki("tokens.pub")),
        ("service-account-signing-key-file", pki("tokens.key")),
        ("service-cluster-ip-range", shape.block.services().to_string()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("allow-privileged", "true".to_owned()),
    ])
}

fn controller_manager(shape: &Shape) -> Vec<String> {
    let pki = |file: &str| shape.pki(file).display().to_string();
    flags([
        ("kubeconfig", pki("controller-manager.kubeconfig")),
        ("root-ca-file", pki("ca.crt")),
        ("service-account-private-key-file", pki("tokens.key")),
        ("use-service-account-credentials", "true".to_owned()),
        ("cluster-signing-cert-file", pki("ca.crt")),
        ("cluster-signing-key-file", pki("ca.key")),
        ("cluster-cidr", shape.block.pods().to_string()),
        ("service-cluster-ip-range", shape.block.services().to_string()),
        ("leader-elect", "false".to_owned()),
        // By default each controller changes 20 objects a second, which is a long time for thousands.
        ("kube-api-qps", "500".to_owned()),
        ("kube-api-burst", "1000".to_owned()),
    ])
}

fn scheduler(shape: &Shape) -> Vec<String> {
    flags([
        ("kubeconfig", shape.pki("scheduler.kubeconfig").display().to_string()),
        ("leader-elect", "false".to_owned()),
    ])
}

fn balancer(shape: &Shape, path: &Path) -> Program {
    Program {
        name: "balancer".to_owned(),
        path: path.to_path_buf(),
        arguments: flags([
            ("server", server(shape).to_string()),
            ("certificates", shape.pki("").display().to_string()),
            ("block", shape.block.number().to_string()),
        ]),
        environment: Vec::new(),
        log: shape.log("balancer"),
    }
}
