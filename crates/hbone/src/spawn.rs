// SPDX-License-Identifier: Apache-2.0
//! How this crate starts a task: it asks its caller, who owns every task of the daemon.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// A task to be started.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts tasks in the name of the caller. Cheap to clone.
#[derive(Clone)]
pub struct Spawner(Arc<dyn Fn(&'static str, Task) + Send + Sync>);

impl Spawner {
    /// `start` is called with the task's name and must run the task to its end, or drop it at shutdown. It should start
    /// it on the thread it is called on (see the crate's header).
    pub fn new(start: impl Fn(&'static str, Task) + Send + Sync + 'static) -> Self {
        Self(Arc::new(start))
    }

    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        (self.0)(name, Box::pin(task));
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Spawner")
    }
}
