// SPDX-License-Identifier: Apache-2.0
//! The connections of one key, and the choice among them.

use super::dial::{Begun, Dial, Waiting};
use super::{PoolSettings, Stats};
use crate::client::Connection;
use crate::end::Cause;
use crate::link::{Fate, Link, Permit};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Dials of one key under way at once.
const DIALS: usize = 8;

/// How long to measure before saying that a connection is busy.
const SAMPLE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Entry<E> {
    connections: Vec<Pooled>,
    /// Let go, but their tunnels go on: still to be closed with the key.
    retired: Vec<Arc<Link>>,
    dials: Vec<Dial<E>>,
}

#[derive(Debug)]
struct Pooled {
    connection: Connection,
    last_used: Instant,
    measured: Instant,
    moved: u64,
    busy: bool,
}

/// What a caller shall do.
pub(super) enum Pick<E> {
    Found(Connection, Permit),
    Wait(Waiting<E>),
    /// As `Wait`, and run the dial.
    Dial(Waiting<E>, Begun<E>),
}

// Not derived: that would ask `E: Default`.
impl<E> Default for Entry<E> {
    fn default() -> Self {
        Self { connections: Vec::new(), retired: Vec::new(), dials: Vec::new() }
    }
}

impl Pooled {
    fn measure(&mut self, now: Instant, busy_rate: u64) {
        let span = now.saturating_duration_since(self.measured);
        if span >= SAMPLE {
            let moved = self.connection.moved();
            let rate = u128::from(moved - self.moved) * 1000 / span.as_millis().max(1);
            self.busy = rate > u128::from(busy_rate);
            self.moved = moved;
            self.measured = now;
        }
    }

    fn has_room(&self) -> bool {
        self.connection.streams() < self.connection.usable_streams()
    }

    fn take(&mut self, now: Instant) -> (Connection, Permit) {
        self.last_used = now;
        let permit = Permit::new(self.connection.link());
        (self.connection.clone(), permit)
    }
}

impl<E> Entry<E> {
    pub(super) fn pick(&mut self, settings: &PoolSettings, now: Instant) -> Pick<E> {
        self.retire_where(|pooled| !pooled.connection.is_open());
        for pooled in &mut self.connections {
            pooled.measure(now, settings.busy_rate);
        }
        if let Some(pooled) = self.connections.iter_mut().find(|pooled| !pooled.busy && pooled.has_room()) {
            let (connection, permit) = pooled.take(now);
            return Pick::Found(connection, permit);
        }
        if self.connections.len() >= settings.spread
            && let Some(pooled) = self
                .connections
                .iter_mut()
                .filter(|pooled| pooled.has_room())
                .min_by_key(|pooled| pooled.connection.streams())
        {
            let (connection, permit) = pooled.take(now);
            return Pick::Found(connection, permit);
        }
        self.wait_or_dial(settings)
    }

    fn wait_or_dial(&mut self, settings: &PoolSettings) -> Pick<E> {
        self.dials.retain(Dial::is_alive);
        let usable = (settings.connection.max_streams as usize).saturating_sub(1).max(1);
        let least = self.dials.iter().min_by_key(|dial| dial.waiting());
        match least {
            Some(dial) if dial.waiting() < usable || self.dials.len() >= DIALS => Pick::Wait(dial.join()),
            _ => {
                let (dial, begun) = Dial::begin();
                let waiting = dial.join();
                self.dials.push(dial);
                Pick::Dial(waiting, begun)
            }
        }
    }

    pub(super) fn add(&mut self, connection: Connection, now: Instant) {
        self.connections.push(Pooled { connection, last_used: now, measured: now, moved: 0, busy: false });
    }

    /// Removes a dial; says whether it was still there.
    pub(super) fn forget(&mut self, begun: &Begun<E>) -> bool {
        let before = self.dials.len();
        self.dials.retain(|dial| !dial.is(begun));
        self.dials.len() < before
    }

    pub(super) fn retire(&mut self, link: &Arc<Link>) {
        self.retire_where(|pooled| Arc::ptr_eq(pooled.connection.link(), link));
    }

    pub(super) fn let_go_idle(&mut self, now: Instant, settings: &PoolSettings) {
        let mut spare = false;
        self.retire_where(|pooled| {
            let unused = now.saturating_duration_since(pooled.last_used);
            let surplus = pooled.connection.streams() == 0 && std::mem::replace(&mut spare, true);
            !pooled.connection.is_open()
                || unused >= settings.idle_timeout
                || (surplus && unused >= settings.surplus_timeout)
        });
        self.retired.retain(|link| !link.is_ended());
        self.dials.retain(Dial::is_alive);
    }

    /// Without a handle a connection closes when its last tunnel does.
    fn retire_where(&mut self, mut chosen: impl FnMut(&Pooled) -> bool) {
        let retired = self.connections.extract_if(.., |pooled| chosen(pooled));
        self.retired.extend(retired.map(|pooled| Arc::clone(pooled.connection.link())));
    }

    pub(super) fn close(&self, cause: Cause) -> usize {
        for dial in &self.dials {
            dial.abort(cause);
        }
        let pooled = self.connections.iter().map(|pooled| pooled.connection.link());
        pooled.chain(&self.retired).filter(|link| !link.is_ended() && link.end(Fate::Closed(cause))).count()
    }

    pub(super) fn has_several(&self) -> bool {
        self.connections.len() > 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.retired.is_empty() && self.dials.is_empty()
    }

    pub(super) fn count(&self, stats: &mut Stats) {
        let links = self.connections.iter().map(|pooled| pooled.connection.link()).chain(&self.retired);
        for link in links.filter(|link| !link.is_ended()) {
            stats.connections += 1;
            stats.streams += link.streams();
        }
        stats.dialing += self.dials.len();
    }
}
