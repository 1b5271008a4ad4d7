// SPDX-License-Identifier: Apache-2.0
//! What a process in an enrolled pod tries that may do as root does there (CAP_NET_RAW, CAP_NET_ADMIN): marks, devices,
//! other ways to speak TCP, packets of its own making, the mesh's own ports. Each trick is first shown to work without
//! the mesh. Where one gets past the capture, the receiving side is shown to refuse it.
//!
//! What the programs do with single packets is tested with them; here it is the whole mesh, seen from the node's link.

mod forge;

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lab::{Pod, config::run_folder, echo, eventually, http, net::Sniffer};
use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

use crate::scene::{SOON, STRICT, Scenario, Scene, only, reaches, scenarios, went_through_the_mesh, written};
use forge::{ACK, Dress, SYN};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        no_option_of_a_socket_leads_past_the_mesh,
        no_option_of_a_socket_leads_past_a_policy,
        packets_of_a_pods_own_making_carry_no_tcp_out_of_it,
        a_pod_that_listens_on_the_meshs_ports_waits_with_a_reason_and_gets_nothing,
        listeners_beside_the_meshs_own_get_nothing,
        what_goes_past_the_queue_of_an_interface_is_a_stranger_to_the_receiver,
        a_pod_cannot_speak_to_the_mesh_in_place_of_its_ztunnel,
    ]
}

/// `SO_MARK` of ztunnel's sockets, and of packets that stay inside the pod.
const PROXY_MARK: u32 = 0x539;
const LOOP_MARK: u32 = 0x111;
/// Long enough for what would succeed, had it not been stopped: one SYN more than the first.
const IMPATIENCE: Duration = Duration::from_millis(1500);
/// Ports on which ztunnel listens in every pod.
const MESH_PORTS: [u16; 3] = [15001, 15006, 15008];

/// A socket with which a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    Nothing,
    Mark(u32),
    Device,
    DeviceAndMark(u32),
    /// RFC 7413.
    FastOpen,
    /// RFC 8684.
    Multipath,
}

const TRICKS: [Trick; 8] = [
    Trick::Nothing,
    Trick::Mark(PROXY_MARK),
    Trick::Mark(LOOP_MARK),
    Trick::Device,
    Trick::DeviceAndMark(PROXY_MARK),
    Trick::DeviceAndMark(LOOP_MARK),
    Trick::FastOpen,
    Trick::Multipath,
];

impl Trick {
    fn socket(self, target: SocketAddr) -> io::Result<Socket> {
        let protocol = if self == Self::Multipath { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(protocol))?;
        match self {
            Self::Nothing | Self::Multipath => {}
            Self::Mark(mark) => socket.set_mark(mark)?,
            Self::Device => socket.bind_device(Some(b"eth0"))?,
            Self::DeviceAndMark(mark) => {
                socket.bind_device(Some(b"eth0"))?;
                socket.set_mark(mark)?;
            }
            Self::FastOpen => setsockopt(&socket, TcpFastOpenConnect, &true)?,
        }
        Ok(socket)
    }

    /// Says `words` to a server that sends back what it receives; whether it did. That the socket cannot be had is an
    /// error, that nobody answers is none.
    fn speaks(self, pod: &Pod, target: SocketAddr, words: &'static str) -> Result<bool> {
        pod.namespace().on_thread(move || {
            let socket = self.socket(target).with_context(|| format!("a socket with {self:?}"))?;
            Ok(converse(socket, target, words).is_ok())
        })
    }
}

fn converse(socket: Socket, target: SocketAddr, words: &str) -> io::Result<()> {
    socket.connect_timeout(&target.into(), IMPATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(IMPATIENCE))?;
    stream.write_all(words.as_bytes())?;
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer)?;
    if answer == words.as_bytes() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Which of these servers answer the pod. All are asked at once.
fn answering(pod: &Pod, targets: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
    let ask = |target| Trick::Nothing.speaks(pod, target, "anybody there?");
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            targets.iter().map(|&target| (target, scope.spawn(move || ask(target)))).collect();
        let mut answering = Vec::new();
        for (target, asked) in asked {
            if asked.join().map_err(|_panic| anyhow!("asking {target} panicked"))?? {
                answering.push(target);
            }
        }
        Ok(answering)
    })
}

fn both(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    pod.addresses().both().map(|ip| SocketAddr::new(ip, port))
}

/// The pod can keep cookies of TCP Fast Open, and hands them out.
fn allow_fast_open(pod: &Pod) -> Result<()> {
    pod.namespace().write_sysctls(&[("net/ipv4/tcp_fastopen", "1027")])
}

async fn no_option_of_a_socket_leads_past_the_mesh(scene: Scene) -> Result<()> {
    const BEFORE: &str = "words-of-a-pod-outside";
    const AFTER: &str = "words-of-an-enrolled-pod";
    let server = scene.server("b", "server").await?;
    let hostile = scene.plain("a", "hostile").await?;
    allow_fast_open(&hostile)?;
    allow_fast_open(&server)?;
    for trick in TRICKS {
        for target in both(&server, echo::TCP) {
            let sniffer = scene.node("a").sniff_for(&[BEFORE.as_bytes()])?;
            ensure!(trick.speaks(&hostile, target, BEFORE)?, "{trick:?} got no answer from {target}");
            ensure!(sniffer.stop()?.with(BEFORE.as_bytes()) > 0, "{trick:?} to {target} was not on the wire");
        }
    }
    hostile.enrol().await?;
    let sniffer = scene.node("a").sniff_for(&[AFTER.as_bytes()])?;
    for trick in TRICKS {
        for target in both(&server, echo::TCP) {
            let answered = trick.speaks(&hostile, target, AFTER)?;
            // That mark keeps packets inside the pod, where they meet ztunnel or nobody.
            let may_be_lost = matches!(trick, Trick::Mark(LOOP_MARK) | Trick::DeviceAndMark(LOOP_MARK));
            ensure!(answered || may_be_lost, "{trick:?} got no answer from {target}");
        }
    }
    nothing_of(AFTER, sniffer)?;
    went_through_the_mesh(&scene, &hostile, &server).await
}

async fn no_option_of_a_socket_leads_past_a_policy(scene: Scene) -> Result<()> {
    const WORDS: &str = "let-me-in";
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    let hostile = scene.captured("a", "hostile").await?;
    allow_fast_open(&hostile)?;
    scene.apply("only", &only(friend.identity().trim_start_matches("spiffe://"))).await?;
    for trick in TRICKS {
        for target in both(&server, echo::TCP) {
            ensure!(
                trick.speaks(&friend, target, WORDS)? || trick != Trick::Nothing,
                "the friend is kept out"
            );
            ensure!(!trick.speaks(&hostile, target, WORDS)?, "{trick:?} got an answer from {target}");
        }
    }
    let access = written(&scene.node("b"), "inbound", &hostile, &server).await?;
    ensure!(access.field("src.identity") == hostile.identity(), "{}", access.line);
    ensure!(access.field("error").contains("policy rejection"), "{}", access.line);
    Ok(())
}

async fn packets_of_a_pods_own_making_carry_no_tcp_out_of_it(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let hostile = scene.plain("a", "hostile").await?;
    let links = forge::link_addresses(&scene.node("a"), &hostile)?;
    let attempts = attempts();
    for attempt in &attempts {
        let words = format!("outside, {attempt:?}");
        let sniffer = scene.node("a").sniff_for(&[words.as_bytes()])?;
        attempt.send(&hostile, links, &server, &words)?;
        eventually(SOON, "the control", async || {
            ensure!(sniffer.has(words.as_bytes()), "{attempt:?} was not on the wire");
            Ok(())
        })
        .await?;
    }
    hostile.enrol().await?;
    for mark in [0, PROXY_MARK] {
        let words = "enrolled, with a packet of its own";
        let sniffer = scene.node("a").sniff_for(&[words.as_bytes(), END])?;
        for attempt in &attempts {
            Attempt { mark, ..*attempt }.send(&hostile, links, &server, words)?;
        }
        flare(&hostile, &server)?;
        eventually(SOON, "the end of the attempts", async || {
            ensure!(sniffer.has(END), "the datagram has not passed");
            Ok(())
        })
        .await?;
        nothing_of(words, sniffer)?;
    }
    let counters = said_of(&scene, &hostile).await?["counters"].clone();
    for event in ["droppedUnowned", "droppedFragment", "droppedExtension"] {
        ensure!(counters[event].as_u64() > Some(0), "{event} is not counted: {counters}");
    }
    reaches(&hostile, &server).await
}

/// What is sent to mark a moment: a datagram, which nobody captures.
const END: &[u8] = b"all attempts were made";

fn flare(from: &Pod, to: &Pod) -> Result<()> {
    let to = SocketAddr::new(to.v4(), 9);
    from.namespace().on_thread(move || {
        std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(END, to)?;
        Ok(())
    })
}

/// One packet on one way out.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    way: Way,
    family: usize,
    flags: u8,
    dress: Dress,
    mark: u32,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// A raw socket of TCP.
    RawTcp,
    /// A raw socket that takes IP headers.
    RawIp,
    /// A packet socket.
    Frame,
}

fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for family in [0, 1] {
        for flags in [ACK, SYN, SYN | ACK] {
            all.push(Attempt { way: Way::RawTcp, family, flags, dress: Dress::Plain, mark: 0 });
        }
        for way in [Way::RawIp, Way::Frame] {
            for flags in [ACK, SYN, SYN | ACK] {
                all.push(Attempt { way, family, flags, dress: Dress::Plain, mark: 0 });
            }
            for dress in [Dress::FirstFragment, Dress::LaterFragment] {
                all.push(Attempt { way, family, flags: ACK, dress, mark: 0 });
            }
        }
    }
    for way in [Way::RawIp, Way::Frame] {
        for count in [1, 2, 12] {
            let dress = Dress::Options(count);
            all.push(Attempt { way, family: 1, flags: ACK, dress, mark: 0 });
        }
    }
    all
}

impl Attempt {
    fn send(&self, pod: &Pod, links: [[u8; 6]; 2], server: &Pod, words: &str) -> Result<()> {
        let from = pod.addresses().both()[self.family];
        let to = SocketAddr::new(server.addresses().both()[self.family], echo::TCP);
        let packet = || forge::packet(from, to, self.flags, self.dress, words.as_bytes());
        match self.way {
            Way::RawTcp => forge::by_raw_tcp(pod, to, self.flags, words.as_bytes(), self.mark),
            Way::RawIp => forge::by_raw_socket(pod, packet(), self.mark),
            Way::Frame => forge::by_frame(pod, links, packet(), self.mark),
        }
        .with_context(|| format!("{self:?}"))
    }
}

async fn a_pod_that_listens_on_the_meshs_ports_waits_with_a_reason_and_gets_nothing(
    scene: Scene,
) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("b", "client").await?;
    for port in MESH_PORTS {
        let hostile = scene.plain("a", &format!("hostile-{port}")).await?;
        hostile.serve().await?;
        let own = Foreign::listen(&hostile, None, port, false)?;
        let Err(refusal) = hostile.enrol().await else { bail!("enrolled with port {port} taken") };
        let refusal = format!("{refusal:#}");
        let reason = format!("cannot listen on port {port} in the pod");
        ensure!(refusal.contains("captured, but not served yet") && refusal.contains(&reason), "{refusal}");
        let status = said_of(&scene, &hostile).await?;
        ensure!(status["state"] == "pending", "{status}");
        ensure!(status["reason"].as_str().is_some_and(|text| text.contains(&reason)), "{status}");
        // Captured and not served means: no traffic, above all not by the listener that is there.
        let answers = [
            answering(&hostile, &both(&server, echo::TCP))?,
            answering(&client, &[both(&hostile, echo::TCP), both(&hostile, port)].concat())?,
        ];
        ensure!(answers.concat().is_empty(), "with port {port} taken, answers came from {answers:?}");
        ensure!(own.accepted()? == 0, "the pod's own listener on {port} got a connection");
        drop(own);
        eventually(Duration::from_secs(30), "the pod being served once the port is free", async || {
            let status = said_of(&scene, &hostile).await?;
            ensure!(status["state"] == "enrolled", "{status}");
            Ok(())
        })
        .await?;
        hostile.enrol().await?;
        reaches(&client, &hostile).await?;
    }
    Ok(())
}

async fn listeners_beside_the_meshs_own_get_nothing(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("b", "client").await?;
    let plain = scene.plain("b", "plain").await?;
    let talk = async |hostile: &Pod| {
        reaches(&client, hostile).await?;
        reaches(&plain, hostile).await?;
        reaches(hostile, &server).await
    };
    // Beside listeners of ztunnel's that have served already, they change nothing.
    let hostile = scene.server("a", "hostile").await?;
    talk(&hostile).await?;
    let own = beside(&hostile)?;
    for _ in 0..10 {
        talk(&hostile).await?;
    }
    got_nothing(&own)?;
    // Where they are found in place of ztunnel's, the pod has no traffic: nothing is given to them.
    let hostile = scene.server("a", "early").await?;
    let own = beside(&hostile)?;
    for (from, to) in [(&client, &hostile), (&plain, &hostile), (&hostile, &server)] {
        let _either_way = answering(from, &both(to, echo::TCP))?;
    }
    got_nothing(&own)?;
    drop(own);
    eventually(Duration::from_secs(60), "traffic once they are gone", async || {
        timeout(SOON, talk(&hostile)).await.context("no answer")?
    })
    .await
}

/// Listeners on all of ztunnel's ports, also on the pod's own addresses, which the kernel would prefer. The pod's root is
/// the node's, so that it may share them.
fn beside(pod: &Pod) -> Result<Vec<Foreign>> {
    let mut own = Vec::new();
    for port in MESH_PORTS {
        for _ in 0..8 {
            own.push(Foreign::listen(pod, None, port, true)?);
        }
        for ip in pod.addresses().both() {
            own.push(Foreign::listen(pod, Some(ip), port, true)?);
        }
    }
    Ok(own)
}

fn got_nothing(listeners: &[Foreign]) -> Result<()> {
    for listener in listeners {
        ensure!(listener.accepted()? == 0, "a listener of the pod got a connection: {listener:?}");
    }
    Ok(())
}

/// A listener of the pod on a port of ztunnel's.
#[derive(Debug)]
struct Foreign(Socket);

impl Foreign {
    fn listen(pod: &Pod, ip: Option<IpAddr>, port: u16, shared: bool) -> Result<Self> {
        let at = SocketAddr::new(ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port);
        pod.namespace().on_thread(move || {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(shared)?;
            socket.bind(&at.into()).with_context(|| format!("binding {at}"))?;
            socket.listen(128)?;
            socket.set_nonblocking(true)?;
            Ok(Self(socket))
        })
    }

    /// Connections that wait on it.
    fn accepted(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            match self.0.accept() {
                Ok(_connection) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error).context("accepting"),
            }
        }
    }
}

async fn what_goes_past_the_queue_of_an_interface_is_a_stranger_to_the_receiver(scene: Scene) -> Result<()> {
    const WORDS: &str = "past-the-queue";
    let server = scene.server("b", "server").await?;
    let hostile = scene.captured("a", "hostile").await?;
    let links = forge::link_addresses(&scene.node("a"), &hostile)?;
    let bypass = async |expected: &[&str]| {
        for to in both(&server, echo::TCP) {
            let sniffer = scene.node("a").sniff_for(&[WORDS.as_bytes()])?;
            let outcome = past_the_queue(&hostile, links, to, WORDS).await?;
            ensure!(expected.contains(&outcome.as_str()), "{outcome} from {to}, not one of {expected:?}");
            // No program on the interface sees it: this much cannot be stopped inside the pod.
            ensure!(sniffer.stop()?.with(WORDS.as_bytes()) > 0, "the words were not on the wire");
        }
        anyhow::Ok(())
    };
    // To a server that takes plaintext from anybody it is anybody.
    bypass(&["answered"]).await?;
    // Where an identity is asked for, it has none, not even its own.
    let refused = ["reset", "ended", "silence"];
    scene.apply("only", &only(hostile.identity().trim_start_matches("spiffe://"))).await?;
    reaches(&hostile, &server).await?;
    bypass(&refused).await?;
    scene.withdraw("only").await?;
    scene.apply("strict", STRICT).await?;
    reaches(&hostile, &server).await?;
    bypass(&refused).await?;
    Ok(())
}

/// Lets a program in the pod speak TCP by itself; what it got.
async fn past_the_queue(pod: &Pod, links: [[u8; 6]; 2], to: SocketAddr, words: &str) -> Result<String> {
    const PROGRAM: &str = include_str!("hostile/past_the_queue.py");
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let from = pod.addresses().both()[usize::from(to.is_ipv6())].to_string();
    let [near, own] = links.map(|link| link.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    // The pod's own kernel knows nothing of the connection and would reset it; without a route it cannot.
    let silence = |verb: &'static str| {
        let ip = ip.clone();
        async move {
            let output = pod.exec("ip", &["route", verb, "blackhole", &ip]).await?;
            ensure!(output.status.success(), "ip route: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        }
    };
    silence("add").await?;
    let output = pod.exec("python3", &["-c", PROGRAM, &near, &own, &from, &ip, &port, words]).await;
    silence("del").await?;
    let output = output.context("this scenario needs python3: apt-get install python3")?;
    ensure!(output.status.success(), "python3: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn a_pod_cannot_speak_to_the_mesh_in_place_of_its_ztunnel(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let hostile = scene.captured("a", "hostile").await?;
    let plain = scene.plain("a", "plain").await?;
    let request: &'static str = "CONNECT 127.0.0.1:8080 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    for pod in [&hostile, &plain] {
        for target in MESH_PORTS.into_iter().flat_map(|port| both(&server, port)) {
            let heard = pod.namespace().on_thread(move || Ok(heard(target, request).unwrap_or_default()))?;
            let text = String::from_utf8_lossy(&heard).into_owned();
            ensure!(!text.contains("HTTP/1.1 200") && !text.contains("server"), "{target} answered {text:?}");
        }
    }
    reaches(&hostile, &server).await
}

/// What comes back on a request, until the end of the connection or of all patience.
fn heard(target: SocketAddr, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, IMPATIENCE)?;
    stream.set_read_timeout(Some(IMPATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut heard = vec![0; 4096];
    let length = stream.read(&mut heard)?;
    heard.truncate(length);
    Ok(heard)
}

/// What the node's agent says of a pod.
pub(crate) async fn said_of(scene: &Scene, pod: &Pod) -> Result<Value> {
    let socket = run_folder(scene.cluster.name()).join(pod.object().node).join("node.sock");
    let (status, body) = http::over_unix(&socket, "GET", "/pods", None).await?;
    ensure!(status.is_success(), "{status}: {body}");
    let list: Value = serde_json::from_str(&body)?;
    let uid = pod.object().uid;
    let pods = list["pods"].as_array().context("no list of pods")?;
    pods.iter().find(|pod| pod["uid"] == uid.as_str()).cloned().with_context(|| format!("no {uid} in {body}"))
}

fn nothing_of(words: &str, sniffer: Sniffer) -> Result<()> {
    let capture = sniffer.stop()?;
    let leaked =
        capture.frames.iter().find(|frame| lab::net::packet::contains(&frame.bytes, words.as_bytes()));
    ensure!(capture.seen > 0, "the sniffer saw nothing at all");
    ensure!(leaked.is_none(), "in plaintext: {:?}", leaked.and_then(|frame| frame.packet()));
    Ok(())
}
