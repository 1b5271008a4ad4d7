// SPDX-License-Identifier: Apache-2.0
//! Certificates that change under traffic, addresses that change their identity, and a CA that is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Cluster, Node, Pod, Settings,
    cluster::Options,
    echo::{self, Echo},
    http,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    policy::ask,
    scene::{SOON, Scenario, Scene, scenarios},
};

/// Life of certificates in labs that watch them change.
const LIFE: Duration = Duration::from_secs(20);
/// How often an address changes its identity, and how often where there is time.
const MOVES: usize = 20;
const MANY_MOVES: usize = 200;
/// Answers of each owner of the address that are waited for: more than one, so that enough of all can be compared.
const ENOUGH: usize = 4;

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![
        certificates_rotate_under_traffic_without_a_reset,
        certified_identities_see_nothing_of_a_control_plane_that_is_away,
        an_address_that_moves_to_another_identity_gets_no_byte_that_was_meant_for_the_first,
    ];
    let long = scenarios![an_address_may_move_two_hundred_times_between_identities];
    all.extend(long.into_iter().map(|scenario| Scenario { long: true, ..scenario }));
    all
}

async fn short_lived(name: &str) -> Result<(Cluster, Pod, Pod)> {
    let options = Options { certificate_life: Some(LIFE), ..Options::default() };
    let cluster = Cluster::start_with(name, Settings::from_environment()?, options).await?;
    let server = cluster.node("b").pod("server").service_account("server").captured().start().await?;
    server.serve().await?;
    let client = cluster.node("a").pod("client").service_account("client").captured().start().await?;
    client.get(server.v4(), "/").await?;
    Ok((cluster, client, server))
}

async fn certificates_rotate_under_traffic_without_a_reset(_shared: Scene) -> Result<()> {
    let (cluster, client, server) = short_lived("rotation").await?;
    let mut open = client.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    let mut serials: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let started = Instant::now();
    // Renewal is at half of a life: each identity has at least its third certificate after one and a half.
    while started.elapsed() < LIFE.mul_f32(1.6) {
        ask(&mut open, "still here").await.context("on the open connection")?;
        client.get(server.v4(), "/").await.context("on a new connection")?;
        client.get(server.v6(), "/").await.context("on a new connection")?;
        for node in cluster.nodes() {
            for (identity, serial) in certificates(&node).await? {
                serials.entry(identity).or_default().insert(serial);
            }
        }
    }
    for pod in [&client, &server] {
        let seen = serials.get(&pod.identity()).map_or(0, BTreeSet::len);
        ensure!(seen >= 3, "{} had {seen} certificates: {serials:?}", pod.identity());
    }
    cluster.stop()
}

/// Identities and serial numbers of the certificates that a node holds.
async fn certificates(node: &Node) -> Result<Vec<(String, String)>> {
    let dump = node.config_dump().await?;
    let list = dump["certificates"].as_array().context("no list of certificates")?;
    let own = |certificate: &Value| {
        let identity = certificate["identity"].as_str()?.to_owned();
        let serial = certificate["certChain"][0]["serialNumber"].as_str()?.to_owned();
        Some((identity, serial))
    };
    Ok(list.iter().filter_map(own).collect())
}

async fn certified_identities_see_nothing_of_a_control_plane_that_is_away(_shared: Scene) -> Result<()> {
    let (cluster, client, server) = short_lived("away").await?;
    for round in 0..2 {
        cluster.control().process().kill()?;
        let killed = Instant::now();
        while killed.elapsed() < LIFE.mul_f32(0.45) {
            client
                .get(server.v4(), "/")
                .await
                .with_context(|| format!("in round {round}, control being away"))?;
            let left = first_expiry(&cluster.node("a")).await?;
            ensure!(left > 0.0 && left <= LIFE.as_secs_f64(), "{left} s to the first expiry");
        }
        cluster.control().process().start_again()?;
        cluster.control().ready().await?;
        // The next absence begins when this one is made good: as soon as nothing is due any more on either node.
        lab::eventually(LIFE * 3, "renewed certificates", async || {
            for node in cluster.nodes() {
                let first = first_expiry(&node).await?;
                ensure!(
                    first > LIFE.as_secs_f64() * 0.7,
                    "the first of node {} expires in {first} s",
                    node.name()
                );
            }
            Ok(())
        })
        .await?;
    }
    cluster.stop()
}

/// Seconds to the first expiry of a certificate that a node holds.
async fn first_expiry(node: &Node) -> Result<f64> {
    let metrics = node.metrics().await?;
    let left = metrics.with("ambit_certificate_expiry_seconds", &[]).map(|sample| sample.value);
    Ok(left.fold(f64::INFINITY, f64::min))
}

/// A request that was answered: from which address of the client, and by which pod.
type Answered = Arc<Mutex<Vec<(SocketAddr, String)>>>;

async fn an_address_that_moves_to_another_identity_gets_no_byte_that_was_meant_for_the_first(
    scene: Scene,
) -> Result<()> {
    moves(scene, MOVES).await
}

async fn an_address_may_move_two_hundred_times_between_identities(scene: Scene) -> Result<()> {
    moves(scene, MANY_MOVES).await
}

/// Gives one address to pods of two service accounts in turn, under load: each request is answered by a pod of the
/// identity that the client's ztunnel had decided for its connection.
async fn moves(scene: Scene, count: usize) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let first = scene.server("b", "one-0").await?;
    let (host, target) = (first.host(), SocketAddr::new(first.v4(), echo::HTTP));
    first.delete().await?;
    let answered = Answered::default();
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        load.spawn(async move {
            loop {
                // Most calls fail: the address is between two identities. Those that succeed count.
                drop(timeout(Duration::from_millis(500), call(&client, target, &answered)).await);
            }
        });
    }
    for number in 0..count {
        let account = if number.is_multiple_of(2) { "one" } else { "two" };
        let name = format!("{account}-{number}");
        let pod = scene.node("b").pod(&name).namespace(scene.namespace()).service_account(account).host(host);
        let pod = pod.captured().start().await?;
        pod.serve().await?;
        let before = answered.lock().len();
        lab::eventually(SOON, "traffic to the new owner of the address", async || {
            let answered = answered.lock();
            let by_it = answered.iter().skip(before).filter(|(_, by)| *by == name).count();
            ensure!(by_it >= ENOUGH, "{by_it} by {name}");
            Ok(())
        })
        .await?;
        pod.delete().await?;
    }
    load.shutdown().await;
    let decided = decided_identities(&scene.node("a"));
    let answered = std::mem::take(&mut *answered.lock());
    let mut compared = 0;
    for (from, by) in &answered {
        let Some(identity) = decided.get(&from.to_string()) else { continue };
        let account = by.split('-').next().unwrap_or_default();
        ensure!(
            identity.ends_with(&format!("/sa/{account}")),
            "{by} answered {from}, decided was {identity}"
        );
        compared += 1;
    }
    ensure!(compared > count, "only {compared} of {} answers could be compared", answered.len());
    Ok(())
}

async fn call(client: &Pod, target: SocketAddr, answered: &Answered) -> Result<()> {
    let stream = client.connect(target).await?;
    let from = stream.local_addr()?;
    let request = ::http::Request::get("/").header("host", "address").body(http_body_util::Full::default())?;
    let answer = http::exchange(stream, request).await?;
    let echo: Echo = serde_json::from_slice(answer.body())?;
    answered.lock().push((from, echo.name));
    Ok(())
}

/// Whom ztunnel decided to talk to, by the client's address, as its access log has it.
fn decided_identities(node: &Node) -> BTreeMap<String, String> {
    let complete = node.access_log().into_iter().filter(|access| access.field("direction") == "outbound");
    let pairs =
        complete.map(|access| (access.field("src.addr").to_owned(), access.field("dst.identity").to_owned()));
    let mut decided = BTreeMap::new();
    let mut used_again = BTreeSet::new();
    for (from, identity) in
        pairs.filter(|(from, identity)| !identity.is_empty() && from.parse::<SocketAddr>().is_ok())
    {
        if decided.insert(from.clone(), identity).is_some() {
            used_again.insert(from);
        }
    }
    // Of a port that the client's kernel gave out twice nobody can tell which connection was answered.
    decided.retain(|from, _| !used_again.contains(from));
    decided
}
