// SPDX-License-Identifier: Apache-2.0
//! Debian packages that tests and the demo use: installed when this runs as root, otherwise named.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::{output, root, run, run_in, say};

/// A program and the package that has it.
#[derive(Clone, Copy)]
pub(crate) struct Package {
    /// Name of the package.
    pub(crate) name: &'static str,
    /// A program that is there once it is installed.
    pub(crate) program: &'static str,
}

impl Package {
    fn is_installed(&self) -> bool {
        on_path(self.program).is_some()
    }
}

/// Where PATH finds a program.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let places = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&places).map(|place| place.join(program)).find(|file| file.is_file())
}

/// `ip`, for people who look around in a lab.
pub(crate) const IPROUTE: Package = Package { name: "iproute2", program: "ip" };
/// What the fuzzing engine is built with.
pub(crate) const CPP: Package = Package { name: "g++", program: "g++" };
/// What nodes of a cluster need: containers, kube-proxy's rules, and something to look around with.
pub(crate) const CLUSTER: [Package; 3] =
    [Package { name: "runc", program: "runc" }, Package { name: "nftables", program: "nft" }, IPROUTE];
/// Downloads, and what people ask servers with.
pub(crate) const CURL: Package = Package { name: "curl", program: "curl" };
/// Counts instructions.
pub(crate) const VALGRIND: Package = Package { name: "valgrind", program: "valgrind" };
/// Load by HTTP/1.1.
pub(crate) const WRK: Package = Package { name: "wrk", program: "wrk" };
/// What Zipkin runs on.
pub(crate) const JAVA: Package = Package { name: "openjdk-17-jre-headless", program: "java" };
/// What scenarios attack and check the mesh with: packets made by hand, Envoy from PyPI, a certificate request and a gRPC
/// call that are not ours, Zipkin; and clients that people use.
pub(crate) const STRANGERS: [Package; 7] = [
    Package { name: "python3", program: "python3" },
    Package { name: "python3-pip", program: "pip3" },
    Package { name: "openssl", program: "openssl" },
    CURL,
    JAVA,
    WRK,
    Package { name: "nghttp2-client", program: "h2load" },
];

/// Installs the packages that are missing.
///
/// # Errors
/// Without root: names the command. With root: when apt-get fails.
pub(crate) fn ensure_installed(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !package.is_installed()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !is_root()? {
        bail!("missing packages; install them with `sudo {command}`");
    }
    say(format!("   installing {}", missing.join(", ")));
    refresh_lists()?;
    run("apt-get", &[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())
}

/// A file of a package that is fetched and unpacked under `target`, not installed: a server's package would start a
/// service of its own on this machine.
///
/// # Errors
/// When apt-get cannot find the package or its archive has no such file.
pub(crate) fn unpacked(package: &str, file: &str) -> Result<PathBuf> {
    let folder = root().join("target/packages").join(package);
    let wanted = folder.join(file.trim_start_matches('/'));
    if wanted.exists() {
        return Ok(wanted);
    }
    say(format!("   fetching {package}"));
    fs::create_dir_all(&folder).context("making a folder for packages")?;
    // apt-get checks what it fetches against the signed lists.
    let fetch = || run_in(&folder, "apt-get", &["-o", "APT::Sandbox::User=root", "download", "-qq", package]);
    fetch().or_else(|_first| refresh_lists().and_then(|()| fetch()))?;
    unpack(&folder, &folder)?;
    ensure!(wanted.exists(), "package {package} has no {file}");
    Ok(wanted)
}

/// The same, and a folder with the libraries of other packages that this machine lacks.
///
/// # Errors
/// As [`unpacked`].
pub(crate) fn unpacked_with_libraries(package: &str, file: &str) -> Result<(PathBuf, PathBuf)> {
    let folder = root().join("target/packages").join(package);
    let wanted = folder.join(file.trim_start_matches('/'));
    if !wanted.exists() {
        say(format!("   fetching {package} and what it needs"));
        fs::create_dir_all(folder.join("archives/partial")).context("making a folder for packages")?;
        let archives = format!("Dir::Cache::archives={}", folder.join("archives").display());
        let fetch = || {
            let what = ["install", "--download-only", "--reinstall", "-y", "-qq", "--no-install-recommends"];
            let how = ["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", &archives];
            run("apt-get", &[what.as_slice(), &how, &[package]].concat())
        };
        fetch().or_else(|_first| refresh_lists().and_then(|()| fetch()))?;
        unpack(&folder.join("archives"), &folder)?;
        ensure!(wanted.exists(), "package {package} has no {file}");
    }
    // Debian has them in a folder of their architecture.
    let libraries = folder.join("usr/lib");
    fs::create_dir_all(&libraries).context("making a folder for libraries")?;
    let mut places = fs::read_dir(&libraries).context("listing libraries")?.filter_map(Result::ok);
    let place = places.find(|place| place.file_name().to_string_lossy().ends_with("-linux-gnu"));
    Ok((wanted, place.map_or(libraries, |place| place.path())))
}

/// Unpacks every archive in a folder, and removes it.
fn unpack(archives: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(archives).context("listing what was fetched")? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run_in(folder, "dpkg-deb", &["--extract", &archive.display().to_string(), "."])?;
            fs::remove_file(&archive).context("removing the archive")?;
        }
    }
    Ok(())
}

fn refresh_lists() -> Result<()> {
    ensure!(is_root()?, "the lists of packages are out of date: `sudo apt-get update`");
    run("apt-get", &["update", "-qq"])
}

fn is_root() -> Result<bool> {
    Ok(output("id", &["-u"])?.trim() == "0")
}
