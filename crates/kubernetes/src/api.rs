// SPDX-License-Identifier: Apache-2.0
//! Calls to the API server, one request and one answer each, with a deadline. Watches are elsewhere.

use std::{fmt, time::Duration};

use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::client::Body;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{error::ApiError, resource::encode};

/// For an answer, connecting included.
const DEADLINE: Duration = Duration::from_secs(10);
/// A page of a list; a single object has no more than 3 MiB.
const LONGEST_ANSWER: usize = 64 << 20;
const JSON: &str = "application/json";
/// Objects of one answer to a list.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: Rest,
    // Null and empty are alike in the API.
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
struct Rest {
    #[serde(rename = "continue")]
    rest: Option<String>,
}

/// The API server; cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    namespace: String,
}

impl Api {
    pub(crate) fn new(client: kube::Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// The namespace that we live in, or that the kubeconfig names; `default` without either.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// An object or list.
    ///
    /// # Errors
    /// When there is none, or no usable answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// An object, if there is one.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an object in a collection.
    ///
    /// # Errors
    /// When it is refused; with a conflict when there is one of the name.
    pub async fn create<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        object: &T,
    ) -> Result<T, ApiError> {
        self.call(Method::POST, path, Some((JSON, body(path, object)?))).await
    }

    /// Puts an object in place of what is there; with a resource version in it, only if that is still the one.
    ///
    /// # Errors
    /// When it is refused; with a conflict when somebody else was faster.
    pub async fn replace<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        object: &T,
    ) -> Result<T, ApiError> {
        self.call(Method::PUT, path, Some((JSON, body(path, object)?))).await
    }

    /// Server-side apply: the fields of `object` are ours now, and what `manager` had and left out is gone.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, path: &str, manager: &str, object: &Value) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}&force=true", encode(manager));
        let body = body(&path, object)?;
        self.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", body))).await
    }

    /// What [`Api::apply`] would give, with nothing stored.
    ///
    /// # Errors
    /// When it would be refused.
    pub async fn rehearse(&self, path: &str, manager: &str, object: &Value) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}&force=true&dryRun=All", encode(manager));
        let body = body(&path, object)?;
        self.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", body))).await
    }

    /// Changes the fields that `change` has (RFC 7396): null removes one, and the rest of the object stays.
    ///
    /// # Errors
    /// When it is refused; with a conflict when `change` names another uid or version than the object has.
    pub async fn merge(&self, path: &str, manager: &str, change: &Value) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={}", encode(manager));
        let body = body(&path, change)?;
        self.call(Method::PATCH, &path, Some(("application/merge-patch+json", body))).await
    }

    /// Deletes an object, and what it owns before itself. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        let options = serde_json::json!({"propagationPolicy": "Foreground"});
        match self.call::<Value>(Method::DELETE, path, Some((JSON, body(path, &options)?))).await {
            Err(error) if error.is_absent() => Ok(()),
            other => other.map(drop),
        }
    }

    /// An answer that is no JSON, such as a log.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub async fn text(&self, path: &str) -> Result<String, ApiError> {
        let bytes = self.exchange(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All objects of a kind, in pages.
    ///
    /// # Errors
    /// When there is no usable answer; also when the list changed so much that it cannot be gone on with.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        let mut all = Vec::new();
        let mut from = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}?limit={PAGE}&continue={}", encode(&from))).await?;
            all.extend(page.items.into_iter().flatten());
            match page.metadata.rest {
                Some(rest) if !rest.is_empty() => from = rest,
                Some(_) | None => return Ok(all),
            }
        }
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<T, ApiError> {
        let bytes = self.exchange(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|source| ApiError::Answer { path: path.to_owned(), source })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Vec<u8>, ApiError> {
        let answer = tokio::time::timeout(DEADLINE, async {
            let response = self.send(method, path, body).await?;
            collect(path, response.into_body()).await
        });
        answer.await.map_err(|_elapsed| ApiError::TooLate(DEADLINE))?
    }

    /// The response to a request that was not refused; its body is still to come.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Response<Body>, ApiError> {
        let mut request = Request::builder().method(method).uri(path).header("accept", JSON);
        let mut bytes = Vec::new();
        if let Some((kind, content)) = body {
            request = request.header("content-type", kind);
            bytes = content;
        }
        let request = request
            .body(Body::from(bytes))
            .map_err(|error| ApiError::Question { path: path.to_owned(), source: error.into() })?;
        let response = self.client.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = collect(path, response.into_body()).await?;
        Err(ApiError::refused(status.as_u16(), &body))
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

fn body(path: &str, object: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(object)
        .map_err(|error| ApiError::Question { path: path.to_owned(), source: error.into() })
}

pub(crate) async fn collect(path: &str, body: Body) -> Result<Vec<u8>, ApiError> {
    match Limited::new(body, LONGEST_ANSWER).collect().await {
        Ok(whole) => Ok(whole.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLong { path: path.to_owned() }),
        Err(error) => Err(ApiError::Unreachable(error)),
    }
}
