// SPDX-License-Identifier: Apache-2.0
//! How long a changed route takes until a client gets the new answer, and what a proxy holds in memory with many routes or
//! endpoints.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::eventually;

use super::{
    super::{
        cost,
        report::{Figure, Report},
        web::END_OF_ANSWER,
    },
    place::Place,
    proxy::Proxy,
    rules::{Rules, VERSION},
};

/// The longest that a change may take.
const SOON: Duration = Duration::from_secs(15);
/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer, more than any proxy adds to it.
const LONGEST: usize = 16 * 1024;
/// Between two requests of the client that waits for the new answer.
const INTERVAL: Duration = Duration::from_millis(1);
/// Memory is read as often as that until it stays as it is, or for no longer than this.
const GLANCE: Duration = Duration::from_millis(250);
const RESTLESS: Duration = Duration::from_secs(5);
/// A difference in MiB that is none.
const STILL: f64 = 0.25;

/// Memory with each set of rules from the start of the process.
pub(super) async fn memory(place: &Place, proxy: &Proxy, report: &mut Report) -> Result<()> {
    let sets = [
        (Figure::ProxyEndpoints, Rules::ENDPOINTS),
        (Figure::ProxyRoutes, Rules::ROUTES),
        (Figure::ProxyIdle, Rules::ONE),
    ];
    for (figure, rules) in sets {
        if matches!(proxy, Proxy::Fixed(..)) && rules != Rules::ONE {
            continue;
        }
        proxy.again(&rules).await.with_context(|| format!("{} with {rules:?}", place.name))?;
        answers(place).await?;
        report.add(place.name, figure, settled(proxy).await?);
    }
    Ok(())
}

/// Changes the last of many routes as often as asked.
pub(super) async fn reload(place: &Place, proxy: &Proxy, times: u32, report: &mut Report) -> Result<()> {
    proxy.again(&Rules::ROUTES).await?;
    for version in 2..times + 2 {
        let rules = Rules { version, ..Rules::ROUTES };
        // Beyond the last change's own aftermath.
        sees(place, &Rules { version: version - 1, ..rules }, Instant::now()).await?;
        settled(proxy).await?;
        let begun = Instant::now();
        let (seen, told) = tokio::join!(sees(place, &rules, begun), async { proxy.tell(&rules) });
        told?;
        let Seen { took, failed } = seen?;
        report.add(place.name, Figure::Reload, took.as_secs_f64() * 1e3);
        report.add(place.name, Figure::ReloadFailed, failed);
    }
    proxy.again(&Rules::ONE).await?;
    answers(place).await
}

/// Waits until requests are answered at all.
async fn answers(place: &Place) -> Result<()> {
    let target = place.target;
    let what = format!("an answer through {}", place.name);
    eventually(SOON, &what, async || place.client.run(async move || version(target, "/").map(drop)).await)
        .await
}

/// Its memory once that stays as it is.
async fn settled(proxy: &Proxy) -> Result<f64> {
    let begun = Instant::now();
    let mut last = cost::together(&proxy.pids()?)?;
    loop {
        tokio::time::sleep(GLANCE).await;
        let now = cost::together(&proxy.pids()?)?;
        if (now - last).abs() < STILL || begun.elapsed() > RESTLESS {
            return Ok(now);
        }
        last = now;
    }
}

/// What a client has met before the answer that it waited for.
struct Seen {
    took: Duration,
    failed: f64,
}

/// Asks over new connections, one at a time, until the changed route answers with the rules' version.
async fn sees(place: &Place, rules: &Rules, begun: Instant) -> Result<Seen> {
    let (target, path, wanted) = (place.target, format!("{}/x", rules.changing()), rules.version.to_string());
    let watching = place.client.run(async move || {
        let mut failed = 0.0;
        loop {
            match version(target, &path) {
                Ok(version) if version == wanted => return Ok(Seen { took: begun.elapsed(), failed }),
                Ok(_before) => {}
                Err(_lost) => failed += 1.0,
            }
            ensure!(begun.elapsed() < SOON, "no answer of version {wanted} within {SOON:?}");
            thread::sleep(INTERVAL);
        }
    });
    watching.await.with_context(|| format!("waiting for a change of {}", place.name))
}

/// The version that an answer over a new connection tells, of a status of success.
fn version(target: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, LIMIT).context("connecting")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    stream.write_all(request.as_bytes()).context("sending a request")?;
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    // Not to the connection's end: Envoy resets a tunnel whose connection it is asked to close, before the answer is through.
    while !answer.ends_with(END_OF_ANSWER.as_bytes()) {
        let count = stream.read(&mut piece).context("reading an answer")?;
        ensure!(count > 0 && answer.len() < LONGEST, "no answer: {}", answer.escape_ascii());
        answer.extend(piece.iter().take(count));
    }
    told(&String::from_utf8_lossy(&answer))
}

fn told(answer: &str) -> Result<String> {
    ensure!(answer.starts_with("HTTP/1.1 200 "), "no success: {answer}");
    let fields = answer.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let mut versions = fields.filter(|(name, _)| name.eq_ignore_ascii_case(VERSION));
    let (_, version) = versions.next().with_context(|| format!("no {VERSION}: {answer}"))?;
    Ok(version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_head_of_a_success() {
        let answer = |head: &str| format!("HTTP/1.1 {head}\r\n\r\nx-version: 9\r\n");
        assert_eq!(told(&answer("200 OK\r\nX-Version: 3")).unwrap(), "3");
        assert!(told(&answer("200 OK\r\nx-other: 3")).is_err());
        assert!(told(&answer("503 no\r\nx-version: 3")).is_err());
    }
}
