// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: what the mesh costs, measured beside the same pods without it; `bench control`: what its control
//! plane costs, beside another; `bench waypoint`: what its L7 proxy costs, beside others; `bench instructions`: how long the
//! hot paths are. All configurations take turns at every figure, so that a machine that gets slower gets
//! slower for all of them; what counts are the ratios.

mod base;
mod beside;
mod control;
mod cost;
mod figure;
pub(crate) mod instructions;
mod load;
mod memory;
mod paced;
mod part;
mod place;
mod policy;
mod report;
mod traffic;
mod tunnels;
mod waypoint;
mod web;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
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
use part::Part;
use place::Configuration;
use report::{Figure, Report};
use tunnels::Opener;

/// What runs in the lab.
const PROGRAMS: [&str; 4] = ["ztunnel", "control", "node-agent", "lab-app"];
/// Connections that make the peak.
const CONNECTIONS: u32 = 64;
/// Connections that share a fixed rate.
const PACED: u32 = 32;

const IPERF: Package = Package { name: "iperf3", program: "iperf3" };
/// Makes keys and certificates.
const OPENSSL: Package = Package { name: "openssl", program: "openssl" };
/// nginx' module for connections of any protocol, and where it is in its package.
const STREAM: (&str, &str) = ("libnginx-mod-stream", "/usr/lib/nginx/modules/ngx_stream_module.so");

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

impl DataPlane {
    fn run(&self) -> Result<()> {
        require_root("bench")?;
        raise_descriptors()?;
        packages::ensure_installed(&[packages::WRK, IPERF])?;
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
        let tools = self.tools()?;
        runtime()?.block_on(async {
            tokio::select! {
                outcome = self.measure(&settings, &tools, before.as_deref()) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
            }
        })
    }

    /// What is not ours, as far as it is wanted.
    fn tools(&self) -> Result<Tools> {
        let nginx = packages::unpacked("nginx", "/usr/sbin/nginx")?;
        let secured = [Part::Requests, Part::Alone, Part::Connections, Part::Streams];
        let secured = secured.into_iter().any(|part| self.wants(part));
        if secured || self.wants(Part::Tunnels) {
            packages::ensure_installed(&[packages::CURL, OPENSSL])?;
        }
        let (package, module) = STREAM;
        let stream = secured.then(|| packages::unpacked(package, module)).transpose()?;
        Ok(Tools { nginx, stream, envoy: envoy()?, seconds: self.seconds })
    }

    async fn measure(&self, settings: &Settings, tools: &Tools, before: Option<&Path>) -> Result<()> {
        place::clear()?;
        let places = place::all(settings, tools, before).await?;
        let mut report = Report::new(places.iter().map(|place| place.name).collect());
        for place in self.turns(&places, Part::Memory) {
            say(format!("memory: {}", place.name));
            report.add_all(place.name, memory::held(place).await?);
        }
        let peak = self.rounds(&places, tools, &mut report).await?;
        // Last and once: it changes what the processes hold.
        for place in self.turns(&places, Part::Workloads) {
            say(format!("workloads: {}", place.name));
            report.add_all(place.name, workloads::measure(place).await?);
        }
        let [half, most] = traffic::RATES.map(|(share, _)| share * peak);
        report.show(&format!("fixed rate: {half:.0} requests/s; 80% rate: {most:.0} requests/s"));
        let conditions = json!({
            "rounds": self.rounds, "seconds": self.seconds, "paced_requests_per_second": half,
            "paced_80_requests_per_second": most,
        });
        let file = report.write(&root().join("target/bench"), &conditions)?;
        say(format!("\nwritten to {}", file.display()));
        for place in places {
            place.close()?;
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The configurations in which a part is measured; none when it is not wanted.
    fn turns<'a>(
        &self,
        places: &'a [Configuration],
        part: Part,
    ) -> impl Iterator<Item = &'a Configuration> + use<'a> {
        let wanted = self.wants(part);
        places.iter().filter(move |place| wanted && part.fits(place.between))
    }

    /// Every figure in every configuration, as often as asked; the least peak of the first round.
    async fn rounds(&self, places: &[Configuration], tools: &Tools, report: &mut Report) -> Result<f64> {
        let mut openers = Vec::new();
        for place in self.turns(places, Part::Tunnels) {
            openers.push((place, Opener::start(place).await?));
        }
        let mut peak = None;
        for number in 1..=self.rounds {
            say(format!("round {number} of {}", self.rounds));
            self.requests(places, tools, report, &mut peak).await?;
            self.bytes(places, tools, report).await?;
            for (place, opener) in &openers {
                report.add_all(place.name, opener.measure(place, tools).await?);
            }
            for place in self.turns(places, Part::Policy) {
                report.add_all(place.name, policy::measure(place).await?);
            }
        }
        Ok(peak.unwrap_or_default())
    }

    /// Requests over kept connections, once.
    async fn requests(
        &self,
        places: &[Configuration],
        tools: &Tools,
        report: &mut Report,
        peak: &mut Option<f64>,
    ) -> Result<()> {
        // The fixed rates are shares of the peak.
        if self.wants(Part::Requests) || self.wants(Part::Rate) {
            for place in places {
                report.add_all(place.name, traffic::peak(place, tools).await?);
            }
        }
        for place in self.turns(places, Part::Alone) {
            report.add_all(place.name, traffic::alone(place, tools).await?);
        }
        let peaks = self.turns(places, Part::Rate);
        let peaks = peaks.filter_map(|place| report.most(place.name, Figure::Requests));
        let least = *peak.get_or_insert_with(|| peaks.reduce(f64::min).unwrap_or_default());
        for (share, figures) in traffic::RATES {
            for place in self.turns(places, Part::Rate) {
                let rate = (share * least, figures);
                report.add_all(place.name, traffic::at_rate(place, tools, rate).await?);
            }
        }
        Ok(())
    }

    /// New connections and bulk, once.
    async fn bytes(&self, places: &[Configuration], tools: &Tools, report: &mut Report) -> Result<()> {
        for place in self.turns(places, Part::Connections) {
            report.add_all(place.name, traffic::connections(place, tools).await?);
        }
        for place in self.turns(places, Part::Streams) {
            report.add_all(place.name, traffic::streams(place, tools).await?);
        }
        for place in self.turns(places, Part::Beside) {
            report.add_all(place.name, beside::measure(place, tools).await?);
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
