// SPDX-License-Identifier: Apache-2.0
//! What is known of a connection while it is open: enough to show it, and to ask about it again.

use std::{net::SocketAddr, sync::Arc};

use hbone::Counters;
use mesh::authz::Subject;

use crate::metrics::Reporter;

/// See the module.
#[derive(Debug)]
pub struct Flow {
    /// Which end of it is here.
    pub reporter: Reporter,
    /// The client.
    pub source: SocketAddr,
    /// The server.
    pub destination: SocketAddr,
    /// What inbound authorization judged, to ask again.
    pub subject: Option<Subject>,
    /// Bytes so far.
    pub counters: Arc<Counters>,
}
