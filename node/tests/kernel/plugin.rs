// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin's own binary against enrolment, capture and a ztunnel that only speaks ZDS. What Kubernetes knows about
//! the pods is a table here; that it is Kubernetes is tested with a whole cluster, in `tests/tests/node`.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ebpf_loader::Settings;
use node::{
    admission::{Admission, Directory, Entry, Unknown},
    api,
    capture::Capture,
    enrol::Enrolment,
    objects::{Labels, NamespaceObject, Phase, PodObject},
    pod::Uid,
    record::Records,
    rules::Rules,
    zds::{self, Announcements, packet::Listener},
};
use runtime::{
    Tasks,
    accept::{self, Limits},
    http,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{agent::Ztunnel, namespace::Namespace};

/// Pods by name, all in one namespace; and whether anybody answers at all.
#[derive(Clone)]
struct Table(Arc<parking_lot::Mutex<Option<BTreeMap<String, Labels>>>>);

impl Directory for Table {
    async fn pod(&self, namespace: &str, name: &str, _uid: Option<&str>) -> Result<Entry, Unknown> {
        let full = format!("{namespace}/{name}");
        let table = self.0.lock();
        let Some(pods) = table.as_ref() else {
            return Err(Unknown::Unanswered { name: full, source: "the API server does not answer".into() });
        };
        let labels = pods.get(name).cloned().ok_or(Unknown::Absent { what: "pod", name: full })?;
        let pod = PodObject {
            uid: Uid::parse(&format!("uid-of-{name}")).unwrap(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels,
            annotations: Labels::new(),
            service_account: "web".to_owned(),
            host_network: false,
            phase: Phase::Pending,
            ips: vec![],
            containers: vec![],
            mark_is_ours: false,
        };
        Ok(Entry { pod, namespace: NamespaceObject::default() })
    }
}

/// An agent in this process, without what makes it a node of Kubernetes.
struct Agent {
    runtime: Runtime,
    folder: tempfile::TempDir,
    bpf_dir: PathBuf,
    table: Table,
    enrolment: Enrolment,
    tasks: Tasks,
}

impl Agent {
    fn start(purpose: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bpf_dir = PathBuf::from(format!("/sys/fs/bpf/node-{}-{purpose}", std::process::id()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let in_mesh = Labels::from([("istio.io/dataplane-mode".to_owned(), "ambient".to_owned())]);
        let pods = BTreeMap::from([("web".to_owned(), in_mesh), ("other".to_owned(), Labels::new())]);
        let table = Table(Arc::new(parking_lot::Mutex::new(Some(pods))));
        let _guard = runtime.enter();
        let (tasks, announcements) = (Tasks::new(), Announcements::new());
        let records = Records::open(&folder.path().join("pods")).unwrap();
        let capture = Capture::load(Settings::embedded(bpf_dir.clone()), Vec::new()).unwrap();
        let enrolment =
            Enrolment::new(records, capture, announcements.clone(), Path::new("/proc/sys"), tasks.clone());
        let listener = Listener::bind(&folder.path().join("zds.sock")).unwrap();
        drop(tasks.spawn("zds", zds::serve(listener, announcements, tasks.clone())));
        let admission = Admission::new(enrolment.clone(), Rules::default(), table.clone());
        let router = api::cni::router(api::router(enrolment.clone()), admission);
        let socket = accept::bind_unix(&folder.path().join("node.sock")).unwrap();
        let (group, limits) = (tasks.clone(), Limits { name: "api", connections: 64 });
        drop(tasks.spawn("api", async move { http::serve(socket, &group, limits, router).await.unwrap() }));
        drop(_guard);
        Self { runtime, folder, bpf_dir, table, enrolment, tasks }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("node.sock")
    }

    fn ztunnel(&self) -> Ztunnel {
        Ztunnel::connect(self.folder.path().join("zds.sock"))
    }

    fn enrolled(&self) -> Vec<String> {
        self.enrolment.list().iter().map(|status| format!("{} {:?}", status.pod.uid, status.state)).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            for status in self.enrolment.list() {
                drop(self.enrolment.end(&status.pod.uid).await);
            }
            self.tasks.drain(Duration::from_secs(5)).await;
        });
        drop(std::fs::remove_dir_all(&self.bpf_dir));
    }
}

/// Runs the plugin as a runtime does: whether it succeeded, and what it said.
fn plugin(command: &str, socket: &Path, pod: &str, namespace: &Namespace, sandbox: &str) -> (bool, Value) {
    let netns = namespace.path().display().to_string();
    let network = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "ambit-cni", "socket": socket,
        "passWithoutAgent": ["kube-system"],
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "sandbox": netns}],
            "ips": [{"address": "10.97.0.2/24", "interface": 0}, {"address": "fd97::2/64", "interface": 0}],
        },
        "cni.dev/valid-attachments": [{"containerID": sandbox, "ifname": "eth0"}],
    });
    let program = Path::new(env!("CARGO_BIN_EXE_node-agent")).with_file_name("cni");
    assert!(
        program.is_file(),
        "{} is not there: build it with `cargo build --workspace --bins`",
        program.display()
    );
    let mut child = Command::new(program)
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", sandbox)
        .env("CNI_NETNS", &netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID=uid-of-{pod}"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(network.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

fn pod(purpose: &str) -> (Namespace, Namespace) {
    Namespace::with_eth0(purpose, &["10.97.0.2/24", "fd97::2/64"])
}

#[test]
fn a_pod_starts_when_it_is_captured_and_served_and_ends_with_its_sandbox() {
    let (agent, (namespace, _peer), (second, _peer2)) = (Agent::start("plugin"), pod("plugin"), pod("twin"));
    let ztunnel = agent.ztunnel();
    assert!(ztunnel.snapshot().is_empty());
    let ask = |command: &str, namespace: &Namespace, sandbox: &str| {
        plugin(command, &agent.socket(), "web", namespace, sandbox)
    };
    let (success, result) = ask("ADD", &namespace, "s1");
    assert!(success, "{result}");
    assert_eq!(result["ips"][1]["address"], "fd97::2/64");
    assert_eq!(ztunnel.next(), "add uid-of-web");
    assert_eq!(namespace.captured_routing().len(), 4);
    assert_eq!(agent.enrolled(), ["uid-of-web Enrolled"]);
    assert_eq!(ask("CHECK", &namespace, "s1"), (true, Value::Null));
    let (success, error) = ask("CHECK", &second, "s1");
    assert_eq!((success, error["code"].as_u64()), (false, Some(100)), "{error}");
    assert_eq!(ask("STATUS", &namespace, "s1"), (true, Value::Null));

    assert!(ask("ADD", &second, "s2").0, "its sandbox is made anew");
    assert_eq!([ztunnel.next(), ztunnel.next()], ["del uid-of-web", "add uid-of-web"]);
    assert_eq!(ask("DEL", &namespace, "s1"), (true, Value::Null));
    assert_eq!(agent.enrolled(), ["uid-of-web Enrolled"], "the end of an old sandbox is not that of the pod");
    assert!(ask("GC", &second, "s2").0);
    assert_eq!(agent.enrolled(), ["uid-of-web Enrolled"]);
    assert_eq!(ask("DEL", &second, "s2"), (true, Value::Null));
    assert_eq!(ztunnel.next(), "del uid-of-web");
    assert!(agent.enrolled().is_empty());
    assert!(ask("DEL", &second, "s2").0, "again is harmless");

    assert!(ask("ADD", &namespace, "s3").0);
    assert!(ask("GC", &namespace, "s4").0);
    assert!(agent.enrolled().is_empty(), "its sandbox is not among those that are left");
}

#[test]
fn a_pod_outside_the_mesh_starts_at_once_and_one_that_cannot_be_served_or_judged_does_not() {
    let (agent, (namespace, _peer)) = (Agent::start("judge"), pod("judge"));
    let ask = |pod: &str| plugin("ADD", &agent.socket(), pod, &namespace, "s1");
    assert!(ask("other").0);
    assert!(agent.enrolled().is_empty() && namespace.captured_routing().is_empty());
    let (success, error) = ask("nobody");
    assert_eq!((success, error["code"].as_u64()), (false, Some(11)), "{error}");
    let (success, error) = ask("web");
    assert_eq!((success, error["code"].as_u64()), (false, Some(11)), "{error}");
    assert!(error["msg"].as_str().unwrap().contains("no ztunnel connected"), "{error}");
    assert_eq!(namespace.captured_routing().len(), 4, "it is captured all the same");
    *agent.table.0.lock() = None;
    let (success, error) = ask("web");
    assert_eq!((success, error["code"].as_u64()), (false, Some(11)), "{error}");
    assert!(error["msg"].as_str().unwrap().contains("shop/web"), "{error}");
}

#[test]
fn without_an_agent_only_pods_of_the_listed_namespaces_start() {
    let (namespace, _peer) = pod("away");
    let (success, error) = plugin("ADD", Path::new("/run/there-is-no-agent.sock"), "web", &namespace, "s1");
    assert_eq!((success, error["code"].as_u64()), (false, Some(11)), "{error}");
    assert!(plugin("DEL", Path::new("/run/there-is-no-agent.sock"), "web", &namespace, "s1").0);
}
