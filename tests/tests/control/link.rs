// SPDX-License-Identifier: Apache-2.0
//! A replica's way to the API server, which can be cut while both ends live.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use runtime::Tasks;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// See the module.
pub(crate) struct Link {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Link {
    /// Starts to pass connections on.
    pub(crate) async fn start(to: SocketAddr, tasks: &Tasks) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a listener")?;
        let link = Self { address: listener.local_addr()?, is_open: watch::Sender::new(true) };
        let (connections, shutdown) = (tasks.clone(), tasks.shutdown());
        let is_open = link.is_open.clone();
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(connections.spawn("connection of a link", pass(stream, to, is_open.subscribe())));
            }
        };
        drop(tasks.spawn("link", async move {
            tokio::select! {
                () = accepting => {}
                () = shutdown.requested() => {}
            }
        }));
        Ok(link)
    }

    /// Where it is entered.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and each new one at once.
    pub(crate) fn cut(&self) {
        self.is_open.send_replace(false);
    }

    /// Passes new connections on again.
    pub(crate) fn mend(&self) {
        self.is_open.send_replace(true);
    }
}

async fn pass(mut stream: TcpStream, to: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let passing = async {
        let mut server = TcpStream::connect(to).await?;
        copy_bidirectional(&mut stream, &mut server).await
    };
    tokio::select! {
        biased;
        // Cut, or dropped by the test.
        _ = is_open.wait_for(|is_open| !is_open) => {}
        // Ended by either side, or nobody to connect to: both are dropped, which each sees.
        _ = passing => {}
    }
}
