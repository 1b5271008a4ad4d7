// SPDX-License-Identifier: Apache-2.0
//! What signs now: it may be replaced while the process runs.

use std::sync::Arc;

use tokio::sync::watch;

use super::Root;

/// A handle to the root that is in force; cheap to clone.
#[derive(Clone, Debug)]
pub struct Signer(Arc<watch::Sender<Arc<Root>>>);

impl Signer {
    /// Begins with a root.
    pub fn new(root: Root) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(root))))
    }

    /// The root that is in force.
    pub fn root(&self) -> Arc<Root> {
        Arc::clone(&self.0.borrow())
    }

    /// Another root is in force from now on.
    pub fn replace(&self, root: Root) {
        self.0.send_replace(Arc::new(root));
    }

    /// Tells of replacements.
    pub fn changes(&self) -> watch::Receiver<Arc<Root>> {
        self.0.subscribe()
    }
}
