// SPDX-License-Identifier: Apache-2.0
//! What both proxies show people, scrapers and probes: readiness, certificates, the discovery stream, the log's level.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode};
use identity::{Certificate, Identities, State, certificate::Described};
use runtime::{
    Tasks,
    accept::{Limits, bind},
    http::{Request, Response, Router, respond, serve as serve_http},
    log::LogControl,
    readiness::Readiness,
};
use serde_json::{Value, json};

use crate::chain;

/// Connections to each of these ports.
const CONNECTIONS: usize = 64;
/// How long after it is ready a process has done what it does only once.
const SETTLED: Duration = Duration::from_secs(2);
/// How often what was used since then is given back.
const GIVEN_BACK: Duration = Duration::from_secs(15);

/// Where the three servers listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Admin, on loopback.
    pub admin: SocketAddr,
    /// Prometheus.
    pub metrics: SocketAddr,
    /// Probes.
    pub readiness: SocketAddr,
}

/// Answers probes.
///
/// # Errors
/// When the port is taken.
pub fn serve_readiness(tasks: &Tasks, addresses: Addresses, readiness: &Readiness) -> anyhow::Result<()> {
    let readiness = readiness.clone();
    drop(tasks.spawn("give back", give_back(readiness.clone())));
    let router = Router::new().route(Method::GET, "/healthz/ready", move |_request| {
        let readiness = readiness.clone();
        async move { readiness.respond() }
    });
    listen(tasks, "readiness", addresses.readiness, router)
}

/// Pages of code that only the start has used, or a change, are given back: half of what the process holds at rest. Those in
/// use are there again after some hundred faults of a microsecond.
async fn give_back(readiness: Readiness) {
    readiness.reached().await;
    let mut pause = SETTLED;
    loop {
        tokio::time::sleep(pause).await;
        match tokio::task::spawn_blocking(pages::give_back).await {
            Ok(Ok(bytes)) => tracing::trace!(bytes, "pages of files given back"),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no pages can be given back");
                return;
            }
            Err(_stopped) => return,
        }
        pause = GIVEN_BACK;
    }
}

/// Serves a router on a port.
///
/// # Errors
/// When the port is taken.
pub fn listen(tasks: &Tasks, name: &'static str, address: SocketAddr, router: Router) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let group = tasks.clone();
    // The socket belongs to the runtime that serves it.
    let listener = bind_std(address).with_context(|| format!("{name} on {address}"))?;
    drop(tasks.spawn(name, async move {
        let limits = Limits { name, connections: CONNECTIONS };
        let served = match runtime::accept::adopt(listener) {
            Ok(listener) => serve_http(listener, &group, limits, router).await,
            Err(source) => Err(runtime::accept::AcceptError { name, source }),
        };
        if let Err(error) = served {
            tracing::error!(error = %chain(&error), "a listener failed");
        }
    }));
    Ok(())
}

fn bind_std(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    bind(address)?.into_std()
}

/// Numbers of the discovery stream, at the moment somebody looks.
pub fn discovery(stats: &xds::client::Stats, kinds: &[xds::Kind]) {
    for reason in xds::client::Termination::ALL {
        metrics::counter!("istio_xds_connection_terminations_total", "reason" => reason.as_str())
            .absolute(stats.terminations(reason));
    }
    for kind in kinds.iter().copied() {
        let url = kind.type_url();
        metrics::counter!("istio_xds_message_total", "url" => url).absolute(stats.messages(kind));
        metrics::counter!("istio_xds_message_bytes_total", "url" => url).absolute(stats.bytes(kind));
    }
}

/// Answers `/logging`: changes what is logged, and says what is.
pub fn logging(log: &LogControl, request: &Request) -> Response {
    if request.query.contains_key("reset") {
        log.reset();
    } else if let Some(level) = request.query.get("level")
        && let Err(error) = log.set(level)
    {
        return respond::text(StatusCode::BAD_REQUEST, format!("{error}\n"));
    }
    respond::text(StatusCode::OK, format!("current log level is {}\n", log.current()))
}

/// Every certificate, as `config_dump` has it.
pub fn certificates(identities: &Identities) -> Value {
    let shown = |(identity, state): &(mesh::SpiffeId, State)| {
        let (chain, roots) = match state {
            State::Available(certificate) => (described(&certificate.chain()), roots(certificate)),
            State::Initializing | State::Unavailable(_) => (Vec::new(), Vec::new()),
        };
        json!({
            "identity": identity.to_string(), "state": state.to_string(), "certChain": chain, "rootCerts": roots,
        })
    };
    identities.states().iter().map(shown).collect()
}

fn roots(certificate: &Certificate) -> Vec<Value> {
    described(&certificate.roots().certificates())
}

fn described(chain: &[Described]) -> Vec<Value> {
    let list = chain.iter().map(|one| {
        json!({
            "pem": one.pem_base64(),
            "serialNumber": one.serial,
            "validFrom": time(one.not_before),
            "expirationTime": time(one.not_after),
        })
    });
    list.collect()
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_out_of_range| String::new(), |at| at.to_string())
}
