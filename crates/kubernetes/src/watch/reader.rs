// SPDX-License-Identifier: Apache-2.0
//! One connection's worth of a watch: from its request to its end.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Event, Problem, Running, Unheard, body::Lines, known::identify};
use crate::{backoff::jitter, error::ApiError, resource::encode};

/// The server ends a watch after this long; it is opened again from where it was.
const LONGEST: Duration = Duration::from_secs(600);
/// Bookmarks come about once a minute. Whoever is silent for longer may be gone, and opening again costs little.
const SILENCE: Duration = Duration::from_secs(150);
/// The same within a list.
pub(super) const LIST_SILENCE: Duration = Duration::from_secs(30);
/// Headers of the answer to a watch come at once.
const ANSWER: Duration = Duration::from_secs(30);
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As it should after a while.
    Closed,
    /// What we know is too old for the server.
    Expired,
    /// The server has no streaming lists.
    NoStreaming(ApiError),
    /// With an error.
    Failed(ApiError),
}

/// What one connection has brought.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Whether the server has shown that it is well.
    pub(super) worked: bool,
    /// Whether it is a streaming list that has not come to its end.
    listing: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl<K: Clone, T, P: Fn(&str) -> Result<T, Vec<Problem>>> Running<'_, K, T, P> {
    /// Lists if need be, then watches, until the connection ends.
    pub(super) async fn once(&mut self, reader: &mut Reader) -> Result<Ended, Unheard> {
        if self.version.is_none() && !self.streaming {
            if let Err(ended) = self.pages().await? {
                return Ok(ended);
            }
            reader.worked = true;
        }
        reader.listing = self.version.is_none();
        let path = self.question();
        let request = tokio::time::timeout(ANSWER, self.api.send(Method::GET, &path, None));
        let response = match request.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Ok(reader.refused(error)),
            Err(_elapsed) => return Ok(Ended::Failed(ApiError::TooLate(ANSWER))),
        };
        if reader.listing {
            self.known.begin();
        } else {
            self.watch.view.heard(self.known.len());
        }
        let mut lines = Lines::new(response.into_body());
        loop {
            let silence = if reader.listing { LIST_SILENCE } else { SILENCE };
            let line = tokio::select! {
                line = lines.next(silence) => line,
                () = self.events.closed() => return Err(Unheard),
            };
            match line {
                Ok(Some(line)) => {
                    if let Some(ended) = self.line(reader, &path, &line).await? {
                        return Ok(ended);
                    }
                }
                // A server that does not know the question answers with changes only, and those may not come.
                Ok(None) if reader.listing => return Ok(reader.cut()),
                Err(ApiError::TooLate(after)) if reader.listing => {
                    return Ok(Ended::NoStreaming(ApiError::TooLate(after)));
                }
                Ok(None) | Err(ApiError::TooLate(_)) => return Ok(Ended::Closed),
                Err(error) => return Ok(Ended::Failed(error)),
            }
        }
    }

    fn question(&self) -> String {
        let timeout = jitter(LONGEST).as_secs();
        let common = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}");
        match &self.version {
            Some(version) => self.path(&format!("{common}&resourceVersion={}", encode(version))),
            None => self.path(&format!(
                "{common}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion="
            )),
        }
    }

    async fn line(&mut self, reader: &mut Reader, path: &str, line: &[u8]) -> Result<Option<Ended>, Unheard> {
        let Line { kind, object } = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(source) => {
                return Ok(Some(Ended::Failed(ApiError::Answer { path: path.to_owned(), source })));
            }
        };
        match kind {
            "ADDED" | "MODIFIED" => {
                let version = self.object(object.get()).await?;
                self.seen(reader, version);
            }
            "DELETED" => {
                if let Some((name, version)) = identify(object.get()) {
                    self.known.remove(&name);
                    self.tell(Event::Deleted(name)).await?;
                    self.seen(reader, version);
                }
            }
            "BOOKMARK" => {
                let Ok(Bookmark { metadata }) = serde_json::from_str(object.get()) else { return Ok(None) };
                let is_end = metadata.annotations.get(END_OF_LIST).is_some_and(|value| value == "true");
                if reader.listing && is_end {
                    reader.listing = false;
                    self.synced().await?;
                }
                self.seen(reader, Some(metadata.resource_version));
            }
            "ERROR" => {
                let error = ApiError::refused(500, object.get().as_bytes());
                tracing::debug!(kind = self.plural(), %error, "the watch was ended");
                return Ok(Some(reader.refused(error)));
            }
            other => tracing::debug!(
                kind = self.plural(),
                event = other,
                "an event of an unknown type is left out"
            ),
        }
        Ok(None)
    }

    /// The server is well. Within a list versions are those of the objects, in no order: nothing to go on from.
    fn seen(&mut self, reader: &mut Reader, version: Option<String>) {
        reader.worked = true;
        if let Some(version) = version.filter(|version| !reader.listing && !version.is_empty()) {
            self.version = Some(version);
            self.watch.view.heard(self.known.len());
        }
    }
}

impl Reader {
    fn refused(&self, error: ApiError) -> Ended {
        match error.code() {
            Some(410) => Ended::Expired,
            Some(400 | 422) if self.listing && !self.worked => Ended::NoStreaming(error),
            _ => Ended::Failed(error),
        }
    }

    /// A list that ended in the middle.
    fn cut(&self) -> Ended {
        Ended::Failed(ApiError::Unreachable("the list ended before its end".into()))
    }
}
