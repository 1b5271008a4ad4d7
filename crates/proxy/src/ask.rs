// SPDX-License-Identifier: Apache-2.0
//! Puts a question to `plan` until it is answered: what is missing is waited for, never awaited inside a decision.

use std::time::Duration;

use mesh::{Hostname, Index};
use plan::{Answer, Failure, Missing};
use tokio::time::Instant;
use xds::Replica;

/// A flow is held for so long while discovery lacks something.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The addresses of this name are missing: resolve it and ask again.
    Host(Hostname),
    /// The time is up.
    Failed(Failure),
}

/// Asks until there is an answer or the deadline has passed. Every try reads one state.
///
/// # Errors
/// When something did not come in time, or a host name is to be resolved.
pub async fn ask<T>(
    replica: &Replica,
    deadline: Instant,
    mut question: impl FnMut(&Index) -> Answer<T>,
) -> Result<T, Unanswered> {
    if let Answer::Ready(answer) = replica.read(&mut question) {
        return Ok(answer);
    }
    // From here on a change is noticed also when it comes between reading and waiting.
    let mut changed = replica.changed();
    loop {
        let missing = match replica.read(&mut question) {
            Answer::Ready(answer) => return Ok(answer),
            Answer::Needs(Missing::Host(name)) => return Err(Unanswered::Host(name)),
            Answer::Needs(missing) => missing,
        };
        let news = async {
            match missing {
                Missing::Sync => replica.wait_synced().await,
                Missing::Workload(_) | Missing::Policy(_) | Missing::Host(_) | Missing::Served(_) => {
                    // The sender outlives every replica.
                    changed.changed().await.ok();
                }
            }
        };
        if tokio::time::timeout_at(deadline, news).await.is_err() {
            return Err(Unanswered::Failed(missing.failure().into()));
        }
    }
}

/// As [`ask`], for questions that no host name stands in the way of.
///
/// # Errors
/// When something did not come in time.
pub async fn ask_plain<T>(
    replica: &Replica,
    deadline: Instant,
    question: impl FnMut(&Index) -> Answer<T>,
) -> Result<T, Failure> {
    ask(replica, deadline, question).await.map_err(|unanswered| match unanswered {
        Unanswered::Host(name) => Missing::Host(name).failure().into(),
        Unanswered::Failed(failure) => failure,
    })
}

#[cfg(test)]
mod tests {
    use mesh::WorkloadKey;
    use plan::What;
    use xds::Writer;

    use super::*;

    fn key() -> WorkloadKey {
        WorkloadKey { name: "a".into(), namespace: "b".into(), service_account: "c".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_ends_the_wait_with_its_name() {
        let writer = Writer::new();
        let start = Instant::now();
        let answer = ask_plain::<()>(&writer.replica(), start + PATIENCE, |_index| {
            Answer::Needs(Missing::Workload(key()))
        })
        .await;
        assert_eq!(answer.unwrap_err().what, What::UnknownWorkload(key()));
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_sync_releases_what_waits_for_it() {
        let mut writer = Writer::new();
        let replica = writer.replica();
        let question = |_index: &Index| {
            if replica.synced() { Answer::Ready(7) } else { Answer::Needs(Missing::Sync) }
        };
        let (answer, ()) = tokio::join!(ask_plain(&replica, Instant::now() + PATIENCE, question), async {
            for kind in xds::Kind::ALL {
                writer.mark_synced(kind);
            }
        });
        assert_eq!(answer.unwrap(), 7);
    }
}
