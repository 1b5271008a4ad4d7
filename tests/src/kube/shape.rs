// SPDX-License-Identifier: Apache-2.0
//! What tells one cluster from another: name, addresses, nodes, folders. Written down before anything is made, so that
//! any later program can find, use and remove the cluster, and so that two clusters never take the same addresses.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{
    addresses::{Block, Range},
    build::Tools,
};
use crate::{clean::check_name, config::run_folder, net::Namespace};

/// Most nodes of one cluster: `node-a` to `node-z`.
pub const MOST_NODES: u8 = 26;

/// What tells one cluster from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub block: Block,
    /// How many nodes it has; none when it is only a control plane.
    pub nodes: u8,
    /// Folder of its files and logs.
    pub state: PathBuf,
    /// The programs it runs.
    pub tools: Tools,
}

impl Shape {
    /// Chooses addresses that no other cluster and no network of this machine has, and writes the shape down.
    ///
    /// # Errors
    /// When the name does not fit, there are too many nodes, or every block is taken.
    pub fn claim(name: &str, nodes: u8, state: &Path, tools: &Tools) -> Result<Self> {
        check_name(name)?;
        ensure!(nodes <= MOST_NODES, "a cluster has at most {MOST_NODES} nodes");
        let _lock = lock()?;
        let others = Self::all()?;
        let taken = networks_of_this_machine()?;
        let free = |block: &Block| {
            let whole = block.whole();
            others.iter().all(|other| other.name == name || other.block != *block)
                && taken.iter().all(|network| !overlap(*network, whole))
        };
        let block = Block::preferred_by(name).find(free).context("every block of addresses is taken")?;
        let state = std::path::absolute(state).context("where the files of the cluster go")?;
        let shape = Self { name: name.to_owned(), block, nodes, state, tools: tools.clone() };
        let folder = shape.run_folder();
        fs::create_dir_all(&folder).context("making the cluster's run folder")?;
        fs::write(folder.join("shape.json"), serde_json::to_vec_pretty(&shape)?)
            .context("writing the cluster's shape")?;
        Ok(shape)
    }

    /// The shape of a cluster; `None` when there is no such cluster.
    ///
    /// # Errors
    /// When what is written down cannot be read.
    pub fn read(name: &str) -> Result<Option<Self>> {
        check_name(name)?;
        let path = run_folder(&record_name(name)).join("shape.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is no shape", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// As [`Self::read`], for a cluster that must be there.
    ///
    /// # Errors
    /// When it is not; names those that are.
    pub fn expect(name: &str) -> Result<Self> {
        if let Some(shape) = Self::read(name)? {
            return Ok(shape);
        }
        let others: Vec<String> = Self::all()?.into_iter().map(|shape| shape.name).collect();
        match others.as_slice() {
            [] => bail!("there is no cluster {name}; `cargo xtask cluster up --name {name}` makes it"),
            names => bail!("there is no cluster {name}, but {}", names.join(", ")),
        }
    }

    /// Every cluster that is written down.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all() -> Result<Vec<Self>> {
        let folder = run_folder("");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
        };
        let mut all = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            if let Some(name) = file.to_str().and_then(|file| file.strip_prefix(RECORDS)) {
                all.extend(Self::read(name)?);
            }
        }
        Ok(all)
    }

    /// Where the kernel's own files of the cluster live: its record, and the namespaces that nodes persist by.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        run_folder(&record_name(&self.name))
    }

    /// Numbers of the nodes.
    pub fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// One of its network namespaces: `control`, `fabric`, or a node's name.
    #[must_use]
    pub fn namespace(&self, part: &str) -> Namespace {
        Namespace::named(&format!("{}{part}", prefix(&self.name)))
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// A file of keys and certificates.
    #[must_use]
    pub fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }

    /// Where a program's output goes.
    #[must_use]
    pub fn log(&self, program: &str) -> PathBuf {
        self.state.join("logs").join(format!("{program}.log"))
    }
}

const RECORDS: &str = "kube-";

/// Under which name the cluster's processes are recorded: no lab can have it, because of the hyphen.
#[must_use]
pub fn record_name(cluster: &str) -> String {
    format!("{RECORDS}{cluster}")
}

/// The prefix of all names that `cluster` gives to namespaces and cgroups; no lab's prefix begins like it.
#[must_use]
pub fn prefix(cluster: &str) -> String {
    format!("ambitk-{cluster}-")
}

/// Name of node number `node`.
#[must_use]
pub fn node_name(node: u8) -> String {
    format!("node-{}", char::from(b'a' + (node.clamp(1, MOST_NODES) - 1)))
}

fn lock() -> Result<Flock<File>> {
    let folder = run_folder("");
    fs::create_dir_all(&folder).context("making the run folder")?;
    let file = File::create(folder.join("kube.lock")).context("making the lock of all clusters")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_file, error)| error)
        .context("waiting for the lock of all clusters")
}

fn networks_of_this_machine() -> Result<Vec<(IpAddr, u8)>> {
    let v4 = fs::read_to_string("/proc/net/route").context("reading the routes")?;
    // A machine without IPv6 has no such file.
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    Ok(v4_routes(&v4).into_iter().chain(v6_routes(&v6)).collect())
}

/// Destination and mask are hexadecimal, in the order of bytes that the machine has.
fn v4_routes(table: &str) -> Vec<(IpAddr, u8)> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| u32::from_str_radix(text, 16).ok());
        let (destination, mask) = (number(1)?, number(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok()?;
        (prefix > 0).then_some((IpAddr::V4(Ipv4Addr::from(destination.to_ne_bytes())), prefix))
    };
    table.lines().skip(1).filter_map(route).collect()
}

fn v6_routes(table: &str) -> Vec<(IpAddr, u8)> {
    let route = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let destination = u128::from_str_radix(fields.next()?, 16).ok()?;
        let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
        (prefix > 0).then_some((IpAddr::V6(Ipv6Addr::from(destination)), prefix))
    };
    table.lines().filter_map(route).collect()
}

fn overlap(network: (IpAddr, u8), range: Range) -> bool {
    match network {
        (IpAddr::V4(address), prefix) => {
            let shift = 32 - u32::from(prefix.min(range.v4_prefix));
            u32::from(address).checked_shr(shift) == u32::from(range.first.v4).checked_shr(shift)
        }
        (IpAddr::V6(address), prefix) => {
            let shift = 128 - u32::from(prefix.min(range.v6_prefix));
            u128::from(address).checked_shr(shift) == u128::from(range.first.v6).checked_shr(shift)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth0 0000400A 00000000 0001 0 0 0 00FFFFFF 0 0 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_network_of_this_machine_takes_its_block_and_the_default_route_takes_none() {
        let taken = v4_routes(ROUTES);
        assert_eq!(taken, [("10.64.0.0".parse().unwrap(), 24)]);
        for (number, expected) in [(64, true), (65, false)] {
            let whole = Block::numbered(number).unwrap().whole();
            assert_eq!(overlap(taken[0], whole), expected, "{number}");
        }
    }

    #[test]
    fn ipv6_routes_are_read() {
        let line = "fd000065000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0\n";
        let taken = v6_routes(line);
        assert!(overlap(taken[0], Block::numbered(65).unwrap().whole()));
        assert!(!overlap(taken[0], Block::numbered(66).unwrap().whole()));
    }

    #[test]
    fn nodes_have_letters() {
        assert_eq!([1, 2, 26].map(node_name), ["node-a", "node-b", "node-z"]);
    }
}
