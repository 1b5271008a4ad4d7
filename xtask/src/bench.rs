// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: what the mesh costs, measured beside the same pods without it; `bench control`: what its control
//! plane costs, beside another; `bench waypoint`: what its L7 proxy costs, beside others; `bench instructions`: how long the
//! hot paths are. All configurations take turns at every figure, so that a machine that gets slower gets
//! slower for all of them; what counts are the ratios.

mod base;
mod control;
mod cost;
pub(crate) mod instructions;
mod load;
mod paced;
mod place;
mod report;
mod waypoint;
mod web;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use lab::{
    Settings,
    config::{raise_descriptors, require_root},
};

use serde_json::json;

use crate::{
    lab::runtime,
    packages::{self, Package},
    step::{root, run_in, say, step},
};
use load::Tools;
use paced::Pace;
use place::Configuration;
use report::{Figure, Report};

/// What runs in the lab.
const PROGRAMS: [&str; 4] = ["ztunnel", "control", "node-agent", "lab-app"];
/// Connections that make the peak.
const CONNECTIONS: u32 = 64;
/// Connections that share a fixed rate.
const PACED: u32 = 32;
/// Connections before memory is read a second time, so that what the first ones load once is not counted as theirs.
const FIRST: usize = 100;
/// Connections that stay idle while memory is read a third time.
const IDLE: usize = 2000;

const IPERF: Package = Package { name: "iperf3", program: "iperf3" };

/// Measure what the mesh costs: the data plane, or with a subcommand something else.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    data_plane: DataPlane,
}

/// What else is measured.
#[derive(Subcommand)]
enum Other {
    Control(control::Control),
    Instructions(instructions::Instructions),
    Waypoint(waypoint::Measured),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        match &self.other {
            Some(Other::Control(control)) => control.run(),
            Some(Other::Instructions(instructions)) => instructions.run(),
            Some(Other::Waypoint(waypoint)) => waypoint.run(),
            None => self.data_plane.run(),
        }
    }
}

/// Connections and requests through both proxies.
#[derive(Args)]
struct DataPlane {
    /// How often every figure is measured in every configuration.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Folder with the binaries of another build, to be measured beside this one.
    #[arg(long)]
    before: Option<PathBuf>,
    /// A commit that is built to be measured beside this tree.
    #[arg(long, value_name = "BASE", conflicts_with = "before")]
    compare: Option<String>,
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Resident memory, idle and of connections that are held.
    Memory,
    /// Requests per second over kept connections.
    Requests,
    /// Latency of one request at a time.
    Alone,
    /// Latency at a fixed rate.
    Rate,
    /// New connections per second.
    Connections,
    /// Throughput.
    Streams,
}

impl DataPlane {
    fn run(&self) -> Result<()> {
        require_root("bench")?;
        raise_descriptors()?;
        packages::ensure_installed(&[packages::WRK, IPERF])?;
        let nginx = packages::unpacked("nginx", "/usr/sbin/nginx")?;
        let mut settings = Settings::from_environment()?;
        // First: it leaves its programs where those of this tree belong.
        let compared = self.compare.as_deref().map(base::binaries).transpose()?;
        let before = compared.or_else(|| self.before.clone());
        if !settings.chosen {
            step("release build", || build(&root(), &PROGRAMS))?;
            settings.binaries = released()?;
        }
        if settings.peer_ztunnel.is_none() {
            settings.peer_ztunnel = packages::on_path("ztunnel");
        }
        let tools = Tools { nginx, envoy: envoy()?, seconds: self.seconds };
        runtime()?.block_on(async {
            tokio::select! {
                outcome = self.measure(&settings, &tools, before.as_deref()) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
            }
        })
    }

    async fn measure(&self, settings: &Settings, tools: &Tools, before: Option<&Path>) -> Result<()> {
        place::clear()?;
        let places = place::all(settings, tools, before).await?;
        let mut report = Report::new(places.iter().map(|place| place.name).collect());
        if self.wants(Part::Memory) {
            say("memory");
            for place in places.iter().filter(|place| place.proxied()) {
                report.add_all(place.name, memory(place).await?);
            }
        }
        let mut rate = None;
        for number in 1..=self.rounds {
            say(format!("round {number} of {}", self.rounds));
            self.round(&places, tools, &mut report, &mut rate).await?;
        }
        let rate = rate.unwrap_or_default();
        report.show(&format!("fixed rate: {rate:.0} requests/s"));
        let conditions = json!({
            "rounds": self.rounds, "seconds": self.seconds, "paced_requests_per_second": rate,
        });
        let file = report.write(&root().join("target/bench"), &conditions)?;
        say(format!("\nwritten to {}", file.display()));
        for place in places {
            place.close()?;
        }
        Ok(())
    }
}

impl DataPlane {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Every figure once in every configuration.
    async fn round(
        &self,
        places: &[Configuration],
        tools: &Tools,
        report: &mut Report,
        rate: &mut Option<f64>,
    ) -> Result<()> {
        // The fixed rate is a share of the peak.
        if self.wants(Part::Requests) || self.wants(Part::Rate) {
            for place in places {
                report.add_all(place.name, peak(place, tools).await?);
            }
        }
        if self.wants(Part::Alone) {
            for place in places {
                report.add_all(place.name, alone(place, tools).await?);
            }
        }
        if self.wants(Part::Rate) {
            let rate = *rate.get_or_insert_with(|| report.least(Figure::Requests) / 2.0);
            for place in places {
                report.add_all(place.name, at_rate(place, tools, rate).await?);
            }
        }
        if self.wants(Part::Connections) {
            for place in places {
                let fresh = load::wrk(place.site(tools), CONNECTIONS, true).await?;
                report.add(place.name, Figure::Connections, fresh.rate());
            }
        }
        if self.wants(Part::Streams) {
            for place in places {
                report.add_all(place.name, streams(place, tools).await?);
            }
        }
        Ok(())
    }
}

/// Envoy, where one is given or on PATH, with what its certificates are asked for.
fn envoy() -> Result<Option<PathBuf>> {
    let envoy = match std::env::var_os("AMBIT_BENCH_ENVOY").map(PathBuf::from) {
        Some(given) => {
            ensure!(given.is_file(), "AMBIT_BENCH_ENVOY names {}, which is no file", given.display());
            Some(given)
        }
        None => packages::on_path("envoy"),
    };
    if envoy.is_some() {
        packages::ensure_installed(&packages::STRANGERS)?;
    }
    Ok(envoy)
}

/// Where release binaries are, seen from this program's own folder.
fn released() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let beside = program.parent().context("this program has no folder")?;
    Ok(beside.with_file_name("release"))
}

/// Builds the release of a tree, this one or another, where this one's is.
fn build(tree: &Path, binaries: &[&str]) -> Result<()> {
    let folder = released()?;
    let target = folder.parent().and_then(Path::to_str).context("the path of the binaries is not UTF-8")?;
    let binaries: Vec<&str> = binaries.iter().flat_map(|name| ["--bin", name]).collect();
    // The whole workspace, so that it resolves the same features as every other build.
    let whole = ["build", "--release", "--workspace", "--locked", "--target-dir", target];
    run_in(tree, "cargo", &[whole.as_slice(), &binaries].concat())
}

/// Resident memory without and with idle connections, before anything else was asked of the proxies.
async fn memory(place: &Configuration) -> Result<Vec<(Figure, f64)>> {
    let pids = place.proxies()?;
    let target = place.http;
    let grown = place
        .client
        .run(async move || {
            let idle = cost::resident(&pids)?;
            let first = paced::hold(target, FIRST)?;
            let before = cost::resident(&pids)?;
            let held = paced::hold(target, IDLE)?;
            let after = cost::resident(&pids)?;
            drop((first, held));
            Ok(idle.into_iter().zip(before.into_iter().zip(after)).collect::<Vec<_>>())
        })
        .await?;
    let sides = [(Figure::IdleClient, Figure::HeldClient), (Figure::IdleServer, Figure::HeldServer)];
    let mut figures = Vec::new();
    for ((idle, held), (none, (before, after))) in sides.into_iter().zip(grown) {
        figures.push((idle, none));
        figures.push((held, (after - before) * 1000.0 / IDLE as f64));
    }
    Ok(figures)
}

async fn peak(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let pids = place.proxies()?;
    let before = cost::processor(&pids)?;
    let outcome = load::wrk(place.site(tools), CONNECTIONS, false).await?;
    let mut figures = vec![(Figure::Requests, outcome.rate())];
    if place.proxied() {
        let used = cost::processor(&pids)? - before;
        figures.push((Figure::CpuPerRequests, used.as_secs_f64() * 1e6 / outcome.requests));
    }
    Ok(figures)
}

async fn alone(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let outcome = load::wrk(place.site(tools), 1, false).await?;
    Ok(vec![
        (Figure::AloneP50, outcome.p50),
        (Figure::AloneP99, outcome.p99),
        (Figure::AloneP999, outcome.p999),
    ])
}

async fn at_rate(place: &Configuration, tools: &Tools, rate: f64) -> Result<Vec<(Figure, f64)>> {
    let target = place.http;
    let pace = Pace { connections: PACED, rate, duration: Duration::from_secs(tools.seconds) };
    let latency = place.client.run(async move || paced::measure(target, pace)).await?;
    Ok(vec![
        (Figure::PacedP50, latency.at(0.5)),
        (Figure::PacedP99, latency.at(0.99)),
        (Figure::PacedP999, latency.at(0.999)),
    ])
}

async fn streams(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let pids = place.proxies()?;
    let before = cost::processor(&pids)?;
    let one = load::iperf(place, tools, 1).await?;
    let used = cost::processor(&pids)? - before;
    let eight = load::iperf(place, tools, 8).await?;
    let mut figures = vec![(Figure::OneStream, one.gigabits()), (Figure::EightStreams, eight.gigabits())];
    if place.proxied() {
        figures.push((Figure::CpuPerGigabyte, used.as_secs_f64() * 1e9 / one.bytes));
    }
    Ok(figures)
}
