// SPDX-License-Identifier: Apache-2.0
//! A node: containerd, kubelet and kube-proxy in namespaces of their own, with their own folders under the usual paths,
//! so that charts and CNI installers need no special values and nodes do not see each other's pods.

mod files;
mod view;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    certificates::Authority,
    cgroup, clean,
    control_plane::flags,
    place::{Place, Program, Views},
    shape::{Shape, node_name},
};
use crate::{
    net::{Namespace, link},
    process::{self, Process},
    record::Records,
};

/// How long containerd may take to answer.
const RUNTIME_READY: Duration = Duration::from_secs(60);
/// How long a node may take to unpack an image.
const IMPORT: Duration = Duration::from_secs(180);

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Its name: `node-a`.
    pub name: String,
    /// Runs containers.
    pub containerd: Process,
    /// Runs pods.
    pub kubelet: Process,
    /// Makes services' addresses work on this node.
    pub proxy: Process,
}

/// Where the programs of a node run: `part` is a group of its own.
///
/// # Errors
/// When the machine's control groups cannot be read.
pub fn place(shape: &Shape, node: &str, part: &str) -> Result<Place> {
    Ok(Place {
        network: Some(shape.namespace(node)),
        views: Some(Views::of(&shape.run_folder(), node)),
        group: cgroup::create(&shape.name, &format!("{node}/{part}"))?,
    })
}

/// A node that can run containers but no pods yet.
#[derive(Debug)]
pub struct Runtime {
    number: u8,
    name: String,
    containerd: Process,
}

impl Runtime {
    /// Writes the node's files, gives it its view of the machine, starts containerd and gives it the images that every
    /// node needs.
    ///
    /// # Errors
    /// When the kernel refuses, or containerd does not get ready.
    pub async fn start(
        shape: &Shape,
        number: u8,
        namespace: &Namespace,
        authority: &Authority,
        records: &Arc<Records>,
    ) -> Result<Self> {
        let name = node_name(number);
        link::forward(namespace)?;
        let folder = folder(shape, &name);
        keep_logs(shape, &name, &folder)?;
        files::write(shape, number, &folder, authority)?;
        view::persist(&name, &folder, &Views::of(&shape.run_folder(), &name))?;
        let config = format!("--config={}", folder.join("containerd.toml").display());
        let containerd = start(shape, &name, ("containerd", "runtime"), vec![config], records)?;
        answers(shape, &name, &containerd).await?;
        let images = shape.tools.images();
        futures_util::future::try_join_all(images.iter().map(|image| load(shape, &name, image))).await?;
        Ok(Self { number, name, containerd })
    }
}

impl Node {
    /// Starts what makes a node of it. The API server must know the node already.
    ///
    /// # Errors
    /// When a program does not start.
    pub fn start(shape: &Shape, runtime: Runtime, records: &Arc<Records>) -> Result<Self> {
        let Runtime { number, name, containerd } = runtime;
        let folder = folder(shape, &name);
        let file = |file: &str| folder.join(file).display().to_string();
        let [v4, v6] = shape.block.fabric(number).both();
        let arguments = flags([
            ("config", file("kubelet.json")),
            ("kubeconfig", file("kubeconfig")),
            ("hostname-override", name.clone()),
            ("node-ip", format!("{v4},{v6}")),
        ]);
        let kubelet = start(shape, &name, ("kubelet", "kubelet"), arguments, records)?;
        let zero = || "0".to_owned();
        let arguments = flags([
            ("kubeconfig", shape.pki("proxy.kubeconfig").display().to_string()),
            ("hostname-override", name.clone()),
            ("proxy-mode", "nftables".to_owned()),
            ("cluster-cidr", shape.block.pods().to_string()),
            // A child namespace cannot write the sysctls that other values would set.
            ("conntrack-max-per-core", zero()),
            ("conntrack-min", zero()),
            ("conntrack-tcp-timeout-established", zero()),
            ("conntrack-tcp-timeout-close-wait", zero()),
        ]);
        let proxy = start(shape, &name, ("kube-proxy", "proxy"), arguments, records)?;
        Ok(Self { name, containerd, kubelet, proxy })
    }

    /// Starts again what has been killed. A kubelet that finds no runtime ends at once, and there is no service manager
    /// here that would start it again.
    ///
    /// # Errors
    /// When a program does not start, or containerd does not get ready.
    pub async fn start_again(&self, shape: &Shape) -> Result<()> {
        for program in [&self.containerd, &self.proxy, &self.kubelet] {
            if program.pid().is_some() {
                continue;
            }
            program.start_again()?;
            if std::ptr::eq(program, &self.containerd) {
                answers(shape, &self.name, program).await?;
            }
        }
        Ok(())
    }

    /// Ends everything on the node at once, containers too, and takes away what does not outlive a machine: pods'
    /// namespaces, pinned programs, sockets. Its disk stays, and so does its end of the fabric.
    ///
    /// # Errors
    /// When something resists.
    pub fn power_off(&self, shape: &Shape) -> Result<()> {
        let own = format!("{}/{}", cgroup::folder(&shape.name), self.name);
        clean::kill_all(
            || {
                let mut groups = cgroup::existing(&own)?;
                groups.extend(cgroup::containers(&containers(shape, &self.name))?);
                Ok(groups)
            },
            &shape.namespace(&self.name),
        )?;
        for program in self.programs() {
            program.kill()?;
        }
        for group in cgroup::containers(&containers(shape, &self.name))? {
            cgroup::remove(&group)?;
        }
        view::forget(&folder(shape, &self.name), &Views::of(&shape.run_folder(), &self.name))
    }

    /// Starts it as a machine starts: with its disk and nothing else.
    ///
    /// # Errors
    /// As [`Self::start_again`].
    pub async fn power_on(&self, shape: &Shape) -> Result<()> {
        view::persist(&self.name, &folder(shape, &self.name), &Views::of(&shape.run_folder(), &self.name))?;
        self.start_again(shape).await
    }

    /// All of its programs; containers are not among them.
    #[must_use]
    pub fn programs(&self) -> [&Process; 3] {
        [&self.kubelet, &self.proxy, &self.containerd]
    }
}

/// Logs of pods outlive the cluster, beside those of its programs.
fn keep_logs(shape: &Shape, name: &str, folder: &Path) -> Result<()> {
    let logs = shape.state.join("logs").join(format!("{name}-pods"));
    for made in [logs.as_path(), folder] {
        fs::create_dir_all(made).context("making a folder for the logs of pods")?;
    }
    symlink(&logs, folder.join(view::LOGS)).context("leading to the logs of pods")
}

async fn answers(shape: &Shape, node: &str, containerd: &Process) -> Result<()> {
    containerd.ready(RUNTIME_READY, async || ctr(shape, node, &["version"]).await).await
}

/// Starts a program of a node, which is in a control group of its own.
fn start(
    shape: &Shape,
    node: &str,
    (program, part): (&str, &str),
    arguments: Vec<String>,
    records: &Arc<Records>,
) -> Result<Process> {
    let started = Program {
        name: format!("{program} {node}"),
        path: shape.tools.program(program),
        arguments,
        environment: Vec::new(),
        log: shape.log(&format!("{node}-{program}")),
    };
    place(shape, node, part)?.start(started, records)
}

/// Where a node keeps its files.
#[must_use]
pub fn folder(shape: &Shape, node: &str) -> PathBuf {
    shape.state.join(node)
}

/// Gives a node's containerd an image.
///
/// # Errors
/// When the archive is none.
pub async fn load(shape: &Shape, node: &str, archive: &Path) -> Result<()> {
    let path = archive.display().to_string();
    // The snapshotter must be the one that pods are run with.
    ctr(shape, node, &["--namespace=k8s.io", "images", "import", "--snapshotter=overlayfs", &path]).await
}

async fn ctr(shape: &Shape, node: &str, arguments: &[&str]) -> Result<()> {
    let program = Program {
        name: format!("ctr {}", arguments.join(" ")),
        path: shape.tools.program("ctr"),
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        environment: Vec::new(),
        log: PathBuf::new(),
    };
    let launch = place(shape, node, "runtime")?.launch(program);
    let Output { status, stderr, .. } = process::output(launch, IMPORT).await?;
    ensure!(status.success(), "ctr {}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr).trim());
    Ok(())
}

/// Names of all containers that a node's containerd has, whether it runs or not.
#[must_use]
pub fn containers(shape: &Shape, node: &str) -> Vec<String> {
    let tasks = "run-containerd/state/io.containerd.runtime.v2.task/k8s.io";
    // A node that never ran a container has no such folder.
    let entries = fs::read_dir(folder(shape, node).join(tasks)).into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
