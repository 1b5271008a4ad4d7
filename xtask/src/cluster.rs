// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cluster`: a real Kubernetes on this machine that stays until it is taken down.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use lab::{
    Settings,
    config::require_root,
    kube::{
        self, Conformance, KubeCluster, Options, Shape, Tools, api_of, clean,
        node::place,
        place::Place,
        shape::{node_name, record_name},
    },
    record::Record,
};

use crate::{
    lab::runtime,
    packages,
    step::{run, say, seconds, step},
};

/// A real Kubernetes on this machine.
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Build it if need be, start it and leave it running.
    Up(Up),
    /// Remove it, whatever state it is in.
    Down(Named),
    /// Show what runs in it.
    Status(Named),
    /// Run a command on a node (`node-a`, `control`, `fabric`) or in a pod (`name` or `name.namespace`).
    Exec(Exec),
    /// Give every node an image: an archive in OCI layout, as `cargo xtask image` or `docker save` writes them.
    Load(Load),
    /// Only build what clusters run, into the cache.
    Build,
}

/// Which cluster.
#[derive(Args)]
pub(crate) struct Named {
    /// Name of the cluster: small letters and digits.
    #[arg(long, default_value = "dev")]
    name: String,
}

/// Starts a cluster.
#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    cluster: Named,
    /// How many nodes.
    #[arg(long, default_value_t = Options::default().nodes)]
    nodes: u8,
    /// No nodes: etcd, the API server and its controllers only.
    #[arg(long, conflicts_with = "nodes")]
    control_plane_only: bool,
}

/// Runs a command in a cluster.
#[derive(Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    cluster: Named,
    /// Node or pod.
    place: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Loads images into a cluster.
#[derive(Args)]
pub(crate) struct Load {
    #[command(flatten)]
    cluster: Named,
    /// The archives.
    #[arg(required = true)]
    images: Vec<PathBuf>,
}

impl Cluster {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Up(up) => up.run(),
            Self::Down(named) => down(&named.name),
            Self::Status(named) => status(&named.name),
            Self::Exec(exec) => exec.run(),
            Self::Load(load) => load.run(),
            Self::Build => tools().map(drop),
        }
    }
}

impl Up {
    fn run(&self) -> Result<()> {
        let name = &self.cluster.name;
        require_root(&format!("cluster up --name {name}"))?;
        if Record::read(&record_name(name))?.is_some_and(|record| record.owner.is_none()) {
            bail!(
                "cluster {name} is up already: `cargo xtask cluster status --name {name}`, or take it down first"
            );
        }
        packages::ensure_installed(&packages::CLUSTER)?;
        let tools = tools()?;
        // `--workspace` resolves the features that every other command uses; the mesh itself is not needed.
        step("load-balancer", || {
            run("cargo", &["build", "--workspace", "--bin", "cluster-balancer", "--locked"])
        })?;
        let options = Options { nodes: if self.control_plane_only { 0 } else { self.nodes } };
        let started = Instant::now();
        say(format!("── starting cluster {name}"));
        let outcome = runtime()?.block_on(async {
            let settings = Settings::from_environment()?;
            tokio::select! {
                cluster = KubeCluster::start(name, &settings, &tools, options) => cluster?.keep(),
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        });
        if let Err(error) = outcome {
            clean::remove(name)?;
            return Err(error);
        }
        say(format!("   ready in {}", seconds(started.elapsed())));
        status(name)
    }
}

/// The programs of clusters, from the cache or built now.
///
/// # Errors
/// When something does not compile.
pub(crate) fn tools() -> Result<Tools> {
    step("Kubernetes and its tools", || Tools::ensure(&mut |line| say(format!("   {line}"))))
}

/// The Gateway API's conformance tests, likewise.
///
/// # Errors
/// As [`tools`].
pub(crate) fn conformance() -> Result<()> {
    let ensure = || Conformance::ensure(&mut |line| say(format!("   {line}")));
    step("conformance tests", ensure).map(drop)
}

fn down(name: &str) -> Result<()> {
    require_root(&format!("cluster down --name {name}"))?;
    let removed = clean::remove(name)?;
    say(format!("removed {} processes, {} namespaces", removed.processes, removed.namespaces));
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let Some(shape) = Shape::read(name)? else {
        say(format!("there is no cluster {name}"));
        return Ok(());
    };
    let record = Record::read(&record_name(name))?.unwrap_or_default();
    say(format!("cluster {name}: files and logs in {}", shape.state.display()));
    if let Some(owner) = record.owner {
        let state = if owner.alive() { "is being started or used" } else { "was left half made" };
        say(format!(
            "it {state} by process {}; `cargo xtask cluster down --name {name}` removes it",
            owner.pid
        ));
    }
    say("\nprogram                    pid      state   log");
    for process in &record.processes {
        let state = if process.birth.alive() { "runs" } else { "ended" };
        let log = process.log.file_name().unwrap_or_default().to_string_lossy();
        say(format!("{:<26} {:<8} {state:<7} {log}", process.name, process.birth.pid));
    }
    for (what, range) in [("pods", shape.block.pods()), ("services", shape.block.services())] {
        say(format!("{what:<26} {} {}", range.v4(), range.v6()));
    }
    say(format!("{:<26} {} {}", "load-balancer", shape.block.balanced().v4(), shape.block.balanced().v6()));
    say("");
    say(nodes(&shape).unwrap_or_else(|error| format!("the API server does not answer: {error:#}")));
    say("\nfrom this shell:");
    say(format!("export KUBECONFIG={}", shape.kubeconfig().display()));
    say(format!("export PATH={}:$PATH", shape.tools.binaries().display()));
    Ok(())
}

/// What kubectl tells of the nodes.
fn nodes(shape: &Shape) -> Result<String> {
    let version = runtime()?.block_on(async {
        tokio::time::timeout(Duration::from_secs(3), api_of(shape)?.get("/version"))
            .await
            .context("no answer")?
    })?;
    let version = version.get("gitVersion").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    if shape.nodes == 0 {
        return Ok(format!("Kubernetes {version}, no nodes"));
    }
    let output = kubectl(shape).args(["get", "nodes", "-o", "wide"]).output().context("executing kubectl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(format!("Kubernetes {version}\n{}", String::from_utf8_lossy(&output.stdout).trim_end()))
}

impl Exec {
    fn run(&self) -> Result<()> {
        let shape = Shape::expect(&self.cluster.name)?;
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = match place_of(&shape, &self.place)? {
            Some(place) => {
                require_root("cluster exec")?;
                let words = place.words(program, arguments);
                let (first, rest) = words.split_first().context("no command")?;
                let mut command = Command::new(first);
                command.args(rest);
                command
            }
            None => {
                let (pod, namespace) = self.place.split_once('.').unwrap_or((&self.place, "default"));
                let mut command = kubectl(&shape);
                command
                    .args(["exec", "--stdin", "--namespace", namespace, pod, "--", program])
                    .args(arguments);
                command
            }
        };
        let status = command.stdin(Stdio::inherit()).status().context("executing it")?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// Where on the cluster's hosts that is; `None`: it must be a pod.
fn place_of(shape: &Shape, name: &str) -> Result<Option<Place>> {
    if shape.numbers().any(|number| node_name(number) == name) {
        return place(shape, name, "visitors").map(Some);
    }
    let host = ["control", "fabric"].contains(&name);
    Ok(host.then(|| Place { network: Some(shape.namespace(name)), ..Place::default() }))
}

impl Load {
    fn run(&self) -> Result<()> {
        require_root("cluster load")?;
        let shape = Shape::expect(&self.cluster.name)?;
        for image in &self.images {
            ensure!(image.is_file(), "{} is no file", image.display());
            step(&image.display().to_string(), || runtime()?.block_on(kube::load(&shape, image)))?;
        }
        Ok(())
    }
}

fn kubectl(shape: &Shape) -> Command {
    let mut command = Command::new(shape.tools.program("kubectl"));
    command.env("KUBECONFIG", shape.kubeconfig());
    command
}
