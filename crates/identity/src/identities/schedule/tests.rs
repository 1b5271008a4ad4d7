// SPDX-License-Identifier: Apache-2.0
//! Tests: what is asked for when, with a time that is only a number.

use proptest::prelude::*;

use super::*;
use crate::testing::id;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_000_000.0 + seconds)
}

fn account(name: &str) -> SpiffeId {
    id(&format!("cluster.local/ns/a/sa/{name}"))
}

fn name(attempt: Option<Attempt>) -> Option<String> {
    attempt.map(|attempt| attempt.identity.service_account().to_string())
}

#[test]
fn what_a_connection_waits_for_comes_first_then_what_is_announced_then_what_is_due_longest() {
    let mut schedule = Schedule::default();
    schedule.want(&account("announced-later"), Priority::Warmup, at(1.0));
    schedule.want(&account("announced"), Priority::Warmup, at(0.0));
    schedule.want(&account("old"), Priority::Background, at(0.0));
    schedule.want(&account("live"), Priority::RealTime, at(2.0));
    let order: Vec<_> = std::iter::from_fn(|| name(schedule.start(at(3.0)))).collect();
    assert_eq!(order, ["live", "announced", "announced-later", "old"]);
}

#[test]
fn an_announced_identity_becomes_urgent_when_a_connection_wants_it() {
    let mut schedule = Schedule::default();
    schedule.want(&account("first"), Priority::Warmup, at(0.0));
    schedule.want(&account("second"), Priority::Warmup, at(1.0));
    schedule.want(&account("second"), Priority::RealTime, at(2.0));
    schedule.want(&account("second"), Priority::Background, at(2.0));
    assert_eq!(name(schedule.start(at(2.0))).unwrap(), "second");
}

#[test]
fn nothing_is_asked_for_twice_at_the_same_time() {
    let mut schedule = Schedule::default();
    schedule.want(&account("a"), Priority::RealTime, at(0.0));
    assert!(schedule.start(at(0.0)).is_some());
    schedule.want(&account("a"), Priority::RealTime, at(0.0));
    assert_eq!(schedule.start(at(100.0)), None);
    assert_eq!(schedule.next(at(100.0)), None);
}

#[test]
fn a_certificate_is_renewed_at_half_of_its_life() {
    // not_before, not_after, issued at, due at
    for (not_before, not_after, now, due) in [
        (0.0, 100.0, 0.0, 50.0),
        (-120.0, 86_400.0, 0.0, 43_140.0),
        // Dated back by more than it lives: half of what is left.
        (-120.0, 20.0, 0.0, 10.0),
        // Over already, or nearly: no storm.
        (-10.0, 0.1, 0.0, 0.5),
        (-10.0, -5.0, 0.0, 0.5),
        (10.0, 5.0, 0.0, 5.0),
    ] {
        let mut schedule = Schedule::default();
        schedule.want(&account("a"), Priority::RealTime, at(now));
        let attempt = schedule.start(at(now)).unwrap();
        assert!(schedule.succeeded(&attempt, (at(not_before), at(not_after)), at(now)));
        let next = schedule.next(at(now)).unwrap().as_secs_f64();
        assert!((next - (due - now)).abs() < 1e-6, "{next} for {not_before}..{not_after}");
        assert_eq!(schedule.start(at(due - 0.01)), None);
        assert!(schedule.start(at(due)).is_some());
    }
}

/// Seconds until the next attempt after each of a number of failures.
fn pauses(chance: f64, expiry: Option<f64>, count: usize) -> Vec<f64> {
    let mut schedule = Schedule::default();
    let mut now = 0.0;
    schedule.want(&account("a"), Priority::Warmup, at(now));
    let pauses = std::iter::repeat_with(|| {
        let attempt = schedule.start(at(now)).unwrap();
        assert!(schedule.failed(&attempt, expiry.map(at), chance, at(now)));
        let pause = schedule.next(at(now)).unwrap().as_secs_f64();
        now += pause;
        pause
    });
    pauses.take(count).collect()
}

#[test]
fn pauses_after_failures_double_up_to_a_bound() {
    let expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 150.0, 150.0];
    assert_eq!(pauses(0.0, None, 11), expected);
    assert_eq!(pauses(1.0, None, 3), [0.6, 1.2, 2.4]);
    assert_eq!(pauses(-1.0, None, 3), [0.4, 0.8, 1.6]);
    assert_eq!(pauses(1.0, None, 40)[39], 150.0);
}

#[test]
fn an_attempt_is_made_no_later_than_the_certificate_in_use_expires() {
    let pauses = pauses(0.0, Some(10.0), 6);
    assert_eq!(pauses[..4], [0.5, 1.0, 2.0, 4.0]);
    assert!((pauses[4] - 2.5).abs() < 1e-6, "cut short at the end");
    assert_eq!(pauses[5], 16.0, "and afterwards as before");
}

#[test]
fn a_live_connection_does_not_sit_out_a_long_pause() {
    let mut schedule = Schedule::default();
    schedule.want(&account("a"), Priority::Warmup, at(0.0));
    for _ in 0..10 {
        let now = at(1_000.0);
        schedule.entries.values_mut().for_each(|entry| entry.due = now);
        let attempt = schedule.start(now).unwrap();
        schedule.failed(&attempt, None, 0.0, now);
    }
    assert_eq!(schedule.next(at(1_000.0)), Some(LONGEST_PAUSE));
    schedule.want(&account("a"), Priority::Warmup, at(1_000.2));
    assert_eq!(schedule.start(at(1_002.0)), None);
    schedule.want(&account("a"), Priority::RealTime, at(1_000.2));
    assert_eq!(schedule.start(at(1_000.9)), None, "but neither does it hammer");
    assert!(schedule.start(at(1_001.0)).is_some());
}

#[test]
fn what_was_forgotten_in_the_meantime_changes_nothing() {
    let mut schedule = Schedule::default();
    schedule.want(&account("a"), Priority::Warmup, at(0.0));
    let before = schedule.start(at(0.0)).unwrap();
    schedule.remove(&account("a"));
    assert!(!schedule.succeeded(&before, (at(0.0), at(10.0)), at(1.0)));
    schedule.want(&account("a"), Priority::Warmup, at(1.0));
    let after = schedule.start(at(1.0)).unwrap();
    assert!(
        !schedule.failed(&before, None, 0.0, at(1.0)),
        "an answer to the first request is not one to the second"
    );
    assert!(schedule.succeeded(&after, (at(0.0), at(10.0)), at(1.0)));
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut schedule = Schedule::default();
    schedule.want(&account("a"), Priority::Warmup, at(10_000.0));
    let attempt = schedule.start(at(10_000.0)).unwrap();
    schedule.failed(&attempt, None, 0.0, at(10_000.0));
    assert!(schedule.start(at(100.0)).is_some());
}

proptest! {
    /// However attempts end: at any time some attempt is running or planned, and none is later than the longest pause,
    /// half of a life, or the end of what is in use.
    #[test]
    fn an_identity_never_falls_out_of_the_schedule(outcomes in proptest::collection::vec((any::<bool>(), 0.1_f64..1000.0, -1.0_f64..=1.0), 1..40)) {
        let mut schedule = Schedule::default();
        let mut now = 0.0;
        let mut expiry: Option<f64> = None;
        schedule.want(&account("a"), Priority::Warmup, at(now));
        for (succeeds, life, chance) in outcomes {
            let attempt = schedule.start(at(now)).expect("due");
            let latest = if succeeds {
                expiry = Some(now + life);
                schedule.succeeded(&attempt, (at(now), at(now + life)), at(now));
                (life / 2.0).max(0.5)
            } else {
                schedule.failed(&attempt, expiry.map(at), chance, at(now));
                expiry.map(|expiry| expiry - now).filter(|left| *left > 0.0).unwrap_or(150.0).min(150.0)
            };
            let pause = schedule.next(at(now)).expect("planned").as_secs_f64();
            prop_assert!(pause <= latest + 1e-6, "{pause} > {latest}");
            now += pause + 1e-6;
        }
    }
}
