// SPDX-License-Identifier: Apache-2.0
//! What the API server is told before it stores one of Istio's objects: broken ones are refused, what will not take effect
//! is a warning. It is what the status of the object would say, said earlier, by the same code.

use http::StatusCode;
use kubernetes::Problem;
use runtime::http::{Response, respond};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cluster::{Read, read},
    live::Live,
    objects::{Kind, Object},
    report::{Report, line},
    translate,
    world::World,
};

const VERSION: &str = "admission.k8s.io/v1";
/// What an object without a name, which the API server is going to give it, is called meanwhile.
const NAMELESS: &str = "nameless";

/// `AdmissionReview` of `admission.k8s.io/v1`, as far as it matters.
#[derive(Deserialize)]
struct Review {
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// What there is to say about an object that is about to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Opinion {
    /// Why it is refused; empty: it is not.
    errors: Vec<String>,
    /// What of it will not take effect.
    warnings: Vec<String>,
}

/// Answers a review.
pub(crate) fn answer(live: &Live, body: &[u8]) -> Response {
    let review: Review = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => {
            return respond::text(StatusCode::BAD_REQUEST, format!("not an AdmissionReview: {error}\n"));
        }
    };
    let Request { uid, kind, mut object } = review.request;
    let opinion = match kind.known() {
        Some(kind) => {
            name(&mut object);
            live.read(|world| Opinion::of(world, kind, &object))
        }
        // Somebody has asked us about more than the chart does.
        None => Opinion::default(),
    };
    respond::json(StatusCode::OK, opinion.response(&uid).to_string())
}

impl GroupVersionKind {
    fn known(&self) -> Option<Kind> {
        let version = if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        };
        let fits =
            |kind: &Kind| kind.as_str() == self.kind && kind.api_versions().contains(&version.as_str());
        Kind::ALL.into_iter().find(fits)
    }
}

fn name(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if !metadata.contains_key("name") {
        metadata.insert("name".to_owned(), json!(NAMELESS));
    }
}

impl Opinion {
    fn of(world: &World, kind: Kind, object: &Value) -> Self {
        match read(kind, &object.to_string()) {
            Ok(Read { object, notes, is_beyond: false, .. }) => Self::of_object(world, &object, &notes),
            Ok(Read { notes: problems, .. }) | Err(problems) => {
                Self { errors: problems.iter().map(problem).collect(), warnings: Vec::new() }
            }
        }
    }

    fn of_object(world: &World, object: &Object, notes: &[Problem]) -> Self {
        let errors: Vec<String> = translate::check(object).iter().map(report).collect();
        let mut warnings: Vec<String> = notes.iter().map(problem).collect();
        for warning in world.opinion(object).iter().map(report) {
            if !errors.contains(&warning) && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Self { errors, warnings }
    }

    fn response(&self, uid: &str) -> Value {
        let mut response = json!({"uid": uid, "allowed": self.errors.is_empty()});
        if !self.errors.is_empty() {
            response["status"] = json!({"code": 422, "reason": "Invalid", "message": self.errors.join("; ")});
        }
        if !self.warnings.is_empty() {
            response["warnings"] = json!(self.warnings);
        }
        json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
    }
}

fn problem(Problem { field, message }: &Problem) -> String {
    line(field, message)
}

fn report(Report { field, message, .. }: &Report) -> String {
    line(field, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn asked(kind: &str, object: &Value) -> Value {
        let live = testing::live();
        let group = match kind {
            "ServiceEntry" => "networking.istio.io",
            "Telemetry" => "telemetry.istio.io",
            _ => "security.istio.io",
        };
        let mut object = object.clone();
        object["apiVersion"] = json!(format!("{group}/v1"));
        object["kind"] = json!(kind);
        let review = json!({
            "apiVersion": VERSION, "kind": "AdmissionReview",
            "request": {"uid": "u-1", "kind": {"group": group, "version": "v1", "kind": kind}, "operation": "CREATE",
                        "object": object},
        });
        let answer = answer(&live, review.to_string().as_bytes());
        assert_eq!(answer.status(), StatusCode::OK);
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].clone()
    }

    fn policy(spec: &Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
    }

    #[test]
    fn what_is_right_is_let_in_without_a_word() {
        let rules = json!({"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]});
        assert_eq!(asked("AuthorizationPolicy", &policy(&rules)), json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn what_is_broken_is_refused_with_its_field() {
        let rules = json!({"rules": [{"from": [{"source": {"ipBlocks": ["ten.dot.zero"]}}]}]});
        let said = asked("AuthorizationPolicy", &policy(&rules));
        assert_eq!(said["allowed"], false);
        let message = said["status"]["message"].as_str().unwrap();
        assert!(message.contains("spec.rules[0].from[0].source.ipBlocks"), "{message}");
    }

    #[test]
    fn what_will_not_take_effect_is_let_in_with_a_warning() {
        let rules = json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
        let said = asked("AuthorizationPolicy", &policy(&rules));
        assert_eq!(said["allowed"], true);
        let warning = said["warnings"][0].as_str().unwrap();
        assert!(warning.contains("methods") && warning.contains("denies nothing"), "{warning}");
    }

    #[test]
    fn expressions_of_a_telemetry_are_read_before_it_is_stored() {
        let filtering = |expression: &str| json!({"accessLogging": [{"filter": {"expression": expression}}]});
        let labelled = |name: &str, value: &str| json!({"metrics": [{"overrides": [{"tagOverrides": {name: {"value": value}}}]}]});
        let of_label = "spec.metrics[0].overrides[0].tagOverrides";
        for (spec, field, part) in [
            (filtering("response.cod == 1"), "spec.accessLogging[0].filter.expression", "no attribute"),
            (filtering("response.code"), "spec.accessLogging[0].filter.expression", "comes to an int"),
            (labelled("who", "request.hst"), of_label, "no attribute"),
            (labelled("who", ""), of_label, "is missing"),
            (labelled("le", "request.host"), of_label, "no label that Prometheus takes"),
            (labelled("a-b", "request.host"), of_label, "no label that Prometheus takes"),
            (json!({"tracing": [{"randomSamplingPercentage": 101}]}), "spec.tracing[0]", "no percentage"),
        ] {
            let said = asked("Telemetry", &policy(&spec));
            assert_eq!(said["allowed"], false, "{spec}");
            let message = said["status"]["message"].as_str().unwrap();
            assert!(message.contains(field) && message.contains(part), "{message}");
        }
        for spec in [filtering("response.code >= 400"), labelled("who", "request.host")] {
            assert_eq!(asked("Telemetry", &policy(&spec)), json!({"uid": "u-1", "allowed": true}), "{spec}");
        }
    }

    #[test]
    fn an_object_whose_name_is_still_to_be_made_is_judged_all_the_same() {
        let object = json!({"metadata": {"generateName": "p-", "namespace": "shop"}, "spec": {}});
        assert_eq!(asked("AuthorizationPolicy", &object)["allowed"], true);
    }

    #[test]
    fn what_is_no_review_is_no_answer_either() {
        let answer = answer(&testing::live(), b"{}");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
}
