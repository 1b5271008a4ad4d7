// SPDX-License-Identifier: Apache-2.0
//! The port that the API server asks before it stores an object.

use std::sync::Arc;

use http::Method;
use runtime::{
    Tasks,
    accept::{self, AcceptError, Limits},
    http::{self as server, Router},
};
use tokio::net::TcpListener;

use super::{Serving, tls};
use crate::{admission, live::Live};

const LIMITS: Limits = Limits { name: "webhook", connections: 256 };

/// What is answered.
pub(crate) fn router(live: Arc<Live>) -> Router {
    let validate = move |request: server::Request| {
        let answer = admission::answer(&live, &request.body);
        async move { answer }
    };
    Router::new().route(Method::POST, "/validate", validate)
}

/// Serves until the group is asked to finish.
///
/// # Errors
/// When the listener is broken.
pub(crate) async fn serve_webhook(
    listener: TcpListener,
    tasks: &Tasks,
    serving: Serving,
    router: Router,
) -> Result<(), AcceptError> {
    accept::serve(listener, tasks, LIMITS, |stream, peer| {
        let (serving, router, tasks) = (serving.clone(), router.clone(), tasks.clone());
        async move {
            if let Some(stream) =
                tls::accept(stream, peer, serving.config_for_http(), &tasks.shutdown()).await
            {
                server::connection(stream, tasks, router).await;
            }
        }
    })
    .await
}
