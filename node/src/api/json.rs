// SPDX-License-Identifier: Apache-2.0
//! The bodies of the local API.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    capture::{Counters, Event},
    enrol::{State, Status},
    metrics::Label,
    pod::PodJson,
};

/// Names of the counters, as people read them.
const EVENTS: [(Event, &str); 16] = [
    (Event::CapturedOutbound, "capturedOutbound"),
    (Event::CapturedInbound, "capturedInbound"),
    (Event::CapturedDns, "capturedDns"),
    (Event::Adopted, "adoptedListeners"),
    (Event::Exempted, "exempted"),
    (Event::Probed, "probed"),
    (Event::NoListener, "droppedNoListener"),
    (Event::ForeignListener, "droppedForeignListener"),
    (Event::Spoofed, "droppedSpoofed"),
    (Event::Fragment, "droppedFragment"),
    (Event::Extension, "droppedExtension"),
    (Event::Tagged, "droppedTagged"),
    (Event::Unowned, "droppedUnowned"),
    (Event::Malformed, "droppedMalformed"),
    (Event::Released, "droppedReleased"),
    (Event::Collided, "droppedCollided"),
];

#[derive(Serialize)]
pub(super) struct ErrorJson {
    pub(super) error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    pub(super) fix: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct AddedJson {
    pub(super) uid: String,
    pub(super) state: &'static str,
}

#[derive(Serialize)]
pub(super) struct PodsJson {
    pub(super) pods: Vec<PodStatusJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatusJson {
    #[serde(flatten)]
    pod: PodJson,
    netns_inode: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Absent where the pod is not captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<BTreeMap<&'static str, u64>>,
}

impl ErrorJson {
    pub(super) fn new(error: String, fix: &'static str) -> Self {
        Self { error, field: None, fix, state: None }
    }

    pub(super) fn field(self, field: &str) -> Self {
        Self { field: Some(field.to_owned()), ..self }
    }

    pub(super) fn state(self, label: Label) -> Self {
        Self { state: Some(label.text()), ..self }
    }
}

impl PodStatusJson {
    pub(super) fn new(status: &Status, counters: Option<&Counters>) -> Self {
        let reason = match &status.state {
            State::Enrolled => None,
            State::Pending(reason) | State::Failed(reason) => Some(reason.clone()),
        };
        Self {
            pod: PodJson::from(&status.pod),
            netns_inode: status.netns.inode,
            state: super::label(&status.state).text(),
            reason,
            counters: counters.map(|counters| EVENTS.map(|(event, name)| (name, counters.of(event))).into()),
        }
    }
}
