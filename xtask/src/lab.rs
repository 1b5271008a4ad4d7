// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lab`: a mesh of network namespaces that stays until it is taken down.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use lab::{
    Cluster, clean,
    config::require_root,
    net::{Namespace, namespace::resolve_by},
    record::Record,
};

use crate::{
    packages,
    step::{run, say, step},
};

const NAME: &str = "lab";

/// A mesh of network namespaces on this machine.
#[derive(Subcommand)]
pub(crate) enum Lab {
    /// Build it, start it and leave it running.
    Up {
        /// Name of the lab: small letters and digits.
        #[arg(long, default_value = NAME)]
        name: String,
    },
    /// Remove it, whatever state it is in.
    Down {
        /// Name of the lab.
        #[arg(long, default_value = NAME)]
        name: String,
    },
    /// Show what runs in it.
    Status {
        /// Name of the lab.
        #[arg(long, default_value = NAME)]
        name: String,
    },
    /// Run a command in a pod (`name` or `name.namespace`) or on a host (`node-a`, `control`, `outside`).
    Exec {
        /// Name of the lab.
        #[arg(long, default_value = NAME)]
        name: String,
        /// Pod or host.
        place: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

impl Lab {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Up { name } => up(name),
            Self::Down { name } => down(name),
            Self::Status { name } => status(name),
            Self::Exec { name, place, command } => exec(name, place, command),
        }
    }
}

/// Builds what a lab runs.
///
/// # Errors
/// When something does not compile.
pub(crate) fn build() -> Result<()> {
    // The whole workspace, so that every command resolves the same features and builds each dependency once.
    run("cargo", &["build", "--workspace", "--bins", "--locked"])
}

/// A runtime for the lab's own work.
///
/// # Errors
/// When the machine gives no threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting a runtime")
}

fn up(name: &str) -> Result<()> {
    require_root("lab up")?;
    if Record::read(name)?.is_some_and(|record| record.owner.is_none()) {
        bail!("lab {name} is up already: `cargo xtask lab status --name {name}`, or take it down first");
    }
    packages::ensure_installed(&[packages::IPROUTE])?;
    step("build", build)?;
    runtime()?.block_on(async {
        let cluster = Cluster::start(name).await?;
        let (a, b) = (cluster.node("a"), cluster.node("b"));
        a.pod("client").captured().service_account("client").start().await?;
        // Programs end with their handles until the lab is kept.
        let mut programs = Vec::new();
        for pod in [
            a.pod("echo-a").captured().service_account("echo").labels(&[("app", "echo")]),
            b.pod("echo-b").captured().service_account("echo").labels(&[("app", "echo")]),
            b.pod("plain"),
        ] {
            programs.push(pod.start().await?.serve().await?);
        }
        cluster.service("echo").create().await?;
        cluster
            .note("try", &format!("cargo xtask lab exec --name {name} client curl -s http://echo:8080/"))?;
        cluster.keep()
    })?;
    status(name)
}

/// Removes a lab.
///
/// # Errors
/// When something resists.
fn down(name: &str) -> Result<()> {
    require_root("lab down")?;
    let removed = clean::remove(name)?;
    say(format!(
        "removed {} processes, {} namespaces, {} eBPF folders",
        removed.processes, removed.namespaces, removed.bpf_folders
    ));
    Ok(())
}

fn status(name: &str) -> Result<()> {
    clean::check_name(name)?;
    let Some(record) = Record::read(name)? else {
        say(format!("there is no lab {name}"));
        return Ok(());
    };
    say(format!("lab {name}: manifests and logs in {}", record.state.display()));
    say("\nprocess                    pid      state   log");
    for process in &record.processes {
        let state = if process.birth.alive() { "runs" } else { "ended" };
        let log = process.log.file_name().unwrap_or_default().to_string_lossy();
        say(format!("{:<26} {:<8} {state:<7} {log}", process.name, process.birth.pid));
    }
    say("\npod                        node  mesh  addresses");
    for pod in &record.pods {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        let full = format!("{}.{}", pod.name, pod.namespace);
        let mesh = if pod.captured { "yes" } else { "no" };
        say(format!("{full:<26} {:<5} {mesh:<5} {}", pod.node, addresses.join(" ")));
    }
    if !record.notes.is_empty() {
        say("");
    }
    for (subject, text) in &record.notes {
        say(format!("{subject}: {text}"));
    }
    Ok(())
}

fn exec(name: &str, place: &str, command: &[String]) -> Result<()> {
    require_root("lab exec")?;
    clean::check_name(name)?;
    let record = Record::read(name)?.with_context(|| format!("there is no lab {name}"))?;
    let (namespace, resolv_conf) = match record.pod(place) {
        Some(pod) => (Namespace::named(&pod.netns), Some(pod.resolv_conf.clone())),
        None => (Namespace::named(&format!("{}{place}", clean::prefix(name))), None),
    };
    if !namespace.exists() {
        let pods: Vec<String> =
            record.pods.iter().map(|pod| format!("{}.{}", pod.name, pod.namespace)).collect();
        bail!("lab {name} has no {place}; its pods are {}", pods.join(", "));
    }
    let command = command.to_vec();
    let status = namespace.on_thread(move || {
        if let Some(file) = resolv_conf {
            resolve_by(&file)?;
        }
        let (program, arguments) = command.split_first().context("no command")?;
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::inherit())
            .status()
            .with_context(|| format!("executing {program}"))
    })?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
