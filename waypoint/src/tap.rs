// SPDX-License-Identifier: Apache-2.0
//! Requests as they end, shown to whoever looks: those that fit a filter, so many and so long, one line of JSON each. Who
//! reads too slowly misses some, and is told how many; no request waits.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use parking_lot::RwLock;
use runtime::{
    Shutdown,
    http::{Request, Response, Streamed, respond},
};
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{exchange::Exchange, metrics::Labels, waypoint::Waypoint};

/// Who looks at one time.
const TAPS: usize = 8;
/// Lines that wait for a reader.
const WAITING: usize = 256;
/// How long a reader may take for the line that says why there are no more.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Requests that are shown, unless somebody says how many, and at most.
const COUNT: (u64, u64) = (100, 100_000);
/// How long, in seconds, unless somebody says, and at most.
const SECONDS: (u64, u64) = (60, 3600);
/// Headers whose values are shown to everybody.
pub const HARMLESS: [HeaderName; 10] = [
    header::HOST,
    header::USER_AGENT,
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("grpc-timeout"),
];

/// How to ask.
pub const USAGE: &str = "\
/tap?[path=PREFIX][&method=M][&status=404|4xx][&source=NAMESPACE[/WORKLOAD]][&count=N][&seconds=S][&headers=all]
";

/// Who looks.
#[derive(Debug, Default)]
pub struct Taps {
    /// How many: read by every request.
    count: AtomicUsize,
    all: RwLock<Vec<Arc<Tap>>>,
}

#[derive(Debug)]
struct Tap {
    filter: Filter,
    /// Values of all headers, not only of harmless ones.
    bare: bool,
    lines: mpsc::Sender<Bytes>,
    missed: AtomicU64,
}

/// Which requests are shown: all that is said must hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    path: Option<String>,
    method: Option<Method>,
    /// From this one to that one.
    status: Option<(u16, u16)>,
    source: Option<(String, Option<String>)>,
}

/// What a reader wants.
struct Wish {
    filter: Filter,
    bare: bool,
    count: u64,
    time: Duration,
}

impl Taps {
    /// Whether anybody looks.
    pub fn is_open(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Shows a request that has ended.
    pub fn show(&self, exchange: &Exchange, labels: &Labels, took: Duration) {
        if !self.is_open() {
            return;
        }
        for tap in self.all.read().iter().filter(|tap| tap.filter.fits(exchange, labels)) {
            let mut line = line(exchange, labels, took, tap.bare).to_string();
            line.push('\n');
            if tap.lines.try_send(line.into()).is_err() {
                tap.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn open(&self, tap: &Arc<Tap>) -> bool {
        let mut all = self.all.write();
        let room = all.len() < TAPS;
        if room {
            all.push(Arc::clone(tap));
            self.count.store(all.len(), Ordering::Relaxed);
        }
        room
    }

    fn close(&self, tap: &Arc<Tap>) {
        let mut all = self.all.write();
        all.retain(|other| !Arc::ptr_eq(other, tap));
        self.count.store(all.len(), Ordering::Relaxed);
    }
}

/// Answers `/tap`: the stream is fed by a task that ends with its reader.
///
/// # Errors
/// With an answer that says why not.
pub fn answer(
    waypoint: &Arc<Waypoint>,
    tasks: &runtime::Tasks,
    request: &Request,
) -> Result<Streamed, Box<Response>> {
    let wish = Wish::read(request)
        .map_err(|why| Box::new(respond::text(StatusCode::BAD_REQUEST, format!("{why}\n{USAGE}"))))?;
    let (lines, queued) = mpsc::channel(WAITING);
    let tap = Arc::new(Tap { filter: wish.filter, bare: wish.bare, lines, missed: AtomicU64::new(0) });
    if !waypoint.taps.open(&tap) {
        let busy = format!("{TAPS} others look already\n");
        return Err(Box::new(respond::text(StatusCode::TOO_MANY_REQUESTS, busy)));
    }
    let (out, pieces) = mpsc::channel(1);
    let (waypoint, shutdown) = (Arc::clone(waypoint), tasks.shutdown());
    let until = Instant::now() + wish.time;
    drop(tasks.spawn("tap", async move {
        let guard = Open { waypoint, tap };
        feed(&guard.tap, queued, out, (wish.count, until), shutdown).await;
    }));
    Ok(Streamed { content_type: "application/x-ndjson", pieces })
}

/// Closed when dropped.
struct Open {
    waypoint: Arc<Waypoint>,
    tap: Arc<Tap>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.waypoint.taps.close(&self.tap);
    }
}

async fn feed(
    tap: &Tap,
    mut queued: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Bytes>,
    (count, until): (u64, Instant),
    shutdown: Shutdown,
) {
    let mut shown = 0;
    let showing = async {
        while shown < count {
            let Some(line) = queued.recv().await else { return "closed" };
            if out.send(line).await.is_err() {
                return "the reader left";
            }
            shown += 1;
        }
        "count"
    };
    let why = tokio::select! {
        why = tokio::time::timeout_at(until, showing) => why.unwrap_or("time"),
        () = shutdown.requested() => "the process ends",
        () = out.closed() => return,
    };
    let missed = tap.missed.load(Ordering::Relaxed);
    let end = json!({ "end": why, "shown": shown, "missed": missed });
    // A reader that takes nothing is not waited for long.
    if out.send_timeout(format!("{end}\n").into(), LAST_WORD).await.is_err() {
        tracing::debug!(missed, "nobody reads the end of a tap");
    }
}

impl Wish {
    fn read(request: &Request) -> Result<Self, String> {
        let said = |name: &str| request.query.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let number = |name: &str, (usual, most): (u64, u64)| match said(name) {
            None => Ok(usual),
            Some(text) => {
                let number = text.parse().ok().filter(|number| (1..=most).contains(number));
                number.ok_or_else(|| format!("{name} is a number from 1 to {most}"))
            }
        };
        let known = ["path", "method", "status", "source", "count", "seconds", "headers"];
        if let Some(name) = request.query.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("{name} is not known"));
        }
        let status =
            said("status").map(|text| status(text).ok_or("status is a number, or 4xx")).transpose()?;
        let method = said("method").map(|text| text.parse().map_err(|_not| "no such method")).transpose()?;
        let source = said("source").map(|text| match text.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), Some(name.to_owned())),
            None => (text.to_owned(), None),
        });
        Ok(Self {
            filter: Filter { path: said("path").map(str::to_owned), method, status, source },
            bare: match said("headers") {
                None => false,
                Some("all") => true,
                Some(_) => return Err("headers is all, or not given".to_owned()),
            },
            count: number("count", COUNT)?,
            time: Duration::from_secs(number("seconds", SECONDS)?),
        })
    }
}

/// `404`, or `4xx`.
fn status(text: &str) -> Option<(u16, u16)> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let one = text.parse().ok().filter(|status| (100..600).contains(status))?;
    Some((one, one))
}

impl Filter {
    fn fits(&self, exchange: &Exchange, labels: &Labels) -> bool {
        let status = labels.status.unwrap_or_default();
        let source = &exchange.link.source;
        self.path.as_ref().is_none_or(|prefix| exchange.path.starts_with(prefix.as_str()))
            && self.method.as_ref().is_none_or(|method| *method == exchange.method)
            && self.status.is_none_or(|(first, last)| (first..=last).contains(&status))
            && self.source.as_ref().is_none_or(|(namespace, name)| {
                exchange.link.identity.namespace() == namespace
                    && name.as_ref().is_none_or(|name| source.name() == Some(name))
            })
    }
}

fn line(exchange: &Exchange, labels: &Labels, took: Duration, bare: bool) -> Value {
    let link = &exchange.link;
    let (source, destination) = (&link.source, &exchange.destination);
    json!({
        "time": time(SystemTime::now()),
        "source": {
            "address": link.peer.to_string(), "workload": source.name(), "namespace": source.namespace(),
            "identity": link.identity.to_string(),
        },
        "destination": {
            "address": exchange.address.map(|address| address.to_string()),
            "workload": destination.name(), "namespace": destination.namespace(),
            "service": exchange.service().map(|service| service.hostname.as_str()),
        },
        "method": exchange.method.as_str(),
        "host": exchange.host.as_str(),
        "path": exchange.path.as_str(),
        "protocol": format!("{:?}", exchange.version),
        "status": labels.status,
        "flags": labels.flag,
        "grpcStatus": labels.grpc.as_deref(),
        "route": exchange.route.as_deref(),
        "policy": exchange.policy.as_deref(),
        "attempts": exchange.attempts,
        "bytes": { "request": exchange.request.bytes(), "response": exchange.response.bytes() },
        "milliseconds": took.as_secs_f64() * 1000.0,
        "trace": exchange.trail.trace.map(|trace| format!("{trace:032x}")),
        "requestId": exchange.trail.number.as_ref().and_then(|number| number.to_str().ok()),
        "error": exchange.fault.as_ref().map(ToString::to_string),
        "headers": exchange.trail.headers.as_deref().map(|headers| fields(headers, bare)),
    })
}

fn fields(headers: &HeaderMap, bare: bool) -> Map<String, Value> {
    let mut out = Map::new();
    for name in headers.keys() {
        let mut text = String::new();
        for (number, value) in headers.get_all(name).iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let value = if bare || HARMLESS.contains(name) {
                String::from_utf8_lossy(value.as_bytes())
            } else {
                "[redacted]".into()
            };
            // To a text, so it cannot fail.
            write!(text, "{comma}{value}").unwrap_or_default();
        }
        out.insert(name.as_str().to_owned(), text.into());
    }
    out
}

/// Seconds since 1970, with their thousandths.
fn time(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
