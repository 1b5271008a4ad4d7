// SPDX-License-Identifier: Apache-2.0
//! Builds what a cluster runs from Go modules, once per set of versions, into a cache outside of the work tree. Go's
//! checksum database vouches for the sources.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::modules::{Bundle, CLUSTER, CONFORMANCE, GATEWAY_API_TESTS, GO, OLDEST_GO, PAUSE};
use crate::{config, image::Image};

/// How often a long step says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How many of a failed command's last lines the error shows.
const LAST_LINES: usize = 30;
/// Reference of the image of pods' sandboxes, which every node has.
pub(super) const PAUSE_IMAGE: &str = "ambit.local/pause:1";
/// Reference of the DNS server's image, which every node has.
pub(super) const DNS_IMAGE: &str = "ambit.local/coredns:1";
const OWN_IMAGES: [(&str, &str); 2] = [("pause", PAUSE_IMAGE), ("coredns", DNS_IMAGE)];
/// The image of what the conformance tests talk between.
const ECHO: &str = "echo.tar";
const FLAGS: [&str; 3] = ["-v", "-trimpath", "-ldflags"];

/// The programs that clusters run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    folder: PathBuf,
}

/// The Gateway API's conformance tests, and what they talk between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conformance {
    folder: PathBuf,
}

/// Told how far something is, line by line.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

impl Tools {
    /// The programs of the versions that this source names: from the cache, or built now, which takes minutes.
    ///
    /// # Errors
    /// When something does not compile, or a program that is needed for it is missing: names the command that installs
    /// it.
    pub fn ensure(progress: Progress<'_>) -> Result<Self> {
        let set = Set { bundles: &CLUSTER, more: &[PAUSE] };
        let folder = set.ensure(progress, |store, progress| {
            store.build_pause(progress).context("building pause")?;
            store.write_images().context("writing images")
        })?;
        Ok(Self { folder })
    }

    /// The path of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries().join(name)
    }

    /// The folder of all programs.
    #[must_use]
    pub fn binaries(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The images that every node needs.
    #[must_use]
    pub fn images(&self) -> [PathBuf; 2] {
        OWN_IMAGES.map(|(name, _)| self.folder.join(format!("{name}.tar")))
    }
}

impl Conformance {
    /// As [`Tools::ensure`].
    ///
    /// # Errors
    /// As [`Tools::ensure`].
    pub fn ensure(progress: Progress<'_>) -> Result<Self> {
        let set = Set { bundles: &CONFORMANCE, more: &[] };
        Ok(Self { folder: set.ensure(progress, |store, _| store.write_echo().context("writing the image"))? })
    }

    /// The program with the tests.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder.join("bin/conformance")
    }

    /// The image of the server and client.
    #[must_use]
    pub fn echo(&self) -> PathBuf {
        self.folder.join(ECHO)
    }
}

/// What is built together, once.
struct Set {
    bundles: &'static [Bundle],
    /// What else it depends on.
    more: &'static [&'static str],
}

/// A folder of the cache.
struct Store(PathBuf);

impl Set {
    /// The folder with all of it; `finish` makes what the bundles have not.
    fn ensure(
        &self,
        progress: Progress<'_>,
        finish: impl FnOnce(&Store, Progress<'_>) -> Result<()>,
    ) -> Result<PathBuf> {
        let store = Store(config::cache_folder()?.join(self.key()));
        let complete = store.0.join("complete");
        if complete.exists() {
            return Ok(store.0);
        }
        fs::create_dir_all(store.binaries()).context("making a folder in the cache")?;
        let _lock = store.lock(progress)?;
        if complete.exists() {
            return Ok(store.0);
        }
        check_go()?;
        let started = Instant::now();
        for bundle in self.bundles {
            store.build(bundle, progress).with_context(|| format!("building {}", bundle.name))?;
        }
        finish(&store, progress)?;
        fs::write(&complete, "").context("marking the cache complete")?;
        progress(&format!("built in {} s into {}", started.elapsed().as_secs(), store.0.display()));
        Ok(store.0)
    }

    /// A name for everything that the binaries depend on.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for bundle in self.bundles {
            for part in [&bundle.go_mod(), bundle.stamps, &bundle.binaries.join(" ")] {
                hash.update(part);
                hash.update([0]);
            }
            hash.update(bundle.test.unwrap_or_default());
        }
        self.more.iter().for_each(|more| hash.update(more));
        hash.update(FLAGS.join(" "));
        hash.update(std::env::consts::ARCH);
        let mut name = hex::encode(hash.finalize());
        name.truncate(16);
        name
    }
}

impl Store {
    fn program(&self, name: &str) -> PathBuf {
        self.binaries().join(name)
    }

    fn binaries(&self) -> PathBuf {
        self.0.join("bin")
    }

    fn lock(&self, progress: Progress<'_>) -> Result<Flock<File>> {
        let open = || File::create(self.0.join("lock")).context("making the lock of the build");
        if let Ok(lock) = Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            return Ok(lock);
        }
        progress("another program builds the same; waiting for it");
        Flock::lock(open()?, FlockArg::LockExclusive)
            .map_err(|(_file, error)| error)
            .context("waiting for the lock of the build")
    }

    fn build(&self, bundle: &Bundle, progress: Progress<'_>) -> Result<()> {
        let work = self.0.join("work").join(bundle.name);
        fs::create_dir_all(&work)?;
        fs::write(work.join("go.mod"), bundle.go_mod())?;
        if let Some(test) = bundle.test {
            fs::write(work.join("own_test.go"), test)?;
        }
        go(&work, bundle.name, &["mod", "tidy"], progress)?;
        let stamps = format!("-s -w {}", bundle.stamps);
        // A single command would be written to a file of its module's name.
        let output = match bundle.binaries {
            [single] => self.program(single).display().to_string(),
            _ => format!("{}/", self.binaries().display()),
        };
        let [verbose, trimmed, linked] = FLAGS;
        let (verb, what) = match bundle.test {
            Some(_) => (["test", "-c"].as_slice(), "."),
            None => (["build"].as_slice(), "tool"),
        };
        let rest = [verbose, trimmed, linked, &stamps, "-o", &output, what];
        go(&work, bundle.name, &[verb, &rest].concat(), progress)?;
        for binary in bundle.binaries {
            ensure!(self.program(binary).is_file(), "{binary} did not come of it");
        }
        Ok(())
    }

    fn build_pause(&self, progress: Progress<'_>) -> Result<()> {
        let work = self.0.join("work/pause");
        fs::create_dir_all(&work)?;
        fs::write(work.join("go.mod"), format!("module ambit/pause\n\ngo {GO}\n"))?;
        fs::write(work.join("main.go"), PAUSE)?;
        let output = self.program("pause").display().to_string();
        go(&work, "pause", &["build", "-trimpath", "-ldflags", "-s -w", "-o", &output, "."], progress)
    }

    fn write_images(&self) -> Result<()> {
        for (name, reference) in OWN_IMAGES {
            let mut built = Image::new(reference, &[&format!("/{name}")]);
            built.add(&self.program(name), name)?;
            built.write(&self.0.join(format!("{name}.tar")))?;
        }
        Ok(())
    }

    /// The image that the manifests of the conformance tests name.
    fn write_echo(&self) -> Result<()> {
        let manifests = module(GATEWAY_API_TESTS)?.join("mesh/manifests.yaml");
        let text =
            fs::read_to_string(&manifests).with_context(|| format!("reading {}", manifests.display()))?;
        let reference = text.lines().find_map(|line| line.trim().strip_prefix("image: "));
        let mut image =
            Image::new(reference.context("the manifests name no image")?, &["/usr/local/bin/server"]);
        for name in ["server", "client"] {
            image.add(&self.program(name), &format!("usr/local/bin/{name}"))?;
        }
        let served = rcgen::generate_simple_self_signed(["echo".to_owned()]).context("a certificate")?;
        image.add_text("cert.crt", &served.cert.pem());
        image.add_text("cert.key", &served.signing_key.serialize_pem());
        image.write(&self.0.join(ECHO))
    }
}

/// The folder of a Go module (`example.org/module@v1.2.3`), which is fetched where it is not there.
pub(super) fn module(name: &str) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json", name]).current_dir(std::env::temp_dir());
    let output = go.output().context("executing go, which fetches modules")?;
    ensure!(
        output.status.success(),
        "go mod download {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading what go says")?;
    let folder = answer.get("Dir").and_then(serde_json::Value::as_str).context("go names no folder")?;
    Ok(PathBuf::from(folder))
}

fn check_go() -> Result<()> {
    let advice = format!(
        "building Kubernetes needs Go {} or later (an older one cannot fetch {GO} by itself): \
         curl -fsSL https://go.dev/dl/go1.26.8.linux-amd64.tar.gz | tar -C /usr/local -xz \
         && export PATH=/usr/local/go/bin:$PATH",
        format_args!("{}.{}", OLDEST_GO.0, OLDEST_GO.1)
    );
    let output = match Command::new("go").arg("version").output() {
        Ok(output) => output,
        Err(error) => return Err(error).context(advice),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let version = go_version(&text).with_context(|| format!("`go version` says {text:?}"))?;
    ensure!(version >= OLDEST_GO, "this is Go {}.{}, but {advice}", version.0, version.1);
    Ok(())
}

/// Major and minor of `go version go1.26.8 linux/amd64`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_ascii_whitespace().nth(2)?.strip_prefix("go")?;
    let mut numbers =
        word.split(|character: char| !character.is_ascii_digit()).map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Runs the Go tool and tells how far it is: it says one line for each package and each download.
fn go(folder: &Path, what: &str, arguments: &[&str], progress: Progress<'_>) -> Result<()> {
    let verb = arguments.first().copied().unwrap_or_default();
    let line = format!("go {}", arguments.join(" "));
    let started = Instant::now();
    let mut child = Command::new("go")
        .args(arguments)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env_remove("GOFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("executing `{line}`"))?;
    let errors = child.stderr.take().context("its standard error")?;
    let (sender, receiver) = sync_channel(1024);
    let reader = thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut last: VecDeque<String> = VecDeque::new();
    let (mut lines, mut told) = (0_usize, Instant::now());
    let mut tell = |lines: usize, end: &str| {
        let seconds = started.elapsed().as_secs();
        progress(&format!("{what}: go {verb}, {lines} packages, {seconds} s{end}"));
    };
    loop {
        match receiver.recv_timeout(PROGRESS) {
            Ok(line) => {
                lines += 1;
                last.push_back(line);
                if last.len() > LAST_LINES {
                    last.pop_front();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            tell(lines, "");
        }
    }
    reader.join().map_err(|_panic| anyhow!("reading its output panicked"))?;
    let status = child.wait().with_context(|| format!("waiting for `{line}`"))?;
    if !status.success() {
        bail!(
            "`{line}` in {} failed: {status}\n{}",
            folder.display(),
            last.into_iter().collect::<Vec<_>>().join("\n")
        );
    }
    tell(lines, ", done");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchains_version_is_read() {
        for (text, expected) in [
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("command not found", None),
        ] {
            assert_eq!(go_version(text), expected, "{text}");
        }
    }

    #[test]
    fn every_tool_of_a_bundle_is_a_binary_that_is_waited_for() {
        for bundle in CLUSTER.iter().chain(&CONFORMANCE).filter(|bundle| bundle.test.is_none()) {
            let tools = bundle.manifest.lines().filter(|line| line.starts_with("tool ")).count();
            assert_eq!(tools, bundle.binaries.len(), "{}", bundle.name);
        }
    }
}
