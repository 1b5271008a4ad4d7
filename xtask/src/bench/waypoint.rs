// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench waypoint`: what a waypoint costs as a proxy of requests, beside nginx, HAProxy and Envoy with the same
//! route, and beside an Envoy in its place. A waypoint takes nothing but tunnels, so where the others take plain requests its
//! clients' ztunnel is in front of it; the processor time is that of the one proxy alone.

mod envoy;
mod isolation;
mod objects;
mod place;
mod proxy;
mod reload;
mod rules;
mod text;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lab::{
    Settings,
    config::{raise_descriptors, require_root},
};
use serde_json::json;

use super::{
    CONNECTIONS, PACED, build, cost, envoy as envoy_program,
    load::{self, Tools},
    paced::{self, Pace},
    released,
    report::{Figure, Report},
};
use crate::{
    lab::runtime,
    packages,
    step::{root, say, step},
};
use place::{Peers, Place, Scene};
use proxy::Proxy;

/// Every configuration with the one of Ambit's that does what it does.
const COLUMNS: [(&str, Option<&str>); 9] = [
    ("direct", Some("ambit")),
    ("nginx", Some("ambit-in")),
    ("haproxy", Some("ambit-in")),
    ("envoy-plain", Some("ambit-in")),
    ("envoy-in", Some("ambit-in")),
    ("ambit-in", None),
    ("ztunnels", Some("ambit")),
    ("envoy", Some("ambit")),
    ("ambit", None),
];
/// Where many routes and endpoints are measured, and changes.
const SCALED: [&str; 4] = ["nginx", "haproxy", "envoy-plain", "ambit-in"];
/// Where one client is measured beside another.
const SHARED: [&str; 3] = ["direct", "envoy", "ambit"];

/// Measure the waypoint as an L7 proxy, beside others.
#[derive(Args)]
pub(crate) struct Measured {
    /// How often every figure is measured in every configuration.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Only these; all, if none is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests per second, and latency at a fixed rate.
    Load,
    /// What one client feels of another.
    Isolation,
    /// Memory with many routes and endpoints, and how long a change takes.
    Scale,
}

impl Measured {
    pub(crate) fn run(&self) -> Result<()> {
        require_root("bench waypoint")?;
        raise_descriptors()?;
        packages::ensure_installed(&[packages::WRK])?;
        let mut settings = Settings::from_environment()?;
        if !settings.chosen {
            let all = ["ztunnel", "waypoint", "control", "node-agent", "lab-app"];
            step("release build", || build(&root(), &all))?;
            settings.binaries = released()?;
        }
        let nginx = packages::unpacked("nginx", "/usr/sbin/nginx")?;
        let haproxy = packages::unpacked_with_libraries("haproxy", "/usr/sbin/haproxy")?;
        let tools = Tools { nginx, stream: None, envoy: envoy_program()?, seconds: self.seconds };
        if tools.envoy.is_none() {
            say("   no envoy on PATH and no AMBIT_BENCH_ENVOY: measured without it");
        }
        let peers = Peers { haproxy, tools };
        runtime()?.block_on(async {
            tokio::select! {
                outcome = self.measure(&settings, &peers) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
            }
        })
    }

    async fn measure(&self, settings: &Settings, peers: &Peers) -> Result<()> {
        Scene::clear()?;
        say("── lab");
        let scene = Scene::begin(settings, peers).await?;
        let names: Vec<_> = scene.places.iter().map(|place| place.name).collect();
        let columns = COLUMNS.into_iter().filter(|(name, _)| names.contains(name));
        let mut report = Report::beside(columns.collect());
        let rate = self.rounds(&scene.places, &mut report).await?;
        if self.wants(Part::Scale) {
            self.scale(&scene.places, &mut report).await?;
        }
        show(&report, rate);
        let conditions = json!({
            "rounds": self.rounds, "seconds": self.seconds, "paced_requests_per_second": rate,
        });
        let file = report.write(&root().join("target/bench"), &conditions)?;
        say(format!("\nwritten to {}", file.display()));
        goals(&report);
        scene.close()
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// Load and isolation; the fixed rate.
    async fn rounds(&self, places: &[Place], report: &mut Report) -> Result<f64> {
        let mut rate = None;
        for round in 1..=self.rounds {
            say(format!("── round {round} of {}", self.rounds));
            if self.wants(Part::Load) {
                self.load(places, &mut rate, report).await?;
            }
            if self.wants(Part::Isolation) {
                for place in places.iter().filter(|place| SHARED.contains(&place.name)) {
                    isolation::measure(place, self.seconds, report).await?;
                }
            }
        }
        Ok(rate.unwrap_or_default())
    }

    /// As fast as they can, then all at half of what the slowest could in the first round.
    async fn load(&self, places: &[Place], rate: &mut Option<f64>, report: &mut Report) -> Result<()> {
        for place in places {
            report.add_all(place.name, self.peak(place).await?);
        }
        let rate = *rate.get_or_insert_with(|| report.least(Figure::Requests) / 2.0);
        for place in places {
            let target = place.target;
            let pace = Pace { connections: PACED, rate, duration: Duration::from_secs(self.seconds) };
            let latency = place.client.run(async move || paced::measure(target, pace)).await?;
            let figures = [(Figure::PacedP50, latency.at(0.5)), (Figure::PacedP99, latency.at(0.99))];
            report.add_all(place.name, figures.to_vec());
        }
        Ok(())
    }

    async fn peak(&self, place: &Place) -> Result<Vec<(Figure, f64)>> {
        let pids = place.proxy.as_ref().map(Proxy::pids).transpose()?;
        let before = pids.as_deref().map(cost::processor).transpose()?;
        let outcome = load::wrk(place.site(&place.client, self.seconds), CONNECTIONS, false).await?;
        let after = pids.as_deref().map(cost::processor).transpose()?;
        let mut figures = vec![(Figure::Requests, outcome.rate())];
        if let (Some(before), Some(after)) = (before, after) {
            figures.push((Figure::ProxyCpu, (after - before).as_secs_f64() * 1e6 / outcome.requests));
        }
        Ok(figures)
    }

    /// Memory and changes.
    async fn scale(&self, places: &[Place], report: &mut Report) -> Result<()> {
        for place in places {
            let Some(proxy) = &place.proxy else { continue };
            if SCALED.contains(&place.name) {
                say(format!("── changes: {}", place.name));
                reload::reload(place, proxy, self.rounds, report).await?;
            }
            if SCALED.contains(&place.name) || matches!(proxy, Proxy::Fixed(..)) {
                say(format!("── memory: {}", place.name));
                reload::memory(place, proxy, report).await?;
            }
        }
        Ok(())
    }
}

fn show(report: &Report, rate: f64) {
    let conditions = format!("fixed rate: {rate:.0} requests/s");
    let (plain, mesh) = COLUMNS.split_at(6);
    let names = |columns: &[(&'static str, Option<&'static str>)]| -> Vec<&str> {
        columns.iter().map(|(name, _)| *name).collect()
    };
    let shared = |figure| figure >= Figure::QuietP50;
    report.show_some(&format!("one proxy, plain servers; {conditions}"), &names(plain), |one| !shared(one));
    report.show_some(&format!("all in the mesh; {conditions}"), &names(mesh), |one| !shared(one));
    report.show_some("one client beside another", &SHARED, shared);
}

/// Says which goals are met.
fn goals(report: &Report) {
    say("\ngoals");
    let goal = |what: &str, value: Option<f64>, most: f64| {
        let Some(value) = value else { return };
        let word = if value <= most { "met" } else { "MISSED" };
        say(format!("  {what:<56}{value:>8.2}  (at most {most}) {word}"));
    };
    goal(
        "CPU per request to Envoy's, servers outside the mesh",
        report.ratio("envoy-in", Figure::ProxyCpu),
        0.5,
    );
    goal("CPU per request to Envoy's, all in the mesh", report.ratio("envoy", Figure::ProxyCpu), 0.5);
    goal(
        "CPU per request to HAProxy's, which decrypts nothing",
        report.ratio("haproxy", Figure::ProxyCpu),
        1.0,
    );
    for (what, figure) in [
        ("memory to Envoy's, one route", Figure::ProxyIdle),
        ("memory to Envoy's, 1,000 routes", Figure::ProxyRoutes),
        ("memory to Envoy's, 10,000 endpoints", Figure::ProxyEndpoints),
    ] {
        goal(what, report.ratio("envoy-plain", figure), 0.5);
    }
    for name in SHARED {
        goal(
            &format!("{name}: p99 beside slow readers to alone"),
            report.middle(name, Figure::SlowToQuiet),
            1.2,
        );
        goal(&format!("{name}: p99 beside a flood to alone"), report.middle(name, Figure::FloodToQuiet), 1.2);
    }
}
