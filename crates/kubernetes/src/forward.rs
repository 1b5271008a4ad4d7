// SPDX-License-Identifier: Apache-2.0
//! A question to a port inside a pod, its loopback included: HTTP over the API server's port forwarding.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tower::BoxError;

use crate::api::Api;

/// For opening the way and the whole answer: a dump of a large mesh is tens of megabytes.
const DEADLINE: Duration = Duration::from_secs(30);
const LONGEST_ANSWER: usize = 512 << 20;

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodPort {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The port, in its network namespace.
    pub port: u16,
}

/// Why a port of a pod has not answered.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is no way to it.
    #[error("cannot reach {at}")]
    Way {
        /// The port.
        at: PodPort,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// It did not answer, or not in HTTP.
    #[error("no answer of {at} to GET {path}")]
    Answer {
        /// The port.
        at: PodPort,
        /// What it was asked for.
        path: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// It has answered that it will not.
    #[error("{at} answers {status} to GET {path}: {body}")]
    Refused {
        /// The port.
        at: PodPort,
        /// What it was asked for.
        path: String,
        /// Its answer.
        status: StatusCode,
        /// Its words, not all if there are many.
        body: String,
    },
    /// It took too long.
    #[error("{at} did not answer GET {path} within {DEADLINE:?}")]
    TooLate {
        /// The port.
        at: PodPort,
        /// What it was asked for.
        path: String,
    },
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.pod, self.port)
    }
}

impl PodPort {
    /// The body of the answer to `GET path`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, api: &Api, path: &str) -> Result<Bytes, ForwardError> {
        let late = |_elapsed| ForwardError::TooLate { at: self.clone(), path: path.to_owned() };
        tokio::time::timeout(DEADLINE, self.ask(api, path)).await.map_err(late)?
    }

    async fn ask(&self, api: &Api, path: &str) -> Result<Bytes, ForwardError> {
        let no_way = |source: BoxError| ForwardError::Way { at: self.clone(), source };
        let silent =
            |source: BoxError| ForwardError::Answer { at: self.clone(), path: path.to_owned(), source };
        let pods: kube::Api<Pod> = kube::Api::namespaced(api.client().clone(), &self.namespace);
        let mut forwarded =
            pods.portforward(&self.pod, &[self.port]).await.map_err(|error| no_way(error.into()))?;
        let stream = forwarded.take_stream(self.port).ok_or_else(|| no_way("no stream was opened".into()))?;
        let refusal = forwarded.take_error(self.port);
        let exchange = Box::pin(async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
            let answer = Box::pin(async move {
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
                Ok::<_, BoxError>((head.status, body))
            });
            // The connection is driven until the answer is there.
            match select(answer, Box::pin(connection)).await {
                Either::Left((answer, _)) => answer,
                Either::Right((ended, answer)) => {
                    ended?;
                    answer.await
                }
            }
        });
        let answer = exchange.await;
        forwarded.abort();
        let (status, body) = match (answer, refusal) {
            (Ok(answer), _) => answer,
            // Kubelet's words say more than a connection that ended.
            (Err(error), refusal) => {
                let told = match refusal {
                    Some(refusal) => refusal.await,
                    None => None,
                };
                return Err(silent(told.map_or(error, |told| told.trim().to_owned().into())));
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        let body = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(ForwardError::Refused { at: self.clone(), path: path.to_owned(), status, body })
    }
}
