// SPDX-License-Identifier: Apache-2.0
//! The parent of the process that serves: it does nothing but start that again at once when it was killed. A kubelet takes a second to
//! notice and waits ten before the second time, in which no pod of the node can connect. What ends by itself, with
//! whatever code, ends the parent with it: then something is to be seen to.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    app,
    config::{RESTART, RESTARTS},
};

/// A life that is shorter than this,
const SHORT: Duration = Duration::from_millis(300);
/// so often in a row, is no accident.
const MOST: u32 = 5;

/// Serves, or sees to it that a child does, as `AMBIT_RESTART` says.
///
/// # Errors
/// When the environment cannot be used, something that everything needs cannot be had, or the child has not ended well.
pub fn run(variables: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<()> {
    let variables: Vec<_> = variables.into_iter().collect();
    let value = |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    match (value(RESTART), value(RESTARTS)) {
        (Some("true"), None) => watch_over(),
        (_, None) => app::run(variables),
        (_, Some(_)) => {
            // Nobody would start it again, and nobody would ask it to end.
            prctl::set_pdeathsig(Signal::SIGKILL).context("binding this process to its parent")?;
            signals().thread_unblock().context("taking signals")?;
            app::run(variables)
        }
    }
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect()
}

/// Until the child has ended for good.
fn watch_over() -> anyhow::Result<()> {
    let signals = signals();
    signals.thread_block().context("holding signals")?;
    let mut lives = Lives::default();
    let mut asked = false;
    let (mut child, mut begun) = (start(&lives)?, Instant::now());
    loop {
        match signals.wait().context("waiting for a signal")? {
            Signal::SIGCHLD => {
                let Some(status) = child.try_wait().context("looking at the child")? else { continue };
                let end = if asked { End::Asked } else { lives.ended(status, begun.elapsed()) };
                match end {
                    End::Again => (child, begun) = (start(&lives)?, Instant::now()),
                    End::Asked if status.success() => return Ok(()),
                    End::Well => return Ok(()),
                    End::Asked | End::Badly => bail!("the process that serves has ended: {status}"),
                }
            }
            signal => {
                asked = true;
                pass_on(&child, signal)?;
            }
        }
    }
}

fn start(lives: &Lives) -> anyhow::Result<Child> {
    let program = env::current_exe().context("looking for this program")?;
    Command::new(program)
        .env(RESTARTS, lives.restarts.to_string())
        .spawn()
        .context("starting the process that serves")
}

fn pass_on(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("the child's number")?);
    match kill(pid, signal) {
        // It has ended, which is the next signal.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("asking the process that serves to end"),
    }
}

/// How often the child was killed.
#[derive(Debug, Default)]
struct Lives {
    restarts: u32,
    short: u32,
}

/// What the end of a child means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is started again.
    Again,
    /// Somebody wanted it.
    Asked,
    /// It wanted it.
    Well,
    /// It cannot go on, and neither could the next.
    Badly,
}

impl Lives {
    fn ended(&mut self, status: ExitStatus, lasted: Duration) -> End {
        if status.signal().is_none() {
            return if status.success() { End::Well } else { End::Badly };
        }
        self.short = if lasted < SHORT { self.short + 1 } else { 0 };
        if self.short >= MOST {
            return End::Badly;
        }
        self.restarts += 1;
        End::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = SHORT;

    #[test]
    fn what_is_killed_starts_again_and_what_ends_ends() {
        let mut lives = Lives::default();
        let killed = ExitStatus::from_raw(9);
        for _ in 0..20 {
            assert_eq!(lives.ended(killed, LONG), End::Again);
        }
        assert_eq!(lives.restarts, 20);
        assert_eq!(lives.ended(ExitStatus::from_raw(0), LONG), End::Well);
        assert_eq!(lives.ended(ExitStatus::from_raw(1 << 8), LONG), End::Badly);
    }

    #[test]
    fn what_dies_at_once_again_and_again_is_given_up() {
        let mut lives = Lives::default();
        let killed = ExitStatus::from_raw(11);
        for _ in 1..MOST {
            assert_eq!(lives.ended(killed, Duration::ZERO), End::Again);
        }
        assert_eq!(lives.ended(killed, LONG), End::Again, "it has lived");
        for _ in 1..MOST {
            assert_eq!(lives.ended(killed, Duration::ZERO), End::Again);
        }
        assert_eq!(lives.ended(killed, Duration::ZERO), End::Badly);
    }
}
