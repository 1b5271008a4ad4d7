// SPDX-License-Identifier: Apache-2.0
//! Pods: network namespaces behind a node, with a Kubernetes object, enrolled in the mesh or not.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Cluster, Node, manifests::PodObject, node::NodePart};
use crate::{
    dns::{self, Answer, Over},
    echo::{self, Echo},
    http,
    net::{
        Namespace,
        addresses::{self, Pair},
        link,
    },
    process::{self, Launch, Process},
    record::PodRecord,
};

/// Where enrolment is while a pod starts: kubelet would wait longer.
const COMMAND: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(10);

/// A pod that is to be started.
#[derive(Clone, Debug)]
#[must_use = "a pod starts with `start`"]
pub struct PodBuilder {
    node: Node,
    object: PodObject,
    host: Option<u8>,
}

/// A running pod. Cheap to clone; it stays until `delete` or the end of the lab.
#[derive(Clone, Debug)]
pub struct Pod {
    part: Arc<Part>,
    cluster: Cluster,
}

#[derive(Debug)]
struct Part {
    node: Arc<NodePart>,
    host: u8,
    port: String,
    namespace: Namespace,
    object: Mutex<PodObject>,
    programs: Mutex<Vec<Arc<Process>>>,
}

impl PodBuilder {
    pub(super) fn new(node: &Node, name: &str) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(1);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let object = PodObject {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id()),
            service_account: "default".to_owned(),
            node: node.name().to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            addresses: addresses::pod(node.part.number, 0),
            ready: true,
            captured: false,
        };
        Self { node: node.clone(), object, host: None }
    }

    /// Enrolled in the mesh from its start.
    pub fn captured(mut self) -> Self {
        self.object.captured = true;
        self
    }

    /// In another Kubernetes namespace than `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.object.namespace);
        self
    }

    /// With another service account than `default`.
    pub fn service_account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.object.service_account);
        self
    }

    /// With these labels besides `app`, which is the pod's name unless it is given here.
    pub fn labels(mut self, labels: &[(&str, &str)]) -> Self {
        self.object.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self
    }

    /// With an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this host number instead of the next free one: the address of a pod that is gone.
    pub fn host(mut self, host: u8) -> Self {
        self.host = Some(host);
        self
    }

    /// Not ready yet, so that no service uses it.
    pub fn not_ready(mut self) -> Self {
        self.object.ready = false;
        self
    }

    /// Makes its namespace, enrols it where asked, publishes its object, and waits until the whole mesh knows it.
    ///
    /// # Errors
    /// When any of that fails; what was made stays until the end of the lab.
    pub async fn start(self) -> Result<Pod> {
        let Self { node, mut object, host } = self;
        let cluster = node.cluster;
        let host = node.part.take(host)?;
        object.addresses = addresses::pod(node.part.number, host);
        let name =
            format!("{}pod-{}.{}", crate::clean::prefix(cluster.name()), object.name, object.namespace);
        let port = format!("pod{host}");
        let namespace = link::host(&name).await?;
        let near = (&node.part.host.namespace, node.part.host.addresses);
        link::connect_pod(near, &port, (&namespace, object.addresses)).await?;
        let part = Part {
            node: node.part,
            host,
            port,
            namespace,
            object: Mutex::new(object),
            programs: Mutex::default(),
        };
        let pod = Pod { part: Arc::new(part), cluster };
        pod.begin().await.with_context(|| format!("starting pod {}", pod.full_name()))?;
        Ok(pod)
    }
}

impl Pod {
    async fn begin(&self) -> Result<()> {
        let object = self.object();
        self.cluster.manifests().ensure_account(&object.namespace, &object.service_account)?;
        self.cluster.change_record(|record| record.pods.push(self.record()))?;
        if object.captured {
            self.ask_to_enrol().await?;
        }
        self.publish().await
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.part.object.lock().name.clone()
    }

    /// Its name with its Kubernetes namespace: `name.namespace`.
    #[must_use]
    pub fn full_name(&self) -> String {
        let object = self.part.object.lock();
        format!("{}.{}", object.name, object.namespace)
    }

    /// What its Kubernetes object says.
    #[must_use]
    pub fn object(&self) -> PodObject {
        self.part.object.lock().clone()
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.part.object.lock().addresses
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        IpAddr::V4(self.addresses().v4)
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        IpAddr::V6(self.addresses().v6)
    }

    /// Its number on its node, by which a later pod can have its address.
    #[must_use]
    pub fn host(&self) -> u8 {
        self.part.host
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> String {
        let object = self.part.object.lock();
        format!("spiffe://cluster.local/ns/{}/sa/{}", object.namespace, object.service_account)
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.part.namespace
    }

    /// The node's name for the pod's link.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.part.port
    }

    /// Runs a future inside the pod's namespace: its sockets are the pod's.
    ///
    /// # Errors
    /// When the future fails or panics.
    pub async fn run<T, F, Fut>(&self, make: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        self.part.namespace.run(make).await
    }

    /// A connection that the pod opens. It stays the pod's wherever the caller uses it.
    ///
    /// # Errors
    /// When it is refused or not answered within 10 s.
    pub async fn connect(&self, target: SocketAddr) -> Result<TcpStream> {
        let stream = self.run(async move || {
            let stream = timeout(START, TcpStream::connect(target)).await.context("no answer")?;
            Ok(stream?.into_std()?)
        });
        let stream = stream.await.with_context(|| format!("{} connects to {target}", self.full_name()))?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// A listener of the pod on all its addresses. It stays the pod's wherever the caller uses it.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn listen(&self, port: u16) -> Result<TcpListener> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = self.run(async move || Ok(TcpListener::bind(any).await?.into_std()?)).await;
        Ok(TcpListener::from_std(
            listener.with_context(|| format!("{} listens on {port}", self.full_name()))?,
        )?)
    }

    /// Runs a program in the pod to its end, at most a minute.
    ///
    /// # Errors
    /// When it cannot be executed or takes too long; its exit status is no error.
    pub async fn exec(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let launch = self.launch("exec", program, arguments);
        process::output(launch, COMMAND).await
    }

    /// Runs the sample application in the pod to its end; its standard output.
    ///
    /// # Errors
    /// When it fails, with what it wrote to standard error.
    pub async fn app(&self, arguments: &[&str]) -> Result<String> {
        let program = self.cluster.settings().binary("lab-app")?;
        let output = self.exec(&program.display().to_string(), arguments).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "lab-app {}: {}: {}",
            arguments.join(" "),
            output.status,
            error.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program that runs as long as the pod, unless it is ended before.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start_program(&self, label: &str, program: &str, arguments: &[&str]) -> Result<Arc<Process>> {
        self.begin_program(self.launch(label, program, arguments))
    }

    /// The same with an environment.
    pub(super) fn start_program_with(
        &self,
        label: &str,
        program: &str,
        environment: BTreeMap<String, String>,
    ) -> Result<Arc<Process>> {
        let launch = self.launch(label, program, &[]);
        self.begin_program(Launch { environment: environment.into_iter().collect(), ..launch })
    }

    fn begin_program(&self, launch: Launch) -> Result<Arc<Process>> {
        let process = Arc::new(Process::start(launch, self.cluster.records())?);
        self.part.programs.lock().push(Arc::clone(&process));
        Ok(process)
    }

    /// Starts the sample application in the pod with more arguments than `serve --name`, and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen within 10 s.
    pub async fn serve_with(&self, arguments: &[&str]) -> Result<Arc<Process>> {
        let program = self.cluster.settings().binary("lab-app")?.display().to_string();
        let name = self.name();
        let all = [&["serve", "--name", &name], arguments].concat();
        let process = self.start_program("serve", &program, &all)?;
        process
            .ready(START, async || {
                let local = SocketAddr::from((Ipv4Addr::LOCALHOST, echo::HTTP));
                self.run(async move || TcpStream::connect(local).await.map(drop).context("not listening yet"))
                    .await
            })
            .await?;
        Ok(process)
    }

    /// Starts the sample application in the pod and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen within 10 s.
    pub async fn serve(&self) -> Result<Arc<Process>> {
        self.serve_with(&[]).await
    }

    /// One HTTP request from the pod to a sample application.
    ///
    /// # Errors
    /// When it gets no answer, or another one than the sample application's.
    pub async fn get(&self, ip: IpAddr, path: &'static str) -> Result<Echo> {
        let target = SocketAddr::new(ip, echo::HTTP);
        let body = self.run(async move || http::get(target, path).await).await?;
        serde_json::from_str(&body).with_context(|| format!("{target} is no sample application"))
    }

    /// One DNS question from the pod to the server that its `/etc/resolv.conf` names.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn resolve(&self, name: &str, kind: RecordType, over: Over) -> Result<Answer> {
        let server = SocketAddr::from((addresses::fabric(addresses::OUTSIDE_DNS).v4, 53));
        let name = name.to_owned();
        self.run(async move || dns::ask(server, &name, kind, over).await).await
    }

    /// Enrols a running pod.
    ///
    /// # Errors
    /// When the agent refuses, or the mesh does not take notice.
    pub async fn enrol(&self) -> Result<()> {
        self.ask_to_enrol().await?;
        self.part.object.lock().captured = true;
        self.cluster.replace_pod(self.record())?;
        self.publish().await
    }

    /// Takes a running pod out of the mesh.
    ///
    /// # Errors
    /// When the agent refuses, or the mesh does not take notice.
    pub async fn release(&self) -> Result<()> {
        // The order of the agent of a cluster: nobody sends it a tunnel any more when its listeners go.
        self.part.object.lock().captured = false;
        self.publish().await?;
        self.ask_to_release().await?;
        self.cluster.replace_pod(self.record())
    }

    /// Changes whether services may use it.
    ///
    /// # Errors
    /// When the mesh does not take notice.
    pub async fn set_ready(&self, ready: bool) -> Result<()> {
        self.part.object.lock().ready = ready;
        self.publish().await
    }

    /// Ends its programs and removes it from node and mesh; its address is free afterwards.
    ///
    /// # Errors
    /// When any of that fails.
    pub async fn delete(&self) -> Result<()> {
        let programs = std::mem::take(&mut *self.part.programs.lock());
        for program in programs {
            program.kill()?;
        }
        let object = self.object();
        self.cluster.manifests().remove(&object.file())?;
        if object.captured {
            self.ask_to_release().await?;
        }
        link::remove(&self.part.node.host.namespace, &self.part.port).await?;
        self.part.namespace.delete()?;
        self.part.node.give_back(self.part.host);
        self.cluster
            .change_record(|record| record.pods.retain(|pod| pod.netns != self.part.namespace.name()))?;
        self.cluster.settle().await
    }

    async fn publish(&self) -> Result<()> {
        let object = self.object();
        self.cluster.manifests().write_objects(&object.file(), &[object.object()])?;
        self.cluster.settle().await
    }

    async fn ask_to_enrol(&self) -> Result<()> {
        let object = self.object();
        let request = json!({
            "uid": object.uid,
            "name": object.name,
            "namespace": object.namespace,
            "serviceAccount": object.service_account,
            "netns": self.part.namespace.path(),
            "ips": object.addresses.both(),
        });
        self.part.node.ask_agent("POST", "/pods", Some(&request)).await.map(drop)
    }

    async fn ask_to_release(&self) -> Result<()> {
        let path = format!("/pods/{}", self.object().uid);
        self.part.node.ask_agent("DELETE", &path, None).await.map(drop)
    }

    fn launch(&self, label: &str, program: &str, arguments: &[&str]) -> Launch {
        let name = format!("{} {label}", self.full_name());
        Launch {
            log: self.cluster.log(&name),
            name,
            program: program.into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: Vec::new(),
            namespace: Some(self.part.namespace.clone()),
            resolv_conf: Some(self.resolv_conf()),
        }
    }

    fn resolv_conf(&self) -> std::path::PathBuf {
        self.cluster.pod_resolv_conf(&self.part.object.lock().namespace)
    }

    fn record(&self) -> PodRecord {
        let object = self.object();
        PodRecord {
            addresses: object.addresses.both().to_vec(),
            netns: self.part.namespace.name().to_owned(),
            resolv_conf: self.resolv_conf(),
            name: object.name,
            namespace: object.namespace,
            service_account: object.service_account,
            node: object.node,
            captured: object.captured,
        }
    }
}
