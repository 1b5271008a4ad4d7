// SPDX-License-Identifier: Apache-2.0
//! `metadata` and label selectors.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny},
};

use super::{Kind, ObjectKey};

/// Labels or annotations.
pub type Labels = BTreeMap<ArcStr, ArcStr>;

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: ArcStr,
    /// Namespace; empty for a kind that has none.
    #[serde(default)]
    pub namespace: ArcStr,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: Labels,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: Labels,
    /// Decides where the oldest object wins; an object without one is the youngest.
    #[serde(default, deserialize_with = "timestamp")]
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the object waits for its end.
    #[serde(default, deserialize_with = "timestamp")]
    pub deletion_timestamp: Option<Timestamp>,
    /// Which object of the name it is; a new one has another. None in a manifest.
    #[serde(default)]
    pub uid: Option<ArcStr>,
    /// Counts changes of what is wanted; 0 where nobody counts.
    #[serde(default)]
    pub generation: i64,
    /// What created it.
    #[serde(default)]
    pub owner_references: Vec<OwnerReference>,
}

impl Metadata {
    /// Which object of a kind this describes.
    pub fn key(&self, kind: Kind) -> ObjectKey {
        ObjectKey { kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&ArcStr> {
        self.labels.get(key)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&ArcStr> {
        self.annotations.get(key)
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    /// Kind of the owner.
    pub kind: ArcStr,
    /// Its name.
    pub name: ArcStr,
    /// Whether it manages this object.
    #[serde(default)]
    pub controller: bool,
}

/// A selector of Istio objects: every label must match. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// The labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub match_labels: Labels,
}

impl LabelSelector {
    /// Whether it selects an object with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        contains(labels, &self.match_labels)
    }
}

/// Whether `labels` has every one of `wanted`.
pub(crate) fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Makes objects of a table: kind, type of `spec`, and type of `status` where that is read. Also their top level takes no
/// field that it does not have.
macro_rules! strict_objects {
    ($($(#[$doc:meta])+ $object:ident: $spec:ident $(, $status:ident)?;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $object {
            /// Name, namespace, labels, annotations, age.
            pub metadata: $crate::objects::Metadata,
            /// What is wanted.
            pub spec: $spec,
            $(
                /// What is.
                pub status: $status,
            )?
        }

        impl<'de> serde::Deserialize<'de> for $object {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let envelope: $crate::objects::meta::Envelope<$spec $(, $status)?> =
                    serde::Deserialize::deserialize(deserializer)?;
                Ok(Self {
                    metadata: envelope.metadata,
                    spec: envelope.spec,
                    $(status: Option::<$status>::unwrap_or_default(envelope.status),)?
                })
            }
        }
    )+};
}

pub(super) use strict_objects;

/// A whole object, see [`strict_objects`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Envelope<T, S = IgnoredAny> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: T,
    #[serde(default)]
    pub(super) status: Option<S>,
}

/// A list that the API server may write as `null`.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// `labels:` with nothing behind it is what templates often leave.
pub(super) fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    Ok(Option::<Labels>::deserialize(deserializer)?.unwrap_or_default())
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<ArcStr>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let parsed = text.parse::<Timestamp>();
    parsed.map(Some).map_err(|error| de::Error::custom(format_args!("not an RFC 3339 timestamp: {error}")))
}
