// SPDX-License-Identifier: Apache-2.0
//! What people, scrapers and probes ask this process: admin on loopback, metrics and readiness for all.

use std::sync::Arc;

use http::{Method, StatusCode};
use proxy::shown::{self, Addresses, listen};
use runtime::{
    Tasks,
    http::{Request, Response, Router, respond},
    log::LogControl,
    metrics::Metrics as Exported,
};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{app::VERSION, dump, explain, metrics::Reporter, node::Node};

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
        .route(Method::GET, "/explain", on(|admin, request| explain::answer(&admin.node, request)))
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
GET  /explain?...                 what would become of a connection; /explain says how to ask
POST /logging[?level=L|?reset]    L: a level, or target=level,target=level
POST /quitquitquit                drain and end
metrics on :15020/metrics, readiness on :15021/healthz/ready
";

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
        shown::discovery(&self.stats, &xds::Kind::L4);
    }

    fn logging(&self, request: &Request) -> Response {
        shown::logging(&self.log, request)
    }

    fn dump(&self) -> Response {
        let mut out = self.node.replica.read(dump::index);
        out.insert("version".into(), json!({ "version": VERSION }));
        out.insert("staticConfig".into(), json!({}));
        out.insert("config".into(), self.config());
        out.insert("certificates".into(), shown::certificates(&self.node.identities));
        out.insert("workloadState".into(), self.workloads());
        match serde_json::to_vec_pretty(&Value::Object(out)) {
            Ok(body) => respond::json(StatusCode::OK, body),
            Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn config(&self) -> Value {
        let config = &self.node.config;
        json!({
            "clusterId": config.proxy.cluster,
            "clusterDomain": config.cluster_domain,
            "network": config.proxy.network.to_string(),
            "localNode": config.node,
            "xdsAddress": config.proxy.xds.address,
            "caAddress": config.proxy.ca.address,
            "secretTtl": format!("{:?}", config.proxy.certificate_life),
            "numWorkerThreads": config.workers,
            "packetMark": config.mark,
            "selfTerminationDeadline": format!("{:?}", config.proxy.drain),
            "ipv6Enabled": config.proxy.ipv6,
            "dnsProxy": config.dns,
            "claimed": config.claim_map.is_some(),
        })
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
                let flow = &connection.known;
                let direction = match flow.reporter {
                    Reporter::Source => "/connections/outbound",
                    Reporter::Destination => "/connections/inbound",
                };
                if let Some(Value::Array(list)) = entry.pointer_mut(direction) {
                    list.push(json!({
                        "src": flow.source.to_string(),
                        "originalDst": flow.destination.to_string(),
                        "bytesSent": flow.counters.sent(),
                        "bytesRecv": flow.counters.received(),
                    }));
                }
            }
        }
        Value::Object(pods)
    }
}
