// SPDX-License-Identifier: Apache-2.0
//! Who gets a part of the catalogue only, and which.

use std::{fmt, sync::Arc};

use mesh::SpiffeId;

use crate::delta::scope::Scope;

type Look = dyn Fn(&str, &SpiffeId) -> Option<Scope> + Send + Sync;

/// Says the scope of a proxy by its `node.id` and the identity that it proved. It is asked whenever something is due, with
/// no lock held, and never waits.
#[derive(Clone)]
pub struct Scopes(Arc<Look>);

impl Scopes {
    /// Asks this.
    pub fn new(look: impl Fn(&str, &SpiffeId) -> Option<Scope> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(super) fn of(&self, node: &str, caller: &SpiffeId) -> Option<Scope> {
        (self.0)(node, caller)
    }
}

/// Everything is for everybody.
impl Default for Scopes {
    fn default() -> Self {
        Self::new(|_node, _caller| None)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scopes")
    }
}
