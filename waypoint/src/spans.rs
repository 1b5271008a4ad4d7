// SPDX-License-Identifier: Apache-2.0
//! Spans and how they leave: [`export`] queues and sends them, [`otlp`] and [`zipkin`] say how they look on the wire. What
//! they say of a request is in `trail`.

pub mod export;
mod otlp;
mod zipkin;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use arcstr::ArcStr;
use plan::trace::carried::Ids;

/// One thing that a span says.
pub type Attribute = (ArcStr, String);

/// One stretch of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its trace and number.
    pub ids: Ids,
    /// The span inside which it is.
    pub parent: Option<u64>,
    /// On which side.
    pub kind: Kind,
    /// What is done.
    pub name: ArcStr,
    /// From when.
    pub begin: SystemTime,
    /// How long.
    pub took: Duration,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// What it says.
    pub attributes: Vec<Attribute>,
    /// Why it failed, if it did; empty where an answer says it.
    pub error: Option<String>,
}

/// On which side of a request a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client's request to this proxy.
    Server,
    /// This proxy's to a server.
    Client,
}

/// Who sends spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// `<waypoint>.<namespace>`.
    pub service: String,
    /// The pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The version of this build.
    pub version: &'static str,
}

/// Time since 1970.
fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
