// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench control`: a control plane with a large mesh, beside Istio's. Both read the same API server of a real
//! Kubernetes without nodes, one after the other in every round, and tell ten subscribers of it.

mod change;
mod compare;
mod fill;
mod plane;
mod scene;
mod subscriber;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;
use lab::{
    Settings,
    config::{raise_descriptors, require_root},
    kube::{KubeCluster, Options},
};
use serde_json::json;

use super::{
    build, cost, released,
    report::{Figure, Report},
};
use crate::{
    cluster::tools,
    lab::runtime,
    packages,
    step::{root, run, say, step},
};
use change::{Changes, Took};
use plane::{Kind, Plane};
use subscriber::{Pushed, Snapshot, Subscribers};

const CLUSTER: &str = "bench";
/// Full pushes of one turn.
const PUSHES: usize = 3;
/// Lone changes of one turn.
const ALONE: usize = 15;
/// Pods of a burst, at most.
const BURST: usize = 500;

/// Measure the control plane with a large mesh, beside istiod.
#[derive(Args)]
pub(crate) struct Control {
    #[command(flatten)]
    scale: Scale,
    /// Only see whether it works: 500 pods, 50 services, one round.
    #[arg(long, conflicts_with_all = ["pods", "services", "rounds"])]
    quick: bool,
}

/// How much there is.
#[derive(Args, Clone)]
struct Scale {
    /// Pods.
    #[arg(long, default_value_t = 10_000, value_parser = within(1..=100_000))]
    pods: usize,
    /// Services; the pods are spread over them.
    #[arg(long, default_value_t = 1_000, value_parser = within(1..=10_000))]
    services: usize,
    /// How often each control plane has its turn.
    #[arg(long, default_value_t = 3, value_parser = within(1..=20))]
    rounds: usize,
}

fn within(
    range: std::ops::RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
        if range.contains(&number) { Ok(number) } else { Err(format!("not in {range:?}")) }
    }
}

impl Control {
    pub(crate) fn run(&self) -> Result<()> {
        require_root("bench control")?;
        raise_descriptors()?;
        packages::ensure_installed(&packages::CLUSTER)?;
        let tools = tools()?;
        let settings = Settings::from_environment()?;
        let ours = if settings.chosen {
            settings.binary("control")?
        } else {
            step("release build", || build(&root(), &["control"]))?;
            released()?.join("control")
        };
        // Part of the cluster, not of what is measured.
        step("load-balancer", || {
            run("cargo", &["build", "--workspace", "--bin", "cluster-balancer", "--locked"])
        })?;
        let mut kinds = vec![Kind::Ambit(ours)];
        match istiod()? {
            Some(theirs) => kinds.push(Kind::Istiod(theirs)),
            None => say("   no pilot-discovery on PATH and no AMBIT_BENCH_ISTIOD: measured alone"),
        }
        let scale =
            if self.quick { Scale { pods: 500, services: 50, rounds: 1 } } else { self.scale.clone() };
        runtime()?.block_on(async {
            let measuring = async {
                let cluster = KubeCluster::start(CLUSTER, &settings, &tools, Options { nodes: 0 }).await?;
                let outcome = measure(&cluster, &scale, &kinds).await;
                cluster.stop()?;
                outcome
            };
            tokio::select! {
                outcome = measuring => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
            }
        })
    }
}

fn istiod() -> Result<Option<PathBuf>> {
    let Some(given) = std::env::var_os("AMBIT_BENCH_ISTIOD").map(PathBuf::from) else {
        return Ok(packages::on_path("pilot-discovery"));
    };
    ensure!(given.is_file(), "AMBIT_BENCH_ISTIOD names {}, which is no file", given.display());
    Ok(Some(given))
}

async fn measure(cluster: &KubeCluster, scale: &Scale, kinds: &[Kind]) -> Result<()> {
    say(format!("── {} pods, {} services", scale.pods, scale.services));
    fill::fill(cluster, scale).await?;
    plane::prepare(cluster).await?;
    let mut report = Report::new(kinds.iter().map(Kind::name).collect());
    let mut changes = Changes::default();
    let mut last = None;
    for round in 1..=scale.rounds {
        for kind in kinds {
            say(format!("── round {round} of {}: {}", scale.rounds, kind.name()));
            let turn = Turn { cluster, scale, kind };
            last = Some(turn.play(&mut report, &mut changes).await?);
        }
    }
    let burst = BURST.min(scale.pods);
    report.show(&format!("{} pods, {} services, a burst of {burst} pods", scale.pods, scale.services));
    let conditions =
        json!({"pods": scale.pods, "services": scale.services, "rounds": scale.rounds, "burst": burst});
    say(format!("\nwritten to {}", report.write(&root().join("target/bench"), &conditions)?.display()));
    goals(&report);
    // The other has written automatic addresses into ServiceEntries, which ours takes: so it is asked after the other.
    if let ([ours, _], Some(theirs)) = (kinds, last) {
        say("\n── the same objects, as both tell them");
        let ours = Turn { cluster, scale, kind: ours }.look().await?;
        ensure!(compare::compare(&ours, &theirs)?, "differences that nobody has argued for");
    }
    Ok(())
}

/// One turn of one control plane.
struct Turn<'a> {
    cluster: &'a KubeCluster,
    scale: &'a Scale,
    kind: &'a Kind,
}

impl Turn<'_> {
    /// What it tells, with nothing measured.
    async fn look(&self) -> Result<Snapshot> {
        let plane = Plane::start(self.kind, self.cluster).await?;
        let (subscribers, _) = Subscribers::connect(&plane.target).await?;
        let snapshot = subscribers.snapshot().clone();
        plane.stop().await?;
        Ok(snapshot)
    }

    /// Measures; what it tells in the end.
    async fn play(&self, report: &mut Report, changes: &mut Changes) -> Result<Snapshot> {
        let name = self.kind.name();
        let plane = Plane::start(self.kind, self.cluster).await?;
        report.add(name, Figure::Ready, plane.ready.as_secs_f64());
        report.add_all(name, vec![(Figure::ControlIdle, resident(&plane)?)]);
        let mut subscribers = self.push(&plane, report).await?;
        for _ in 1..PUSHES {
            drop(subscribers);
            subscribers = self.push(&plane, report).await?;
        }
        plane::quiet(self.cluster, plane.pid).await?;
        let alone = changes.alone(self.cluster, self.scale, &mut subscribers, ALONE).await?;
        let worst = alone.iter().map(|took| took.from_write).max().unwrap_or_default();
        for Took { from_write, from_acknowledged, bytes, .. } in alone {
            report.add(name, Figure::LoneChange, milliseconds(from_write));
            report.add(name, Figure::LoneChangeAcked, milliseconds(from_acknowledged));
            report.add(name, Figure::LoneBytes, bytes);
        }
        report.add(name, Figure::LoneWorst, milliseconds(worst));
        let used = cost::processor(&[plane.pid])?;
        let count = BURST.min(self.scale.pods);
        let burst = changes.burst(self.cluster, self.scale, &mut subscribers, count).await?;
        let used = cost::processor(&[plane.pid])? - used;
        report.add(name, Figure::Burst, milliseconds(burst.from_write));
        report.add(name, Figure::BurstAcked, milliseconds(burst.from_acknowledged));
        report.add(name, Figure::BurstMessages, burst.messages);
        report.add(name, Figure::BurstBytes, burst.bytes / 1e3);
        report.add(name, Figure::BurstCpu, milliseconds(used));
        report.add(name, Figure::ControlAfter, resident(&plane)?);
        report.add(name, Figure::ControlPeak, cost::peak(plane.pid)?);
        let after = subscribers.snapshot().clone();
        drop(subscribers);
        plane.stop().await?;
        Ok(after)
    }

    async fn push(&self, plane: &Plane, report: &mut Report) -> Result<Subscribers> {
        let name = self.kind.name();
        let used = cost::processor(&[plane.pid])?;
        let (subscribers, pushed) = Subscribers::connect(&plane.target).await?;
        let used = cost::processor(&[plane.pid])? - used;
        let Pushed { took, bytes, resources: [policies, addresses] } = pushed;
        say(format!(
            "   {policies} policies and {addresses} addresses to all in {:.0} ms",
            milliseconds(took)
        ));
        report.add(name, Figure::FirstPush, milliseconds(took));
        report.add(name, Figure::FirstPushCpu, milliseconds(used));
        report.add(name, Figure::FirstPushBytes, bytes / 1e6);
        Ok(subscribers)
    }
}

fn resident(plane: &Plane) -> Result<f64> {
    Ok(cost::resident(&[plane.pid])?.into_iter().sum())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Says which goals are met.
fn goals(report: &Report) {
    say("\ngoals");
    let goal = |what: &str, value: Option<f64>, most: f64| {
        let Some(value) = value else { return };
        let word = if value <= most { "met" } else { "MISSED" };
        say(format!("  {what:<48}{value:>10.2}  (at most {most}) {word}"));
    };
    let other = "istiod";
    goal("first push, ratio", report.ratio(other, Figure::FirstPush), 0.5);
    goal("a lone change, median ms", report.middle("ambit", Figure::LoneChange), 25.0);
    goal("a lone change, worst ms", report.most("ambit", Figure::LoneWorst), 250.0);
    goal("memory before subscribers, ratio", report.ratio(other, Figure::ControlIdle), 0.4);
    goal("memory at the peak, ratio", report.ratio(other, Figure::ControlPeak), 0.4);
    goal("memory after the changes, ratio", report.ratio(other, Figure::ControlAfter), 0.4);
}
