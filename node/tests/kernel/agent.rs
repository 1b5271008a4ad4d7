// SPDX-License-Identifier: Apache-2.0
//! The whole agent as a process: enrolment, death, adoption, release, against a ztunnel that only speaks ZDS.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use node::{
    sysctl::{self, PROC_SYS, Previous},
    zds::packet::Packets,
};
use prost::Message;
use proto::zds::{
    Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request, workload_response,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};

use crate::namespace::Namespace;

/// Longer than the agent's own patience with ztunnel.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an agent leaves on a node, in folders of the test's own.
struct Node {
    folder: tempfile::TempDir,
    bpf_dir: PathBuf,
    metrics: u16,
}

/// A running agent, killed in the end.
struct Agent {
    child: Child,
}

/// A ztunnel that takes every pod, and reports what it was asked.
pub(crate) struct Ztunnel {
    asked: Receiver<String>,
    stop: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn new(purpose: &str) -> Self {
        let bpf_dir = PathBuf::from(format!("/sys/fs/bpf/node-{}-{purpose}", std::process::id()));
        let metrics = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        Self { folder: tempfile::tempdir().unwrap(), bpf_dir, metrics }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node-agent"));
        command
            .args(arguments)
            .env("INPOD_UDS", self.path("zds.sock"))
            .env("AMBIT_NODE_API", self.path("node.sock"))
            .env("AMBIT_NODE_STATE", self.path("pods"))
            .env("AMBIT_NODE_METRICS", format!("127.0.0.1:{}", self.metrics))
            .env("AMBIT_BPF_DIR", &self.bpf_dir)
            .stdin(Stdio::null());
        command
    }

    /// Starts an agent and waits until it answers.
    fn start(&self) -> Agent {
        let mut agent = Agent { child: self.command(&[]).spawn().unwrap() };
        until("the agent answers", || {
            assert!(agent.child.try_wait().unwrap().is_none(), "the agent ended");
            self.try_ask("GET", "/healthz", "").is_some_and(|(status, _)| status == 200)
        });
        agent
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.try_ask(method, path, &body).expect("the agent answers");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let stream = UnixStream::connect(self.path("node.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, path, body)
    }

    /// The line of one series.
    fn metric(&self, series: &str) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
        let (_, text) = exchange(stream, "GET", "/metrics", "").unwrap();
        let line = text.lines().find(|line| line.starts_with(series));
        line.unwrap_or_else(|| panic!("{series} is not in {text}")).to_owned()
    }

    /// State and reason of the only pod.
    fn state(&self) -> (String, Value) {
        let (status, list) = self.ask("GET", "/pods", &Value::Null);
        assert_eq!((status, list["pods"].as_array().map(Vec::len)), (200, Some(1)), "{list}");
        let pod = &list["pods"][0];
        (pod["state"].as_str().unwrap().to_owned(), pod.clone())
    }

    fn ztunnel(&self) -> Ztunnel {
        Ztunnel::connect(self.path("zds.sock"))
    }

    fn records(&self) -> usize {
        let files = std::fs::read_dir(self.path("pods")).unwrap();
        files
            .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|suffix| suffix == "json"))
            .count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.bpf_dir));
    }
}

impl Agent {
    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ztunnel {
    pub(crate) fn connect(path: PathBuf) -> Self {
        let (asked_by_agent, asked) = sync_channel(64);
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(&path, &asked_by_agent, &stopped));
        });
        Self { asked, stop, thread: Some(thread) }
    }

    pub(crate) fn next(&self) -> String {
        self.asked.recv_timeout(PATIENCE).expect("the agent says something")
    }

    pub(crate) fn snapshot(&self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.next()).filter(|asked| asked != "sent")).collect()
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        // An end that came before is an end as well.
        self.stop.try_send(()).ok();
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// One HTTP request and its whole answer.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

async fn serve(path: &Path, asked: &SyncSender<String>, stopped: &Receiver<()>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let packets = Packets::new(socket).unwrap();
    packets.send(&ZdsHello { version: Version::V1.into() }.encode_to_vec(), None).await.unwrap();
    while stopped.try_recv().is_err() {
        let received = tokio::time::timeout(Duration::from_millis(50), packets.receive_whenever()).await;
        let packet = match received {
            Err(_nothing_yet) => continue,
            Ok(Err(_closed)) => return,
            Ok(Ok(packet)) => packet,
        };
        let line = match WorkloadRequest::decode(packet.as_slice()).unwrap().payload.unwrap() {
            workload_request::Payload::Add(add) => format!("add {}", add.uid),
            workload_request::Payload::Keep(keep) => format!("keep {}", keep.uid),
            workload_request::Payload::Del(del) => format!("del {}", del.uid),
            workload_request::Payload::SnapshotSent(_) => "sent".to_owned(),
        };
        let payload = Some(workload_response::Payload::Ack(Ack::default()));
        packets.send(&WorkloadResponse { payload }.encode_to_vec(), None).await.unwrap();
        asked.send(line).unwrap();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn pod(uid: &str, namespace: &Namespace) -> Value {
    json!({"uid": uid, "name": "client", "namespace": "default", "serviceAccount": "sleep",
           "netns": namespace.path(), "ips": ["10.97.0.2", "fd97::2"]})
}

/// A pod's namespace, and a neighbour's that it reaches.
fn fresh(purpose: &str) -> (Namespace, Namespace) {
    let (pod, peer) = Namespace::with_eth0(purpose, &["10.97.0.2/24", "fd97::2/64"]);
    peer.ip(&["addr", "add", "10.97.0.1/24", "dev", "eth0"]);
    (pod, peer)
}

fn inside<T: Send + 'static>(namespace: &Namespace, work: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(namespace.open().run(work)).unwrap()
}

fn settings(namespace: &Namespace) -> Previous {
    inside(namespace, || sysctl::survey(Path::new(PROC_SYS))).unwrap()
}

/// A neighbour's server; the kernel accepts for it.
fn server(peer: &Namespace) -> TcpListener {
    inside(peer, || TcpListener::bind("10.97.0.1:8080")).unwrap()
}

/// Whether the pod can connect to its neighbour.
fn connects(pod: &Namespace) -> bool {
    let neighbour = "10.97.0.1:8080".parse().unwrap();
    inside(pod, move || TcpStream::connect_timeout(&neighbour, Duration::from_millis(800))).is_ok()
}

#[test]
fn a_pod_outlives_the_agent_and_gets_back_what_it_had() {
    let (node, (namespace, peer)) = (Node::new("life"), fresh("life"));
    let (before, _server) = (settings(&namespace), server(&peer));
    let mut agent = node.start();
    let ztunnel = node.ztunnel();
    assert!(ztunnel.snapshot().is_empty());
    let enrolled = json!({"uid": "a", "state": "enrolled"});
    assert_eq!(node.ask("POST", "/pods", &pod("a", &namespace)), (200, enrolled.clone()));
    assert_eq!(ztunnel.next(), "add a");
    assert_eq!(node.ask("POST", "/pods", &pod("a", &namespace)), (200, enrolled), "again is harmless");
    assert_eq!(ztunnel.next(), "add a");
    let (state, status) = node.state();
    assert_eq!((state.as_str(), status["counters"]["capturedOutbound"].as_u64()), ("enrolled", Some(0)));
    assert_eq!(namespace.captured_routing().len(), 4);
    assert_ne!(settings(&namespace), before);
    assert_eq!(node.metric("ztunnel_connected"), "ztunnel_connected 1");
    assert_eq!(node.metric("ambit_node_pods{state=\"enrolled\""), "ambit_node_pods{state=\"enrolled\"} 1");
    let added = "ambit_node_enrol_duration_seconds_count{result=\"enrolled\"}";
    assert_eq!(node.metric(added), format!("{added} 2"));

    agent.signal(Signal::SIGKILL);
    assert_eq!(namespace.captured_routing().len(), 4, "death changes nothing");
    assert!(!connects(&namespace));
    namespace.ip(&["rule", "del", "pref", "60"]);
    drop(ztunnel);
    let second = node.start();
    assert_eq!(namespace.captured_routing().len(), 4, "what was damaged meanwhile is repaired");
    assert_eq!(node.state().0, "pending", "no ztunnel is there yet");
    let ztunnel = node.ztunnel();
    assert_eq!(ztunnel.snapshot(), ["add a"]);
    until("the pod is enrolled again", || node.state().0 == "enrolled");

    let removed = json!({"uid": "a", "state": "removed"});
    assert_eq!(node.ask("DELETE", "/pods/a", &Value::Null), (200, removed));
    assert_eq!(ztunnel.next(), "del a");
    assert!(namespace.captured_routing().is_empty());
    assert_eq!(settings(&namespace), before);
    assert_eq!(node.ask("GET", "/pods", &Value::Null).1, json!({"pods": []}));
    assert_eq!(node.ask("DELETE", "/pods/a", &Value::Null).0, 404);
    assert!(connects(&namespace), "a pod that left connects as before");

    let _third = {
        drop(second);
        drop((namespace, peer));
        node.start()
    };
    assert_eq!(node.records(), 0, "what a pod that lived on outside the mesh leaves ends with it");
}

#[test]
fn without_a_ztunnel_a_pod_is_captured_and_pending_until_one_comes() {
    let (node, (namespace, _peer)) = (Node::new("alone"), fresh("alone"));
    let _agent = node.start();
    let (status, answer) = node.ask("POST", "/pods", &pod("a", &namespace));
    assert_eq!((status, answer["state"].as_str()), (503, Some("pending")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("no ztunnel connected"), "{answer}");
    assert_eq!(namespace.captured_routing().len(), 4);
    assert_eq!(node.state().1["reason"], "no ztunnel connected");
    let ztunnel = node.ztunnel();
    assert_eq!(ztunnel.snapshot(), ["add a"]);
    until("the pod is enrolled", || node.state().0 == "enrolled");
    node.ask("DELETE", "/pods/a", &Value::Null);
}

#[test]
fn a_signal_leaves_everything_and_detach_takes_everything_back() {
    let (node, (namespace, peer)) = (Node::new("detach"), fresh("detach"));
    let (before, _server) = (settings(&namespace), server(&peer));
    assert!(connects(&namespace));
    let mut agent = node.start();
    let ztunnel = node.ztunnel();
    assert_eq!(node.ask("POST", "/pods", &pod("a", &namespace)).0, 200);
    assert!(!node.command(&["detach", "--all"]).status().unwrap().success(), "not under a running agent");
    assert_eq!(node.state().0, "enrolled");
    assert!(agent.signal(Signal::SIGTERM).success());
    drop(ztunnel);
    assert_eq!((namespace.captured_routing().len(), node.records()), (4, 1));
    assert!(node.bpf_dir.exists());
    assert!(!connects(&namespace), "nobody carries its connections, so there are none");
    assert!(node.command(&["detach", "--all"]).status().unwrap().success());
    assert!(connects(&namespace));
    assert!(namespace.captured_routing().is_empty());
    assert_eq!(settings(&namespace), before);
    assert!(!node.path("pods").exists(), "no record is left");
    assert!(!node.bpf_dir.exists(), "no pin is left");
}

#[test]
fn a_pod_that_ended_while_no_agent_ran_is_cleaned_up_and_its_name_may_come_again() {
    let (node, (namespace, _peer)) = (Node::new("ended"), fresh("ended"));
    let mut agent = node.start();
    let ztunnel = node.ztunnel();
    assert_eq!(node.ask("POST", "/pods", &pod("a", &namespace)).0, 200);
    agent.signal(Signal::SIGKILL);
    drop((ztunnel, namespace, _peer));
    let _second = node.start();
    assert_eq!(node.records(), 0);
    assert_eq!(node.ask("GET", "/pods", &Value::Null).1, json!({"pods": []}));
    let (again, _peer) = fresh("ended");
    let ztunnel = node.ztunnel();
    assert!(ztunnel.snapshot().is_empty());
    assert_eq!(node.ask("POST", "/pods", &pod("a", &again)).0, 200);
    node.ask("DELETE", "/pods/a", &Value::Null);
}

#[test]
fn the_same_pod_in_another_namespace_is_replaced_and_two_pods_do_not_share_one() {
    let (node, (first, _peer1), (second, _peer2)) = (Node::new("two"), fresh("one"), fresh("two"));
    let _agent = node.start();
    let ztunnel = node.ztunnel();
    assert!(ztunnel.snapshot().is_empty());
    assert_eq!(node.ask("POST", "/pods", &pod("a", &first)).0, 200);
    let (status, answer) = node.ask("POST", "/pods", &pod("b", &first));
    assert_eq!((status, answer["field"].as_str()), (409, Some("netns")), "{answer}");
    assert_eq!(node.ask("POST", "/pods", &pod("a", &second)).0, 200);
    assert_eq!([ztunnel.next(), ztunnel.next(), ztunnel.next()], ["add a", "del a", "add a"]);
    assert!(first.captured_routing().is_empty());
    assert_eq!(second.captured_routing().len(), 4);
    let (status, answer) = node.ask("POST", "/pods", &json!({"uid": "c"}));
    assert_eq!((status, answer["field"].as_str()), (400, Some("name")), "{answer}");
    let gone = json!({"netns": "/run/netns/there-is-no-such-pod"});
    let mut request = pod("c", &first);
    request.as_object_mut().unwrap().extend(gone.as_object().unwrap().clone());
    assert_eq!(node.ask("POST", "/pods", &request).0, 400);
    node.ask("DELETE", "/pods/a", &Value::Null);
}
