// SPDX-License-Identifier: Apache-2.0
//! Questions that many ask at once, and the answer of one read for all of them: whoever asks gets the answer of a read that
//! began after it asked, never an older one. So thirty pods of a namespace that start together cost a few reads, one after
//! the other over one connection, and none of them is told less than if it had asked by itself.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

/// The reads that are under way or waited for, by what they are of. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reads<T> {
    lines: Arc<Mutex<HashMap<String, Weak<Line<T>>>>>,
}

/// Those who ask for one thing, one after the other.
#[derive(Debug)]
struct Line<T> {
    /// How many have asked.
    asked: AtomicU64,
    last: tokio::sync::Mutex<Option<Read<T>>>,
}

/// An answer, for everybody who asked before it was begun.
#[derive(Debug)]
struct Read<T> {
    before: u64,
    found: T,
}

impl<T> Default for Reads<T> {
    fn default() -> Self {
        Self { lines: Arc::default() }
    }
}

impl<T: Clone> Reads<T> {
    /// What `read` finds, or what another's `read` of the same found that began after this call. Cancel-safe: who is
    /// dropped while it reads leaves the next one to read.
    pub(super) async fn read<E, F: Future<Output = Result<T, E>>>(
        &self,
        of: &str,
        read: impl FnOnce() -> F,
    ) -> Result<T, E> {
        let line = self.line(of);
        let place = line.asked.fetch_add(1, Ordering::SeqCst);
        let mut last = line.last.lock().await;
        if let Some(Read { found, .. }) = last.as_ref().filter(|read| place < read.before) {
            return Ok(found.clone());
        }
        let before = line.asked.load(Ordering::SeqCst);
        let found = read().await?;
        *last = Some(Read { before, found: found.clone() });
        Ok(found)
    }

    fn line(&self, of: &str) -> Arc<Line<T>> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(of).and_then(Weak::upgrade) {
            return line;
        }
        // Once per burst: those that nobody stands in any more go.
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line { asked: AtomicU64::new(0), last: tokio::sync::Mutex::default() });
        lines.insert(of.to_owned(), Arc::downgrade(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_while_one_reads_share_the_next_read() {
        let (reads, begun, go) = (Reads::default(), Cell::new(0), Semaphore::new(0));
        let read = async || {
            begun.set(begun.get() + 1);
            let number = begun.get();
            drop(go.acquire().await);
            Ok::<_, Infallible>(number)
        };
        let first = reads.read("shop", read);
        tokio::pin!(first);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let others = join_all((0..29).map(|_| reads.read("shop", read)));
        tokio::pin!(others);
        assert!(futures_util::poll!(others.as_mut()).is_pending());
        assert_eq!(begun.get(), 1, "one at a time");
        go.add_permits(1);
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, Ok(1));
        assert!(
            others.iter().all(|found| *found == Ok(2)),
            "not what was read before they asked: {others:?}"
        );
        assert_eq!(reads.read("shop", read).await, Ok(3), "nothing is remembered for those who come later");
    }

    #[tokio::test]
    async fn who_leaves_or_fails_leaves_the_next_one_to_read() {
        let reads = Reads::default();
        let hangs = reads.read("shop", std::future::pending::<Result<u8, &str>>);
        let mut hangs = Box::pin(hangs);
        assert!(futures_util::poll!(hangs.as_mut()).is_pending());
        let mut fails = Box::pin(reads.read("shop", async || Err::<u8, &str>("away")));
        assert!(futures_util::poll!(fails.as_mut()).is_pending());
        let mut reads_well = Box::pin(reads.read("shop", async || Ok::<u8, &str>(1)));
        assert!(futures_util::poll!(reads_well.as_mut()).is_pending());
        assert_eq!(reads.read("other", async || Ok::<u8, &str>(2)).await, Ok(2), "another does not wait");
        drop(hangs);
        assert_eq!(fails.await, Err("away"));
        assert_eq!(reads_well.await, Ok(1));
    }
}
