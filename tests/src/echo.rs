// SPDX-License-Identifier: Apache-2.0
//! What the sample application answers to every request: who it is and whom it saw.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Body of an answer, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Name of the instance that answered.
    pub name: String,
    /// The client's address as the application's socket has it.
    pub peer: SocketAddr,
    /// The server's address as the application's socket has it.
    pub local: SocketAddr,
    /// Method of the request.
    pub method: String,
    /// Path and query of the request.
    pub path: String,
    /// `Host` header of the request.
    pub host: String,
    /// Length of the request's body.
    pub received: usize,
    /// Header fields of the request, where its path asks for them: `/headers`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Port of HTTP/1.1, and of HTTP/2 with prior knowledge.
pub const HTTP: u16 = 8080;
/// Port that sends back what it receives.
pub const TCP: u16 = 9000;
/// Port that speaks first: one line with its name, then it echoes.
pub const BANNER: u16 = 9001;
/// Port of gRPC's health service (`grpc.health.v1.Health`), over HTTP/2 without TLS.
pub const GRPC: u16 = 9002;
