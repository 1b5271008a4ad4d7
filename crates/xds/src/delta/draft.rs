// SPDX-License-Identifier: Apache-2.0
//! A response while it is filled, up to a size.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::publisher::Entry;
use crate::kind::Kind;

/// Tags, lengths and the type URL of one resource, at most.
const FRAME: usize = 96;

/// See the module.
#[derive(Debug)]
pub(super) struct Draft {
    kind: Kind,
    put: Vec<Resource>,
    removed: BTreeSet<String>,
    room: usize,
    full: bool,
}

impl Draft {
    /// Of at most `limit` bytes; one resource fits in any case.
    pub(super) fn new(kind: Kind, limit: usize) -> Self {
        Self { kind, put: Vec::new(), removed: BTreeSet::new(), room: limit, full: false }
    }

    /// Adds a resource, unless that would be too much.
    pub(super) fn put(&mut self, name: &ArcStr, entry: &Entry, aliases: Vec<String>) -> bool {
        let aliases_size: usize = aliases.iter().map(|alias| alias.len() + 8).sum();
        if !self.take(name.len() + entry.version.len() + entry.body.len() + aliases_size + FRAME) {
            return false;
        }
        let message = Resource {
            name: name.to_string(),
            version: entry.version.to_string(),
            resource: Some(prost_types::Any {
                type_url: self.kind.type_url().to_owned(),
                value: entry.body.to_vec(),
            }),
            aliases,
        };
        self.put.push(message);
        true
    }

    /// Adds a removal, unless that would be too much.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        if !self.take(name.len() + 8) {
            return false;
        }
        self.removed.insert(name.to_owned());
        true
    }

    /// Nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }

    /// Something did not fit.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    fn take(&mut self, size: usize) -> bool {
        if size > self.room && !self.is_empty() {
            self.full = true;
            return false;
        }
        self.room = self.room.saturating_sub(size);
        true
    }

    /// The message.
    pub(super) fn into_response(self, nonce: String, position: u64) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: position.to_string(),
            resources: self.put,
            type_url: self.kind.type_url().to_owned(),
            nonce,
            removed_resources: self.removed.into_iter().collect(),
        }
    }
}
