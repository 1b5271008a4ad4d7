// SPDX-License-Identifier: Apache-2.0
//! Ten minutes of connections that come and go, in order and not: nothing of them may be left. What the proxies and
//! agents hold afterwards is compared with what they held after a warm-up of the same kind.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::RecordType;
use lab::{
    Cluster, Node, Pod, clean,
    dns::{self, Over},
    echo, eventually,
    net::addresses,
};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use crate::{
    policy::ask,
    scene::{Scenario, Scene, say, scenarios},
};

const WARM_UP: Duration = Duration::from_secs(60);
const SOAK: Duration = Duration::from_secs(600);
/// How long what has ended may be held on to: longer than every timeout of the proxies and of conntrack for UDP.
const SETTLE: Duration = Duration::from_secs(90);
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that says nothing stays.
const SILENCE: Duration = Duration::from_secs(3);
/// Exchanges of one kind that are under way; more are not begun.
const AT_A_TIME: usize = 64;
/// Of these, so many of ten thousand may fail: the machine is busy, but not broken.
const FAILURES: u64 = 10;

pub(crate) fn all() -> Vec<Scenario> {
    let long = scenarios![ten_minutes_of_connections_that_end_well_or_badly_leave_nothing_behind];
    long.into_iter().map(|scenario| Scenario { long: true, ..scenario }).collect()
}

/// What is done with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Says something, hears it, ends in order.
    Whole,
    /// Ends its half first.
    HalfClosed,
    /// Says nothing for a while, then leaves.
    Silent,
    /// Breaks off in the middle.
    Reset,
    /// Breaks off before a word.
    ResetAtOnce,
    /// Knocks where nobody listens.
    Refused,
    /// Asks for a name in a datagram.
    Datagram,
    /// Asks for a name over a stream.
    Stream,
}

/// How often a second each client does each.
const RATES: [(Kind, f64); 8] = [
    (Kind::Whole, 15.0),
    (Kind::HalfClosed, 3.0),
    (Kind::Silent, 2.0),
    (Kind::Reset, 4.0),
    (Kind::ResetAtOnce, 4.0),
    (Kind::Refused, 2.0),
    (Kind::Datagram, 5.0),
    (Kind::Stream, 2.0),
];

/// By what was done: how often it went well, and badly.
type Tally = Arc<Mutex<BTreeMap<Kind, (u64, u64)>>>;

async fn ten_minutes_of_connections_that_end_well_or_badly_leave_nothing_behind(_: Scene) -> Result<()> {
    let cluster = Cluster::start("soak").await?;
    let ground = Ground::new(&cluster).await?;
    ground.offer(WARM_UP).await.context("warming up")?;
    let before = Level::settled(&cluster, None).await?;
    say(&format!("after the warm-up: {before}"));
    let tally = ground.offer(SOAK).await?;
    say(&format!("in {SOAK:?}: {tally:?}"));
    let after = Level::settled(&cluster, Some(&before)).await?;
    say(&format!("afterwards: {after}"));
    cluster.stop()
}

/// Who talks to whom: each client to every server but itself.
struct Ground {
    clients: Vec<Pod>,
    servers: Vec<Pod>,
    name: String,
}

impl Ground {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let pod = |node: &str, name: &str| cluster.node(node).pod(name).service_account(name);
        let servers = vec![
            pod("a", "server-a").captured().start().await?,
            pod("b", "server-b").captured().start().await?,
            pod("b", "plain-server").start().await?,
        ];
        for server in &servers {
            server.serve().await?;
        }
        let clients = vec![
            pod("a", "client-a").captured().start().await?,
            pod("b", "client-b").captured().start().await?,
            pod("a", "plain-client").start().await?,
        ];
        let service = cluster.service("server-b").create().await?;
        Ok(Self { clients, servers, name: service.host() })
    }

    /// Offers the load for a time and waits until its last exchange is over.
    async fn offer(&self, lasts: Duration) -> Result<BTreeMap<Kind, (u64, u64)>> {
        let targets: Arc<[IpAddr]> =
            self.servers.iter().flat_map(|server| server.addresses().both()).collect();
        let (tally, end) = (Tally::default(), Instant::now() + lasts);
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for client in self.clients.clone() {
            let (targets, tally, stopped) = (Arc::clone(&targets), Arc::clone(&tally), stopped.clone());
            let name = self.name.clone();
            clients.spawn(async move {
                client.run(async move || talk(&targets, &name, &tally, &stopped).await).await
            });
        }
        sleep_until(end).await;
        stop.send_replace(true);
        while let Some(client) = clients.join_next().await {
            client??;
        }
        let tally = std::mem::take(&mut *tally.lock());
        for (kind, rate) in RATES {
            let (well, badly) = tally.get(&kind).copied().unwrap_or_default();
            // Half of what was due at least, or the load was not the one that is meant.
            let least = rate * lasts.as_secs_f64();
            ensure!((well + badly) as f64 > least, "too few of {kind:?}: {tally:?}");
            ensure!(badly * 10_000 <= FAILURES * (well + badly), "too many of {kind:?} failed: {tally:?}");
        }
        Ok(tally)
    }
}

/// One client, in its namespace.
async fn talk(
    targets: &Arc<[IpAddr]>,
    name: &str,
    tally: &Tally,
    stopped: &watch::Receiver<bool>,
) -> Result<()> {
    let mut kinds = JoinSet::new();
    for (kind, rate) in RATES {
        let (targets, name, tally) = (Arc::clone(targets), name.to_owned(), Arc::clone(tally));
        let mut stopped = stopped.clone();
        kinds.spawn(async move {
            let mut pace = interval(Duration::from_secs_f64(1.0 / rate));
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut running = JoinSet::new();
            for target in targets.iter().copied().cycle() {
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                    _ = pace.tick() => {}
                }
                while running.len() >= AT_A_TIME {
                    running.join_next().await;
                }
                let (name, tally) = (name.clone(), Arc::clone(&tally));
                running.spawn(async move {
                    let outcome = timeout(PATIENCE, exchange(kind, target, &name)).await;
                    let well = matches!(outcome, Ok(Ok(())));
                    let mut tally = tally.lock();
                    let (good, bad) = tally.entry(kind).or_default();
                    *(if well { good } else { bad }) += 1;
                });
            }
            while running.join_next().await.is_some() {}
        });
    }
    while let Some(kind) = kinds.join_next().await {
        kind?;
    }
    Ok(())
}

async fn exchange(kind: Kind, target: IpAddr, name: &str) -> Result<()> {
    let connect = |port| TcpStream::connect(SocketAddr::new(target, port));
    match kind {
        Kind::Whole => {
            let mut stream = connect(echo::TCP).await?;
            ask(&mut stream, "there and back").await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            ensure!(stream.read_to_end(&mut rest).await? == 0, "more than was asked for");
        }
        Kind::HalfClosed => {
            let mut stream = connect(echo::TCP).await?;
            stream.write_all(&[7; 20_000]).await?;
            stream.shutdown().await?;
            let mut back = Vec::new();
            ensure!(stream.read_to_end(&mut back).await? == 20_000, "{} bytes", back.len());
        }
        Kind::Silent => {
            let mut stream = connect(echo::TCP).await?;
            let early = timeout(SILENCE, stream.read(&mut [0; 1])).await;
            ensure!(early.is_err(), "the server spoke first: {early:?}");
        }
        Kind::Reset => {
            let mut stream = connect(echo::TCP).await?;
            ask(&mut stream, "and now").await?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Kind::ResetAtOnce => SockRef::from(&connect(echo::TCP).await?).set_linger(Some(Duration::ZERO))?,
        Kind::Refused => {
            // ztunnel accepts before it knows; then the end comes at once.
            if let Ok(mut stream) = connect(1).await {
                let read = stream.read(&mut [0; 1]).await;
                ensure!(!matches!(read, Ok(1..)), "an answer from nobody");
            }
        }
        Kind::Datagram | Kind::Stream => {
            let server = SocketAddr::from((addresses::fabric(addresses::OUTSIDE_DNS).v4, 53));
            let over = if kind == Kind::Datagram { Over::Udp } else { Over::Tcp };
            // Pods outside the mesh learn nothing of the service, but everybody is answered.
            dns::ask(server, name, RecordType::A, over).await?;
        }
    }
    Ok(())
}

/// What parts hold.
#[derive(Debug)]
struct Level {
    processes: BTreeMap<String, Held>,
    /// Pinned links and maps of both nodes.
    pins: usize,
    /// Connections that conntrack of both nodes follows; 0 where it is not there.
    tracked: usize,
}

#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Level {
    /// The level once no connection is open and, if given, nothing more is held than before.
    async fn settled(cluster: &Cluster, before: Option<&Self>) -> Result<Self> {
        eventually(SETTLE, "everything to be let go", async || {
            for node in cluster.nodes() {
                let open = node.metrics().await?.sum("istio_tcp_sockets_open", &[]);
                ensure!(open == 0.0, "{open} connections are open on node {}", node.name());
            }
            let now = Self::now(cluster)?;
            if let Some(before) = before {
                now.compare(before)?;
            }
            Ok(now)
        })
        .await
    }

    fn now(cluster: &Cluster) -> Result<Self> {
        let mut level = Self { processes: BTreeMap::new(), pins: 0, tracked: 0 };
        for node in cluster.nodes() {
            for process in [node.ztunnel(), node.agent()] {
                let pid = process.pid().with_context(|| format!("{} does not run", process.name()))?;
                level.processes.insert(process.name().to_owned(), Held::of(pid)?);
            }
            level.pins += pins(cluster, &node)?;
            level.tracked += tracked(&node)?;
        }
        Ok(level)
    }

    fn compare(&self, before: &Self) -> Result<()> {
        ensure!(self.pins == before.pins, "{} pins, {} before", self.pins, before.pins);
        // TIME_WAIT of the last seconds is in both; a tenth is how much they differ by chance.
        let most = before.tracked + before.tracked / 10 + 16;
        ensure!(self.tracked <= most, "{} tracked connections, {} before", self.tracked, before.tracked);
        for (name, now) in &self.processes {
            let then = before.processes.get(name).with_context(|| format!("{name} is new"))?;
            // A pool keeps a tunnel more or less per peer and thread.
            ensure!(now.descriptors <= then.descriptors + 8, "{name}: {now:?}, before {then:?}");
            ensure!(now.threads <= then.threads, "{name}: {now:?}, before {then:?}");
            // A tenth, and what an allocator keeps in its arenas once each of them has been used.
            let most = then.resident_kib + then.resident_kib / 10 + 4096;
            ensure!(now.resident_kib <= most, "{name}: {now:?}, before {then:?}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pins, {} tracked connections", self.pins, self.tracked)?;
        for (name, Held { descriptors, threads, resident_kib }) in &self.processes {
            write!(f, "; {name}: {descriptors} descriptors, {threads} threads, {resident_kib} KiB")?;
        }
        Ok(())
    }
}

impl Held {
    fn of(pid: u32) -> Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let status = fs::read_to_string(folder.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(Self {
            descriptors: fs::read_dir(folder.join("fd"))?.count(),
            threads: fs::read_dir(folder.join("task"))?.count(),
            resident_kib: resident.parse()?,
        })
    }
}

/// Everything that is pinned for a node.
fn pins(cluster: &Cluster, node: &Node) -> Result<usize> {
    fn count(folder: &Path) -> Result<usize> {
        let mut pins = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            pins += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
        }
        Ok(pins)
    }
    let name = format!("{}{}", clean::prefix(cluster.name()), node.name());
    count(&Path::new(clean::BPF_FOLDER).join(name)).context("counting pins")
}

/// How many connections conntrack follows in a node's namespace.
fn tracked(node: &Node) -> Result<usize> {
    node.namespace().on_thread(|| match fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count") {
        Ok(text) => Ok(text.trim().parse()?),
        Err(_absent) => Ok(0),
    })
}
