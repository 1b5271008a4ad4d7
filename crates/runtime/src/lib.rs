// SPDX-License-Identifier: Apache-2.0
//! What every daemon needs: tasks with an owner and an end, the one accept loop, signals, log, metrics, a small HTTP
//! server for people and probes, readiness, and typed reads of the environment.
//!
//! It knows no mesh, no certificates and no protocol of ours: only how a process lives and ends.

pub mod accept;
pub mod env;
pub mod http;
pub mod log;
pub mod metrics;
pub mod readiness;
pub mod signals;
pub mod tasks;

pub use tasks::{Drained, Failed, Shutdown, Task, TaskError, Tasks};
