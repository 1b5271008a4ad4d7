// SPDX-License-Identifier: Apache-2.0
//! How many requests are under way to a service, and how many of them are repetitions: so that repeating does not make an
//! overload worse, and a service that has come to a stop does not take up all of the proxy. What follows from repetitions is
//! decided in `plan::route::retry`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::ServiceName;
use parking_lot::Mutex;
use plan::Fault;
use tokio::sync::Notify;

/// A request waits no longer for its turn.
const TURN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Numbers {
    active: AtomicUsize,
    repeating: AtomicUsize,
    waiting: AtomicUsize,
    ended: Notify,
}

/// What may be under way to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Requests and connections.
    pub active: usize,
    /// Those that wait for their turn.
    pub waiting: usize,
}

/// Numbers by service.
#[derive(Debug, Default)]
pub struct Budgets {
    services: Mutex<HashMap<ServiceName, Arc<Numbers>>>,
}

/// A request that is under way to a service, until this is dropped.
#[derive(Debug)]
pub struct Underway {
    numbers: Arc<Numbers>,
    repeating: bool,
}

impl Budgets {
    /// A request begins, as soon as there is room for it.
    ///
    /// # Errors
    /// When too many wait already, or there is no room in time.
    pub async fn begin(&self, service: &ServiceName, most: Most) -> Result<Underway, Fault> {
        let numbers = self.of(service);
        if numbers.enter(most.active) {
            return Ok(Underway { numbers, repeating: false });
        }
        let refused = |bound: &'static str| {
            metrics::counter!("ambit_overflows_total", "bound" => bound).increment(1);
            Fault::Overloaded(bound)
        };
        let _place =
            Place::take(&numbers, most.waiting).ok_or_else(|| refused("requests that wait for a service"))?;
        let turn = tokio::time::timeout(TURN, numbers.turn(most.active)).await;
        turn.map_err(|_elapsed| refused("requests to a service"))?;
        Ok(Underway { numbers: Arc::clone(&numbers), repeating: false })
    }

    fn of(&self, service: &ServiceName) -> Arc<Numbers> {
        let mut services = self.services.lock();
        match services.get(service) {
            Some(numbers) => Arc::clone(numbers),
            None => Arc::clone(services.entry(service.clone()).or_default()),
        }
    }

    /// Forgets services to which nothing is under way.
    pub fn tend(&self) {
        // Whoever is about to begin holds it too.
        self.services.lock().retain(|_name, numbers| {
            Arc::strong_count(numbers) > 1 || numbers.active.load(Ordering::Relaxed) > 0
        });
    }
}

impl Numbers {
    /// Whether there is room; then it is taken.
    fn enter(&self, most: usize) -> bool {
        let enter = |active: usize| (active < most).then_some(active + 1);
        self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    async fn turn(&self, most: usize) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // From here on an end is noticed also when it comes between looking and waiting.
            ended.as_mut().enable();
            if self.enter(most) {
                return;
            }
            ended.await;
        }
    }
}

/// A place among those that wait, until this is dropped.
struct Place<'a>(&'a Numbers);

impl<'a> Place<'a> {
    fn take(numbers: &'a Numbers, most: usize) -> Option<Self> {
        let enter = |waiting: usize| (waiting < most).then_some(waiting + 1);
        numbers
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, enter)
            .ok()
            .map(|_before| Self(numbers))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Underway {
    /// Requests under way to the service, and repetitions among them.
    pub fn numbers(&self) -> (usize, usize) {
        (self.numbers.active.load(Ordering::Relaxed), self.numbers.repeating.load(Ordering::Relaxed))
    }

    /// This one is a repetition from here on.
    pub fn repeat(&mut self) {
        if !std::mem::replace(&mut self.repeating, true) {
            self.numbers.repeating.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.numbers.active.fetch_sub(1, Ordering::AcqRel);
        if self.repeating {
            self.numbers.repeating.fetch_sub(1, Ordering::Relaxed);
        }
        self.numbers.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Most = Most { active: 10, waiting: 10 };

    fn name() -> ServiceName {
        "shop/web.shop".parse().unwrap()
    }

    #[tokio::test]
    async fn requests_and_repetitions_are_counted_while_they_last() {
        let budgets = Budgets::default();
        let first = budgets.begin(&name(), PLENTY).await.unwrap();
        let mut second = budgets.begin(&name(), PLENTY).await.unwrap();
        second.repeat();
        second.repeat();
        assert_eq!(first.numbers(), (2, 1));
        drop(second);
        assert_eq!(first.numbers(), (1, 0));
        drop(first);
        budgets.tend();
        assert!(budgets.services.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_room_waits_for_an_end_and_no_more_than_a_few_do() {
        let budgets = Budgets::default();
        let most = Most { active: 1, waiting: 1 };
        let first = budgets.begin(&name(), most).await.unwrap();
        let name = name();
        let mut second = Box::pin(budgets.begin(&name, most));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let third = budgets.begin(&name, most).await.unwrap_err();
        assert_eq!(third.meaning().flag, "UO");
        drop(first);
        let second = second.await.unwrap();
        let in_time = budgets.begin(&name, most).await.unwrap_err();
        assert_eq!(in_time, Fault::Overloaded("requests to a service"));
        drop(second);
        assert!(budgets.begin(&name, most).await.is_ok());
    }
}
