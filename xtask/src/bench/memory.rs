// SPDX-License-Identifier: Apache-2.0
//! Resident memory of the two proxies: idle, of connections that are held, and what stays of them. It waits for memory to
//! come to rest, for a bounded time.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{cost, paced, place::Configuration, report::Figure};

/// Connections before memory is read a second time, so that what the first ones load once is not counted as theirs.
const FIRST: usize = 100;
/// Connections that stay idle while memory is read a third time.
pub(super) const IDLE: usize = 5000;
/// Memory is read as often as that, until it has stayed as it is for so long, or for no longer than this.
const GLANCE: Duration = Duration::from_millis(200);
const CALM: Duration = Duration::from_secs(3);
const RESTLESS: Duration = Duration::from_secs(40);
/// Before it is read the first and the last time: at rest is what has rested, whatever a process does about it in between.
const REST: Duration = Duration::from_secs(30);
/// A difference in MiB that is none.
const STILL: f64 = 0.1;

/// Before anything else was asked of the proxies, with idle connections, and after them.
pub(super) async fn held(place: &Configuration) -> Result<Vec<(Figure, f64)>> {
    let pids = place.proxies()?;
    let (target, measured) = (place.http, pids.clone());
    tokio::time::sleep(REST).await;
    let [idle, before, during] = place
        .client
        .run(async move || {
            let idle = cost::resident(&measured)?;
            let first = paced::hold(target, FIRST)?;
            let before = cost::resident(&measured)?;
            let held = paced::hold(target, IDLE)?;
            let during = cost::resident(&measured)?;
            drop((first, held));
            Ok([idle, before, during])
        })
        .await?;
    tokio::time::sleep(REST).await;
    let after = steady(&pids).await?;
    let held = during.iter().zip(before).map(|(during, before)| (during - before) * 1000.0 / IDLE as f64);
    let sides = |figures: [Figure; 2], values: Vec<f64>| figures.into_iter().zip(values);
    Ok(sides([Figure::IdleClient, Figure::IdleServer], idle)
        .chain(sides([Figure::HeldClient, Figure::HeldServer], held.collect()))
        .chain(sides([Figure::AfterClient, Figure::AfterServer], after))
        .collect())
}

/// Memory of each of `pids` in MiB, once it has come to rest.
pub(super) async fn steady(pids: &[u32]) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let (mut rest, mut since) = (cost::resident(pids)?, begun);
    loop {
        tokio::time::sleep(GLANCE).await;
        let now = cost::resident(pids)?;
        if moved(&rest, &now) {
            (rest, since) = (now, Instant::now());
        } else if since.elapsed() >= CALM {
            return Ok(now);
        }
        if begun.elapsed() >= RESTLESS {
            return Ok(rest);
        }
    }
}

/// Whether any of them is another than it was.
fn moved(rest: &[f64], now: &[f64]) -> bool {
    rest.iter().zip(now).any(|(rest, now)| (rest - now).abs() > STILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_that_gives_memory_back_is_not_at_rest() {
        assert!(!moved(&[10.0, 20.0], &[10.05, 19.95]));
        assert!(moved(&[10.0, 20.0], &[10.0, 19.5]));
        assert!(moved(&[10.0, 20.0], &[10.5, 20.0]));
    }
}
