// SPDX-License-Identifier: Apache-2.0
//! What became of a route, parent by parent, as its status (Gateway API `RouteStatus`), and of a policy of TLS in the same
//! way, target by target (`PolicyStatus`). The list is one value to the API server, so what other controllers say of theirs
//! is said again with ours.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{conditions::seconds, stated::Stated};
use crate::{
    objects::{Kind, ParentRef},
    translate::{
        route::{Attachment, Outcome},
        waypoint::CONTROLLER,
    },
};

/// How a kind calls them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// The list in its status …
    pub(super) list: &'static str,
    /// … and of whom each speaks.
    reference: &'static str,
    /// The longest list that the API server takes.
    most: usize,
}

/// Those of a kind.
pub(super) fn words(kind: Kind) -> Words {
    match kind {
        Kind::BackendTLSPolicy => Words { list: "ancestors", reference: "ancestorRef", most: 16 },
        _ => Words { list: "parents", reference: "parentRef", most: 32 },
    }
}

/// Whether it is we who say something of a parent.
pub(super) fn is_ours(parent: &Value) -> bool {
    parent.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

/// The list to apply; nothing when what it says is there already.
pub(super) fn missing(
    attachments: &[Attachment],
    words: &Words,
    stated: &Stated,
    now: Timestamp,
) -> Option<Vec<Value>> {
    let before: Vec<&Value> = stated.parents.iter().filter(|parent| is_ours(parent)).collect();
    // More than there is room for would be refused with all the others.
    let room = words.most.saturating_sub(stated.parents.len() - before.len());
    let mut ours = Vec::with_capacity(attachments.len());
    for attachment in attachments.iter().take(room) {
        let reference = reference(&attachment.parent);
        let known = before
            .iter()
            .find(|parent| parent.get(words.reference).is_some_and(|known| same(known, &reference)));
        let known = known.and_then(|parent| parent.get("conditions")).and_then(Value::as_array);
        let conditions = conditions(attachment).map(|(kind, outcome)| {
            let was =
                known.into_iter().flatten().find(|was| was.get("type").and_then(Value::as_str) == Some(kind));
            condition(kind, outcome, was, stated.generation, now)
        });
        let conditions: Vec<Value> = conditions.collect();
        ours.push(
            json!({words.reference: reference, "controllerName": CONTROLLER, "conditions": conditions}),
        );
    }
    let said = before.len() == ours.len()
        && before.iter().zip(&ours).all(|(was, now)| told(words, was) == told(words, now));
    (!said).then(|| stated.parents.iter().filter(|parent| !is_ours(parent)).cloned().chain(ours).collect())
}

fn conditions(attachment: &Attachment) -> impl Iterator<Item = (&'static str, &Outcome)> {
    let Attachment { accepted, resolved, partial, waypoint, .. } = attachment;
    let always = [("Accepted", accepted), ("ResolvedRefs", resolved), ("ResolvedWaypoints", waypoint)];
    always.into_iter().chain(partial.as_ref().map(|partial| ("PartiallyInvalid", partial)))
}

/// A condition; it keeps its time until it turns.
fn condition(kind: &str, outcome: &Outcome, was: Option<&Value>, generation: i64, now: Timestamp) -> Value {
    let text = |name: &str| was.and_then(|was| was.get(name)).and_then(Value::as_str);
    let status = if outcome.holds { "True" } else { "False" };
    let since = text("lastTransitionTime").filter(|_| text("status") == Some(status));
    json!({
        "type": kind,
        "status": status,
        "reason": outcome.reason,
        "message": outcome.message,
        "lastTransitionTime": since.map_or_else(|| seconds(now), str::to_owned),
        "observedGeneration": generation,
    })
}

/// As the route has it; the API server fills in what it leaves out.
fn reference(parent: &ParentRef) -> Value {
    let texts = [
        ("group", parent.group.as_ref()),
        ("kind", parent.kind.as_ref()),
        ("namespace", parent.namespace.as_ref()),
        ("name", Some(&parent.name)),
        ("sectionName", parent.section_name.as_ref()),
    ];
    let mut fields: Map<String, Value> =
        texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text?.as_str())))).collect();
    if let Some(port) = parent.port {
        fields.insert("port".to_owned(), json!(port));
    }
    Value::Object(fields)
}

/// Whether every field of ours is there.
fn same(known: &Value, reference: &Value) -> bool {
    let fields = |value: &Value| value.as_object().map_or(0, Map::len);
    fields(known) == fields(reference)
        && reference.as_object().into_iter().flatten().all(|(name, value)| known.get(name) == Some(value))
}

/// What one entry says; the order of its conditions is nobody's.
fn told<'a>(words: &Words, parent: &'a Value) -> (Option<&'a Value>, Vec<&'a Value>) {
    let mut conditions: Vec<&Value> =
        parent.get("conditions").and_then(Value::as_array).into_iter().flatten().collect();
    conditions.sort_by_key(|condition| condition.get("type").and_then(Value::as_str));
    (parent.get(words.reference), conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(name: &str, accepted: bool) -> Attachment {
        let outcome = |holds| Outcome { holds, reason: "Reason", message: "why".to_owned() };
        let parent = ParentRef {
            group: Some("".into()),
            kind: Some("Service".into()),
            namespace: None,
            name: name.into(),
            section_name: None,
            port: Some(80),
        };
        let (accepted, resolved) = (outcome(accepted), outcome(true));
        Attachment { parent, accepted, resolved, partial: None, waypoint: outcome(false) }
    }

    #[test]
    fn each_parent_is_told_once_and_those_of_others_stay() {
        let foreign =
            json!({"parentRef": {"name": "gateway"}, "controllerName": "example.com/c", "conditions": []});
        let mut stated = Stated { generation: 2, parents: vec![foreign.clone()], ..Stated::default() };
        let attachments = [attachment("web", false), attachment("api", true)];
        let written = missing(&attachments, &words(Kind::HTTPRoute), &stated, Timestamp::UNIX_EPOCH)
            .expect("it is new");
        assert_eq!(written[0], foreign);
        assert_eq!(
            written[1]["parentRef"],
            json!({"group": "", "kind": "Service", "name": "web", "port": 80})
        );
        assert_eq!(
            (&written[1]["conditions"][0]["status"], &written[2]["conditions"][0]["status"]),
            (&json!("False"), &json!("True"))
        );
        assert_eq!(written[1]["conditions"][0]["observedGeneration"], 2);

        stated.parents = written;
        assert_eq!(
            missing(&attachments, &words(Kind::HTTPRoute), &stated, Timestamp::now()),
            None,
            "it is there already"
        );
        stated.generation = 3;
        let again = missing(&attachments, &words(Kind::HTTPRoute), &stated, Timestamp::now())
            .expect("of another generation");
        assert_eq!(
            again[1]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z",
            "it has not turned"
        );
        let turned = missing(&[attachment("web", true)], &words(Kind::HTTPRoute), &stated, Timestamp::now())
            .expect("it has turned");
        assert_eq!(turned.len(), 2, "a parent that is named no more is told no more");
        assert_ne!(turned[1]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let gone =
            missing(&[], &words(Kind::HTTPRoute), &stated, Timestamp::now()).expect("nothing is attached");
        assert_eq!(gone, [foreign]);
    }

    #[test]
    fn a_route_of_other_controllers_alone_is_left_to_them() {
        assert_eq!(missing(&[], &words(Kind::HTTPRoute), &Stated::default(), Timestamp::now()), None);
    }

    #[test]
    fn targets_of_a_policy_are_told_in_its_own_words_as_far_as_there_is_room() {
        let words = words(Kind::BackendTLSPolicy);
        let foreign = json!({"ancestorRef": {"name": "gateway"}, "controllerName": "example.com/c"});
        let mut stated = Stated { generation: 1, parents: vec![foreign; 15], ..Stated::default() };
        let attachments = [attachment("web", true), attachment("api", true)];
        let written = missing(&attachments, &words, &stated, Timestamp::now()).expect("it is new");
        assert_eq!((words.list, written.len()), ("ancestors", 16));
        assert_eq!(written[15]["ancestorRef"]["name"], "web");
        stated.parents = written;
        assert_eq!(missing(&attachments, &words, &stated, Timestamp::now()), None, "it is there already");
    }
}
