// SPDX-License-Identifier: Apache-2.0
//! Lines on their way to a slow reader: gathered for a moment and written together by a thread of their own. Whoever logs
//! copies a line and wakes nobody but by the first of many; when too much waits, lines are lost and counted.

use std::{
    io::{self, Write},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::LINES_LOST;

/// Bytes that wait for the writer at most: about 10,000 lines.
const WAITING: usize = 4 * 1024 * 1024;
/// How long the first line waits for others. A wake-up and a write for each line cost more than the line.
const GATHER: Duration = Duration::from_millis(5);
/// Room that is kept between two writes.
const KEPT: usize = 64 * 1024;
/// How long the end of the process waits for a reader.
const FAREWELL: Duration = Duration::from_secs(1);

/// The end of those who log. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    closed: bool,
    /// The writer has written all and ended.
    ended: bool,
}

/// Writes what still waits when it is dropped.
#[derive(Debug)]
pub(super) struct Guard(Queue);

impl Queue {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Guard)> {
        let queue = Self::default();
        let theirs = queue.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || theirs.write(out))?;
        Ok((queue.clone(), Guard(queue)))
    }

    /// Whether there was room for the line.
    fn push(&self, line: &[u8]) -> bool {
        let mut state = self.0.state.lock();
        if state.waiting.len() + line.len() > WAITING {
            return false;
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.0.changed.notify_all();
        }
        true
    }

    fn write(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            // There is nobody to tell: the log itself cannot be written.
            drop(out.write_all(&lines).and_then(|()| out.flush()));
            lines.clear();
            lines.shrink_to(KEPT);
        }
        self.0.state.lock().ended = true;
        self.0.changed.notify_all();
    }

    /// Waits for lines, and for a moment for more; false at the end.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.0.state.lock();
        while state.waiting.is_empty() && !state.closed {
            self.0.changed.wait(&mut state);
        }
        if !state.closed {
            self.0.changed.wait_for(&mut state, GATHER);
        }
        std::mem::swap(&mut state.waiting, lines);
        !lines.is_empty()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        state.closed = true;
        self.0.0.changed.notify_all();
        self.0.0.changed.wait_while_for(&mut state, |state| !state.ended, FAREWELL);
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Queue {
    /// A line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.push(line) {
            metrics::counter!(LINES_LOST).increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A reader that takes one write at a time.
    struct Slow(SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Queue, Guard, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        let (queue, guard) = Queue::start(Slow(sender)).unwrap();
        (queue, guard, receiver)
    }

    #[test]
    fn lines_come_whole_and_in_order_and_what_waits_at_the_end_is_written() {
        let (queue, guard, receiver) = slow();
        let reader = thread::spawn(move || receiver.iter().flatten().collect::<Vec<u8>>());
        let mut expected = Vec::new();
        for number in 0..1000 {
            let line = format!("line {number}\n");
            expected.extend_from_slice(line.as_bytes());
            (&queue).write_all(line.as_bytes()).unwrap();
        }
        drop(guard);
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_nobodys_time() {
        let (queue, guard, receiver) = slow();
        let line = [b'x'; 1024];
        let most = WAITING / line.len();
        let taken = (0..3 * most).filter(|_| queue.push(&line)).count();
        // What the writer has taken already is one more load of them at most.
        assert!((most..=2 * most).contains(&taken), "{taken} of at most {most} that wait");
        drop(receiver);
        drop(guard);
    }
}
