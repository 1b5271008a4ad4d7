// SPDX-License-Identifier: Apache-2.0
//! A list page by page, for servers without streaming lists.

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Problem, Running, Unheard, reader::Ended};
use crate::{api::collect, error::ApiError, resource::encode};

/// Objects in a page.
const PAGE: u32 = 500;

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl<K: Clone, T, P: Fn(&str) -> Result<T, Vec<Problem>>> Running<'_, K, T, P> {
    /// Reads all pages; afterwards changes are to come from the version of the list.
    pub(super) async fn pages(&mut self) -> Result<Result<(), Ended>, Unheard> {
        self.known.begin();
        let mut next = String::new();
        loop {
            let following =
                if next.is_empty() { String::new() } else { format!("&continue={}", encode(&next)) };
            let path = self.path(&format!("limit={PAGE}{following}"));
            let bytes = match self.page(&path).await {
                Ok(bytes) => bytes,
                Err(error) if error.code() == Some(410) => return Ok(Err(Ended::Expired)),
                Err(error) => return Ok(Err(Ended::Failed(error))),
            };
            let page: Page<'_> = match serde_json::from_slice(&bytes) {
                Ok(page) => page,
                Err(source) => return Ok(Err(Ended::Failed(ApiError::Answer { path, source }))),
            };
            for item in page.items.unwrap_or_default() {
                self.object(item.get()).await?;
            }
            next = page.metadata.next;
            if next.is_empty() {
                self.version = Some(page.metadata.resource_version);
                self.synced().await?;
                return Ok(Ok(()));
            }
        }
    }

    async fn page(&self, path: &str) -> Result<Vec<u8>, ApiError> {
        let read = async {
            let response = self.api.send(Method::GET, path, None).await?;
            collect(path, response.into_body()).await
        };
        let deadline = super::reader::LIST_SILENCE;
        tokio::time::timeout(deadline, read).await.map_err(|_elapsed| ApiError::TooLate(deadline))?
    }
}
