// SPDX-License-Identifier: Apache-2.0
//! Tests: the cache over a real authority, in paused time.

use std::sync::atomic::Ordering;

use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::testing::{Behaviour, PausedClock, TestAuthority, id};

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

fn account(number: usize) -> SpiffeId {
    id(&format!("cluster.local/ns/a/sa/{number}"))
}

struct World {
    authority: Arc<TestAuthority>,
    identities: Identities,
    _renewal: JoinSet<()>,
}

/// A cache whose renewal runs.
fn world(life: Duration) -> World {
    let clock = PausedClock::new();
    let authority = TestAuthority::new(life, Arc::clone(&clock) as Arc<dyn Clock>);
    let signer = Arc::clone(&authority) as Arc<dyn Authority>;
    let (identities, renewal) = Identities::new(signer, IdentitiesSettings::default(), clock);
    let mut tasks = JoinSet::new();
    tasks.spawn(renewal.run(std::future::pending()));
    World { authority, identities, _renewal: tasks }
}

impl World {
    fn behave(&self, behaviour: Behaviour) {
        *self.authority.behaviour.lock() = behaviour;
    }

    fn asked(&self) -> usize {
        self.authority.asked.lock().len()
    }

    async fn state(&self, number: usize) -> String {
        self.identities.follow(&account(number)).state().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_connections_at_once_make_one_request() {
    let world = world(DAY);
    world.behave(Behaviour::Slow(Duration::from_secs(1)));
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        let identities = world.identities.clone();
        waiting.spawn(async move { identities.certificate(&account(1)).await.unwrap().serial() });
    }
    let serials = waiting.join_all().await;
    assert!(serials[0].is_some() && serials.iter().all(|serial| *serial == serials[0]));
    assert_eq!(world.asked(), 1);
    assert!(world.identities.certificate(&account(1)).await.is_ok(), "and later ones none");
    assert_eq!(world.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn eight_requests_run_at_a_time_and_live_ones_overtake() {
    let world = world(DAY);
    world.behave(Behaviour::Slow(Duration::from_secs(1)));
    for number in 0..40 {
        world.identities.prefetch(&account(number), Priority::Warmup);
    }
    // The first eight are on their way, the live one is the next.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        timeout(Duration::from_secs(2), world.identities.certificate(&account(99))).await.unwrap().is_ok()
    );
    assert_eq!(world.authority.asked.lock()[8], account(99));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.asked(), 41);
    assert_eq!(world.authority.most_at_once.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_replaced_at_half_of_its_life_and_followers_see_it() {
    let world = world(DAY);
    let mut current = world.identities.follow(&account(1));
    assert!(current.certificate().is_none());
    assert!(current.changed().await);
    let first = current.certificate().unwrap();
    tokio::time::sleep(DAY / 2 - 2 * MINUTE).await;
    assert_eq!(current.certificate().unwrap().serial(), first.serial());
    tokio::time::sleep(3 * MINUTE).await;
    let second = current.certificate().unwrap();
    assert_ne!(second.serial(), first.serial());
    assert_eq!(world.asked(), 2);
    assert_eq!(world.identities.cached(&account(1)).unwrap().serial(), second.serial());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_away_for_45_percent_of_a_life_is_not_missed() {
    let world = world(Duration::from_secs(1000));
    let certificate = world.identities.certificate(&account(1)).await.unwrap();
    let life = certificate.not_after().duration_since(certificate.not_before()).unwrap();
    // Away from just before the renewal is due; it was issued with 120 s of its life gone.
    tokio::time::sleep(life / 2 - Duration::from_secs(122)).await;
    world.behave(Behaviour::Away);
    let mut left = f64::MAX;
    for _ in 0..450 {
        tokio::time::sleep(life / 1000).await;
        assert!(world.identities.certificate(&account(1)).await.is_ok());
        let now_left = world.identities.seconds_to_first_expiry().unwrap();
        assert!(now_left > 0.0 && now_left < left, "it says how little time is left");
        left = now_left;
    }
    assert!(left < 70.0, "{left}");
    assert_eq!(world.state(1).await, "Available");
    world.behave(Behaviour::Signs);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.identities.seconds_to_first_expiry().unwrap() > 900.0);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_not_used_and_the_next_one_comes_soon_after_the_authority_does() {
    let life = Duration::from_secs(100);
    let world = world(life);
    let current = world.identities.follow(&account(1));
    world.identities.certificate(&account(1)).await.unwrap();
    world.behave(Behaviour::Away);
    tokio::time::sleep(life + Duration::from_secs(3600)).await;
    assert!(current.certificate().is_none());
    assert!(world.identities.cached(&account(1)).is_none());
    let error = world.identities.certificate(&account(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "no certificate for spiffe://cluster.local/ns/a/sa/1");
    assert_eq!(
        world.state(1).await,
        "Unavailable: nothing was signed: the certificate authority cannot be reached: connection refused"
    );
    assert_eq!(world.identities.seconds_to_first_expiry(), None);
    world.behave(Behaviour::Signs);
    let waited = timeout(Duration::from_millis(1100), world.identities.certificate(&account(1))).await;
    assert!(waited.unwrap().is_ok(), "a connection does not sit out the pauses of a long absence");
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_are_repeated_with_pauses() {
    let world = world(DAY);
    world.behave(Behaviour::Away);
    world.identities.prefetch(&account(1), Priority::Warmup);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = world.asked();
    // 0.5 + 1 + ... + 128 s, then every 150 s at most; 20 % of chance.
    assert!((25..45).contains(&asked), "{asked}");
    world.behave(Behaviour::Signs);
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(world.state(1).await, "Available");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_never_answers_fails_at_the_deadline() {
    let world = world(DAY);
    world.behave(Behaviour::Silent);
    assert_eq!(world.state(1).await, "Initializing");
    let error = world.identities.certificate(&account(1)).await.unwrap_err();
    assert_eq!(error.cause.to_string(), "no answer within 10s");
}

#[tokio::test(start_paused = true)]
async fn certificates_that_live_for_seconds_do_not_make_a_storm() {
    let world = world(Duration::from_secs(10));
    let current = world.identities.follow(&account(1));
    world.identities.certificate(&account(1)).await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(current.certificate().is_some());
    }
    let asked = world.asked();
    assert!((15..30).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_not_renewed_and_nobody_waits_for_it() {
    let world = world(DAY);
    let mut current = world.identities.follow(&account(1));
    world.identities.certificate(&account(1)).await.unwrap();
    world.identities.forget(&account(1));
    assert!(current.certificate().is_some(), "connections that are being made still can");
    current.changed().await;
    assert!(!current.changed().await);
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(world.asked(), 1);
    assert!(world.identities.states().is_empty());

    world.behave(Behaviour::Slow(Duration::from_secs(5)));
    let identities = world.identities.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { identities.certificate(&account(2)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.identities.forget(&account(2));
    let error = waiting.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.cause.to_string(), "the identity was forgotten");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(world.identities.states().is_empty(), "the late answer is dropped");
}

#[tokio::test(start_paused = true)]
async fn the_first_expiry_is_that_of_the_certificate_that_ends_first() {
    let world = world(DAY);
    assert_eq!(world.identities.seconds_to_first_expiry(), None);
    world.identities.certificate(&account(1)).await.unwrap();
    tokio::time::sleep(DAY / 4).await;
    world.identities.certificate(&account(2)).await.unwrap();
    let left = world.identities.seconds_to_first_expiry().unwrap();
    assert!((left - DAY.as_secs_f64() * 0.75).abs() < 2.0, "{left}");
    let states = world.identities.states();
    let names: Vec<_> = states.iter().map(|(identity, state)| format!("{identity} {state}")).collect();
    let expected = [1, 2].map(|number| format!("{} Available", account(number)));
    assert_eq!(names, expected);
}

#[tokio::test(start_paused = true)]
async fn after_the_renewal_was_stopped_certificates_stay_in_use() {
    let clock = PausedClock::new();
    let authority = TestAuthority::new(DAY, Arc::clone(&clock) as Arc<dyn Clock>);
    let (identities, renewal) = Identities::new(authority, IdentitiesSettings::default(), clock);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(renewal.run(async move { drop(stopped.await) }));
    identities.certificate(&account(1)).await.unwrap();
    stop.send(()).unwrap();
    timeout(MINUTE, tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(identities.certificate(&account(1)).await.is_ok());
}
