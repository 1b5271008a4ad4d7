// SPDX-License-Identifier: Apache-2.0
//! A body on its way, whichever version of HTTP it came by. It is pulled: credit for what came is given when the next
//! piece is asked for, because then the other side has taken the last one.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use tokio::{sync::mpsc, time::Sleep};

use crate::{
    expect::Wanted,
    messages::Messages,
    mirror::Piece,
    record::Ending,
    replay::{Original, Replay},
    upstream::Held,
};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// On HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// On HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// Its time was over.
    #[error("not finished within {0:?}")]
    TimedOut(Duration),
    /// The other side takes no more.
    #[error("nobody takes it any more")]
    Unwanted,
}

/// What passed in one direction.
#[derive(Debug, Default)]
pub struct Count {
    bytes: AtomicU64,
    messages: AtomicU64,
}

impl Count {
    /// Bytes of the body.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages of gRPC.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Body {
    source: Source,
    count: Option<(Arc<Count>, Option<Messages>)>,
    /// Told of the end: of the body of an answer.
    ending: Option<Box<Ending>>,
    /// What is given back at the end.
    held: Option<Held>,
    /// Who gets a copy of each piece.
    copies: Vec<mpsc::Sender<Piece>>,
    /// Whether anybody wants it is not known yet.
    wanted: Option<Wanted>,
    /// When it must have ended.
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    Empty,
    Whole(Bytes),
    Http1(Incoming),
    Http2(Received),
    Replay(Replay),
    Copy(mpsc::Receiver<Piece>),
}

/// A body that comes by HTTP/2.
#[derive(Debug)]
pub struct Received {
    stream: RecvStream,
    /// Bytes that were given on and not credited.
    uncredited: usize,
    /// As `content-length` says.
    length: Option<u64>,
}

impl Received {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.credit()?;
        loop {
            match ready!(self.stream.poll_data(cx)) {
                // A peer may send empty frames.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.uncredited = bytes.len();
                    self.length = self.length.map(|length| length.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => break,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn credit(&mut self) -> Result<(), h2::Error> {
        let count = std::mem::take(&mut self.uncredited);
        if count > 0 { self.stream.flow_control().release_capacity(count) } else { Ok(()) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Err(error) = self.credit() {
            tracing::trace!(%error, "credit for a stream that is gone");
        }
    }
}

impl Body {
    /// A text, or nothing.
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::default()
        } else {
            Self { source: Source::Whole(bytes), ..Self::default() }
        }
    }

    /// By HTTP/1.
    pub fn http1(incoming: Incoming) -> Self {
        let source = if incoming.is_end_stream() { Source::Empty } else { Source::Http1(incoming) };
        Self { source, ..Self::default() }
    }

    /// By HTTP/2; `head` is of the same message.
    pub fn http2(stream: RecvStream, head: &HeaderMap) -> Self {
        if stream.is_end_stream() {
            return Self::default();
        }
        let length =
            head.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { source: Source::Http2(Received { stream, uncredited: 0, length }), ..Self::default() }
    }

    /// One that can be sent again.
    pub fn replay(replay: Replay) -> Self {
        Self { source: Source::Replay(replay), ..Self::default() }
    }

    /// One of which nothing was taken, to be sent again to another server as long as none has looked at it.
    pub fn into_original(self) -> Original {
        match &self.source {
            Source::Replay(replay) => replay.original().clone(),
            Source::Empty | Source::Whole(_) | Source::Http1(_) | Source::Http2(_) | Source::Copy(_) => {
                Original::until_answered(self)
            }
        }
    }

    /// A copy of another one.
    pub fn copied(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { source: Source::Copy(pieces), ..Self::default() }
    }

    /// Has a copy made of what passes.
    pub fn copy_to(&mut self, pieces: mpsc::Sender<Piece>) {
        self.copies.push(pieces);
    }

    /// It is not touched before.
    pub fn wait_for(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
    }

    /// It must have ended by then.
    pub fn until(&mut self, until: Instant, limit: Duration) {
        if !self.is_end_stream() {
            self.deadline = Some((Box::pin(tokio::time::sleep_until(until.into())), limit));
        }
    }

    /// Counts what passes, messages too where it is gRPC.
    pub fn counted(&mut self, count: Arc<Count>, grpc: bool) {
        self.count = Some((count, grpc.then(Messages::default)));
    }

    /// Tells of the end, and gives back what was held until then.
    pub fn followed(&mut self, ending: Box<Ending>, held: Option<Held>) {
        (self.ending, self.held) = (Some(ending), held);
        if self.is_end_stream() {
            self.end(Ok(None));
        }
    }

    /// Whether there is nothing in it, not even later.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Source::Http2(received) => received.poll(cx),
            Source::Replay(replay) => replay.poll(cx),
            Source::Copy(pieces) => Poll::Ready(match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Some(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => None,
                None => Some(Err(BodyError::Unwanted)),
            }),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some((sleep, limit)) = &mut self.deadline else { return Poll::Pending };
        let limit = *limit;
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(BodyError::TimedOut(limit))
    }

    /// Whoever cannot take a piece at once gets no more.
    fn copy(&mut self, piece: &Piece) {
        self.copies.retain(|copy| copy.try_send(piece.clone()).is_ok());
    }

    /// Notes a piece; at the end, or when nothing but the end can follow, whoever waits for it is told.
    fn note(&mut self, piece: Option<&Result<Frame<Bytes>, BodyError>>) {
        match piece {
            Some(Ok(frame)) => {
                if let (Some(bytes), false) = (frame.data_ref(), self.copies.is_empty()) {
                    self.copy(&Piece::Some(bytes.clone()));
                }
                if let (Some((count, messages)), Some(bytes)) = (&mut self.count, frame.data_ref()) {
                    count.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let begun = messages.as_mut().map_or(0, |messages| messages.take(bytes));
                    count.messages.fetch_add(begun, Ordering::Relaxed);
                }
                if frame.is_trailers() || self.is_end_stream() {
                    self.end(Ok(frame.trailers_ref()));
                }
            }
            Some(Err(error)) => {
                let error = ::proxy::chain(error).to_string();
                self.end(Err(&error));
            }
            None => self.end(Ok(None)),
        }
    }

    fn end(&mut self, how: Result<Option<&HeaderMap>, &str>) {
        if how.is_ok() {
            self.copy(&Piece::End);
        }
        self.copies = Vec::new();
        if let Some(held) = self.held.take() {
            held.give_back(how.is_ok());
        }
        if let Some(ending) = self.ending.take() {
            ending.finish(how);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(wanted) = &mut self.wanted {
            ready!(wanted.poll(cx));
            self.wanted = None;
        }
        let piece = match self.poll_deadline(cx) {
            Poll::Ready(late) => {
                self.source = Source::Empty;
                Some(Err(late))
            }
            Poll::Pending => ready!(self.poll_source(cx)),
        };
        self.note(piece.as_ref());
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Http1(incoming) => incoming.is_end_stream(),
            Source::Http2(received) => received.stream.is_end_stream(),
            Source::Replay(replay) => replay.is_end_stream(),
            Source::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Http1(incoming) => incoming.size_hint(),
            Source::Http2(received) => received.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Replay(replay) => replay.size_hint(),
            Source::Copy(_) => SizeHint::default(),
        }
    }
}

/// Sends a body by HTTP/2 to its end. Dropping it resets the stream.
///
/// # Errors
/// When the body ends early, which the receiver is told, or the receiver wants no more.
pub async fn send(mut body: Body, stream: &mut SendStream<Bytes>) -> Result<(), BodyError> {
    while let Some(frame) = next(&mut body, stream).await? {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Err(error);
            }
        };
        match frame.into_data() {
            Ok(bytes) => {
                let end = body.is_end_stream();
                deliver(bytes, end, stream).await?;
                if end {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

/// The next piece, unless the receiver wants none.
async fn next(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
) -> Result<Option<Result<Frame<Bytes>, BodyError>>, BodyError> {
    std::future::poll_fn(|cx| match stream.poll_reset(cx) {
        Poll::Ready(_reset) => Poll::Ready(Err(BodyError::Unwanted)),
        Poll::Pending => Pin::new(&mut *body).poll_frame(cx).map(Ok),
    })
    .await
}

/// Sends some bytes as the receiver gives room for them.
async fn deliver(mut bytes: Bytes, end: bool, stream: &mut SendStream<Bytes>) -> Result<(), BodyError> {
    if bytes.is_empty() {
        // A frame without payload or end would count against the connection for its whole life.
        return if end { Ok(stream.send_data(bytes, true)?) } else { Ok(()) };
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let mut room = stream.capacity();
        if room == 0 {
            let more = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            room = more.ok_or(BodyError::Unwanted)??;
        }
        let piece = bytes.split_to(room.min(bytes.len()));
        if !piece.is_empty() {
            stream.send_data(piece, end && bytes.is_empty())?;
        }
    }
    Ok(())
}
