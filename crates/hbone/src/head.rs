// SPDX-License-Identifier: Apache-2.0
//! What a client says when it opens a tunnel.

use http::uri::{Authority, InvalidUri};
use http::{HeaderMap, Method, Request, Uri};

/// The head of a CONNECT request: where to, and the headers beside it.
#[derive(Clone, Debug)]
pub struct Head {
    authority: Authority,
    /// Header fields sent beside the authority.
    pub headers: HeaderMap,
}

impl Head {
    /// A head for `host:port`; an IPv6 address is in brackets.
    ///
    /// # Errors
    /// When the text is no authority.
    pub fn new(authority: &str, headers: HeaderMap) -> Result<Self, InvalidUri> {
        Ok(Self { authority: authority.parse()?, headers })
    }

    /// The `:authority`.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    pub(crate) fn request(&self) -> Request<()> {
        // RFC 9113 §8.5: only :method and :authority.
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from(self.authority.clone());
        *request.headers_mut() = self.headers.clone();
        request
    }
}
