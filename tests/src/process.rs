// SPDX-License-Identifier: Apache-2.0
//! A real program inside a namespace: started, watched, killed, started again, its output kept in a file.
//!
//! A child inherits the namespaces of the thread that starts it, so each start uses a thread of its own. Whatever runs
//! is in the lab's record from its first moment, which is how it is found after a crash of the lab itself.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    net::{Namespace, namespace::resolve_by},
    record::{Birth, ProcessRecord, Records},
    wait::eventually,
};

/// Where programs look for others.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of a log an error shows.
const TAIL: usize = 2_000;

/// How to start a program.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name in the lab.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// The whole environment; without a `PATH` in it programs have [`PATH`].
    pub environment: Vec<(String, String)>,
    /// Where it runs; `None`: where the lab itself runs.
    pub namespace: Option<Namespace>,
    /// What it sees as `/etc/resolv.conf`; `None`: the machine's.
    pub resolv_conf: Option<PathBuf>,
    /// Where its output is appended.
    pub log: PathBuf,
}

/// A program that was started. Dropping it kills it, unless the lab is kept.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    records: Arc<Records>,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When the binary cannot be executed in its namespace.
    pub fn start(launch: Launch, records: &Arc<Records>) -> Result<Self> {
        let process = Self { launch, records: Arc::clone(records), child: Mutex::new(None) };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it again after it has ended.
    ///
    /// # Errors
    /// When it still runs, or cannot be executed.
    pub fn start_again(&self) -> Result<()> {
        let mut slot = self.child.lock();
        if slot.is_some() {
            bail!("{} runs already", self.launch.name);
        }
        let launch = self.launch.clone();
        let spawned = thread::Builder::new()
            .name(format!("starts {}", launch.name))
            .spawn(move || spawn(&launch))
            .context("starting a thread")?
            .join()
            .map_err(|_panic| anyhow!("starting {} panicked", self.launch.name))?;
        let child = spawned.with_context(|| format!("starting {}", self.launch.name))?;
        let birth = i32::try_from(child.id()).ok().and_then(Birth::of);
        *slot = Some(child);
        drop(slot);
        // A program that has ended already has nothing to be found by.
        let Some(birth) = birth else { return Ok(()) };
        let record = ProcessRecord { name: self.launch.name.clone(), birth, log: self.launch.log.clone() };
        self.records.change(|records| records.processes.push(record))
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its process number; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    /// `Some` once it has ended by itself.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses, or the record cannot be written.
    pub fn kill(&self) -> Result<()> {
        let Some(mut child) = self.child.lock().take() else { return Ok(()) };
        child.kill().with_context(|| format!("killing {}", self.launch.name))?;
        child.wait().with_context(|| format!("waiting for the end of {}", self.launch.name))?;
        self.forget(child.id())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.launch.name))?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)
            .with_context(|| format!("{signal} to {}", self.launch.name))
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it has not ended before `deadline`; then it still runs.
    pub async fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let status = self.end(deadline).await?;
        if let Some(child) = self.child.lock().take() {
            self.forget(child.id())?;
        }
        Ok(status)
    }

    /// Waits for its end, however that comes.
    ///
    /// # Errors
    /// When it has not ended before `deadline`.
    pub async fn end(&self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.launch.name);
        eventually(deadline, &what, async || self.ended().context("it still runs")).await
    }

    /// Waits until `probe` succeeds; fails at once when the program ends instead.
    ///
    /// # Errors
    /// With the last lines of its log.
    pub async fn ready<F, Fut>(&self, deadline: Duration, probe: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let what = format!("{} getting ready", self.launch.name);
        let outcome = tokio::select! {
            outcome = eventually(deadline, &what, probe) => outcome,
            status = self.end(deadline * 2) => Err(anyhow!("{} ended: {}", self.launch.name, status?)),
        };
        outcome.with_context(|| format!("the end of {}:\n{}", self.launch.log.display(), self.log_tail()))
    }

    /// Everything it has written.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.launch.log)
    }

    /// Where it writes to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.launch.log
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(TAIL);
        let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        log.get(from..).unwrap_or_default().to_owned()
    }

    fn forget(&self, pid: u32) -> Result<()> {
        self.records.change(|record| {
            record.processes.retain(|process| i64::from(process.birth.pid) != i64::from(pid));
        })
    }
}

/// Runs a program to its end and returns what it wrote, which then goes to no log.
///
/// # Errors
/// When it cannot be executed or has not ended before `deadline`; then it is killed.
pub async fn output(launch: Launch, deadline: Duration) -> Result<Output> {
    let what = launch.name.clone();
    let (started, pid) = oneshot::channel();
    let (ended, output) = oneshot::channel();
    let work = move || {
        let outcome = prepare(&launch).and_then(|mut command| {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().with_context(|| format!("executing {}", launch.program.display()))?;
            // Whoever has stopped waiting needs neither the number nor the outcome.
            started.send(child.id()).unwrap_or_default();
            child.wait_with_output().context("reading its output")
        });
        drop(ended.send(outcome));
    };
    thread::Builder::new().name(format!("runs {what}")).spawn(work).context("starting a thread")?;
    match timeout(deadline, output).await {
        Ok(outcome) => outcome.context("its thread is gone")?.context(what),
        Err(_elapsed) => {
            if let Ok(pid) = pid.await {
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)
                    .with_context(|| format!("killing {what}"))?;
            }
            bail!("{what}: not finished within {deadline:?}")
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.records.kept() {
            return;
        }
        if let Err(error) = self.kill() {
            report(&error);
        }
    }
}

#[expect(clippy::print_stderr, reason = "an error in a destructor has nowhere else to go")]
pub(crate) fn report(error: &anyhow::Error) {
    eprintln!("lab: {error:#}");
}

fn spawn(launch: &Launch) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .with_context(|| format!("opening {}", launch.log.display()))?;
    let mut command = prepare(launch)?;
    command.stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("executing {}", launch.program.display()))
}

/// Moves the calling thread to where the program is to run.
fn prepare(launch: &Launch) -> Result<Command> {
    if let Some(namespace) = &launch.namespace {
        namespace.enter()?;
    }
    if let Some(resolv_conf) = &launch.resolv_conf {
        resolve_by(resolv_conf)?;
    }
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    Ok(command)
}

fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
