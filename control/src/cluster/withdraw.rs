// SPDX-License-Identifier: Apache-2.0
//! Takes back what control has said in the status of objects. Server-side apply of an object without a status, under the name
//! that it was said by, removes what nobody else has; where a list is one value to the API server, what others say in it is
//! said once more. For an uninstall: a leader would say it again.

use anyhow::{Context as _, bail};
use kubernetes::{Api, ApiError, Resource, Within};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    FIELD_MANAGER, conditions,
    kinds::resources,
    parents,
    stated::{Said, has_conditions, said},
    waypoints,
};
use crate::objects::Kind;

/// How often all objects of a kind are looked at while others change them.
const ROUNDS: usize = 5;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Statuses from which it was taken.
    pub(super) taken: usize,
    /// Those that the API server keeps as they are.
    pub(super) refused: usize,
}

/// An object, as far as it matters.
#[derive(Debug, Deserialize)]
struct Listed {
    metadata: ListedMetadata,
    #[serde(default)]
    status: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    managed_fields: Vec<Share>,
}

/// What one writer has of an object.
#[derive(Debug, Deserialize)]
struct Share {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    subresource: String,
}

/// Takes it from the objects of every kind.
///
/// # Errors
/// When the API server does not answer, or others do not stop changing the same statuses. It can be done again.
pub(super) async fn withdraw(api: &Api) -> anyhow::Result<Outcome> {
    let mut all = Outcome::default();
    for kind in Kind::ALL.into_iter().filter(|kind| has_conditions(*kind)) {
        let what = || format!("cannot take back what the status of each {} says", kind.as_str());
        let Outcome { taken, refused } = of_kind(api, kind).await.with_context(what)?;
        all.taken += taken;
        all.refused += refused;
    }
    Ok(all)
}

async fn of_kind(api: &Api, kind: Kind) -> anyhow::Result<Outcome> {
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let Some((resource, objects)) = list(api, kind).await? else { return Ok(Outcome::default()) };
        let mut refused = 0;
        let mut is_changed = false;
        for (object, manager) in objects.iter().flat_map(|object| managers(kind).map(move |by| (object, by)))
        {
            let Some(mut nothing) = withdrawn(kind, object, manager) else { continue };
            let ListedMetadata { namespace, name, .. } = &object.metadata;
            nothing["apiVersion"] = json!(resource.api_version());
            let path = format!("{}/status", resource.object(namespace, name));
            match api.apply(&path, manager, &nothing).await {
                Ok(_) => taken += 1,
                // It is gone, and its status with it.
                Err(error) if error.is_absent() => {}
                Err(error) if error.is_conflict() => is_changed = true,
                Err(error) if error.is_outage() => return Err(error.into()),
                // Something that judges objects is against it: no reason to keep all the others.
                Err(error) => {
                    refused += 1;
                    let kind = kind.as_str();
                    tracing::warn!(kind, namespace, name, %error, "what control has said of it stays");
                }
            }
        }
        if !is_changed {
            return Ok(Outcome { taken, refused });
        }
    }
    bail!("others change the same statuses all the time")
}

/// All objects of a kind, and where they are, where the API server has it.
async fn list(api: &Api, kind: Kind) -> Result<Option<(Resource, Vec<Listed>)>, ApiError> {
    for resource in resources(kind) {
        match api.list(&resource.path(&Within::Cluster)).await {
            Ok(objects) => return Ok(Some((resource, objects))),
            // Served under another version, or not at all.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Under which names control writes the status of a kind.
fn managers(kind: Kind) -> impl Iterator<Item = &'static str> {
    [Some(FIELD_MANAGER), (kind == Kind::Gateway).then_some(waypoints::MANAGER)].into_iter().flatten()
}

/// What is to be applied so that nothing of it is left; nothing where that is so already.
fn withdrawn(kind: Kind, object: &Listed, manager: &str) -> Option<Value> {
    let Listed { metadata, status } = object;
    let is_ours = |share: &Share| {
        share.manager == manager && share.operation == "Apply" && share.subresource == "status"
    };
    // A namespace that is about to go takes it along; the API server lets nobody else change its status.
    let goes = kind == Kind::Namespace && metadata.deletion_timestamp.is_some();
    if goes || !metadata.managed_fields.iter().any(is_ours) {
        return None;
    }
    let mut nothing = json!({"kind": kind.as_str(), "metadata": {"name": metadata.name}});
    if !metadata.namespace.is_empty() {
        nothing["metadata"]["namespace"] = json!(metadata.namespace);
    }
    // One value to the API server, so that all of it has one owner: us.
    let (list, others) = others(kind, status);
    if others.is_empty() {
        return Some(nothing);
    }
    if status.get(list).and_then(Value::as_array).map(Vec::len) == Some(others.len()) {
        return None;
    }
    nothing["metadata"]["resourceVersion"] = json!(metadata.resource_version);
    nothing["status"] = json!({list: others});
    Some(nothing)
}

/// What others say in the list that control has written as a whole, if it does that with objects of a kind.
fn others(kind: Kind, status: &Value) -> (&'static str, Vec<&Value>) {
    let (list, is_ours): (_, fn(Kind, &Value) -> bool) = match said(kind) {
        Said::Never | Said::WhenWrong => return ("conditions", Vec::new()),
        Said::Always => ("conditions", conditions::is_ours),
        Said::PerParent => (parents::words(kind).list, |_, parent| parents::is_ours(parent)),
    };
    let all = status.get(list).and_then(Value::as_array).into_iter().flatten();
    (list, all.filter(|entry| !is_ours(kind, entry)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = include_str!("../../../charts/control/templates/uninstall.yaml");

    fn check(kind: Kind, manager: &str, status: Value, expected: Option<Value>) {
        let object = json!({
            "metadata": {
                "name": "web", "namespace": "shop", "resourceVersion": "41",
                "managedFields": [
                    {"manager": "kubectl", "operation": "Update"},
                    {"manager": manager, "operation": "Apply", "subresource": "status"},
                ],
            },
            "status": status,
        });
        let object: Listed = serde_json::from_value(object).unwrap();
        let shown = format!("{kind:?} {object:?}");
        let due = managers(kind).find_map(|manager| withdrawn(kind, &object, manager));
        assert_eq!(due, expected, "{shown}");
    }

    fn nothing(kind: Kind) -> Value {
        json!({"kind": kind.as_str(), "metadata": {"name": "web", "namespace": "shop"}})
    }

    #[test]
    fn what_is_ours_is_taken_and_what_others_say_in_the_same_list_is_said_once_more() {
        let condition = |of: &str| json!({"type": of, "status": "True"});
        let parent = |of: &str| json!({"controllerName": of, "conditions": []});
        let rest = |kind, list: &str, others: Value| {
            let mut object = nothing(kind);
            object["metadata"]["resourceVersion"] = json!("41");
            object["status"] = json!({list: others});
            Some(object)
        };
        let (policy, entry) = (Kind::AuthorizationPolicy, Kind::ServiceEntry);
        let (seen, route, tls) = (condition("example.com/Seen"), Kind::HTTPRoute, Kind::BackendTLSPolicy);
        let ours = parent("ambit.mesh/waypoint");
        for (kind, list, all, expected) in [
            (policy, "conditions", json!([condition("ZtunnelAccepted")]), Some(nothing(policy))),
            (policy, "conditions", json!([]), Some(nothing(policy))),
            (
                entry,
                "conditions",
                json!([seen, condition("AmbitAccepted"), condition("istio.io/WaypointBound")]),
                rest(entry, "conditions", json!([seen])),
            ),
            (entry, "conditions", json!([seen]), None),
            (route, "parents", json!([ours]), Some(nothing(route))),
            (route, "parents", json!([parent("a"), ours]), rest(route, "parents", json!([parent("a")]))),
            (tls, "ancestors", json!([ours, parent("a")]), rest(tls, "ancestors", json!([parent("a")]))),
            // Keyed by type: nobody else's is in what we have.
            (
                Kind::Service,
                "conditions",
                json!([seen, condition("AmbitAccepted")]),
                Some(nothing(Kind::Service)),
            ),
        ] {
            check(kind, "ambit-control", json!({list: all}), expected);
        }
    }

    #[test]
    fn a_status_of_which_we_have_nothing_is_left_alone() {
        let status = json!({"conditions": [{"type": "AmbitAccepted", "status": "True"}]});
        check(Kind::ServiceEntry, "istiod", status.clone(), None);
        check(Kind::Service, "ambit-waypoints", status, None);
    }

    #[test]
    fn the_status_of_a_gateway_that_had_a_waypoint_is_taken_under_the_name_that_wrote_it() {
        let status = json!({"addresses": [{"value": "10.0.0.1"}]});
        check(Kind::Gateway, "ambit-waypoints", status, Some(nothing(Kind::Gateway)));
    }

    #[test]
    fn the_role_of_the_job_has_every_kind_with_conditions() {
        let rules = ROLE.lines().filter(|line| line.trim_start().starts_with("resources:"));
        let words: Vec<&str> = rules
            .flat_map(|line| line.split(|letter: char| !letter.is_ascii_lowercase() && letter != '/'))
            .collect();
        for kind in Kind::ALL.into_iter().filter(|kind| has_conditions(*kind)) {
            for wanted in [kind.plural().to_owned(), format!("{}/status", kind.plural())] {
                assert!(words.contains(&wanted.as_str()), "the role has no rule for {wanted}");
            }
        }
    }
}
