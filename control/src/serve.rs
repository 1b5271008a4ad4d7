// SPDX-License-Identifier: Apache-2.0
//! The ports: discovery and certificates under TLS, metrics, readiness and status for people and machines, and in a
//! cluster what the API server asks.

mod grpc;
mod renew;
pub(crate) mod status;
mod tls;
mod webhook;

use http::{Method, StatusCode};
use runtime::{
    http::{Router, respond},
    metrics::Metrics,
};

pub(crate) use self::{
    grpc::serve,
    renew::{Serving, renew},
    status::Status,
    webhook::{router as webhook_router, serve_webhook},
};
use crate::{app::Render, authenticate::Authenticate};

/// What is answered on the metrics port.
pub(crate) fn router<A: Authenticate>(status: Status<A>, render: Render) -> Router {
    let readiness = status.readiness.clone();
    let metrics = {
        let (status, render) = (status.clone(), render);
        move |_| {
            status.measure();
            let body = render();
            async move { respond::with_type(StatusCode::OK, Metrics::CONTENT_TYPE, body) }
        }
    };
    let ready = move |_| {
        let answer = readiness.respond();
        async move { answer }
    };
    let shown = move |_| {
        let body = status.json();
        async move { respond::json(StatusCode::OK, body) }
    };
    Router::new()
        .route(Method::GET, "/metrics", metrics)
        .route(Method::GET, "/healthz/ready", ready.clone())
        .route(Method::GET, "/ready", ready)
        .route(Method::GET, "/status", shown)
}
