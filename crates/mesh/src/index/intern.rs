// SPDX-License-Identifier: Apache-2.0
//! Sharing of equal texts and equal memberships: a hundred thousand workloads have few namespaces, nodes and owners.

use std::{collections::HashSet, sync::Arc};

use arcstr::ArcStr;

use crate::workload::{Memberships, Workload};

/// Values seen so far. Those that nobody else holds are dropped when the table has doubled since it was last swept, so
/// that sweeping costs a constant per insertion.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: HashSet<ArcStr>,
    memberships: HashSet<Arc<Memberships>>,
    sweep_at: usize,
}

/// Smallest table that is swept.
const SWEEP_FROM: usize = 1024;

impl Interner {
    /// Replaces texts of a workload by equal ones seen before. Its own name, uid and addresses are its alone.
    pub(crate) fn workload(&mut self, workload: &mut Workload) {
        self.sweep();
        for text in [
            &mut workload.namespace,
            workload.trust_domain.text_mut(),
            &mut workload.service_account,
            &mut workload.network.0,
            &mut workload.node,
            &mut workload.locality.region,
            &mut workload.locality.zone,
            &mut workload.locality.subzone,
            &mut workload.cluster,
            &mut workload.canonical_name,
            &mut workload.canonical_revision,
            &mut workload.workload_name,
        ] {
            share(&mut self.texts, text);
        }
        for policy in &mut workload.policies {
            share(&mut self.texts, &mut policy.namespace);
            share(&mut self.texts, &mut policy.name);
        }
        match self.memberships.get(&workload.services) {
            Some(known) => workload.services = Arc::clone(known),
            None => drop(self.memberships.insert(Arc::clone(&workload.services))),
        }
    }

    fn sweep(&mut self) {
        if self.texts.len() + self.memberships.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.texts.retain(|text| ArcStr::strong_count(text).is_none_or(|count| count > 1));
        self.memberships.retain(|known| Arc::strong_count(known) > 1);
        self.sweep_at = 2 * (self.texts.len() + self.memberships.len());
    }
}

fn share(texts: &mut HashSet<ArcStr>, text: &mut ArcStr) {
    match texts.get(text.as_str()) {
        Some(known) => *text = known.clone(),
        None => drop(texts.insert(text.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::workload;

    #[test]
    fn what_nobody_holds_any_more_is_forgotten() {
        let mut interner = Interner::default();
        let mut keep = workload("keep", &[]);
        interner.workload(&mut keep);
        for number in 0..10 * SWEEP_FROM {
            interner.workload(&mut workload(&format!("gone-{number}"), &[]));
        }
        assert!(interner.texts.len() < 2 * SWEEP_FROM, "{}", interner.texts.len());
        assert!(interner.texts.contains("keep"));
    }
}
