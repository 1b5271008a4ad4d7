// SPDX-License-Identifier: Apache-2.0
//! Many connections at once to an echo server, each with bytes of its own: whatever is lost, repeated, reordered or
//! delivered to another connection is noticed at its first byte.

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use lab::config::raise_descriptors;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::timeout,
};

const CHUNK: usize = 16 << 10;
/// Failures that are printed in full.
const SHOWN: usize = 5;

/// Prints how many connections brought back exactly what they sent.
#[derive(Args, Clone)]
pub(crate) struct Checksum {
    /// `host:port` of an echo server.
    #[arg(long)]
    target: String,
    /// How many connections are open at the same time.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// How many of them are begun at the same moment.
    #[arg(long, default_value_t = 1000)]
    at_once: usize,
    /// Bytes of each, in each direction.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Longest time for all of it.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

impl Checksum {
    pub(crate) async fn run(self) -> Result<()> {
        raise_descriptors()?;
        let all_open = Arc::new(Barrier::new(self.connections));
        let begin = Arc::new(Semaphore::new(self.at_once));
        let limit = Duration::from_secs(self.seconds);
        let mut running = JoinSet::new();
        for number in 0..self.connections {
            let (own, begin, all_open) = (self.clone(), Arc::clone(&begin), Arc::clone(&all_open));
            running.spawn(async move {
                match timeout(limit, one(&own, number, &begin, &all_open)).await {
                    Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                    Err(_elapsed) => Err(format!("not within {limit:?}")),
                }
            });
        }
        let outcomes = running.join_all().await;
        let failures: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        let result = json!({
            "ok": outcomes.len() - failures.len(),
            "failed": failures.len(),
            "errors": failures.iter().take(SHOWN).collect::<Vec<_>>(),
        });
        writeln!(std::io::stdout(), "{result}")?;
        Ok(())
    }
}

async fn one(checksum: &Checksum, number: usize, begin: &Semaphore, all_open: &Barrier) -> Result<()> {
    let permit = begin.acquire().await?;
    let connected = TcpStream::connect(&checksum.target).await;
    drop(permit);
    // Also after a failure: the others wait for everybody.
    all_open.wait().await;
    let (mut reader, mut writer) = connected.context("connecting")?.into_split();
    let send = async {
        let mut pattern = Pattern::new(number);
        let mut chunk = vec![0; CHUNK];
        let mut left = checksum.bytes;
        while left > 0 {
            let length = left.min(CHUNK);
            let part = chunk.get_mut(..length).unwrap_or_default();
            pattern.fill(part);
            writer.write_all(part).await.context("sending")?;
            left -= length;
        }
        writer.shutdown().await.context("half-closing")
    };
    let receive = async {
        let mut pattern = Pattern::new(number);
        let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut received = 0;
        loop {
            let length = reader.read(&mut chunk).await.context("receiving")?;
            if length == 0 {
                break;
            }
            let expected = expected.get_mut(..length).unwrap_or_default();
            pattern.fill(expected);
            ensure!(
                chunk.get(..length) == Some(expected),
                "connection {number}: wrong bytes after {received}"
            );
            received += length;
        }
        ensure!(
            received == checksum.bytes,
            "connection {number}: {received} bytes instead of {}",
            checksum.bytes
        );
        Ok(())
    };
    tokio::try_join!(send, receive).map(drop)
}

/// Endless bytes that differ from connection to connection (splitmix64); how they are cut into pieces is no matter.
struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    fn new(number: usize) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1), word: [0; 8], used: 8 }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == 8 {
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                self.word = (mixed ^ (mixed >> 31)).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word.get(self.used).copied().unwrap_or_default();
            self.used += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_cut_and_differs_between_connections() {
        let mut whole = [0; 100];
        Pattern::new(7).fill(&mut whole);
        let mut pieces = [0; 100];
        let mut pattern = Pattern::new(7);
        for piece in pieces.chunks_mut(13) {
            pattern.fill(piece);
        }
        assert_eq!(whole, pieces);
        let mut other = [0; 100];
        Pattern::new(8).fill(&mut other);
        assert_ne!(whole, other);
    }
}
