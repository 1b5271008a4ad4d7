// SPDX-License-Identifier: Apache-2.0
//! Parts that die: nothing of an enrolled pod leaves in plaintext, what needs no dead part goes on, and everything comes
//! back by itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_proto::rr::RecordType;
use lab::{Cluster, Pod, dns::Over, echo, process::Process};
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::timeout};

use crate::{
    policy::ask,
    scene::{Scenario, Scene, reaches, refused, scenarios},
};

/// What a sniffer looks for: it fills every payload of the scenario, so no cut of a stream can hide it.
const MARKER: &str = "plaintext-marker-0123456789";
/// Connections that are tried in each state of the parts.
const ENOUGH: u64 = 6;
/// How long traffic that must go on is watched.
const WATCH: Duration = Duration::from_secs(1);
/// How long everything may take to work again after the last part has come back.
const RECOVERY: Duration = Duration::from_secs(40);

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![
        nothing_leaves_in_plaintext_whatever_dies_in_whatever_order,
        new_connections_and_names_work_within_two_seconds_of_ztunnels_return,
        traffic_goes_on_while_the_agent_and_control_are_dead,
        pods_of_a_dead_node_are_reached_by_nobody_and_other_nodes_do_not_notice,
    ];
    let long =
        scenarios![every_order_on_both_nodes_with_further_deaths_on_the_way_back_leaves_nothing_in_plaintext];
    all.extend(long.into_iter().map(|scenario| Scenario { long: true, ..scenario }));
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Ztunnel,
    Agent,
    Control,
}

const ORDERS: [[Part; 3]; 6] = [
    [Part::Ztunnel, Part::Agent, Part::Control],
    [Part::Ztunnel, Part::Control, Part::Agent],
    [Part::Agent, Part::Ztunnel, Part::Control],
    [Part::Agent, Part::Control, Part::Ztunnel],
    [Part::Control, Part::Ztunnel, Part::Agent],
    [Part::Control, Part::Agent, Part::Ztunnel],
];

/// A lab whose parts may be killed, with a pod on each node.
struct Victims {
    cluster: Cluster,
    client: Pod,
    server: Pod,
}

impl Victims {
    async fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::start(name).await?;
        let server = cluster.node("b").pod("server").service_account("server").captured().start().await?;
        server.serve().await?;
        let client = cluster.node("a").pod("client").service_account("client").captured().start().await?;
        client.get(server.v4(), "/").await?;
        Ok(Self { cluster, client, server })
    }

    fn process(&self, part: Part) -> Arc<Process> {
        self.process_on("a", part)
    }

    fn process_on(&self, node: &str, part: Part) -> Arc<Process> {
        match part {
            Part::Ztunnel => self.cluster.node(node).ztunnel(),
            Part::Agent => self.cluster.node(node).agent(),
            Part::Control => self.cluster.control().process(),
        }
    }

    /// One connection and one line, to the echo server on the other node.
    async fn talk(&self) -> Result<()> {
        let mut stream = self.client.connect(SocketAddr::new(self.server.v4(), echo::TCP)).await?;
        ask(&mut stream, MARKER).await?;
        Ok(stream.shutdown().await?)
    }

    async fn talk_soon(&self, within: Duration) -> Result<Duration> {
        let started = Instant::now();
        lab::eventually(within, "a new connection", async || {
            timeout(Duration::from_millis(500), self.talk()).await.context("no answer")?
        })
        .await?;
        Ok(started.elapsed())
    }
}

async fn nothing_leaves_in_plaintext_whatever_dies_in_whatever_order(_shared: Scene) -> Result<()> {
    under_watch("dying", async |victims, tries| {
        for order in ORDERS {
            let deaths = Deaths { node: "a", order, further: 0 };
            play(victims, deaths, tries).await.with_context(|| format!("{deaths:?}"))?;
        }
        Ok(())
    })
    .await
}

async fn every_order_on_both_nodes_with_further_deaths_on_the_way_back_leaves_nothing_in_plaintext(
    _shared: Scene,
) -> Result<()> {
    under_watch("matrix", async |victims, tries| {
        for node in ["a", "b"] {
            for order in ORDERS {
                for further in 0..=2 {
                    let deaths = Deaths { node, order, further };
                    play(victims, deaths, tries).await.with_context(|| format!("{deaths:?}"))?;
                }
            }
        }
        Ok(())
    })
    .await
}

/// Plays with connections being tried all the time and sniffers on both nodes.
async fn under_watch(name: &str, play: impl AsyncFnOnce(&Victims, &Tries) -> Result<()>) -> Result<()> {
    let victims = Arc::new(Victims::start(name).await?);
    let sniffers = [
        victims.cluster.node("a").sniff_for(&[MARKER.as_bytes()])?,
        victims.cluster.node("b").sniff_for(&[MARKER.as_bytes()])?,
    ];
    let tries = Arc::new(Tries::default());
    let mut load = JoinSet::new();
    for _ in 0..3 {
        load.spawn(Arc::clone(&tries).go_on(Arc::clone(&victims)));
    }
    play(&victims, &tries).await?;
    load.shutdown().await;
    for sniffer in sniffers {
        let capture = sniffer.stop()?;
        ensure!(capture.seen > 100, "a sniffer saw only {} frames", capture.seen);
        if let Some(frame) = capture.frames.first() {
            bail!("{} frames in plaintext, the first: {:?}", capture.frames.len(), frame.packet());
        }
    }
    victims.cluster.clone().stop()
}

/// Connections that are tried without end, told apart by what was dead when they began.
#[derive(Default)]
struct Tries {
    state: AtomicUsize,
    /// By state: how many have ended, and how many of them well.
    ended: Mutex<BTreeMap<usize, (u64, u64)>>,
}

impl Tries {
    async fn go_on(self: Arc<Self>, victims: Arc<Victims>) {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        loop {
            pace.tick().await;
            let began_in = self.state.load(Ordering::SeqCst);
            let well = matches!(timeout(Duration::from_secs(1), victims.talk()).await, Ok(Ok(())));
            let mut ended = self.ended.lock();
            let (all, good) = ended.entry(began_in).or_default();
            *all += 1;
            *good += u64::from(well);
        }
    }

    /// Of [`ENOUGH`] connections or more that begin now, how many end well.
    async fn watch(&self) -> Result<u64> {
        let state = self.state.fetch_add(1, Ordering::SeqCst) + 1;
        lab::eventually(RECOVERY, "enough connections", async || {
            let (all, good) = self.ended.lock().get(&state).copied().unwrap_or_default();
            ensure!(all >= ENOUGH, "{all} have ended");
            Ok(good)
        })
        .await
    }
}

/// Who dies.
#[derive(Clone, Copy, Debug)]
struct Deaths {
    node: &'static str,
    order: [Part; 3],
    /// How often each dies once more while it begins again.
    further: usize,
}

async fn play(victims: &Victims, deaths: Deaths, tries: &Tries) -> Result<()> {
    let Deaths { node, order, further } = deaths;
    let mut dead = Vec::new();
    for part in order {
        victims.process_on(node, part).kill()?;
        dead.push(part);
        let made = tries.watch().await?;
        if dead.contains(&Part::Ztunnel) {
            ensure!(made == 0, "{made} connections were made without a ztunnel ({dead:?} dead)");
        } else {
            ensure!(made > 0, "no connection was made though only {dead:?} are dead");
        }
    }
    for part in order {
        let process = victims.process_on(node, part);
        for _ in 0..further {
            begin_and_die(&process).await.with_context(|| format!("{part:?}"))?;
        }
        process.start_again()?;
    }
    let taken = victims.talk_soon(RECOVERY).await?;
    ensure!(taken < RECOVERY, "{taken:?}");
    victims.cluster.control().ready().await?;
    victims.cluster.node(node).agent_ready().await?;
    victims.cluster.node(node).ztunnel_ready().await?;
    victims.cluster.settle().await.context("the mesh follows changes again")
}

/// Starts a part and kills it as soon as it says anything.
async fn begin_and_die(process: &Process) -> Result<()> {
    let said = process.log().len();
    process.start_again()?;
    lab::eventually(RECOVERY, "a first word", async || {
        ensure!(process.log().len() > said, "it is silent");
        Ok(())
    })
    .await?;
    process.kill()
}

async fn new_connections_and_names_work_within_two_seconds_of_ztunnels_return(_shared: Scene) -> Result<()> {
    const ROUNDS: usize = 20;
    let victims = Victims::start("return").await?;
    let service = victims.cluster.service("server").create().await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let ztunnel = victims.process(Part::Ztunnel);
        ztunnel.kill()?;
        let started = Instant::now();
        ztunnel.start_again()?;
        victims.talk_soon(RECOVERY).await?;
        lab::eventually(RECOVERY, "a name", async || {
            let host = service.host();
            let answer =
                timeout(Duration::from_millis(500), victims.client.resolve(&host, RecordType::A, Over::Udp));
            ensure!(!answer.await.context("no answer")??.addresses.is_empty(), "no address");
            Ok(())
        })
        .await?;
        times.push(started.elapsed());
    }
    times.sort();
    // One of ten may fall into a moment in which the machine does something else.
    let late = times.iter().filter(|time| **time > Duration::from_secs(2)).count();
    ensure!(late <= ROUNDS / 10, "{times:?}");
    victims.cluster.stop()
}

async fn traffic_goes_on_while_the_agent_and_control_are_dead(_shared: Scene) -> Result<()> {
    let victims = Victims::start("goeson").await?;
    let mut open = victims.client.connect(SocketAddr::new(victims.server.v6(), echo::TCP)).await?;
    ask(&mut open, MARKER).await?;
    for part in [Part::Agent, Part::Control] {
        victims.process(part).kill()?;
        let killed = Instant::now();
        while killed.elapsed() < WATCH {
            ask(&mut open, MARKER).await.with_context(|| format!("open connection, {part:?} dead"))?;
            victims.talk().await.with_context(|| format!("new connection, {part:?} dead"))?;
        }
    }
    for part in [Part::Agent, Part::Control] {
        victims.process(part).start_again()?;
    }
    victims.cluster.control().ready().await?;
    victims.cluster.node("a").agent_ready().await?;
    // A pod that is started now needs everything that had died.
    let late = victims.cluster.node("a").pod("late").service_account("late").captured().start().await?;
    late.get(victims.server.v4(), "/").await?;
    ask(&mut open, MARKER).await?;
    victims.cluster.stop()
}

async fn pods_of_a_dead_node_are_reached_by_nobody_and_other_nodes_do_not_notice(
    _shared: Scene,
) -> Result<()> {
    let victims = Victims::start("elsewhere").await?;
    let on = |node: &str, name: &str| victims.cluster.node(node).pod(name).service_account(name);
    let closed = on("a", "closed").captured().start().await?;
    closed.serve().await?;
    let friend = on("b", "friend").captured().start().await?;
    let stranger = on("b", "stranger").start().await?;
    reaches(&stranger, &closed).await?;
    reaches(&friend, &closed).await?;
    let mut open = friend.connect(SocketAddr::new(victims.server.v4(), echo::TCP)).await?;
    ask(&mut open, MARKER).await?;
    for part in [Part::Ztunnel, Part::Agent, Part::Control] {
        victims.process(part).kill()?;
    }
    let nobody = tokio::try_join!(
        refused(&stranger, closed.v4()),
        refused(&stranger, closed.v6()),
        refused(&friend, closed.v4()),
        refused(&victims.client, victims.server.v6()),
        async {
            let started = Instant::now();
            while started.elapsed() < WATCH {
                ask(&mut open, MARKER).await.context("an open connection on the other node")?;
                reaches(&friend, &victims.server).await.context("new connections on the other node")?;
            }
            Ok(())
        },
    );
    nobody.context("with all parts of one node and control dead")?;
    for part in [Part::Control, Part::Agent, Part::Ztunnel] {
        victims.process(part).start_again()?;
    }
    for client in [&stranger, &friend] {
        // A call that began too early waits for a SYN that is sent again ever more rarely: a new one does not.
        lab::eventually(RECOVERY, "the dead node's return", async || {
            timeout(Duration::from_secs(5), reaches(client, &closed)).await.context("no answer")?
        })
        .await?;
    }
    ask(&mut open, MARKER).await?;
    victims.cluster.stop()
}
