// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 CONNECT tunnels (HBONE): opens, pools, accepts and copies them. Generic over the byte stream below;
//! knows no mesh, no TLS, no address and no policy.
//!
//! ```text
//!  application ── Socket ─┐                                  ┌─ Socket ── application
//!                       copy                                copy
//!                         └─ Tunnel ─ Connection ═ stream ═ server ─ Tunnel ─┘
//!                                     (Pool by key)          (Connect: accept | refuse)
//! ```
//!
//! Where to run it: a connection's driver, its tunnels and their copies talk to each other for every message, so they
//! belong on one thread. Give each data-plane thread its own current-thread runtime and its own [`Pool`]: a wake-up is
//! then a queue push instead of a futex call, and the driver runs after all copies that were ready, so that their
//! messages leave in one TLS record and one system call. Everything is `Send` and correct on a shared runtime too.

mod client;
mod copy;
mod end;
mod head;
mod keepalive;
mod link;
mod outbox;
mod pool;
mod server;
mod settings;
mod socket;
mod spawn;
mod tunnel;
mod window;
mod wire;

pub use bytes::Bytes;
pub use client::{ConnectError, Connection, Driver, Ended, HandshakeError, Retry, handshake};
pub use copy::{Copied, Copying, Counters, End, Leg, Side, copy};
pub use end::{Abort, Aborter, Cause, abort_pair};
pub use head::Head;
pub use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
pub use pool::{OpenError, Pool, PoolSettings, Stats};
pub use server::{AcceptError, Connect, ServeError, Server, Stop};
pub use settings::{Keepalive, Settings};
pub use socket::{Plain, Socket, Stream};
pub use spawn::{Spawner, Task};
pub use tunnel::{Ledger, Tunnel, TunnelError};
