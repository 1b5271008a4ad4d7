// SPDX-License-Identifier: Apache-2.0
//! What has been said of objects already, for an object comes again with every change of its status. Pure.

use std::{collections::BTreeMap, fmt::Display};

use super::events::{About, Ignored};

/// What can be ignored of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    Bypass,
    Exclusions,
}

impl Matter {
    fn reason(self) -> &'static str {
        match self {
            Self::Bypass => "BypassIgnored",
            Self::Exclusions => "ExclusionIgnored",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Bypass => "the namespace stays in the mesh, its bypass is ignored",
            Self::Exclusions => "what they name stays captured",
        }
    }
}

/// The last word on each object.
#[derive(Debug, Default)]
pub(super) struct Told {
    said: BTreeMap<(About, Matter), String>,
}

impl Told {
    /// What is to be said of an object now, when it is not what was said last.
    pub(super) fn news(&mut self, about: About, matter: Matter, faults: &[impl Display]) -> Option<Ignored> {
        let key = (about.clone(), matter);
        if faults.is_empty() {
            self.said.remove(&key);
            return None;
        }
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let message = format!("{}: {}", matter.words(), faults.join("; "));
        if self.said.insert(key, message.clone()).as_ref() == Some(&message) {
            return None;
        }
        Some(Ignored { about, reason: matter.reason(), message })
    }

    /// Objects are gone.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&About) -> bool) {
        self.said.retain(|(about, _), _| !is_gone(about));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_until_it_changes() {
        let shop = || About::Namespace("shop".to_owned());
        let mut told = Told::default();
        let mut say =
            |faults: &[&str]| told.news(shop(), Matter::Exclusions, faults).map(|said| said.message);
        let named = |fault: &str| Some(format!("what they name stays captured: {fault}"));
        assert_eq!(say(&[]), None);
        assert_eq!(say(&["port 0"]), named("port 0"));
        assert_eq!(say(&["port 0"]), None);
        assert_eq!(say(&["port 0", "port x"]), named("port 0; port x"));
        assert_eq!(say(&[]), None);
        assert_eq!(say(&["port 0"]), named("port 0"), "it is wrong again");
        let bypass = told.news(shop(), Matter::Bypass, &["no end"]).expect("another matter");
        assert_eq!(bypass.reason, "BypassIgnored");
        told.forget(|about| *about == shop());
        assert!(told.said.is_empty());
    }
}
