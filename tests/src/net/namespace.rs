// SPDX-License-Identifier: Apache-2.0
//! A named network namespace: made, entered by threads, removed.
//!
//! The name is a bind mount under `/run/netns`, where `ip netns` and container runtimes keep theirs. Only threads made
//! for it ever enter a namespace: a thread that has entered one never serves anything else.

use std::{
    any::Any,
    fs::{self, File},
    future::Future,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

const FOLDER: &str = "/run/netns";

/// A named network namespace. Cheap to clone: it is a name, not an owner; `delete` removes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    name: Arc<str>,
}

impl Namespace {
    /// Makes a namespace whose loopback is still down.
    ///
    /// # Errors
    /// When the name is taken or the process may not make namespaces.
    pub fn create(name: &str) -> Result<Self> {
        prepare_folder()?;
        let namespace = Self::named(name);
        let path = namespace.path();
        File::create_new(&path).with_context(|| format!("reserving {}", path.display()))?;
        let made = on_new_thread(name, move || {
            unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
            bind(Path::new("/proc/thread-self/ns/net"), &namespace.path())?;
            Ok(namespace)
        });
        if made.is_err() {
            fs::remove_file(&path).with_context(|| format!("giving {} back", path.display()))?;
        }
        made
    }

    /// The namespace of that name, which may or may not exist.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: Arc::from(name) }
    }

    /// Names of all namespaces that begin with `prefix`.
    ///
    /// # Errors
    /// When the folder of namespaces cannot be read.
    pub fn with_prefix(prefix: &str) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(FOLDER) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("reading /run/netns"),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) {
                found.push(Self::named(name));
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its handle is in the file system.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&*self.name)
    }

    /// Whether it exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Removes the name. The kernel destroys the namespace when the last process and descriptor in it are gone.
    ///
    /// # Errors
    /// When unmounting or unlinking fails for another reason than that it is gone already.
    pub fn delete(&self) -> Result<()> {
        let path = self.path();
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {}", path.display())),
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// # Errors
    /// When it does not exist or the process may not enter it.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let handle = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        setns(handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))
    }

    /// Runs `work` on a thread of its own inside this namespace and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, `work` fails or panics.
    pub fn on_thread<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let namespace = self.clone();
        on_new_thread(&self.name, move || {
            namespace.enter()?;
            work()
        })
    }

    /// Runs a future on a thread of its own inside this namespace: sockets that it makes are the namespace's.
    /// Dropping the returned future ends the inner one at its next await.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the future fails or panics.
    pub async fn run<T, F, Fut>(&self, make: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        let namespace = self.clone();
        let (mut sender, receiver) = oneshot::channel();
        let handle = spawn(&self.name, move || -> Result<()> {
            namespace.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = make() => Some(outcome),
                    () = sender.closed() => None,
                }
            });
            // Sockets and timers of the closure end before the caller hears of the result.
            drop(runtime);
            // A receiver that is gone has no use for the outcome.
            outcome.map_or(Ok(()), |outcome| sender.send(outcome).or(Ok(())))
        })?;
        match receiver.await {
            Ok(outcome) => outcome,
            // The thread ended without an answer, so joining it does not block.
            Err(_closed) => match handle.join() {
                Ok(Ok(())) => Err(anyhow!("the thread in {} ended without an answer", self.name)),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(panicked(&*panic)),
            },
        }
    }

    /// Talks rtnetlink inside this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or `work` fails.
    pub async fn netlink<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(rtnetlink::Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        let name = Arc::clone(&self.name);
        self.run(async move || {
            let (connection, handle, _) = rtnetlink::new_connection().context("a netlink socket")?;
            tokio::select! {
                outcome = work(handle) => outcome.with_context(|| format!("in {name}")),
                () = connection => Err(anyhow!("the netlink connection in {name} closed")),
            }
        })
        .await
    }

    /// Writes sysctls, each a path below `/proc/sys` and its value.
    ///
    /// # Errors
    /// Names the first one that could not be written.
    pub fn write_sysctls(&self, settings: &'static [(&'static str, &'static str)]) -> Result<()> {
        self.on_thread(move || {
            for (key, value) in settings {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("setting {key}"))?;
            }
            Ok(())
        })
    }
}

/// Gives the calling thread (and what it starts) a view of the file system in which `/etc/resolv.conf` is `file`.
///
/// # Errors
/// When the process may not mount, or the machine has no `/etc/resolv.conf` to cover.
pub fn resolve_by(file: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own")?;
    // A slave still sees namespaces appear and go under /run/netns, and shows nobody its own mounts.
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&Path>)
        .context("keeping mounts private")?;
    bind(file, Path::new("/etc/resolv.conf"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)
        .with_context(|| format!("mounting {} on {}", source.display(), target.display()))
}

/// `/run/netns` must be a shared mount, or a namespace removed here would live on in every private view of it.
fn prepare_folder() -> Result<()> {
    fs::create_dir_all(FOLDER).context("making /run/netns")?;
    let share =
        || mount(None::<&Path>, FOLDER, None::<&Path>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&Path>);
    match share() {
        Ok(()) => Ok(()),
        // It is a plain folder yet.
        Err(Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, None::<&Path>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&Path>)
                .and_then(|()| share())
                .context("making /run/netns a shared mount")
        }
        Err(error) => Err(error).context("sharing /run/netns"),
    }
}

fn spawn<T, F>(name: &str, work: F) -> Result<thread::JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    thread::Builder::new().name(format!("in {name}")).spawn(work).context("starting a thread")
}

fn on_new_thread<T, F>(name: &str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match spawn(name, work)?.join() {
        Ok(outcome) => outcome,
        Err(panic) => Err(panicked(&*panic)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> anyhow::Error {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    anyhow!("panicked: {message}")
}
