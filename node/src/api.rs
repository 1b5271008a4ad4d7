// SPDX-License-Identifier: Apache-2.0
//! The local API: pods added, removed and listed over a unix socket that only root opens. Texts and status codes are
//! here; what happens to a pod is enrolment's.

pub mod cni;
mod json;

use http::{Method, StatusCode};
use runtime::{
    http::{Request, Response, Router, respond},
    metrics::Metrics,
};
use serde::Serialize;
use tokio::sync::watch;

use self::json::{AddedJson, ErrorJson, PodStatusJson, PodsJson};
use crate::{
    chain::Chain,
    checks::Checks,
    enrol::{AddError, Enrolment, RemoveError, State},
    metrics::{self, Label},
    pod::{Pod, PodJson, Uid},
};

const POD_FIX: &str =
    r#"send {"uid","name","namespace","serviceAccount","netns":"/run/netns/NAME","ips":["..."]}"#;
const STATE_FIX: &str = "see the agent's log; the pod's state is in GET /pods";

/// The routes of the API.
pub fn router(enrolment: Enrolment) -> Router {
    let (adding, removing, listing) = (enrolment.clone(), enrolment.clone(), enrolment);
    Router::new()
        .route(Method::POST, "/pods", move |request| add(adding.clone(), request))
        .route(Method::DELETE, "/pods/*", move |request| remove(removing.clone(), request))
        .route(Method::GET, "/pods", move |_| list(listing.clone()))
        .route(Method::GET, "/healthz", |_| async { respond::text(StatusCode::OK, "ok\n") })
}

/// The routes of the metrics' port; ready is who can do what the agent is there for, when all of `ready` are.
pub fn metrics_router(
    metrics: Metrics,
    enrolment: Enrolment,
    ready: Vec<watch::Receiver<bool>>,
    checks: Checks,
) -> Router {
    let readiness = move || {
        let waiting = ready.iter().filter(|part| !*part.borrow()).count();
        match waiting {
            0 => respond::text(StatusCode::OK, "ready\n"),
            count => respond::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{count} parts are not ready: see the log\n"),
            ),
        }
    };
    let router = Router::new().route(Method::GET, "/readyz", move |_| {
        let answer = readiness();
        async { answer }
    });
    let router = router.route(Method::GET, "/checks", move |_| {
        let checks = checks.clone();
        async move { answer(StatusCode::OK, &checks.look().await) }
    });
    router.route(Method::GET, "/metrics", move |_| {
        let statuses = enrolment.list();
        for label in Label::ALL {
            metrics::pods(
                label,
                statuses.iter().filter(|status| self::label(&status.state) == label).count(),
            );
        }
        let text = metrics.render();
        async { respond::with_type(StatusCode::OK, Metrics::CONTENT_TYPE, text) }
    })
}

async fn add(enrolment: Enrolment, request: Request) -> Response {
    let parsed = serde_json::from_slice::<PodJson>(&request.body);
    let json = match parsed {
        Ok(json) => json,
        Err(error) => return answer(StatusCode::BAD_REQUEST, &malformed(&error)),
    };
    let pod = match Pod::try_from(&json) {
        Ok(pod) => pod,
        Err(error) => {
            let body = ErrorJson::new(error.problem, error.fix).field(error.field);
            return answer(StatusCode::BAD_REQUEST, &body);
        }
    };
    match enrolment.add(pod).await {
        Ok(()) => answer(StatusCode::OK, &AddedJson { uid: json.uid, state: Label::Enrolled.text() }),
        Err(error) => refusal(&error),
    }
}

fn malformed(error: &serde_json::Error) -> ErrorJson {
    let text = error.to_string();
    // serde names a missing or unknown field between backticks.
    let field = text.split('`').nth(1).filter(|_| text.contains("field `")).map(str::to_owned);
    ErrorJson { field, ..ErrorJson::new(format!("the body is not a pod: {text}"), POD_FIX) }
}

fn refusal(error: &AddError) -> Response {
    let (status, fix) = match error {
        AddError::Netns(_) => (StatusCode::BAD_REQUEST, "give the file of the pod's own network namespace"),
        AddError::Shared { .. } => {
            (StatusCode::CONFLICT, "DELETE the other pod first, or give this pod's own namespace")
        }
        AddError::Pending(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "start ztunnel, or see its log; the agent goes on trying")
        }
        AddError::Undone { .. } | AddError::Stuck { .. } => (StatusCode::INTERNAL_SERVER_ERROR, STATE_FIX),
        AddError::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "ask again when the agent runs"),
    };
    let body = ErrorJson::new(Chain(error).to_string(), fix);
    let body = match error {
        AddError::Netns(_) | AddError::Shared { .. } => body.field("netns"),
        AddError::Pending(_) => body.state(Label::Pending),
        AddError::Undone { .. } | AddError::Stuck { .. } => body.state(Label::Failed),
        AddError::Stopped(_) => body,
    };
    answer(status, &body)
}

async fn remove(enrolment: Enrolment, request: Request) -> Response {
    let uid = match Uid::parse(&request.rest) {
        Ok(uid) => uid,
        Err(error) => {
            let body = ErrorJson::new(error.problem, error.fix).field(error.field);
            return answer(StatusCode::BAD_REQUEST, &body);
        }
    };
    let Err(error) = enrolment.remove(&uid).await else {
        return answer(StatusCode::OK, &AddedJson { uid: uid.to_string(), state: "removed" });
    };
    let (status, fix) = match &error {
        RemoveError::Unknown => (StatusCode::NOT_FOUND, "see GET /pods for those that are"),
        RemoveError::Netns(_) => (StatusCode::INTERNAL_SERVER_ERROR, "make its file readable, or remove it"),
        RemoveError::Stuck { .. } => (StatusCode::INTERNAL_SERVER_ERROR, STATE_FIX),
        RemoveError::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "ask again when the agent runs"),
    };
    answer(status, &ErrorJson::new(Chain(&error).to_string(), fix))
}

async fn list(enrolment: Enrolment) -> Response {
    let statuses = enrolment.list();
    let uids = statuses.iter().map(|status| status.pod.uid.clone()).collect();
    match enrolment.capture().counters(uids).await {
        Ok(counters) => {
            let pods = statuses.iter().zip(&counters);
            let pods = pods.map(|(status, counters)| PodStatusJson::new(status, counters.as_ref())).collect();
            answer(StatusCode::OK, &PodsJson { pods })
        }
        Err(error) => {
            let body = ErrorJson::new(Chain(&error).to_string(), "restart the agent; pods stay captured");
            answer(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    }
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            respond::json(status, bytes)
        }
        Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn label(state: &State) -> Label {
    match state {
        State::Enrolled => Label::Enrolled,
        State::Pending(_) => Label::Pending,
        State::Failed(_) => Label::Failed,
    }
}

#[cfg(test)]
mod tests;
