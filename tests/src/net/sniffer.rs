// SPDX-License-Identifier: Apache-2.0
//! Watches one link of a namespace with a packet socket and keeps what was seen, so that a test can tell what left a
//! node in plaintext and what did not. It only listens; it never filters in the kernel, so nothing hides from it.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::TimeVal,
    },
};
use parking_lot::Mutex;

use super::{Namespace, packet};

/// Frames may be as long as a segmentation-offloaded packet.
const LONGEST_FRAME: usize = 70_000;
/// A kernel buffer that holds everything a lab sends while the reader waits for a processor.
const KERNEL_BUFFER: usize = 128 << 20;
/// What a sniffer keeps before it says that it has overflowed.
const KEPT_BYTES: usize = 256 << 20;
/// How long the reader waits for a frame before it looks whether it should stop.
const POLL: Duration = Duration::from_millis(20);
/// How long after `stop` frames that are still queued are read.
const FLUSH: Duration = Duration::from_secs(5);

/// One captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read, counted from the start of the capture.
    pub at: Duration,
    /// Whether the watched namespace sent it (otherwise it came in).
    pub outgoing: bool,
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The IP packet in it.
    #[must_use]
    pub fn packet(&self) -> Option<packet::Packet<'_>> {
        packet::Packet::of_frame(&self.bytes)
    }
}

/// What a capture has found.
#[derive(Clone, Debug)]
pub struct Capture {
    /// How many frames went by: a capture that saw none proves nothing.
    pub seen: u64,
    /// Those that were kept.
    pub frames: Vec<Frame>,
}

impl Capture {
    /// How many of the kept frames contain `marker`.
    #[must_use]
    pub fn with(&self, marker: &[u8]) -> usize {
        self.frames.iter().filter(|frame| packet::contains(&frame.bytes, marker)).count()
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Sniffer {
    shared: Arc<Shared>,
    reader: Option<thread::JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: AtomicU64,
    kept: Mutex<Vec<Frame>>,
}

/// What to keep of the frames that go by.
enum Keep {
    Everything,
    OnlyWith(Vec<Vec<u8>>),
}

impl Sniffer {
    /// Keeps every frame on `link` of `namespace`.
    ///
    /// # Errors
    /// When there is no such link or the process may not open a packet socket.
    pub fn everything(namespace: &Namespace, link: &str) -> Result<Self> {
        Self::start(namespace, link, Keep::Everything)
    }

    /// Keeps the frames that contain one of `markers`, and counts all.
    ///
    /// # Errors
    /// As [`Self::everything`].
    pub fn looking_for(namespace: &Namespace, link: &str, markers: &[&[u8]]) -> Result<Self> {
        Self::start(namespace, link, Keep::OnlyWith(markers.iter().map(|marker| marker.to_vec()).collect()))
    }

    /// Whether any kept frame contains `marker`, so far.
    #[must_use]
    pub fn has(&self, marker: &[u8]) -> bool {
        self.shared.kept.lock().iter().any(|frame| packet::contains(&frame.bytes, marker))
    }

    /// Ends the capture, after the frames that the kernel had queued, and returns what was kept.
    ///
    /// # Errors
    /// When the capture failed or overflowed on the way: then it proves nothing.
    pub fn stop(mut self) -> Result<Capture> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_panic| anyhow!("the sniffer panicked"))??;
        }
        let frames = std::mem::take(&mut *self.shared.kept.lock());
        Ok(Capture { seen: self.shared.seen.load(Ordering::Relaxed), frames })
    }

    fn start(namespace: &Namespace, link: &str, keep: Keep) -> Result<Self> {
        let link = link.to_owned();
        let (socket, interface) = namespace.on_thread(move || {
            let interface =
                if_nametoindex(link.as_str()).with_context(|| format!("no link {link} to watch"))?;
            Ok((open()?, usize::try_from(interface)?))
        })?;
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name("sniffer".to_owned())
            .spawn(move || read(&socket, interface, &keep, &state))
            .context("starting the sniffer")?;
        Ok(Self { shared, reader: Some(reader) })
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// A packet socket stays in the namespace of the thread that made it. It is not bound to a link, which would need an
/// address type without a safe constructor; frames of other links are told apart by the index they come with.
fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("a packet socket")?;
    setsockopt(&socket, RcvBufForce, &KERNEL_BUFFER).context("a large receive buffer")?;
    let poll = TimeVal::new(0, i64::try_from(POLL.as_micros())?);
    setsockopt(&socket, ReceiveTimeout, &poll).context("a receive timeout")?;
    Ok(socket)
}

fn read(socket: &OwnedFd, interface: usize, keep: &Keep, shared: &Shared) -> Result<()> {
    const OUTGOING: u8 = 4; // PACKET_OUTGOING
    let started = Instant::now();
    let mut buffer = vec![0; LONGEST_FRAME];
    let mut kept = 0;
    let mut stopping = None;
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            let since: Instant = *stopping.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < FLUSH, "frames kept coming for {FLUSH:?} after the end of the capture");
        }
        let (length, sender) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN) if stopping.is_some() => return Ok(()),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(error) => return Err(error).context("reading a packet socket"),
        };
        let Some(sender) = sender.filter(|sender| sender.ifindex() == interface) else { continue };
        shared.seen.fetch_add(1, Ordering::Relaxed);
        let bytes = buffer.get(..length).unwrap_or(&buffer);
        let wanted = match keep {
            Keep::Everything => true,
            Keep::OnlyWith(markers) => markers.iter().any(|marker| packet::contains(bytes, marker)),
        };
        if wanted {
            kept += length;
            ensure!(kept <= KEPT_BYTES, "the capture overflowed after {kept} bytes");
            let outgoing = sender.pkttype() == OUTGOING;
            shared.kept.lock().push(Frame { at: started.elapsed(), outgoing, bytes: bytes.to_vec() });
        }
    }
}
