// SPDX-License-Identifier: Apache-2.0
//! What is known of a connection that is carried as bytes, so that guards can be asked about it again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arcstr::ArcStr;
use mesh::{
    Index,
    l7::guard::{Attribute, Condition},
};

use crate::link::Link;

/// See the module.
#[derive(Debug)]
pub struct Carried {
    /// Whose it is, and what for.
    pub link: Arc<Link>,
    /// The name in its TLS handshake, if it has one.
    pub server: Option<ArcStr>,
}

/// Whether any guard looks at the name in a TLS handshake: only then is it worth waiting for.
#[derive(Debug, Default)]
pub struct ByServerName(AtomicBool);

impl ByServerName {
    /// What was noted.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes whether any guard does now.
    pub fn follow(&self, index: &Index) {
        let looks = |condition: &Condition| condition.of == Attribute::ServerName;
        let clauses = index.guards().flat_map(|guard| &guard.rules).flat_map(|rule| &rule.clauses);
        let found = clauses.flat_map(|clause| clause.alternatives.iter().flatten()).any(looks);
        self.0.store(found, Ordering::Relaxed);
    }
}
