// SPDX-License-Identifier: Apache-2.0
//! What is known of a connection that is carried as bytes, so that guards can be asked about it again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arcstr::ArcStr;
use http::{HeaderMap, Method, request};
use mesh::{
    Index,
    l7::{
        Claims,
        guard::{Attribute, Condition, Http},
    },
};

use crate::{exchange::Exchange, link::Link};

/// See the module.
#[derive(Debug)]
pub struct Carried {
    /// Whose it is, and what for.
    pub link: Arc<Link>,
    /// The name in its TLS handshake, if it has one.
    pub server: Option<ArcStr>,
    /// The request that it began as, if it did.
    pub request: Option<Began>,
}

/// What guards have read of a request before it became a connection that is carried as bytes.
#[derive(Debug)]
pub struct Began {
    method: Method,
    host: ArcStr,
    path: ArcStr,
    headers: HeaderMap,
    claims: Option<Arc<Claims>>,
}

impl Began {
    /// Of a request as the guards see it.
    pub fn of(exchange: &Exchange, head: &request::Parts, claims: Option<Arc<Claims>>) -> Self {
        Self {
            method: head.method.clone(),
            host: exchange.host.clone(),
            path: head.uri.path().into(),
            headers: head.headers.clone(),
            claims,
        }
    }

    /// As guards read it.
    pub fn http(&self) -> Http<'_> {
        Http {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            headers: &self.headers,
            claims: self.claims.as_deref(),
        }
    }
}

/// Whether any guard looks at the name in a TLS handshake: only then is it worth waiting for.
#[derive(Debug, Default)]
pub struct ByServerName(AtomicBool);

impl ByServerName {
    /// What was noted.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes whether any guard does now.
    pub fn follow(&self, index: &Index) {
        let looks = |condition: &Condition| condition.of == Attribute::ServerName;
        let clauses = index.guards().flat_map(|guard| &guard.rules).flat_map(|rule| &rule.clauses);
        let found = clauses.flat_map(|clause| clause.alternatives.iter().flatten()).any(looks);
        self.0.store(found, Ordering::Relaxed);
    }
}
