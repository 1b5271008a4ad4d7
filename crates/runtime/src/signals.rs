// SPDX-License-Identifier: Apache-2.0
//! Says when somebody wants this process to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: kubelet, systemd.
    Terminate,
    /// SIGINT: a person at a terminal.
    Interrupt,
}

/// Waits for SIGTERM or SIGINT. From its first poll on neither of them kills the process any more.
///
/// # Errors
/// When the signals cannot be caught.
pub async fn terminated() -> io::Result<Signal> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Signal::Terminate,
        _ = interrupt.recv() => Signal::Interrupt,
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Raised, raise};

    use super::*;

    #[tokio::test]
    async fn both_signals_end_the_wait_and_not_the_process() {
        for (raised, seen) in [(Raised::SIGTERM, Signal::Terminate), (Raised::SIGINT, Signal::Interrupt)] {
            let waiting = terminated();
            tokio::pin!(waiting);
            assert!(futures_util::poll!(&mut waiting).is_pending());
            raise(raised).unwrap();
            let signal = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
            assert_eq!(signal.unwrap().unwrap(), seen);
        }
    }
}
