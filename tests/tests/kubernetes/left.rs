// SPDX-License-Identifier: Apache-2.0
//! What is left of a cluster after its end: nothing but logs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    kube::{Shape, cgroup, clean, shape},
    net::Namespace,
    record::{Birth, Record},
};

/// The cluster whose maker is killed.
pub(crate) const CRASHED: &str = "crash";
const SOON: Duration = Duration::from_secs(60);

/// Fails when anything of a cluster is still there.
pub(crate) fn nothing_of(cluster: &Shape) -> Result<()> {
    let prefix = shape::prefix(&cluster.name);
    ensure!(Namespace::with_prefix(&prefix)?.is_empty(), "namespaces are left");
    ensure!(cgroup::folders(&cluster.name)?.is_empty(), "control groups are left");
    ensure!(!cluster.run_folder().exists(), "its run folder is left");
    ensure!(Shape::read(&cluster.name)?.is_none(), "its shape is left");
    let link = Path::new("/sys/class/net").join(cluster.block.link());
    ensure!(!link.exists(), "the machine's link is left");
    let state = cluster.state.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.lines().any(|line| line.contains(&state) || line.contains(&prefix)), "mounts are left");
    no_process(|line| line.contains(&state))?;
    let left: Vec<String> = fs::read_dir(&cluster.state)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "logs")
        .collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    Ok(())
}

/// Fails when a container of any cluster still runs.
pub(crate) fn no_container() -> Result<()> {
    no_process(|line| line.starts_with("/lab-app"))
}

fn no_process(is_left: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        ensure!(!is_left(&line), "a process is left: {line}");
    }
    Ok(())
}

/// Starts a cluster in another process, kills that process with SIGKILL while containerd and the API server are getting
/// ready, and removes what it has left.
pub(crate) fn after_a_crash() -> Result<()> {
    let program = std::env::current_exe().context("where this program is")?;
    let mut victim = Command::new(program)
        .arg(crate::VICTIM)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the victim")?;
    let started = Instant::now();
    let births = loop {
        let record = Record::read(&shape::record_name(CRASHED))?.unwrap_or_default();
        let is_there = |name: &str| record.processes.iter().any(|process| process.name.contains(name));
        if is_there("containerd") && is_there("kube-apiserver") {
            break record.processes.iter().map(|process| process.birth).collect::<Vec<Birth>>();
        }
        if let Some(status) = victim.try_wait()? {
            bail!("the victim ended by itself: {status}");
        }
        ensure!(started.elapsed() < SOON, "the victim starts nothing");
        thread::yield_now();
    };
    let cluster = Shape::expect(CRASHED)?;
    victim.kill().context("killing the victim")?;
    victim.wait().context("waiting for the victim's end")?;
    ensure!(births.iter().any(|birth| birth.alive()), "its programs should have survived it");
    let removed = clean::remove(CRASHED)?;
    ensure!(removed.processes > 0 && removed.namespaces > 0, "nothing was removed: {removed:?}");
    ensure!(!births.iter().any(|birth| birth.alive()), "its programs survived the removal");
    nothing_of(&cluster)
}
