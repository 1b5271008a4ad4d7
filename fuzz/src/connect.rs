// SPDX-License-Identifier: Apache-2.0
//! The server's end of tunnels: whatever a client sends after the TLS handshake, as `hbone` and `plan` read it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use hbone::{Connect, HeaderMap, Server, Settings, Spawner, StatusCode, Stop, Task};
use parking_lot::Mutex;
use plan::Authority;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// HTTP/2's first bytes (RFC 9113 §3.4) and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Bytes that arrive at a time.
const PIECE: usize = 256;
/// Most that a server may answer to so little.
const ANSWERS: usize = 1 << 20;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("a runtime"));
}

/// Frames that a client sends before it leaves.
pub(crate) fn connect(bytes: &[u8]) {
    let mut sent = PREFACE.to_vec();
    sent.extend_from_slice(bytes);
    let seen = Arc::new(Seen::default());
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let running = Arc::new(Mutex::new(JoinSet::new()));
            let spawner = Spawner::new({
                let running = Arc::clone(&running);
                move |_name, task: Task| drop(running.lock().spawn(task))
            });
            let stop = Stop { drain: std::future::pending(), force: std::future::pending() };
            let handle = |connect| serve(connect, Arc::clone(&seen));
            let client = Client { sent, taken: 0, answered: 0, pauses: false };
            // The client leaves in the end, so this ends, well or not.
            drop(Server::new(Settings::server(), spawner).serve(client, stop, handle).await);
            let mut running = std::mem::take(&mut *running.lock());
            while let Some(ended) = running.join_next().await {
                ended.expect("no request breaks its task");
            }
        });
    });
    let (asked, ended) = (seen.asked.load(Ordering::Relaxed), seen.ended.load(Ordering::Relaxed));
    assert_eq!(asked, ended, "every request comes to an end");
}

#[derive(Default)]
struct Seen {
    asked: AtomicUsize,
    ended: AtomicUsize,
}

/// What ztunnel does with a request, up to the decision.
async fn serve(connect: Connect, seen: Arc<Seen>) {
    seen.asked.fetch_add(1, Ordering::Relaxed);
    assert!(!connect.authority().is_empty());
    for (_name, value) in connect.headers() {
        let Ok(text) = value.to_str() else { continue };
        plan::baggage::parse(text);
        plan::forwarded::host(text);
        plan::trace::parse(text);
    }
    match connect.authority().parse::<Authority>() {
        Ok(_authority) => {
            if let Ok(mut tunnel) = connect.accept(HeaderMap::new()) {
                let mut read = Vec::new();
                drop(tunnel.read_to_end(&mut read).await);
            }
        }
        Err(_invalid) => connect.refuse(StatusCode::BAD_REQUEST),
    }
    seen.ended.fetch_add(1, Ordering::Relaxed);
}

/// A client that has said everything, takes every answer and leaves.
struct Client {
    sent: Vec<u8>,
    taken: usize,
    answered: usize,
    /// Between any two reads others get their turn.
    pauses: bool,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pauses = !self.pauses;
        if self.pauses {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = self.sent.get(self.taken..).unwrap_or_default();
        let length = rest.len().min(buffer.remaining()).min(PIECE);
        buffer.put_slice(&rest[..length]);
        self.taken += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answered += bytes.len();
        assert!(self.answered < ANSWERS + self.sent.len(), "an answer far longer than what was said");
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
