// SPDX-License-Identifier: Apache-2.0
//! What endpoints have shown so far, shared by all threads: what one request learned at its own cost, the others need
//! not. What follows from it is decided in `plan::upstream`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mesh::WorkloadUid;
use parking_lot::{Mutex, RwLock};
use plan::upstream::{
    Algorithm, Standing,
    health::{Limits, Outcome},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Endpoints {
    known: RwLock<HashMap<WorkloadUid, Arc<Mutex<Standing>>>>,
    /// Those that are set aside: usually none, so that a request need not look at all.
    aside: Mutex<HashMap<WorkloadUid, Duration>>,
    limits: Limits,
}

/// A request that is under way at an endpoint, until this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Mutex<Standing>>);

impl Endpoints {
    fn standing(&self, uid: &WorkloadUid, now: Duration) -> Arc<Mutex<Standing>> {
        if let Some(known) = self.known.read().get(uid) {
            return Arc::clone(known);
        }
        let mut known = self.known.write();
        let entry = known.entry(uid.clone()).or_insert_with(|| Arc::new(Mutex::new(Standing::new(now))));
        Arc::clone(entry)
    }

    /// What one more request would cost an endpoint.
    pub fn cost(&self, uid: &WorkloadUid, algorithm: Algorithm, now: Duration) -> f64 {
        self.standing(uid, now).lock().cost(algorithm, now)
    }

    /// A request begins at an endpoint.
    pub fn begin(&self, uid: &WorkloadUid, now: Duration) -> InFlight {
        let standing = self.standing(uid, now);
        standing.lock().in_flight += 1;
        InFlight(standing)
    }

    /// An endpoint answered after a while, or failed.
    pub fn note(&self, uid: &WorkloadUid, outcome: Outcome, took: Duration, now: Duration) {
        let standing = self.standing(uid, now);
        let mut standing = standing.lock();
        if outcome == Outcome::Answered {
            standing.latency.observe(now, took);
        }
        if standing.health.note(outcome, &self.limits, now) {
            tracing::info!(endpoint = %uid, "an endpoint is set aside");
            metrics::counter!("ambit_endpoints_set_aside_total", "reason" => "failures").increment(1);
            self.aside.lock().insert(uid.clone(), standing.health.until());
        }
    }

    /// An endpoint said that it wants to be left alone for a while.
    pub fn rest(&self, uid: &WorkloadUid, wish: Duration, now: Duration) {
        let standing = self.standing(uid, now);
        let mut standing = standing.lock();
        standing.health.rest(wish, &self.limits, now);
        metrics::counter!("ambit_endpoints_set_aside_total", "reason" => "retry_after").increment(1);
        self.aside.lock().insert(uid.clone(), standing.health.until());
    }

    /// Who of those that are meant is set aside now, and until when.
    pub fn aside(&self, now: Duration, meant: impl Fn(&WorkloadUid) -> bool) -> Vec<(WorkloadUid, Duration)> {
        let mut aside = self.aside.lock();
        if aside.is_empty() {
            return Vec::new();
        }
        aside.retain(|_uid, until| now < *until);
        let those = aside.iter().filter(|(uid, _until)| meant(uid));
        those.map(|(uid, until)| (uid.clone(), *until)).collect()
    }

    /// When an endpoint is set aside, and how many.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&self, exists: impl Fn(&WorkloadUid) -> bool) {
        self.known.write().retain(|uid, _standing| exists(uid));
        self.aside.lock().retain(|uid, _until| exists(uid));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut standing = self.0.lock();
        standing.in_flight = standing.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_under_way_make_an_endpoint_dearer_until_they_end() {
        let endpoints = Endpoints::default();
        let uid = WorkloadUid::parse("a").unwrap();
        let later = Duration::from_secs(60);
        let cost = || endpoints.cost(&uid, Algorithm::LeastRequest, later);
        let first = endpoints.begin(&uid, Duration::ZERO);
        assert_eq!(cost(), 2.0);
        let second = endpoints.begin(&uid, Duration::ZERO);
        assert_eq!(cost(), 3.0);
        drop((first, second));
        assert_eq!(cost(), 1.0);
    }

    #[test]
    fn an_endpoint_that_fails_again_and_again_is_set_aside_and_forgotten_when_it_is_gone() {
        let endpoints = Endpoints::default();
        let uid = WorkloadUid::parse("a").unwrap();
        let aside = |now| endpoints.aside(now, |_uid| true);
        for _ in 0..3 {
            assert!(aside(Duration::from_secs(1)).is_empty());
            endpoints.note(&uid, Outcome::Failed, Duration::ZERO, Duration::from_secs(1));
        }
        let until = Duration::from_secs(3);
        assert_eq!(aside(Duration::from_secs(2)), [(uid.clone(), until)]);
        assert!(endpoints.aside(Duration::from_secs(2), |other| *other != uid).is_empty());
        assert!(aside(until).is_empty());
        endpoints.rest(&uid, Duration::from_secs(9), until);
        assert_eq!(aside(until).len(), 1);
        endpoints.retain(|_uid| false);
        assert!(aside(Duration::from_secs(2)).is_empty());
    }
}
