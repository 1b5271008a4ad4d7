// SPDX-License-Identifier: Apache-2.0
//! What has been said of objects already, for an object comes again with every change of its status. Pure.

use std::{collections::BTreeMap, fmt::Display};

use super::events::{About, Ignored};
use crate::objects::Labels;

/// What can be ignored of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    Bypass,
    Exclusions,
    Rerouting,
}

impl Matter {
    fn reason(self) -> &'static str {
        match self {
            Self::Bypass => "BypassIgnored",
            Self::Exclusions => "ExclusionIgnored",
            Self::Rerouting => "ReroutingIgnored",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Bypass => "the namespace stays in the mesh, its bypass is ignored",
            Self::Exclusions => "what they name stays captured",
            Self::Rerouting => {
                "connections that come out of interfaces inside the pod are not captured as its own"
            }
        }
    }
}

/// Interfaces of virtual machines or containers inside the pod, whose connections are to count as the pod's. Istio's name.
const REROUTE: &str = "ambient.istio.io/reroute-virtual-interfaces";

/// What a pod asks for and no agent does.
pub(super) fn rerouting(annotations: &Labels) -> Option<String> {
    let interfaces = annotations.get(REROUTE).filter(|interfaces| !interfaces.trim().is_empty())?;
    Some(format!("annotation {REROUTE}: {interfaces:?}"))
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
        let pod = Labels::from([(REROUTE.to_owned(), "virbr0".to_owned())]);
        let rerouting = told.news(shop(), Matter::Rerouting, rerouting(&pod).as_slice()).unwrap();
        assert!(rerouting.message.ends_with("\"virbr0\""), "{}", rerouting.message);
        told.forget(|about| *about == shop());
        assert!(told.said.is_empty());
    }
}
