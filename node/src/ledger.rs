// SPDX-License-Identifier: Apache-2.0
//! The pods of this node and the namespaces of the cluster as the watches have told them, compared with what is
//! captured: what follows is a list of steps. Pure; a lost event, a restart or a changed label need no case of their own.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    enrol::{State, Status},
    objects::{NamespaceObject, PodObject},
    pod::{Treatment, Uid},
    rules::{Reason, Rules, Verdict},
};

/// What the watches have told.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By namespace and name, which is all that a deletion tells.
    pods: BTreeMap<(String, String), PodObject>,
    namespaces: BTreeMap<String, NamespaceObject>,
}

/// What is to be done about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring it in, or make sure that it is in as it should be.
    Enrol(Box<PodObject>, Treatment),
    /// Let it out; it lives on.
    Release(Uid, Reason),
    /// The API server no longer has it. It may still run: a pod can be deleted by force.
    Absent(Uid),
    /// Tell the mesh whether the pod takes HBONE.
    Mark(Box<PodObject>, bool),
}

impl Step {
    /// The pod that it is about.
    pub fn uid(&self) -> &Uid {
        match self {
            Self::Enrol(pod, _) | Self::Mark(pod, _) => &pod.uid,
            Self::Release(uid, _) | Self::Absent(uid) => uid,
        }
    }
}

impl Ledger {
    /// A pod is there, like this.
    pub fn pod_is(&mut self, pod: PodObject) {
        self.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    }

    /// A pod is gone.
    pub fn pod_left(&mut self, namespace: &str, name: &str) {
        self.pods.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// A namespace is there, like this.
    pub fn namespace_is(&mut self, name: String, namespace: NamespaceObject) {
        self.namespaces.insert(name, namespace);
    }

    /// A namespace is gone.
    pub fn namespace_left(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A pod with its namespace.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(&PodObject, &NamespaceObject)> {
        let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some((pod, self.namespaces.get(namespace)?))
    }

    /// A pod of this node by its uid.
    pub fn pod(&self, uid: &Uid) -> Option<&PodObject> {
        self.pods.values().find(|pod| pod.uid == *uid)
    }

    /// The mesh has been told whether a pod takes HBONE; the watch will say the same.
    pub fn pod_is_marked(&mut self, uid: &Uid, marked: bool) {
        for pod in self.pods.values_mut().filter(|pod| pod.uid == *uid) {
            pod.mark(marked);
        }
    }

    /// When the first bypass that holds now ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.namespaces.values().filter_map(|namespace| Some(namespace.bypass(now)?.until)).min()
    }

    /// What is to be done, given what is captured.
    pub fn steps(&self, rules: &Rules, captured: &[Status], now: Timestamp) -> Vec<Step> {
        let captured: BTreeMap<_, _> = captured.iter().map(|status| (&status.pod.uid, status)).collect();
        let mut steps = Vec::new();
        for pod in self.pods.values() {
            // A namespace that is being deleted is gone before its last pods; nothing new is decided for them.
            let Some(namespace) = self.namespaces.get(&pod.namespace) else { continue };
            let status = captured.get(&pod.uid);
            match (rules.decide(pod, namespace, now), status) {
                (Verdict::Enrol(treatment), status) => {
                    if is_up(pod) && status.is_none_or(|status| needs_work(status, pod, &treatment)) {
                        steps.push(Step::Enrol(Box::new(pod.clone()), treatment));
                    } else if !pod.is_marked() && status.is_some_and(|status| status.state == State::Enrolled)
                    {
                        steps.push(Step::Mark(Box::new(pod.clone()), true));
                    }
                }
                (Verdict::Skip(reason), Some(_)) => steps.push(Step::Release(pod.uid.clone(), reason)),
                // Left by an agent that could not take it back, this one too: whatever the pod is out for, nobody serves
                // HBONE there. The mark of another mesh is that one's.
                (Verdict::Skip(_), None) if pod.is_marked() && pod.mark_is_ours => {
                    steps.push(Step::Mark(Box::new(pod.clone()), false));
                }
                (Verdict::Skip(_), None) => {}
            }
        }
        let known = |uid: &Uid| self.pods.values().any(|pod| pod.uid == *uid);
        let absent = captured.keys().filter(|uid| !known(uid));
        steps.extend(absent.map(|uid| Step::Absent((*uid).clone())));
        steps
    }
}

/// It has a sandbox. One that has none yet comes by the plugin.
fn is_up(pod: &PodObject) -> bool {
    !pod.ips.is_empty()
}

fn needs_work(status: &Status, pod: &PodObject, treatment: &Treatment) -> bool {
    matches!(status.state, State::Failed(_))
        || status.pod.treatment != *treatment
        || status.pod.service_account != pod.service_account
        || pod.ips.iter().any(|ip| !status.pod.ips.contains(ip))
}

#[cfg(test)]
mod tests;
