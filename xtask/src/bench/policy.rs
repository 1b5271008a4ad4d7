// SPDX-License-Identifier: Apache-2.0
//! How soon a changed policy closes the open connections that it refuses: from before its manifest is written until the
//! client of the last of them sees the end.

use std::{
    net,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lab::eventually;
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::oneshot, time::timeout};

use crate::step::say;

use super::{memory::IDLE, paced, place::Configuration, report::Figure};

/// The longest that a policy may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest until connections are served again without it.
const SOON: Duration = Duration::from_secs(15);
/// Its name, and its manifest's.
const NAME: &str = "bench-refuse";

/// When connections were seen to end.
struct Ends {
    first: Instant,
    last: Instant,
}

/// Holds idle connections and has them refused; afterwards all is as before.
pub(super) async fn measure(place: &Configuration) -> Result<Vec<(Figure, f64)>> {
    let target = place.http;
    let held = place.client.run(async move || paced::hold(target, IDLE)).await?;
    let (watching, watched) = oneshot::channel();
    let ending = place.client.run(async move || ends(held, watching).await);
    let refusing = async {
        watched.await.context("nobody watches the connections")?;
        let begun = Instant::now();
        place.cluster.publish(NAME, &manifest(&place.server.name()))?;
        Ok(begun)
    };
    let outcome = tokio::try_join!(ending, refusing);
    place.cluster.withdraw(NAME).await?;
    let (ends, begun) = outcome.with_context(|| format!("a policy of {}", place.name))?;
    let what = format!("{} serving again", place.name);
    eventually(SOON, &what, async || place.client.run(async move || paced::hold(target, 1).map(drop)).await)
        .await?;
    let Some(Ends { first, last }) = ends else {
        say(format!("   {}: connections that a policy refuses are open after {LIMIT:?}", place.name));
        return Ok(Vec::new());
    };
    let figures = [(Figure::PolicyFirst, first), (Figure::PolicyAll, last)];
    Ok(figures.map(|(figure, end)| (figure, (end - begun).as_secs_f64() * 1e3)).to_vec())
}

/// Waits for the end of each, after having said that it does; nothing where some stay open.
async fn ends(held: Vec<net::TcpStream>, watching: oneshot::Sender<()>) -> Result<Option<Ends>> {
    let open = held.len();
    let mut waiting = FuturesUnordered::new();
    for stream in held {
        stream.set_nonblocking(true)?;
        waiting.push(end(TcpStream::from_std(stream)?));
    }
    // Whoever waits for it may have failed.
    watching.send(()).unwrap_or_default();
    let all = timeout(LIMIT, async {
        let mut ends = Vec::with_capacity(open);
        while let Some(end) = waiting.next().await {
            ends.push(end?);
        }
        let (first, last) = (ends.iter().min().copied(), ends.iter().max().copied());
        anyhow::Ok(Ends {
            first: first.context("nothing was open")?,
            last: last.context("nothing was open")?,
        })
    });
    all.await.ok().transpose()
}

/// The end of one, in whatever way.
async fn end(mut stream: TcpStream) -> Result<Instant> {
    match stream.read(&mut [0]).await {
        Ok(1..) => bail!("data instead of the end"),
        Ok(0) | Err(_) => Ok(Instant::now()),
    }
}

/// Refuses the client at one server.
fn manifest(server: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {NAME}, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: {server}}}}}\n  action: DENY\n\
         \x20 rules: [{{from: [{{source: {{principals: ['*/sa/client']}}}}]}}]\n"
    )
}
