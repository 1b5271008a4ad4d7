// SPDX-License-Identifier: Apache-2.0
//! What a replica of control says of itself at `/status`, as far as it is shown or judged here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ControlStatus {
    pub(crate) ready: bool,
    pub(crate) pending: Vec<String>,
    pub(crate) root_expires: String,
    pub(crate) cluster: Cluster,
    pub(crate) reports: Vec<Report>,
    pub(crate) proxies: Vec<Proxy>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Cluster {
    pub(crate) leads: bool,
    /// Kinds whose picture is old.
    pub(crate) stale: Vec<String>,
    /// What its roles do not allow.
    pub(crate) lacks: Vec<Lack>,
}

/// What a role lacks, and what does not work for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub(crate) struct Lack {
    pub(crate) role: String,
    pub(crate) resource: String,
    pub(crate) verbs: Vec<String>,
    pub(crate) breaks: String,
}

/// Something to say about a field of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) object: String,
    pub(crate) field: String,
    pub(crate) severity: String,
    pub(crate) message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Proxy {
    pub(crate) node: String,
    pub(crate) types: BTreeMap<String, Progress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) synced: bool,
    /// Resources that it refused, with its words.
    pub(crate) refused: BTreeMap<String, String>,
}
