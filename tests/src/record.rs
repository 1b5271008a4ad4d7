// SPDX-License-Identifier: Apache-2.0
//! What a lab has started, written down as it happens, so that another program can show it, use it or remove it: the
//! next `lab down`, or the next start after a crash. A process is known by pid and start time, never by pid alone.

use std::{
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::run_folder;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Process number.
    pub pid: i32,
    /// Clock ticks between boot and its start: field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

impl Birth {
    /// The process that has this number now; `None` when there is none, or only its zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces and parentheses: fields count from the last one.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, started })
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// One process of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its name in the lab: `control`, `ztunnel-a`, `echo.shop serve`.
    pub name: String,
    /// Which process it is.
    pub birth: Birth,
    /// Where its output goes.
    pub log: PathBuf,
}

/// One pod of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Name of the pod.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of its network namespace.
    pub netns: String,
    /// The file that is its `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Whether it is enrolled in the mesh.
    pub captured: bool,
}

/// Everything that is written down about one lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The program that holds the lab and removes it at its end; none once the lab was left running.
    pub owner: Option<Birth>,
    /// Where manifests and logs are.
    pub state: PathBuf,
    /// Running processes.
    pub processes: Vec<ProcessRecord>,
    /// Pods.
    pub pods: Vec<PodRecord>,
    /// Remarks for people: name and text, for example where Prometheus listens.
    pub notes: Vec<(String, String)>,
}

impl Record {
    /// What is written down about `lab`; `None` when there is no such lab.
    ///
    /// # Errors
    /// When the record cannot be read or is not one.
    pub fn read(lab: &str) -> Result<Option<Self>> {
        let path = path_of(lab);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is no record", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// The pod of that name, given as `name` (when only one has it) or `name.namespace`.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&PodRecord> {
        let full = |pod: &&PodRecord| format!("{}.{}", pod.name, pod.namespace) == name;
        self.pods.iter().find(full).or_else(|| {
            let mut same_name = self.pods.iter().filter(|pod| pod.name == name);
            same_name.next().filter(|_| same_name.next().is_none())
        })
    }
}

/// The record of a lab that this program holds.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    current: Mutex<Record>,
    kept: AtomicBool,
    closed: AtomicBool,
}

impl Records {
    /// Begins the record of `lab`, held by this program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(lab: &str, state: &Path) -> Result<Self> {
        let owner = Birth::of(i32::try_from(std::process::id())?);
        let current = Record { owner, state: state.to_path_buf(), ..Record::default() };
        let records = Self {
            path: path_of(lab),
            current: Mutex::new(current),
            kept: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        fs::create_dir_all(run_folder(lab)).context("making the lab's run folder")?;
        records.change(|_| ())?;
        Ok(records)
    }

    /// Changes the record and writes it down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut current = self.current.lock();
        change(&mut current);
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Renaming is atomic: a reader, or the next program after a crash, never sees half a record.
        let next = self.path.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(&*current)?).context("writing the lab's record")?;
        fs::rename(&next, &self.path).context("replacing the lab's record")
    }

    /// A copy of the record.
    #[must_use]
    pub fn snapshot(&self) -> Record {
        self.current.lock().clone()
    }

    /// From now on the lab outlives this program.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn keep(&self) -> Result<()> {
        self.change(|record| record.owner = None)?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The lab is over: nothing is written down any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether the lab outlives this program.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

fn path_of(lab: &str) -> PathBuf {
    run_folder(lab).join("record.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, namespace: &str) -> PodRecord {
        PodRecord {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            node: "a".to_owned(),
            addresses: Vec::new(),
            netns: String::new(),
            resolv_conf: PathBuf::new(),
            captured: true,
        }
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = Birth::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!Birth { started: own.started + 1, ..own }.alive());
    }

    #[test]
    fn a_pod_is_found_by_a_short_name_only_when_one_has_it() {
        let record = Record {
            pods: vec![pod("web", "shop"), pod("web", "test"), pod("db", "shop")],
            ..Record::default()
        };
        for (name, expected) in
            [("db", Some("shop")), ("web", None), ("web.test", Some("test")), ("db.test", None)]
        {
            assert_eq!(record.pod(name).map(|pod| pod.namespace.as_str()), expected, "{name}");
        }
    }
}
