// SPDX-License-Identifier: Apache-2.0
//! Bytes through both proxies: an application's side is copied into a tunnel, and out of it at the other end, over pipes
//! in memory. What a kernel or TLS would do is not there.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use hbone::{
    Connect, Connection, Counters, Head, HeaderMap, Plain, Server, Settings, Socket, Spawner, Stop,
    abort_pair, copy, handshake,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

use crate::path::Work;

const PIPE: usize = 256 * 1024;
const MESSAGE: usize = 128;
const EXCHANGES: usize = 1_000;
const CROWD: usize = 64;
/// Of each tunnel of a crowd.
const EACH: usize = 50;
const BULK: usize = 16 * 1024 * 1024;
/// What bulk is sent in.
const PIECE: usize = 64 * 1024;

/// A connection between two proxies, whose server's end answers every message by its like.
struct Pair {
    runtime: Runtime,
    connection: Connection,
}

impl Pair {
    /// Whose application reads `request` bytes, answers as many, and again.
    fn echo() -> Result<Self> {
        Self::serving(|mut application: DuplexStream| async move {
            let mut message = [0; MESSAGE];
            while application.read_exact(&mut message).await.is_ok() {
                if application.write_all(&message).await.is_err() {
                    return;
                }
            }
        })
    }

    fn serving<F>(application: impl Fn(DuplexStream) -> F + Clone + Send + 'static) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(async {
            let (ours, theirs) = duplex(PIPE);
            let server = Server::new(Settings::server(), spawner());
            spawn(async move {
                let stop = Stop { drain: std::future::pending(), force: std::future::pending() };
                server.serve(theirs, stop, move |connect| carry(connect, application.clone())).await
            });
            let (connection, driver) = handshake(ours, &Settings::client()).await?;
            spawn(driver);
            anyhow::Ok(connection)
        })?;
        Ok(Self { runtime, connection })
    }

    /// What is left to do: futures made of the connection. The first, with what it brings along, is not counted.
    fn work<F>(self, make: impl Fn(Connection) -> F + 'static) -> Result<Work>
    where
        F: Future<Output = Result<()>>,
    {
        let work = move || self.runtime.block_on(make(self.connection.clone()));
        work()?;
        Ok(Box::new(work))
    }
}

/// As an inbound proxy does.
async fn carry<F: Future<Output = ()> + Send + 'static>(
    connect: Connect,
    application: impl FnOnce(DuplexStream) -> F,
) {
    let (near, far) = duplex(PIPE);
    spawn(application(far));
    if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
        copy(tunnel, Socket::new(Plain(near)), Arc::new(Counters::default()), abort_pair().1).await;
    }
}

/// An application's end of a fresh tunnel, as an outbound proxy gives it.
async fn opened(connection: &Connection) -> Result<DuplexStream> {
    let head = Head::new("10.0.0.1:80", HeaderMap::new())?;
    let (tunnel, _answer) = connection.connect(&head).await?;
    let (near, application) = duplex(PIPE);
    let near = Socket::new(Plain(near));
    spawn(copy(near, tunnel, Arc::new(Counters::default()), abort_pair().1));
    Ok(application)
}

/// Opens a tunnel, exchanges messages and closes it.
async fn used(connection: &Connection, exchanges: usize) -> Result<()> {
    let mut application = opened(connection).await?;
    let mut message = [7; MESSAGE];
    for _ in 0..exchanges {
        application.write_all(&message).await?;
        application.read_exact(&mut message).await?;
    }
    application.shutdown().await?;
    ensure!(application.read(&mut message).await? == 0, "there is more");
    Ok(())
}

/// On the runtime that works now.
fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    Handle::current().spawn(task)
}

fn spawner() -> Spawner {
    Spawner::new(|_name, task| {
        spawn(task);
    })
}

pub(crate) fn exchange() -> Result<Work> {
    Pair::echo()?.work(async |connection| used(&connection, EXCHANGES).await)
}

pub(crate) fn open() -> Result<Work> {
    Pair::echo()?.work(async |connection| {
        for _ in 0..EXCHANGES {
            used(&connection, 1).await?;
        }
        Ok(())
    })
}

pub(crate) fn crowd() -> Result<Work> {
    Pair::echo()?.work(async |connection| {
        let all: Vec<_> = (0..CROWD)
            .map(|_| {
                let connection = connection.clone();
                spawn(async move { used(&connection, EACH).await })
            })
            .collect();
        for one in all {
            one.await??;
        }
        Ok(())
    })
}

pub(crate) fn bulk() -> Result<Work> {
    let sink = Pair::serving(|mut application: DuplexStream| async move {
        let mut piece = vec![0; PIECE];
        let mut taken = 0;
        while let Ok(count @ 1..) = application.read(&mut piece).await {
            taken += count;
        }
        // The other end learns how much has come.
        drop(application.write_all(&(taken as u64).to_be_bytes()).await);
    })?;
    sink.work(async |connection| {
        let mut application = opened(&connection).await?;
        let piece = vec![7; PIECE];
        for _ in 0..BULK / PIECE {
            application.write_all(&piece).await?;
        }
        application.shutdown().await?;
        let taken = application.read_u64().await.context("the other end has not answered")?;
        ensure!(taken == BULK as u64, "{taken} bytes have come");
        Ok(())
    })
}
