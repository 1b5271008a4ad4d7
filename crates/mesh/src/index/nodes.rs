// SPDX-License-Identifier: Apache-2.0
//! Identities by node: which certificates a node's proxy will need.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arcstr::ArcStr;

use crate::{
    name::SpiffeId,
    workload::{TunnelProtocol, Workload},
};

/// Identities of workloads that accept tunnels, by node, with the number of workloads that have them.
#[derive(Debug, Default)]
pub(crate) struct Nodes(HashMap<ArcStr, BTreeMap<SpiffeId, usize>>);

impl Nodes {
    /// Identities of a node.
    pub(crate) fn identities(&self, node: &str) -> impl Iterator<Item = &SpiffeId> {
        self.0.get(node).into_iter().flat_map(BTreeMap::keys)
    }

    /// Puts the next state of a workload in place of the one before and returns the nodes whose set changed.
    pub(crate) fn replace(
        &mut self,
        before: Option<&Workload>,
        after: Option<&Workload>,
    ) -> BTreeSet<ArcStr> {
        let before = before.and_then(place);
        let after = after.and_then(place);
        let mut changed = BTreeSet::new();
        if before == after {
            return changed;
        }
        if let Some((node, identity)) = after {
            let count = self.0.entry(node.clone()).or_default().entry(identity).or_default();
            *count += 1;
            if *count == 1 {
                changed.insert(node);
            }
        }
        if let Some((node, identity)) = before
            && self.forget(&node, &identity)
        {
            changed.insert(node);
        }
        changed
    }

    /// Counts one workload less and returns whether it was the last of its identity.
    fn forget(&mut self, node: &ArcStr, identity: &SpiffeId) -> bool {
        let Some(identities) = self.0.get_mut(node) else { return false };
        match identities.get_mut(identity) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) | None => {
                identities.remove(identity);
                if identities.is_empty() {
                    self.0.remove(node);
                }
                true
            }
        }
    }
}

fn place(workload: &Workload) -> Option<(ArcStr, SpiffeId)> {
    match workload.tunnel {
        TunnelProtocol::Hbone if !workload.node.is_empty() => {
            Some((workload.node.clone(), workload.identity()))
        }
        TunnelProtocol::Hbone | TunnelProtocol::None | TunnelProtocol::LegacyMtls => None,
    }
}
