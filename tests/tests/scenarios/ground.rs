// SPDX-License-Identifier: Apache-2.0
//! The lab under test itself, without any mesh: were its links, programs or sniffer wrong, no other scenario would mean
//! anything.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use hickory_proto::rr::RecordType;
use lab::{
    Settings, clean, dns, echo, eventually, http,
    net::{Namespace, Sniffer, addresses, link},
    process::{self, Launch, Process},
    record::{Birth, Record, Records},
};

const SOON: Duration = Duration::from_secs(10);

/// One check of the ground; it makes its own namespaces.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) play: fn() -> BoxFuture<'static, Result<()>>,
}

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        vec![$(Check { name: stringify!($name), play: || Box::pin($name()) }),*]
    };
}

pub(crate) fn all() -> Vec<Check> {
    checks![
        hosts_behind_two_nodes_reach_each_other_over_both_families,
        the_sniffer_sees_what_crosses_a_link_and_nothing_else,
        a_program_runs_in_its_namespace_and_ends_with_the_lab,
        what_a_crashed_lab_has_left_is_removed_by_the_next,
        a_closure_that_panics_in_a_namespace_is_an_error,
    ]
}

/// Two nodes with a pod each, of a lab that has nothing else.
struct Ground {
    lab: &'static str,
    pods: [Namespace; 2],
    nodes: Vec<Namespace>,
    records: Arc<Records>,
    logs: PathBuf,
}

impl Ground {
    async fn make(lab: &'static str) -> Result<Self> {
        clean::remove(lab)?;
        let settings = Settings::from_environment()?;
        let logs = settings.state.join(lab);
        std::fs::create_dir_all(&logs)?;
        let records = Arc::new(Records::begin(lab, &logs)?);
        let fabric = link::fabric(&format!("{}fabric", clean::prefix(lab))).await?;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for number in [1, 2] {
            let node = link::host(&format!("{}node-{number}", clean::prefix(lab))).await?;
            link::join_fabric(&fabric, &node, number, &[1, 2]).await?;
            link::forward(&node)?;
            let pod = link::host(&format!("{}pod-{number}", clean::prefix(lab))).await?;
            let far = (&pod, addresses::pod(number, 1));
            link::connect_pod((&node, addresses::fabric(number)), "pod1", far).await?;
            nodes.push(node);
            pods.push(pod);
        }
        let pods = pods.try_into().map_err(|pods| anyhow::anyhow!("not two pods: {pods:?}"))?;
        Ok(Self { lab, pods, nodes, records, logs })
    }

    fn launch(&self, name: &str, namespace: &Namespace, arguments: &[&str]) -> Result<Launch> {
        Ok(Launch {
            name: name.to_owned(),
            program: Settings::from_environment()?.binary("lab-app")?,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: Vec::new(),
            namespace: Some(namespace.clone()),
            resolv_conf: None,
            log: self.logs.join(format!("{name}.log")),
        })
    }

    async fn serve(&self, pod: &Namespace, arguments: &[&str]) -> Result<Process> {
        let process = Process::start(self.launch("serve", pod, arguments)?, &self.records)?;
        let local = SocketAddr::from(([127, 0, 0, 1], echo::HTTP));
        process
            .ready(SOON, async || pod.run(async move || http::get(local, "/").await.map(drop)).await)
            .await?;
        Ok(process)
    }

    fn end(self) -> Result<clean::Removed> {
        self.records.close();
        clean::remove(self.lab)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.records.close();
        // After `end` there is nothing left; after a failure the next run would find the rest.
        drop(clean::remove(self.lab));
    }
}

async fn hosts_behind_two_nodes_reach_each_other_over_both_families() -> Result<()> {
    let ground = Ground::make("ground1").await?;
    let [client, server] = &ground.pods;
    let process = ground.serve(server, &["serve", "--name", "far"]).await?;
    let (from, to) = (addresses::pod(1, 1), addresses::pod(2, 1));
    for (from, to) in from.both().into_iter().zip(to.both()) {
        let target = SocketAddr::new(to, echo::HTTP);
        let body = client.run(async move || http::get(target, "/some?thing").await).await?;
        let echo: echo::Echo = serde_json::from_str(&body)?;
        ensure!(echo.peer.ip() == from && echo.local.ip() == to && echo.path == "/some?thing", "{echo:?}");
        let body = ground.nodes[1].run(async move || http::get(target, "/").await).await?;
        let echo: echo::Echo = serde_json::from_str(&body)?;
        ensure!(addresses::fabric(2).both().contains(&echo.peer.ip()), "the node came as {}", echo.peer);
        let call =
            ground.launch("call", client, &["call", &format!("http://{target}/"), "--body", "12345"])?;
        let output = process::output(call, SOON).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.starts_with("200") && text.contains("\"received\":5"), "{text}");
        let tcp = SocketAddr::new(to, echo::TCP).to_string();
        let check = ["checksum", "--target", &tcp, "--connections=50", "--bytes=100000", "--seconds=20"];
        let output =
            process::output(ground.launch("checksum", client, &check)?, Duration::from_secs(30)).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("\"ok\":50"), "{text}");
        let url = format!("http://{target}/");
        let load = ["load", &url, "--seconds=2", "--rate=200", "--connections=4"];
        let output = process::output(ground.launch("load", client, &load)?, SOON).await?;
        let result: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(result["failed"] == 0 && result["ok"].as_u64().is_some_and(|ok| ok > 100), "{result}");
    }
    let status = process.terminate(SOON).await?;
    ensure!(status.success(), "serve ended with {status}");
    ground.end().map(drop)
}

async fn the_sniffer_sees_what_crosses_a_link_and_nothing_else() -> Result<()> {
    let ground = Ground::make("ground2").await?;
    let [client, server] = &ground.pods;
    let _server = ground.serve(server, &["serve", "--name", "far"]).await?;
    let (crossing, local) = ("/crosses-the-fabric-in-plaintext", "/stays-where-it-is");
    let everything = Sniffer::everything(&ground.nodes[0], "eth0")?;
    let marked = Sniffer::looking_for(&ground.nodes[1], "eth0", &[crossing.as_bytes()])?;
    let far = SocketAddr::new(addresses::pod(2, 1).both()[1], echo::HTTP);
    client.run(async move || http::get(far, crossing).await).await?;
    let near = SocketAddr::from(([127, 0, 0, 1], echo::HTTP));
    server.run(async move || http::get(near, local).await).await?;
    let (everything, marked) = (everything.stop()?, marked.stop()?);
    // The request goes out, the sample application's answer repeats the path.
    let count = |marker: &str| everything.with(marker.as_bytes());
    ensure!(count(crossing) == 2 && count(local) == 0, "{} and {}", count(crossing), count(local));
    ensure!(marked.frames.len() == 2 && marked.seen > 6, "{} of {}", marked.frames.len(), marked.seen);
    let request = everything
        .frames
        .iter()
        .find(|frame| frame.outgoing && lab::net::packet::contains(&frame.bytes, crossing.as_bytes()));
    let request = request.and_then(lab::net::sniffer::Frame::packet).context("no readable request")?;
    ensure!(request.tcp().is_some_and(|(_, to)| to == far), "{request:?}");
    ground.end().map(drop)
}

async fn a_program_runs_in_its_namespace_and_ends_with_the_lab() -> Result<()> {
    let ground = Ground::make("ground3").await?;
    let server = ["dns-server", "--record=some.example=192.0.2.7", "--record=some.example=2001:db8::7"];
    let process = Process::start(ground.launch("dns", &ground.pods[1], &server)?, &ground.records)?;
    let at = SocketAddr::new(addresses::pod(2, 1).both()[0], 53);
    for (over, kind, expected) in
        [(dns::Over::Udp, RecordType::A, "192.0.2.7"), (dns::Over::Tcp, RecordType::AAAA, "2001:db8::7")]
    {
        let answer = eventually(SOON, "the DNS server's answer", async || {
            ground.pods[0].run(async move || dns::ask(at, "some.example", kind, over).await).await
        });
        ensure!(answer.await?.addresses == [expected.parse::<std::net::IpAddr>()?]);
    }
    let birth =
        process.pid().and_then(|pid| Birth::of(i32::try_from(pid).ok()?)).context("it does not run")?;
    process.kill()?;
    ensure!(!birth.alive(), "it runs after it was killed");
    process.start_again()?;
    let birth =
        process.pid().and_then(|pid| Birth::of(i32::try_from(pid).ok()?)).context("it does not run again")?;
    drop(process);
    ensure!(!birth.alive(), "it runs after the end of its handle");
    ground.end().map(drop)
}

async fn what_a_crashed_lab_has_left_is_removed_by_the_next() -> Result<()> {
    let ground = Ground::make("ground4").await?;
    let process = ground.serve(&ground.pods[0], &["serve", "--name", "left"]).await?;
    let record = Record::read("ground4")?.context("no record")?;
    let [left] = record.processes.as_slice() else { anyhow::bail!("not one process: {record:?}") };
    let birth = left.birth;
    ensure!(birth.alive(), "the record names no running process");
    // As after a crash: nobody kills anything.
    std::mem::forget(process);
    let removed = ground.end()?;
    ensure!(removed.processes == 1 && removed.namespaces == 5, "{removed:?}");
    ensure!(
        !birth.alive() && Namespace::with_prefix(&clean::prefix("ground4"))?.is_empty(),
        "something stayed"
    );
    ensure!(clean::remove("ground4")? == clean::Removed::default(), "there was more");
    Ok(())
}

async fn a_closure_that_panics_in_a_namespace_is_an_error() -> Result<()> {
    let ground = Ground::make("ground5").await?;
    let empty: Vec<u8> = Vec::new();
    let outcome = ground.pods[0].run(async move || Ok(empty[usize::from(empty.is_empty()) - 1])).await;
    ensure!(outcome.is_err_and(|error| error.to_string().contains("panicked")), "no error");
    ground.end().map(drop)
}
