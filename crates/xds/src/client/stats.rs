// SPDX-License-Identifier: Apache-2.0
//! Counters of a client, under the meaning that Istio gives them; exporting them is the caller's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kind::{Kind, PerKind};

/// Why a stream ended: the values of `reason` in `istio_xds_connection_terminations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Termination {
    /// No connection came about.
    ConnectionError,
    /// It failed for a reason that may come again.
    Error,
    /// The connection went away as connections do; it is opened again at once.
    Reconnect,
    /// The server ended the stream.
    Complete,
}

impl Termination {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ConnectionError, Self::Error, Self::Reconnect, Self::Complete];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Stats {
    connection_error: AtomicU64,
    error: AtomicU64,
    reconnect: AtomicU64,
    complete: AtomicU64,
    messages: PerKind<AtomicU64>,
    bytes: PerKind<AtomicU64>,
    refused: PerKind<AtomicU64>,
    connected: AtomicU64,
}

impl Stats {
    /// Streams that ended for a reason: `istio_xds_connection_terminations_total`.
    pub fn terminations(&self, reason: Termination) -> u64 {
        self.of(reason).load(Ordering::Relaxed)
    }

    /// Responses of a type: `istio_xds_message_total`, `url` is [`Kind::type_url`].
    pub fn messages(&self, kind: Kind) -> u64 {
        self.messages.of(kind).load(Ordering::Relaxed)
    }

    /// Bytes of resources in them: `istio_xds_message_bytes_total`.
    pub fn bytes(&self, kind: Kind) -> u64 {
        self.bytes.of(kind).load(Ordering::Relaxed)
    }

    /// Resources of a type that were refused.
    pub fn refused(&self, kind: Kind) -> u64 {
        self.refused.of(kind).load(Ordering::Relaxed)
    }

    /// Streams that the server accepted; more than the terminations of `Error`, `Reconnect` and `Complete` while one is
    /// open.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn terminated(&self, reason: Termination) {
        self.of(reason).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, kind: Kind, bytes: usize) {
        self.messages.of(kind).fetch_add(1, Ordering::Relaxed);
        self.bytes.of(kind).fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, kind: Kind, resources: usize) {
        self.refused.of(kind).fetch_add(resources as u64, Ordering::Relaxed);
    }

    fn of(&self, reason: Termination) -> &AtomicU64 {
        match reason {
            Termination::ConnectionError => &self.connection_error,
            Termination::Error => &self.error,
            Termination::Reconnect => &self.reconnect,
            Termination::Complete => &self.complete,
        }
    }
}
