// SPDX-License-Identifier: Apache-2.0
//! Which paths there are, and how one is taken.

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::{decisions, tunnels};

/// Runs a hot path, and says how long it took without what was prepared for it.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Which one.
    path: Path,
    /// How often; the median is said.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Path {
    /// 1,000 connections are judged by 10,000 policies of 10 rules.
    Authorize,
    /// 1,000 connections to 100 services of ten endpoints are given a next hop.
    Outbound,
    /// 1,000 requests of 128 bytes and their answers, one after the other, through one tunnel.
    Exchange,
    /// 64 tunnels of one connection that carry 50 such exchanges each, all at once.
    Crowd,
    /// 16 MiB one way through one tunnel.
    Bulk,
    /// 1,000 tunnels opened, used for one exchange and closed, one after the other.
    Open,
}

/// What is left to do of a path when it is prepared.
pub(crate) type Work = Box<dyn FnMut() -> Result<()>>;

impl Path {
    fn prepare(self) -> Result<Work> {
        match self {
            Self::Authorize => decisions::authorize(),
            Self::Outbound => decisions::outbound(),
            Self::Exchange => tunnels::exchange(),
            Self::Crowd => tunnels::crowd(),
            Self::Bulk => tunnels::bulk(),
            Self::Open => tunnels::open(),
        }
    }
}

/// What is counted: this, and all that it calls.
#[inline(never)]
fn measured(work: &mut Work) -> Result<()> {
    let done = work();
    // No jump instead of a call, or this would not be seen on the stack.
    std::hint::black_box(done)
}

impl Arguments {
    /// Says how long the path took, without what was prepared for it.
    #[expect(clippy::print_stdout, reason = "it is what the program is for")]
    pub(crate) fn run(&self) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            let mut work = self.path.prepare()?;
            let started = Instant::now();
            measured(&mut work)?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        println!("{:?}", times.get(times.len() / 2).copied().unwrap_or_default());
        Ok(())
    }
}
