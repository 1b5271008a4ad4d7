// SPDX-License-Identifier: Apache-2.0
//! The body of a watch: one JSON object per line, of bounded length, with a limit to its silence.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;

use crate::error::ApiError;

/// etcd takes no object over 1.5 MiB; escapes make it longer.
const LONGEST: usize = 8 << 20;

/// Lines of a body.
pub(super) struct Lines {
    body: Body,
    /// What came and was not returned yet.
    rest: BytesMut,
    /// How much of it has no end of line.
    searched: usize,
    /// A line that is too long is thrown away until its end.
    skipping: bool,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, rest: BytesMut::new(), searched: 0, skipping: false }
    }

    /// The next line; `None` at the end of the body.
    pub(super) async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            let frame = tokio::time::timeout(silence, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_elapsed| ApiError::TooLate(silence))? else { return Ok(None) };
            // The end of a body without an end of chunk is how a server that is killed ends.
            let frame = frame.map_err(|error| ApiError::Unreachable(error.into()))?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        loop {
            let searched = self.searched.min(self.rest.len());
            let found = self.rest.get(searched..).and_then(|new| new.iter().position(|byte| *byte == b'\n'));
            let Some(found) = found else {
                self.searched = self.rest.len();
                if self.rest.len() > LONGEST {
                    if !std::mem::replace(&mut self.skipping, true) {
                        tracing::error!(bytes = LONGEST, "an event longer than any object is left out");
                    }
                    self.rest.clear();
                    self.searched = 0;
                }
                return None;
            };
            let line = self.rest.split_to(searched + found + 1).freeze();
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }
}
