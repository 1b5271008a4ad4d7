// SPDX-License-Identifier: Apache-2.0
//! What callers read: the field, the fix, the status.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    enrol::{Status, StepError, ladder::Action},
    netns::{NetnsId, OpenError},
    zds::Unserved,
};

fn pod() -> Value {
    json!({"uid": "a", "name": "client", "namespace": "default", "serviceAccount": "sleep",
           "netns": "/run/netns/client", "ips": ["10.20.1.2"]})
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[test]
fn a_body_that_is_no_pod_is_answered_with_the_field_and_the_fix() {
    let mut missing = pod();
    missing.as_object_mut().unwrap().remove("netns");
    let mut unknown = pod();
    unknown.as_object_mut().unwrap().insert("netNs".to_owned(), json!("/x"));
    let mut mistyped = pod();
    mistyped["ips"] = json!("10.20.1.2");
    let cases = [(missing, Some("netns")), (unknown, Some("netNs")), (mistyped, None), (json!([]), None)];
    for (json, field) in cases {
        let error = serde_json::from_value::<PodJson>(json).unwrap_err();
        let answer = malformed(&error);
        assert_eq!(answer.field.as_deref(), field, "{error}");
        assert!(answer.error.contains(&error.to_string()) && answer.fix.contains("serviceAccount"));
    }
}

#[test]
fn a_refusal_says_whose_fault_it_is_and_whether_the_pod_is_captured() {
    let unserved = || Arc::new(StepError::Unserved(Unserved::NoZtunnel));
    let gone = OpenError::Gone { path: "/run/netns/x".into() };
    let cases = [
        (AddError::Netns(gone), 400, Some("netns"), None, "/run/netns/x does not exist"),
        (AddError::Shared { other: Uid::parse("b").unwrap() }, 409, Some("netns"), None, "the pod b"),
        (AddError::Pending(unserved()), 503, None, Some("pending"), "no ztunnel connected"),
        (
            AddError::Stuck { failed: Action::Attach, source: unserved() },
            500,
            None,
            Some("failed"),
            "attach the capture programs",
        ),
    ];
    for (error, status, field, state, text) in cases {
        let response = refusal(&error);
        let body = body(&response);
        assert_eq!(response.status(), status, "{error}");
        assert_eq!((body["field"].as_str(), body["state"].as_str()), (field, state));
        assert!(body["error"].as_str().unwrap().contains(text), "{body}");
        assert!(!body["fix"].as_str().unwrap().is_empty());
    }
}

#[test]
fn the_list_shows_the_pod_as_it_was_asked_for_and_why_it_is_not_served() {
    let request: PodJson = serde_json::from_value(pod()).unwrap();
    let status = Status {
        pod: Pod::try_from(&request).unwrap(),
        netns: NetnsId { device: 4, inode: 4_026_532_001 },
        state: State::Pending("no ztunnel connected".to_owned()),
    };
    let mut expected = pod();
    let more = json!({"captureDns": true, "captureInbound": true, "netnsInode": 4_026_532_001_u64, "state": "pending", "reason": "no ztunnel connected"});
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(serde_json::to_value(PodStatusJson::new(&status, None)).unwrap(), expected);
}
