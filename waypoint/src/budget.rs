// SPDX-License-Identifier: Apache-2.0
//! How many requests are under way to a service, and how many of them are repetitions: so that repeating does not make an
//! overload worse. What follows from it is decided in `plan::route::retry`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mesh::ServiceName;
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Numbers {
    active: AtomicUsize,
    repeating: AtomicUsize,
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
    /// A request begins.
    pub fn begin(&self, service: &ServiceName) -> Underway {
        let mut services = self.services.lock();
        let numbers = match services.get(service) {
            Some(numbers) => Arc::clone(numbers),
            None => Arc::clone(services.entry(service.clone()).or_default()),
        };
        drop(services);
        numbers.active.fetch_add(1, Ordering::Relaxed);
        Underway { numbers, repeating: false }
    }

    /// Forgets services to which nothing is under way.
    pub fn tend(&self) {
        self.services.lock().retain(|_name, numbers| numbers.active.load(Ordering::Relaxed) > 0);
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
        self.numbers.active.fetch_sub(1, Ordering::Relaxed);
        if self.repeating {
            self.numbers.repeating.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_repetitions_are_counted_while_they_last() {
        let budgets = Budgets::default();
        let name: ServiceName = "shop/web.shop".parse().unwrap();
        let first = budgets.begin(&name);
        let mut second = budgets.begin(&name);
        second.repeat();
        second.repeat();
        assert_eq!(first.numbers(), (2, 1));
        drop(second);
        assert_eq!(first.numbers(), (1, 0));
        drop(first);
        budgets.tend();
        assert!(budgets.services.lock().is_empty());
    }
}
