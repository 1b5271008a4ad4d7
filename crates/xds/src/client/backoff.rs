// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next stream: 10 ms doubling to 15 s, from the start again after a stream that worked.

use std::time::Duration;

use super::stream::Ended;
use crate::jitter;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// The wait after a stream. One that brought an answer proves the server to be well; one that ended cleanly without
    /// is no proof, and a server that always ends at once must not be asked a hundred times a second.
    pub(super) fn after(&mut self, ended: &Ended) -> Duration {
        if ended.answers > 0 {
            self.next = SHORTEST;
        }
        let wait = jitter::at_most(self.next);
        self.next = LONGEST.min(self.next * 2);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_a_stream_works() {
        let failed = Ended { error: None, answers: 0 };
        let worked = Ended { error: None, answers: 1 };
        let mut backoff = Backoff::new();
        let mut longest = SHORTEST;
        for _ in 0..20 {
            let wait = backoff.after(&failed);
            assert!(longest / 2 <= wait && wait <= longest, "{wait:?} of {longest:?}");
            longest = LONGEST.min(longest * 2);
        }
        assert_eq!(longest, LONGEST);
        assert!(backoff.after(&worked) <= SHORTEST);
    }
}
