// SPDX-License-Identifier: Apache-2.0
//! What a client that asks little feels of a stream of bulk from the same pod to the same pod: the two share a tunnel, or
//! the pool that tunnels are taken from.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    load::{self, Bulk, Direction, Site, Tools},
    place::Configuration,
    report::Figure,
};

/// Samples enough for a 99th percentile take so long at least.
const LEAST: u64 = 5;
/// So much earlier the stream begins, and so much later it ends.
const MARGIN: Duration = Duration::from_secs(1);

/// Latency of small requests, one after another, while the stream runs.
pub(super) async fn measure(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let seconds = tools.seconds.max(LEAST);
    let bulk = Bulk { streams: 1, seconds: seconds + 2 * MARGIN.as_secs(), direction: Direction::Forth };
    let site = Site { seconds, ..place.site(tools) };
    let begun = Instant::now();
    let asking = async {
        tokio::time::sleep(MARGIN).await;
        load::wrk(site, 1, false).await
    };
    let (stream, asked) = tokio::try_join!(load::iperf(place, bulk), asking)?;
    let late = stream.begun.saturating_duration_since(begun);
    ensure!(late < MARGIN, "{}: the stream began {late:?} late, so the requests were alone", place.name);
    Ok(vec![
        (Figure::BesideP50, asked.p50),
        (Figure::BesideP99, asked.p99),
        (Figure::BesideStream, stream.gigabits),
    ])
}
