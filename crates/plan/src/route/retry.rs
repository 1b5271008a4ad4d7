// SPDX-License-Identifier: Apache-2.0
//! Whether a request is sent once more.
//!
//! Never one that may have been acted on: its body is gone, or the server may have seen it and it is not idempotent, unless
//! the route says which answers mean that it was not. What may be done twice is sent again without a word of the route where
//! the connection it went by was ending anyway.

use std::time::Duration;

use http::{Method, StatusCode};
use mesh::{chance::Chance, l7::route::Retry};

/// So that waits are not drawn as endpoints are.
const WAITS: u64 = 0x0077_6169_7473;
/// Without a route's word: other endpoints are tried this often, and only for what no server has seen.
const UNASKED: u32 = 2;
/// First wait where the route names none.
const FIRST: Duration = Duration::from_millis(25);
/// A wait is at most so many times the first.
const MOST: u32 = 10;
/// Share of the requests in flight that may be repetitions …
const BUDGET_PERCENT: usize = 20;
/// … and how many may be in any case.
const BUDGET_LEAST: usize = 3;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No server has seen it: no connection, or the stream was refused (RFC 9113 §8.7).
    Unseen,
    /// The connection or stream broke before there was an answer.
    Broken,
    /// So did one that had carried others before: it was given up as the request came.
    Rested,
    /// The attempt took longer than it may.
    TooLong,
    /// It was answered.
    Answered(StatusCode),
}

/// What there is to know about a request that failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Attempts so far, this one included.
    pub made: u32,
    /// How this one ended.
    pub outcome: Outcome,
    /// Whether the whole request can be sent again: none of its body was taken, or all of it is kept.
    pub repeatable: bool,
    /// Whether doing it twice is the same as doing it once (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// Requests in flight to the service.
    pub active: usize,
    /// Those of them that are repetitions.
    pub repeating: usize,
    /// The request's seed.
    pub seed: u64,
}

/// RFC 9110 §9.2.2.
pub fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Whether a request is kept while it is sent for the `made`th time, as it may be sent again though a server may have seen
/// it. One that no server has seen comes back by itself.
pub fn is_kept(retry: Option<&Retry>, made: u32, method: &Method) -> bool {
    made <= most(retry) && (retry.is_some() || is_idempotent(method))
}

/// How often it may be sent again.
fn most(retry: Option<&Retry>) -> u32 {
    retry.map_or(UNASKED, |retry| retry.attempts)
}

/// After how long it is sent again; `None` is never.
pub fn again(retry: Option<&Retry>, attempt: &Attempt) -> Option<Duration> {
    let first = retry.map_or(Duration::ZERO, |retry| retry.backoff.unwrap_or(FIRST));
    let fitting = match attempt.outcome {
        Outcome::Unseen => true,
        Outcome::Rested => attempt.idempotent,
        Outcome::Broken | Outcome::TooLong => retry.is_some() && attempt.idempotent,
        Outcome::Answered(code) => retry.is_some_and(|retry| retry.codes.contains(&code)),
    };
    let within = attempt.repeating < BUDGET_LEAST.max(attempt.active * BUDGET_PERCENT / 100);
    (fitting && attempt.repeatable && attempt.made <= most(retry) && within).then(|| wait(first, attempt))
}

/// Doubles up to ten times the first, and is drawn from its upper half, so that those who failed together do not come
/// back together.
fn wait(first: Duration, attempt: &Attempt) -> Duration {
    let doubled = 1_u32.checked_shl(attempt.made.saturating_sub(1)).unwrap_or(MOST).min(MOST);
    let longest = first.saturating_mul(doubled);
    let half = longest / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    let drawn = match micros {
        0 => 0,
        micros => Chance::new(attempt.seed, WAITS.wrapping_add(u64::from(attempt.made))).below(micros),
    };
    // The route's word is the least time.
    first.max(half + Duration::from_micros(drawn))
}
