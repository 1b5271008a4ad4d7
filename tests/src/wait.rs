// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition with a deadline: the only way in which anything in the lab waits.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// How often a condition is asked again.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `condition` until it is `Ok` or `deadline` has passed; the last answer is in the error.
///
/// # Errors
/// After the deadline, with `what` and the reason that the condition gave last.
pub async fn eventually<F, Fut, T>(deadline: Duration, what: &str, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        let remaining = deadline.saturating_sub(started.elapsed());
        let last = match tokio::time::timeout(remaining.max(INTERVAL), condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(elapsed) => anyhow::Error::new(elapsed).context("the question itself got no answer"),
        };
        if started.elapsed() >= deadline {
            return Err(last).with_context(|| format!("{what}: not within {deadline:?}"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let asked = Cell::new(0);
        let value = eventually(Duration::from_secs(5), "counting", async || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 {
                bail!("too early");
            }
            Ok(asked.get())
        })
        .await;
        assert_eq!(value.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_missed_deadline_tells_what_was_waited_for_and_why_it_was_not() {
        let error = eventually(Duration::from_millis(30), "a late train", async || -> Result<()> {
            bail!("no rails")
        })
        .await
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "a late train: not within 30ms: no rails");
    }
}
