// SPDX-License-Identifier: Apache-2.0
//! Requests, connections and bytes from the client to the server of a configuration: how many, how soon, at what cost.

use std::time::Duration;

use anyhow::Result;

use super::{
    CONNECTIONS, PACED, cost,
    load::{self, Bulk, Direction, Moved, Tools},
    paced::{self, Pace},
    place::Configuration,
    report::Figure,
};

/// Fixed rates as shares of the least peak, and the percentiles of each.
pub(super) const RATES: [(f64, [Figure; 3]); 2] = [
    (0.5, [Figure::PacedP50, Figure::PacedP99, Figure::PacedP999]),
    (0.8, [Figure::BusyP50, Figure::BusyP99, Figure::BusyP999]),
];

/// As many requests as are answered.
pub(super) async fn peak(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let pids = place.processes()?;
    let before = cost::processor(&pids)?;
    let outcome = load::wrk(place.site(tools), CONNECTIONS, false).await?;
    let mut figures = vec![(Figure::Requests, outcome.rate())];
    if place.proxied() {
        let used = cost::processor(&pids)? - before;
        figures.push((Figure::CpuPerRequests, used.as_secs_f64() * 1e6 / outcome.requests));
    }
    Ok(figures)
}

/// One request at a time.
pub(super) async fn alone(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let outcome = load::wrk(place.site(tools), 1, false).await?;
    Ok(vec![
        (Figure::AloneP50, outcome.p50),
        (Figure::AloneP99, outcome.p99),
        (Figure::AloneP999, outcome.p999),
    ])
}

/// So many requests per second.
pub(super) async fn at_rate(
    place: &Configuration,
    tools: &Tools,
    (rate, figures): (f64, [Figure; 3]),
) -> Result<Vec<(Figure, f64)>> {
    let target = place.http;
    let pace = Pace { connections: PACED, rate, duration: Duration::from_secs(tools.seconds) };
    let latency = place.client.run(async move || paced::measure(target, pace)).await?;
    Ok(figures.into_iter().zip([0.5, 0.99, 0.999].map(|share| latency.at(share))).collect())
}

/// Each request on a connection of its own.
pub(super) async fn connections(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let pids = place.processes()?;
    let before = cost::processor(&pids)?;
    let fresh = load::wrk(place.site(tools), CONNECTIONS, true).await?;
    let mut figures = vec![(Figure::Connections, fresh.rate())];
    if place.proxied() {
        let used = cost::processor(&pids)? - before;
        figures.push((Figure::CpuPerConnections, used.as_secs_f64() * 1e6 / fresh.requests));
    }
    Ok(figures)
}

/// Bytes to the server, then from it.
pub(super) async fn streams(place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
    let ways = [
        (Direction::Forth, [Figure::OneStream, Figure::EightStreams, Figure::CpuPerGigabyte]),
        (Direction::Back, [Figure::OneStreamBack, Figure::EightStreamsBack, Figure::CpuPerGigabyteBack]),
    ];
    let pids = place.processes()?;
    let mut figures = Vec::new();
    for (direction, [one, eight, cost_of_one]) in ways {
        let bulk = |streams| Bulk { streams, seconds: tools.seconds, direction };
        let before = cost::processor(&pids)?;
        let Moved { gigabits, bytes, .. } = load::iperf(place, bulk(1)).await?;
        let used = cost::processor(&pids)? - before;
        figures.push((one, gigabits));
        if place.proxied() {
            figures.push((cost_of_one, used.as_secs_f64() * 1e9 / bytes));
        }
        figures.push((eight, load::iperf(place, bulk(8)).await?.gigabits));
    }
    Ok(figures)
}
