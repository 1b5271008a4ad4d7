// SPDX-License-Identifier: Apache-2.0
//! What people and scrapers ask this process: admin on loopback, metrics for all.

use std::sync::Arc;

use ::proxy::shown::{self, Addresses, listen};
use http::{Method, StatusCode};
use runtime::{
    Tasks,
    http::{Request, Response, Router, respond},
    log::LogControl,
    metrics::Metrics as Exported,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{app::VERSION, dump, explain, tap, waypoint::Waypoint};

/// What the admin interface shows and changes.
#[derive(Clone)]
pub struct Admin {
    /// The process.
    pub waypoint: Arc<Waypoint>,
    /// Its log.
    pub log: LogControl,
    /// Its metrics.
    pub exported: Exported,
    /// Its discovery stream.
    pub stats: Arc<xds::client::Stats>,
    /// Ends it.
    pub quit: Arc<Notify>,
}

const INDEX: &str = "\
GET  /config_dump                 what discovery told, certificates, connections to servers
GET  /explain?...                 what would become of a request; /explain says how to ask
GET  /tap[?...]                   requests as they end, a line of JSON each; /tap?x=y says how to ask
POST /logging[?level=L|?reset]    L: a level, or target=level,target=level
POST /quitquitquit                drain and end
metrics on :15020/metrics, readiness on :15021/healthz/ready
";

/// Serves admin and metrics.
///
/// # Errors
/// When a port is taken.
pub fn serve(tasks: &Tasks, addresses: Addresses, admin: Admin) -> anyhow::Result<()> {
    let on = |answer: fn(&Admin, &Request) -> Response| {
        let admin = admin.clone();
        move |request: Request| {
            let admin = admin.clone();
            async move { answer(&admin, &request) }
        }
    };
    let metrics = Router::new().route(Method::GET, "/metrics", on(|admin, _request| admin.scrape())).route(
        Method::GET,
        "/stats/prometheus",
        on(|admin, _request| admin.scrape()),
    );
    listen(tasks, "metrics", addresses.metrics, metrics)?;
    let (tapped, group) = (Arc::clone(&admin.waypoint), tasks.clone());
    let tap = move |request: Request| std::future::ready(tap::answer(&tapped, &group, &request));
    let router = Router::new()
        .route(Method::GET, "/", on(|_admin, _request| respond::text(StatusCode::OK, INDEX)))
        .route(Method::GET, "/config_dump", on(|admin, _request| admin.dump()))
        .route(Method::GET, "/explain", on(|admin, request| explain::answer(&admin.waypoint, request)))
        .stream(Method::GET, "/tap", tap)
        .route(Method::POST, "/logging", on(|admin, request| shown::logging(&admin.log, request)))
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

impl Admin {
    fn scrape(&self) -> Response {
        if let Some(seconds) = self.waypoint.identities.seconds_to_first_expiry() {
            metrics::gauge!("ambit_certificate_expiry_seconds").set(seconds);
        }
        shown::discovery(&self.stats, &xds::Kind::ALL);
        respond::with_type(StatusCode::OK, Exported::CONTENT_TYPE, self.exported.render())
    }

    fn dump(&self) -> Response {
        let mut out = self.waypoint.replica.read(dump::index);
        out.insert("version".into(), json!({ "version": VERSION }));
        out.insert("config".into(), self.config());
        out.insert("certificates".into(), shown::certificates(&self.waypoint.identities));
        out.insert("threads".into(), self.threads());
        match serde_json::to_vec_pretty(&Value::Object(out)) {
            Ok(body) => respond::json(StatusCode::OK, body),
            Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn config(&self) -> Value {
        let config = &self.waypoint.config;
        json!({
            "name": config.own.name,
            "namespace": config.own.namespace,
            "serviceAccount": config.own.service_account,
            "clusterId": config.proxy.cluster,
            "network": config.proxy.network.to_string(),
            "xdsAddress": config.proxy.xds.address,
            "caAddress": config.proxy.ca.address,
            "numWorkerThreads": config.workers,
            "selfTerminationDeadline": format!("{:?}", config.proxy.drain),
            "bounds": format!("{:?}", config.bounds),
        })
    }

    fn threads(&self) -> Value {
        let shards = self.waypoint.shards();
        let thread = shards.iter().map(|shard| {
            let (idle, shared) = shard.http.count();
            let tunnels = shard.tunnels.stats();
            json!({
                "http1Idle": idle,
                "http2": shared,
                "tunnels": tunnels.streams,
                "tunnelConnections": tunnels.connections,
                "tasks": shard.tasks.running(),
            })
        });
        thread.collect()
    }
}
