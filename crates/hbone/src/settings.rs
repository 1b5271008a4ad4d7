// SPDX-License-Identifier: Apache-2.0
//! The numbers of both ends of a tunnel connection. The defaults are what Istio's ends use on the wire; what differs
//! from them says why.

use std::time::Duration;

/// Settings of one end of an HTTP/2 connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Initial window of a stream, bytes.
    pub stream_window: u32,
    /// Window of the connection, bytes. At least four times the stream window, or a few stalled streams stall all.
    pub connection_window: u32,
    /// How far the connection's window may grow by what streams hold whose readers stand still, so that they do not stall
    /// the others. It is also the most memory that a connection's peer can take.
    pub connection_window_limit: u32,
    /// Largest frame we accept, bytes.
    pub max_frame: u32,
    /// Largest header list we accept, bytes.
    pub max_header_list: u32,
    /// Bytes of one stream that may wait for the wire.
    pub send_buffer: usize,
    /// Server: streams a client may have open. Client: streams assumed to be allowed until the peer says.
    pub max_streams: u32,
    /// Overhead that unread DATA frames under 256 bytes may run up (256 minus the length each) before the connection
    /// is closed as an attack. A copy reads them even while its application is slow, so only streams that wait for an
    /// answer or a dial draw on it: 64 Ki one-byte frames.
    pub small_frame_budget: usize,
    /// Resets by the peer of streams we have not looked at yet that may pile up (rapid reset).
    pub max_pending_resets: usize,
    /// Server: how long a client may take to begin.
    pub handshake_timeout: Duration,
    /// Client: how long a CONNECT may wait for its answer, which takes as long as the peer's dial.
    pub answer_timeout: Duration,
    /// When a silent peer counts as gone.
    pub keepalive: Keepalive,
}

/// When to ask a peer for a sign of life (HTTP/2 PING).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// From the start to the first PING.
    pub first: Duration,
    /// From an answer to the next PING.
    pub interval: Duration,
    /// From a PING to giving the connection up.
    pub timeout: Duration,
}

const MIB: u32 = 1024 * 1024;
/// RFC 9113 §6.9.1.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

impl Settings {
    /// A client's settings.
    pub fn client() -> Self {
        Self {
            stream_window: 4 * MIB,
            connection_window: 16 * MIB,
            connection_window_limit: 128 * MIB,
            max_frame: MIB,
            max_header_list: 16 * 1024,
            // Not visible to the peer. More than this per stream only leaves the CPU cache before it is encrypted.
            send_buffer: 512 * 1024,
            max_streams: 100,
            small_frame_budget: 16 * MIB as usize,
            max_pending_resets: 200,
            handshake_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(20),
            keepalive: Keepalive::default(),
        }
    }

    /// A server's settings.
    pub fn server() -> Self {
        Self { max_header_list: 64 * 1024, max_streams: 200, ..Self::client() }
    }

    /// With a window of the connection in which all its streams can stay unread and stop nobody: for tunnels that are read
    /// as streams, not copied, and whose readers have nothing to do with each other.
    #[must_use]
    pub fn with_room_for_all(self) -> Self {
        let all = self.stream_window.saturating_mul(self.max_streams).min(LARGEST_WINDOW);
        Self {
            connection_window: self.connection_window.max(all),
            connection_window_limit: self.connection_window_limit.max(all),
            ..self
        }
    }

    pub(crate) fn client_builder(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .initial_max_send_streams(self.max_streams as usize)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .data_frame_budget(self.small_frame_budget)
            .enable_push(false);
        builder
    }

    pub(crate) fn server_builder(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_concurrent_streams(self.max_streams)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .data_frame_budget(self.small_frame_budget);
        builder
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
        }
    }
}
