// SPDX-License-Identifier: Apache-2.0
//! The Kubernetes API for daemons and tools: a client, watches, leases, reviews of tokens.
//!
//! ```text
//!   api ──► watch ──► events of one kind, into a bounded queue
//!     ├───► lease ──► am I the leader?
//!     ├───► review ─► whose token is it?
//!     ├───► rights ─► may we do what we must?
//!     └───► forward ► what a port of a pod answers, also one on its loopback
//! ```
//! It is the only package that knows `kube`. It knows no mesh: objects are the caller's types, and what they mean is the
//! caller's business.

mod access;
mod api;
mod backoff;
mod error;
mod forward;
mod lease;
mod resource;
mod review;
mod rights;
mod secret;
mod watch;

pub use self::{
    access::{Access, AccessError},
    api::Api,
    error::ApiError,
    forward::{ForwardError, PodPort},
    lease::{Leadership, LeaseSettings, lead},
    resource::{Resource, Within},
    review::{Account, ReviewError, review},
    rights::{Lack, Right},
    secret::Secret,
    watch::{Event, Happened, Name, Phase, Problem, Progress, View, Watch, json},
};
