// SPDX-License-Identifier: Apache-2.0
//! Who is connected and how far they are, for status and metrics.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arcstr::ArcStr;
use mesh::SpiffeId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    delta::session::Progress,
    kind::{Kind, PerKind},
};

/// One connected proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Number of its stream.
    pub stream: u64,
    /// Its `node.id`; empty before its first request.
    pub node: ArcStr,
    /// Who it proved to be.
    pub caller: SpiffeId,
    /// Where it calls from.
    pub peer: Option<SocketAddr>,
    /// When the stream was opened.
    pub since: Instant,
    /// How far it is with each kind that it subscribed to.
    pub progress: PerKind<Option<Progress>>,
}

/// A proxy refused resources.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Its `node.id`.
    pub node: ArcStr,
    /// Their kind.
    pub kind: Kind,
    /// Their names, as far as the message names them.
    pub names: Vec<ArcStr>,
    /// Its message.
    pub message: String,
}

/// All that are connected.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    streams: AtomicU64,
    connected: Mutex<BTreeMap<u64, Proxy>>,
}

/// A place in the list, until it is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    proxies: Proxies,
    stream: u64,
}

impl Proxies {
    pub(super) fn all(&self) -> Vec<Proxy> {
        self.shared.connected.lock().values().cloned().collect()
    }

    pub(super) fn list(&self, caller: SpiffeId, peer: Option<SocketAddr>) -> Listed {
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        let progress = PerKind::default();
        let proxy = Proxy { stream, node: ArcStr::new(), caller, peer, since: Instant::now(), progress };
        self.shared.connected.lock().insert(stream, proxy);
        Listed { proxies: self.clone(), stream }
    }
}

impl Listed {
    /// Changes what is listed.
    pub(super) fn update(&self, change: impl FnOnce(&mut Proxy)) {
        if let Some(proxy) = self.proxies.shared.connected.lock().get_mut(&self.stream) {
            change(proxy);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.proxies.shared.connected.lock().remove(&self.stream);
    }
}
