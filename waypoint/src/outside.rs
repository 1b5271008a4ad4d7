// SPDX-License-Identifier: Apache-2.0
//! TLS with servers outside the mesh: each setting is made ready once, and kept as long as anything of the mesh says it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use ::proxy::{chain, dialling::tls_failure};
use identity::tls::{Inside, Outside};
use mesh::{Index, l7::ServerTls};
use parking_lot::Mutex;
use plan::What;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{pools::Wire, roots::Machine};

/// See the module.
#[derive(Debug, Default)]
pub struct Outsides {
    /// Whom this machine believes.
    pub machine: Machine,
    ready: Mutex<HashMap<(Arc<ServerTls>, Inside), Outside>>,
}

/// What is spoken with a server; `None`: bytes.
pub fn inside(wire: Option<Wire>) -> Inside {
    match wire {
        Some(Wire::Http1) => Inside::Http1,
        Some(Wire::Http2) => Inside::Http2,
        None => Inside::Bytes,
    }
}

/// The settings of a mesh.
pub fn said(index: &Index) -> HashSet<Arc<ServerTls>> {
    index.traffics().flat_map(|traffic| traffic.tls.values().cloned()).collect()
}

impl Outsides {
    /// Speaks TLS on a connection.
    ///
    /// # Errors
    /// Says what went wrong; then nothing was sent but the handshake.
    pub async fn connect(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        (tls, inside): (&Arc<ServerTls>, Inside),
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, What> {
        let outside = self.of(tls, inside)?;
        match tokio::time::timeout(limit, outside.connect(stream)).await {
            Ok(shaken) => shaken.map_err(|error| tls_failure(&error)),
            Err(_elapsed) => Err(What::ConnectTimeout(address)),
        }
    }

    fn of(&self, tls: &Arc<ServerTls>, inside: Inside) -> Result<Outside, What> {
        let key = (Arc::clone(tls), inside);
        if let Some(ready) = self.ready.lock().get(&key) {
            return Ok(ready.clone());
        }
        // Two may make it at once; that is cheaper than to wait for the files of the machine under a lock.
        let made = Outside::new(tls, inside, || self.machine.roots());
        let made = made.map_err(|error| What::Tls(chain(&error).to_string()))?;
        Ok(self.ready.lock().entry(key).or_insert(made).clone())
    }

    /// Forgets what is said no more.
    pub fn retain(&self, said: &HashSet<Arc<ServerTls>>) {
        self.ready.lock().retain(|(tls, _inside), _| said.contains(tls));
    }
}

#[cfg(test)]
mod tests;
