// SPDX-License-Identifier: Apache-2.0
//! The part of the API that the CNI plugin uses: its questions and their answers as HTTP. A 503 without a `state` means
//! that nothing is known about the pod, for which the plugin lets pods of some namespaces pass.

use std::sync::Arc;

use http::{Method, StatusCode};
use runtime::http::{Request, Response, Router};
use serde::Deserialize;
use serde_json::json;

use super::{ErrorJson, answer, refusal};
use crate::{
    admission::{Admission, AdmitError, Admitted, Directory, Unknown},
    chain::Chain,
    enrol::RemoveError,
    metrics,
};

const ATTACHMENT_FIX: &str =
    r#"send {"containerId","netns","namespace","name","uid","ips":["..."]}, as the plugin does"#;

#[derive(Deserialize)]
struct Collection {
    valid: Vec<Valid>,
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container_id: String,
}

/// Adds the routes to those of the API.
pub fn router<D: Directory>(router: Router, admission: Admission<D>) -> Router {
    let admission = Arc::new(admission);
    let [adding, checking, deleting, collecting] = [(); 4].map(|()| Arc::clone(&admission));
    router
        .route(Method::POST, "/cni/add", move |request| {
            let admission = Arc::clone(&adding);
            async move {
                counted(
                    "add",
                    match parse(&request) {
                        Ok(attachment) => told(admission.add(attachment).await),
                        Err(error) => answer(StatusCode::BAD_REQUEST, &error),
                    },
                )
            }
        })
        .route(Method::POST, "/cni/check", move |request| {
            let admission = Arc::clone(&checking);
            async move {
                counted(
                    "check",
                    match parse(&request) {
                        Ok(attachment) => told(admission.check(attachment).await),
                        Err(error) => answer(StatusCode::BAD_REQUEST, &error),
                    },
                )
            }
        })
        .route(Method::POST, "/cni/del", move |request| {
            let admission = Arc::clone(&deleting);
            async move {
                counted(
                    "del",
                    match parse(&request) {
                        Ok(attachment) => done(admission.delete(attachment).await),
                        Err(error) => answer(StatusCode::BAD_REQUEST, &error),
                    },
                )
            }
        })
        .route(Method::POST, "/cni/gc", move |request| {
            let admission = Arc::clone(&collecting);
            async move {
                counted(
                    "gc",
                    match parse::<Collection>(&request) {
                        Ok(collection) => {
                            let left: Vec<_> =
                                collection.valid.into_iter().map(|valid| valid.container_id).collect();
                            done(admission.collect(&left).await)
                        }
                        Err(error) => answer(StatusCode::BAD_REQUEST, &error),
                    },
                )
            }
        })
        .route(Method::POST, "/cni/status", |_| async { answer(StatusCode::OK, &json!({})) })
}

fn counted(command: &'static str, response: Response) -> Response {
    metrics::asked(command, response.status().as_u16());
    response
}

fn parse<T: for<'de> Deserialize<'de>>(request: &Request) -> Result<T, ErrorJson> {
    serde_json::from_slice(&request.body)
        .map_err(|error| ErrorJson::new(format!("the body cannot be used: {error}"), ATTACHMENT_FIX))
}

fn told(result: Result<Admitted, AdmitError>) -> Response {
    let error = match result {
        Ok(Admitted::Enrolled) => return answer(StatusCode::OK, &json!({"state": "enrolled"})),
        Ok(Admitted::Outside(reason)) => {
            return answer(StatusCode::OK, &json!({"state": "outside", "reason": reason.to_string()}));
        }
        Err(error) => error,
    };
    tracing::info!(error = %Chain(&error), "a pod has to wait");
    let (status, fix) = match &error {
        AdmitError::Add(error) => return refusal(error),
        AdmitError::Unknown(Unknown::Absent { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing, if it was deleted just now; kubelet tries again otherwise",
        ),
        AdmitError::Unknown(Unknown::Unanswered { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "see whether the API server can be reached from the node and the agent's role lets it read pods and namespaces",
        ),
        AdmitError::Another { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "wait: one of both is about to go, and kubelet tries again")
        }
        AdmitError::Invalid(error) => {
            let body = ErrorJson::new(error.problem.clone(), error.fix).field(error.field);
            return answer(StatusCode::BAD_REQUEST, &body);
        }
        AdmitError::NotEnrolled { .. } => (
            StatusCode::CONFLICT,
            "see the pod's state in GET /pods and the agent's log; deleting the pod starts it anew",
        ),
    };
    answer(status, &ErrorJson::new(Chain(&error).to_string(), fix))
}

fn done(result: Result<(), RemoveError>) -> Response {
    match result {
        Ok(()) => answer(StatusCode::OK, &json!({})),
        Err(error) => {
            let body = ErrorJson::new(Chain(&error).to_string(), super::STATE_FIX);
            answer(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}
