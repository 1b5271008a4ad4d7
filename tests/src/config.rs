// SPDX-License-Identifier: Apache-2.0
//! Where the lab finds binaries and keeps its files: the one place of this package that reads the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The variable that names the static CNI plugin.
pub const PLUGIN: &str = "AMBIT_LAB_PLUGIN";

/// What differs between two machines or two ways of running the lab.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the built binaries: `ztunnel`, `control`, `node-agent`, `ambit`, `lab-app` (`AMBIT_LAB_BIN_DIR`, default:
    /// beside the running program).
    pub binaries: PathBuf,
    /// The CNI plugin, linked statically (`AMBIT_LAB_PLUGIN`, default: that of `binaries`).
    pub plugin: Option<PathBuf>,
    /// Whether the environment chose them.
    pub chosen: bool,
    /// Folder under which each lab keeps manifests and logs (`AMBIT_LAB_STATE_DIR`, default: `<target>/lab`).
    pub state: PathBuf,
    /// Another ztunnel for node b, for example Istio's (`AMBIT_LAB_PEER_ZTUNNEL`).
    pub peer_ztunnel: Option<PathBuf>,
    /// Log filter of the product's binaries (`AMBIT_LAB_LOG`, default `info`).
    pub log: String,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// When the running program's own path cannot be told, or a path that was given does not exist.
    pub fn from_environment() -> Result<Self> {
        let given = variable("AMBIT_LAB_BIN_DIR").map(PathBuf::from);
        let chosen = given.is_some();
        let binaries = given.map_or_else(folder_of_this_program, Ok)?;
        let state = match variable("AMBIT_LAB_STATE_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => binaries.parent().unwrap_or(&binaries).join("lab"),
        };
        let peer_ztunnel = variable("AMBIT_LAB_PEER_ZTUNNEL").map(PathBuf::from);
        if let Some(peer) = &peer_ztunnel {
            ensure!(peer.is_file(), "AMBIT_LAB_PEER_ZTUNNEL names {}, which is no file", peer.display());
        }
        let plugin = variable(PLUGIN).map(PathBuf::from);
        if let Some(plugin) = &plugin {
            ensure!(plugin.is_file(), "{PLUGIN} names {}, which is no file", plugin.display());
        }
        let log = variable("AMBIT_LAB_LOG").unwrap_or_else(|| "info".to_owned());
        Ok(Self { binaries, plugin, chosen, state, peer_ztunnel, log })
    }

    /// The path of one of the built binaries.
    ///
    /// # Errors
    /// When it has not been built; the message names the command.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        if !path.is_file() {
            bail!("{} is not there: build it with `cargo build --workspace --bins`", path.display());
        }
        Ok(path)
    }

    /// A file of a Debian package that is unpacked beside the binaries' folder.
    ///
    /// # Errors
    /// When it is not; the message names the command.
    pub fn package(&self, package: &str, file: &str) -> Result<PathBuf> {
        let target = self.binaries.parent().unwrap_or(&self.binaries);
        let path = target.join("packages").join(package).join(file);
        ensure!(path.is_file(), "{} is not there: `cargo xtask test cluster` fetches it", path.display());
        Ok(path)
    }
}

/// Fails unless the program runs as root, which network namespaces need.
///
/// # Errors
/// Names the command that works, `how` being what follows `cargo xtask`.
pub fn require_root(how: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces and loads eBPF, so it runs as root: sudo -E env PATH=$PATH cargo xtask {how}"
    );
    Ok(())
}

/// Lets this process, and those that it starts from now on, have as many descriptors as it is allowed to take.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("as many descriptors as allowed")
}

/// Where what takes minutes to build is kept between runs (`XDG_CACHE_HOME`, default `~/.cache`).
///
/// # Errors
/// When neither that nor the home folder is set.
pub fn cache_folder() -> Result<PathBuf> {
    let folder = match variable("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(variable("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(folder.join("ambit"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
}

fn folder_of_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let folder = program.parent().context("this program has no folder")?;
    // Cargo puts test programs one folder below the binaries.
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_path_buf())
}

/// Where the kernel's own files of a lab live: sockets and the record, short enough for `sun_path` (108 bytes).
#[must_use]
pub fn run_folder(lab: &str) -> PathBuf {
    Path::new("/run/ambit-lab").join(lab)
}
