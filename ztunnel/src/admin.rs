// SPDX-License-Identifier: Apache-2.0
//! What people, scrapers and probes ask this process: admin on loopback, metrics and readiness for all.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{Method, StatusCode};
use identity::{Certificate, State, certificate::Described};
use runtime::{
    Tasks,
    accept::{Limits, bind},
    http::{Request, Response, Router, respond, serve as serve_http},
    log::LogControl,
    metrics::Metrics as Exported,
    readiness::Readiness,
};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{app::VERSION, dump, metrics::Reporter, node::Node};

/// Connections to each of these ports.
const CONNECTIONS: usize = 64;

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

/// What the admin interface shows and changes.
#[derive(Clone)]
pub struct Admin {
    /// The process.
    pub node: Arc<Node>,
    /// Its log.
    pub log: LogControl,
    /// Its metrics.
    pub exported: Exported,
    /// Its discovery stream.
    pub stats: Arc<xds::client::Stats>,
    /// Ends it.
    pub quit: Arc<Notify>,
}

/// Answers probes.
///
/// # Errors
/// When the port is taken.
pub fn serve_readiness(tasks: &Tasks, addresses: Addresses, readiness: &Readiness) -> anyhow::Result<()> {
    let readiness = readiness.clone();
    let router = Router::new().route(Method::GET, "/healthz/ready", move |_request| {
        let readiness = readiness.clone();
        async move { readiness.respond() }
    });
    listen(tasks, "readiness", addresses.readiness, router)
}

/// Serves admin and metrics.
///
/// # Errors
/// When a port is taken.
pub fn serve(tasks: &Tasks, addresses: Addresses, admin: Admin) -> anyhow::Result<()> {
    let scrape = |admin: &Admin| {
        let admin = admin.clone();
        move |_request| {
            let admin = admin.clone();
            async move { admin.scrape() }
        }
    };
    let metrics = Router::new().route(Method::GET, "/metrics", scrape(&admin)).route(
        Method::GET,
        "/stats/prometheus",
        scrape(&admin),
    );
    listen(tasks, "metrics", addresses.metrics, metrics)?;
    let on = |answer: fn(&Admin, &Request) -> Response| {
        let admin = admin.clone();
        move |request: Request| {
            let admin = admin.clone();
            async move { answer(&admin, &request) }
        }
    };
    let router = Router::new()
        .route(Method::GET, "/", on(|_admin, _request| respond::text(StatusCode::OK, INDEX)))
        .route(Method::GET, "/config_dump", on(|admin, _request| admin.dump()))
        .route(Method::POST, "/logging", on(Admin::logging))
        .route(
            Method::POST,
            "/quitquitquit",
            on(|admin, _request| {
                admin.quit.notify_one();
                respond::text(StatusCode::OK, "shutdown now\n")
            }),
        );
    listen(tasks, "admin", addresses.admin, router)
}

const INDEX: &str = "\
GET  /config_dump                 workloads, services, policies, certificates, connections
POST /logging[?level=L|?reset]    L: a level, or target=level,target=level
POST /quitquitquit                drain and end
metrics on :15020/metrics, readiness on :15021/healthz/ready
";

fn listen(tasks: &Tasks, name: &'static str, address: SocketAddr, router: Router) -> anyhow::Result<()> {
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
            tracing::error!(error = %crate::record::chain(&error), "a listener failed");
        }
    }));
    Ok(())
}

fn bind_std(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    bind(address)?.into_std()
}

impl Admin {
    fn scrape(&self) -> Response {
        self.refresh();
        respond::with_type(StatusCode::OK, Exported::CONTENT_TYPE, self.exported.render())
    }

    /// Numbers that others count, at the moment somebody looks.
    fn refresh(&self) {
        if let Some(seconds) = self.node.identities.seconds_to_first_expiry() {
            metrics::gauge!("ambit_certificate_expiry_seconds").set(seconds);
        }
        for reason in xds::client::Termination::ALL {
            metrics::counter!("istio_xds_connection_terminations_total", "reason" => reason.as_str())
                .absolute(self.stats.terminations(reason));
        }
        for kind in xds::Kind::L4 {
            let url = kind.type_url();
            metrics::counter!("istio_xds_message_total", "url" => url).absolute(self.stats.messages(kind));
            metrics::counter!("istio_xds_message_bytes_total", "url" => url).absolute(self.stats.bytes(kind));
        }
    }

    fn logging(&self, request: &Request) -> Response {
        if request.query.contains_key("reset") {
            self.log.reset();
        } else if let Some(level) = request.query.get("level")
            && let Err(error) = self.log.set(level)
        {
            return respond::text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        respond::text(StatusCode::OK, format!("current log level is {}\n", self.log.current()))
    }

    fn dump(&self) -> Response {
        let mut out = self.node.replica.read(dump::index);
        out.insert("version".into(), json!({ "version": VERSION }));
        out.insert("staticConfig".into(), json!({}));
        out.insert("config".into(), self.config());
        out.insert("certificates".into(), self.certificates());
        out.insert("workloadState".into(), self.workloads());
        match serde_json::to_vec_pretty(&Value::Object(out)) {
            Ok(body) => respond::json(StatusCode::OK, body),
            Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn config(&self) -> Value {
        let config = &self.node.config;
        json!({
            "clusterId": config.cluster,
            "clusterDomain": config.cluster_domain,
            "network": config.network.to_string(),
            "localNode": config.node,
            "xdsAddress": config.xds.address,
            "caAddress": config.ca.address,
            "secretTtl": format!("{:?}", config.certificate_life),
            "numWorkerThreads": config.workers,
            "packetMark": config.mark,
            "selfTerminationDeadline": format!("{:?}", config.drain),
            "ipv6Enabled": config.ipv6,
            "dnsProxy": config.dns,
            "claimed": config.claim_map.is_some(),
        })
    }

    fn certificates(&self) -> Value {
        self.node
            .identities
            .states()
            .iter()
            .map(|(identity, state)| {
                let (chain, roots) = match state {
                    State::Available(certificate) => (described(&certificate.chain()), roots(certificate)),
                    State::Initializing | State::Unavailable(_) => (Vec::new(), Vec::new()),
                };
                json!({
                    "identity": identity.to_string(), "state": state.to_string(), "certChain": chain, "rootCerts": roots,
                })
            })
            .collect()
    }

    fn workloads(&self) -> Value {
        let mut pods: Map<String, Value> = Map::new();
        for shard in self.node.shards() {
            let key = &shard.pod.local().workload;
            let entry = pods.entry(shard.pod.uid.clone()).or_insert_with(|| {
                json!({
                    "state": "Up",
                    "connections": { "inbound": [], "outbound": [] },
                    "info": {
                        "name": key.name, "namespace": key.namespace, "serviceAccount": key.service_account,
                    },
                })
            });
            for connection in shard.live.snapshot() {
                let direction = match connection.reporter {
                    Reporter::Source => "/connections/outbound",
                    Reporter::Destination => "/connections/inbound",
                };
                if let Some(Value::Array(list)) = entry.pointer_mut(direction) {
                    list.push(json!({
                        "src": connection.source.to_string(),
                        "originalDst": connection.destination.to_string(),
                        "bytesSent": connection.counters.sent(),
                        "bytesRecv": connection.counters.received(),
                    }));
                }
            }
        }
        Value::Object(pods)
    }
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
