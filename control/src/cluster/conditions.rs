// SPDX-License-Identifier: Apache-2.0
//! What became of an object, as a condition in its status: whether it is honoured, and if not, which field and why. The
//! leader writes it, by server-side apply, when it is not there already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kubernetes::{Api, ApiError, Leadership};
use runtime::Shutdown;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    FIELD_MANAGER,
    kinds::resources,
    parents,
    stated::{Said, Stated, StatedObjects, said},
};
use crate::{
    live::Live,
    objects::{Kind, ObjectKey},
    report::{Report, Severity, line},
    translate::{
        guard::Standing,
        waypoint::{Bound, has_condition},
    },
};

/// Between two rounds of writing: what changes again and again is written once.
const PAUSE: Duration = Duration::from_secs(1);
/// What was refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// A condition's message may have 32 KiB; nobody reads more than this.
const LONGEST: usize = 4000;

/// Writes conditions.
#[derive(Debug)]
pub(crate) struct Conditions {
    pub(crate) api: Api,
    pub(crate) live: Arc<Live>,
    pub(crate) stated: StatedObjects,
    pub(crate) leadership: Leadership,
    /// Objects from which all of ours was taken away, and their version before.
    pub(crate) taken: BTreeMap<ObjectKey, String>,
}

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Conditions {
    /// Writes what is missing or old, until the process is asked to finish.
    pub(crate) async fn write(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.requested() => {}
        }
    }

    async fn follow(mut self) {
        let mut changes = self.live.changes();
        loop {
            self.leadership.won().await;
            let all_written = !self.live.is_complete() || self.round().await;
            let retry = Instant::now() + RETRY;
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                _ = changes.changed() => {}
                () = self.leadership.changed() => {}
                () = tokio::time::sleep_until(retry), if !all_written => {}
            }
        }
    }

    /// Writes all that is wrong; says whether nothing is left to be tried again.
    async fn round(&mut self) -> bool {
        let now = Timestamp::now();
        let due = self.live.read(|world| {
            self.stated.filter_map(|(key, stated)| {
                let status = if said(key.kind) == Said::PerParent {
                    let words = parents::words(key.kind);
                    json!({words.list: parents::missing(world.attachments_of(key), &words, stated, now)?})
                } else {
                    let reports: Vec<&Report> = world.reports_of(key).collect();
                    let standing = world.standing(key, &reports);
                    let wanted = Wanted::all(key.kind, &reports, (world.bound(key), standing));
                    let conditions = missing(key.kind, &wanted, stated, now)?;
                    // What is still there after it was taken away is somebody else's.
                    if conditions.is_empty() && self.taken.get(key) == Some(&stated.version) {
                        return None;
                    }
                    json!({"conditions": conditions})
                };
                Some((key.clone(), stated.version.clone(), applied(key, stated, &status)))
            })
        });
        let mut all_written = true;
        for (key, version, object) in due {
            let takes =
                object.pointer("/status/conditions").and_then(Value::as_array).is_some_and(Vec::is_empty);
            if !self.leadership.is_mine() {
                return true;
            }
            match self.patch(&key, object).await {
                Ok(()) => {
                    tracing::debug!(object = %key, "condition written");
                    if takes {
                        self.taken.insert(key, version);
                    }
                }
                // What we would say again is not what stands there: its newer self is on the way.
                Err(error) if error.is_conflict() => {
                    all_written = false;
                    tracing::debug!(object = %key, %error, "condition not written yet");
                }
                // It is gone, or not ours any more.
                Err(error) if error.is_absent() => {}
                Err(error) => {
                    all_written = false;
                    tracing::warn!(object = %key, %error, retry = ?RETRY, "condition not written");
                }
            }
        }
        all_written
    }

    async fn patch(&self, key: &ObjectKey, mut object: Value) -> Result<(), ApiError> {
        let mut refused = None;
        for resource in resources(key.kind) {
            object["apiVersion"] = json!(resource.api_version());
            let path = format!("{}/status", resource.object(&key.namespace, &key.name));
            match self.api.apply(&path, FIELD_MANAGER, &object).await {
                Ok(_) => return Ok(()),
                // Served under another version.
                Err(error) if error.is_absent() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// An object with nothing but this status, as it is applied.
fn applied(key: &ObjectKey, stated: &Stated, status: &Value) -> Value {
    let mut metadata = json!({"name": key.name.as_str()});
    if !key.namespace.is_empty() {
        metadata["namespace"] = json!(key.namespace.as_str());
    }
    // With what others have written in it: only while that is what they have written last.
    if matches!(said(key.kind), Said::Always | Said::PerParent) {
        metadata["resourceVersion"] = json!(stated.version);
    }
    json!({"kind": key.kind.as_str(), "metadata": metadata, "status": status})
}

/// Istio's name for whether an object has the waypoint that it is to have.
const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";

/// Istio's name for whether a policy with a target is in force.
const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";

/// The type of the condition about an object as a whole.
fn accepted(kind: Kind) -> &'static str {
    match kind {
        // Istio's name for the same.
        Kind::AuthorizationPolicy => "ZtunnelAccepted",
        _ => "AmbitAccepted",
    }
}

/// Whether we are who writes a type of condition on a kind.
pub(super) fn is_ours(kind: Kind, condition: &Value) -> bool {
    let text = condition.get("type").and_then(Value::as_str);
    text == Some(accepted(kind))
        || text == Some(WAYPOINT_BOUND) && has_condition(kind)
        || text == Some(WAYPOINT_ACCEPTED)
            && matches!(kind, Kind::AuthorizationPolicy | Kind::RequestAuthentication)
}

impl Wanted {
    /// Those that an object is to have.
    fn all(
        kind: Kind,
        reports: &[&Report],
        (bound, standing): (Option<Bound>, Option<Standing>),
    ) -> Vec<Self> {
        let whole = match standing {
            Some(Standing { is_accepted, reason, message }) => {
                Self { kind: WAYPOINT_ACCEPTED, is_true: is_accepted, reason, message: short(message) }
            }
            None => Self::of(kind, reports),
        };
        let is_said = match said(kind) {
            Said::Never | Said::PerParent => false,
            Said::WhenWrong => !whole.is_true,
            Said::Always => true,
        };
        let bound = bound.map(|Bound { is_bound, reason, message }| Self {
            kind: WAYPOINT_BOUND,
            is_true: is_bound,
            reason,
            message,
        });
        is_said.then_some(whole).into_iter().chain(bound).collect()
    }

    fn of(kind: Kind, reports: &[&Report]) -> Self {
        let said = reports.iter().filter(|report| report.severity != Severity::Info);
        let said: Vec<String> = said.map(|Report { field, message, .. }| line(field, message)).collect();
        let is_true = said.is_empty();
        let message = if is_true { "wholly honoured".to_owned() } else { short(said.join("; ")) };
        let reason = if is_true { "Accepted" } else { "UnsupportedValue" };
        Self { kind: accepted(kind), is_true, reason, message }
    }

    /// The condition, and whether the one that is there says something else or speaks of another generation.
    fn turned(&self, stated: &Stated, now: Timestamp) -> (Value, bool) {
        let has_type = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(self.kind);
        let before = stated.conditions.iter().find(has_type);
        let text = |name: &str| before.and_then(|condition| condition.get(name)).and_then(Value::as_str);
        let status = if self.is_true { "True" } else { "False" };
        let observed = before.and_then(|condition| condition.get("observedGeneration"));
        let is_there = text("status") == Some(status)
            && text("reason") == Some(self.reason)
            && text("message") == Some(self.message.as_str())
            && observed.and_then(Value::as_i64).unwrap_or_default() == stated.generation;
        let since = text("lastTransitionTime").filter(|_| text("status") == Some(status));
        let mut condition = json!({
            "type": self.kind,
            "status": status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": since.map_or_else(|| seconds(now), str::to_owned),
        });
        // Kinds without generations have no field for it.
        if stated.generation > 0 {
            condition["observedGeneration"] = json!(stated.generation);
        }
        (condition, !is_there)
    }
}

fn short(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(LONGEST) {
        message.truncate(end);
    }
    message
}

/// The conditions to apply; nothing when what they say is there already, and no more of ours.
fn missing(kind: Kind, wanted: &[Wanted], stated: &Stated, now: Timestamp) -> Option<Vec<Value>> {
    let (ours, turned): (Vec<Value>, Vec<bool>) =
        wanted.iter().map(|wanted| wanted.turned(stated, now)).unzip();
    let (before, others): (Vec<&Value>, Vec<&Value>) =
        stated.conditions.iter().partition(|condition| is_ours(kind, condition));
    let is_due = before.len() != ours.len() || turned.into_iter().any(|turned| turned);
    match said(kind) {
        Said::Never | Said::PerParent => None,
        // Keyed by type: those of others are none of our business, and what is not applied any more is taken away.
        Said::WhenWrong => is_due.then_some(ours),
        // The list is one value to the API server: what others have written into it must be said again.
        Said::Always => is_due.then(|| others.into_iter().cloned().chain(ours).collect()),
    }
}

/// Kubernetes writes times in whole seconds.
pub(super) fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::{super::stated::stated, *};

    fn report(field: &str) -> Report {
        let object =
            ObjectKey { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: "p".into() };
        Report { object, field: field.to_owned(), severity: Severity::Warning, message: "is odd".to_owned() }
    }

    fn wanted(kind: Kind, reports: &[&Report]) -> Vec<Wanted> {
        Wanted::all(kind, reports, (None, None))
    }

    #[test]
    fn a_condition_is_written_when_it_is_new_and_leaves_those_of_others() {
        const KIND: Kind = Kind::AuthorizationPolicy;
        let foreign = json!({"type": "example.com/Seen", "status": "True"});
        let mut stated = Stated { generation: 2, conditions: vec![foreign.clone()], ..Stated::default() };
        let bad = wanted(KIND, &[&report("spec.moon")]);
        let written = missing(KIND, &bad, &stated, Timestamp::UNIX_EPOCH).expect("it is new");
        assert_eq!(written[0], foreign);
        assert_eq!(written[1]["type"], "ZtunnelAccepted");
        assert_eq!(written[1]["status"], "False");
        assert_eq!(written[1]["message"], "spec.moon: is odd");
        assert_eq!(written[1]["lastTransitionTime"], "1970-01-01T00:00:00Z");

        stated.conditions = written;
        assert_eq!(missing(KIND, &bad, &stated, Timestamp::now()), None, "it is there already");
        stated.generation = 3;
        let again = missing(KIND, &bad, &stated, Timestamp::now()).expect("of another generation");
        assert_eq!(again[1]["lastTransitionTime"], "1970-01-01T00:00:00Z", "it has not turned");
        let good = wanted(KIND, &[]);
        let turned = missing(KIND, &good, &stated, Timestamp::now()).expect("it has turned");
        assert_eq!(turned[1]["reason"], "Accepted");
    }

    #[test]
    fn an_object_that_is_not_the_meshs_own_has_a_condition_only_while_something_is_wrong() {
        let missing = |wanted: &[Wanted], stated: &Stated| {
            missing(Kind::Service, wanted, stated, Timestamp::UNIX_EPOCH)
        };
        let foreign = json!({"type": "LoadBalancerPortsError", "status": "True"});
        let mut stated = Stated { conditions: vec![foreign], ..Stated::default() };
        let (good, bad) = (wanted(Kind::Service, &[]), wanted(Kind::Service, &[&report("spec.moon")]));
        assert_eq!(missing(&good, &stated), None, "silence");
        let udp = Report { severity: Severity::Info, ..report("spec.ports[0].protocol") };
        assert_eq!(wanted(Kind::Service, &[&udp]), good, "not every service is of TCP alone");
        let written = missing(&bad, &stated).expect("it is new");
        assert_eq!(written.len(), 1, "that of others is not said again: {written:?}");
        assert_eq!(written[0].get("observedGeneration"), None);

        stated.conditions.extend(written);
        assert_eq!(missing(&bad, &stated), None, "it is there already");
        assert_eq!(missing(&good, &stated), Some(Vec::new()), "it is taken away");
    }

    #[test]
    fn a_service_that_is_to_have_a_waypoint_says_whether_it_has_as_long_as_it_is_to() {
        let missing = |wanted: &[Wanted], stated: &Stated| {
            missing(Kind::Service, wanted, stated, Timestamp::UNIX_EPOCH)
        };
        let bound = |is_bound, reason| {
            let message = "so it is".to_owned();
            Wanted::all(Kind::Service, &[], (Some(Bound { is_bound, reason, message }), None))
        };
        let mut stated = Stated::default();
        let written = missing(&bound(true, "WaypointAccepted"), &stated).expect("it is new");
        assert_eq!((&written[0]["type"], &written[0]["status"]), (&json!(WAYPOINT_BOUND), &json!("True")));
        stated.conditions = written;
        assert_eq!(missing(&bound(true, "WaypointAccepted"), &stated), None);
        let written = missing(&bound(false, "WaypointIsNotReady"), &stated).expect("it has turned");
        assert_eq!(written[0]["reason"], "WaypointIsNotReady");
        assert_eq!(missing(&wanted(Kind::Service, &[]), &stated), Some(Vec::new()), "nobody asks any more");
    }

    #[test]
    fn what_others_have_written_is_said_again_only_of_the_version_in_which_it_was_read() {
        let read = r#"{"metadata":{"name":"a","generation":3,"resourceVersion":"41"},"status":{"conditions":[{"type":"Healthy","status":"False"}]}}"#;
        let read = stated(read);
        let object = |kind| {
            let key = ObjectKey { kind, namespace: "shop".into(), name: "a".into() };
            applied(&key, &read, &json!({"conditions": read.conditions}))
        };
        let entry = object(Kind::WorkloadEntry);
        assert_eq!(entry["metadata"], json!({"name": "a", "namespace": "shop", "resourceVersion": "41"}));
        assert_eq!(entry["status"]["conditions"][0]["type"], "Healthy");
        let service = object(Kind::Service);
        assert_eq!(service["metadata"].get("resourceVersion"), None, "keyed by type: nobody is overwritten");
    }
}
