// SPDX-License-Identifier: Apache-2.0
//! Guards and authentications by what they are attached to.

use std::{collections::HashMap, sync::Arc};

use crate::{
    l7::{
        Authentication, Guard,
        guard::{Attachment, Book},
    },
    name::PolicyName,
};

/// All guards; those of an attachment with their rules indexed.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    named: HashMap<PolicyName, Arc<Guard>>,
    attached: HashMap<Attachment, Book>,
}

impl Guards {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Guard>> {
        self.named.values()
    }

    pub(crate) fn named(&self, name: &PolicyName) -> Option<&Arc<Guard>> {
        self.named.get(name)
    }

    pub(crate) fn at(&self, attachment: &Attachment) -> Option<&Book> {
        self.attached.get(attachment)
    }

    /// Whether it was different.
    pub(crate) fn insert(&mut self, guard: Guard) -> bool {
        if self.named.get(&guard.name).is_some_and(|known| **known == guard) {
            return false;
        }
        self.remove(&guard.name);
        let guard = Arc::new(guard);
        for attachment in unique(&guard.attached) {
            self.attached.entry(attachment.clone()).or_default().insert(&guard);
        }
        self.named.insert(guard.name.clone(), guard);
        true
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, name: &PolicyName) -> bool {
        let Some(guard) = self.named.remove(name) else { return false };
        for attachment in unique(&guard.attached) {
            if let Some(book) = self.attached.get_mut(attachment) {
                book.remove(&guard);
                if book.is_empty() {
                    self.attached.remove(attachment);
                }
            }
        }
        true
    }
}

/// All authentications.
#[derive(Debug, Default)]
pub(crate) struct Authentications {
    named: HashMap<PolicyName, Arc<Authentication>>,
    attached: HashMap<Attachment, Vec<Arc<Authentication>>>,
}

impl Authentications {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Authentication>> {
        self.named.values()
    }

    /// By name.
    pub(crate) fn at(&self, attachment: &Attachment) -> &[Arc<Authentication>] {
        self.attached.get(attachment).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it was different.
    pub(crate) fn insert(&mut self, authentication: Authentication) -> bool {
        if self.named.get(&authentication.name).is_some_and(|known| **known == authentication) {
            return false;
        }
        self.remove(&authentication.name);
        let authentication = Arc::new(authentication);
        for attachment in unique(&authentication.attached) {
            let all = self.attached.entry(attachment.clone()).or_default();
            let place = all.partition_point(|known| known.name < authentication.name);
            all.insert(place, Arc::clone(&authentication));
        }
        self.named.insert(authentication.name.clone(), authentication);
        true
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, name: &PolicyName) -> bool {
        let Some(authentication) = self.named.remove(name) else { return false };
        for attachment in unique(&authentication.attached) {
            if let Some(all) = self.attached.get_mut(attachment) {
                all.retain(|known| known.name != *name);
                if all.is_empty() {
                    self.attached.remove(attachment);
                }
            }
        }
        true
    }
}

/// Each of them once.
fn unique(attached: &[Attachment]) -> impl Iterator<Item = &Attachment> {
    attached
        .iter()
        .enumerate()
        .filter(|(at, one)| !attached.iter().take(*at).any(|known| known == *one))
        .map(|(_, one)| one)
}
