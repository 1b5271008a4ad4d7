// SPDX-License-Identifier: Apache-2.0
//! What the demo prints, each part read from what runs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    Cluster, Node, Pod, eventually,
    net::packet::{contains, hexdump},
    observe::Access,
};

use super::{NAME, Progress, prometheus::Prometheus, shop::Shop};
use crate::step::say;

const LOG: Duration = Duration::from_secs(10);
const HBONE: u16 = 15008;
/// Something that no other packet holds.
const SECRET: &str = "card=4929-1234-5678-9012";
/// A payload shorter than this is a frame of the tunnel itself, not the request.
const REQUEST: usize = 100;

/// Who talks to whom under which identity, as Prometheus knows it from the nodes.
pub(crate) async fn who_talks_to_whom(prometheus: &Prometheus) -> Result<()> {
    Progress::heading(
        "who talks to whom, under which identity (Prometheus: istio_tcp_connections_opened_total)",
    );
    let rows = prometheus
        .query(
            "sum by (source_principal, destination_principal, destination_service, connection_security_policy) \
             (istio_tcp_connections_opened_total{reporter=\"destination\"})",
        )
        .await?;
    ensure!(!rows.is_empty(), "prometheus knows of no connection");
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{:<42} → {:<42} {:<12} {:>5} connections to {}",
                short(row.label("source_principal")),
                short(row.label("destination_principal")),
                row.label("connection_security_policy"),
                row.value(),
                row.label("destination_service"),
            )
        })
        .collect();
    lines.sort();
    lines.iter().for_each(say);
    Ok(())
}

/// One call that policy lets through and one that it refuses, with the words of the access log.
pub(crate) async fn allowed_and_denied(cluster: &Cluster, shop: &Shop) -> Result<()> {
    Progress::heading("an allowed call: frontend → catalog");
    let frontend = shop.pod("frontend-a")?;
    let answer = frontend.app(&["call", "http://catalog.shop/books", "--header", "x-demo: allowed"]).await?;
    say(answer.trim());
    let allowed = inbound(cluster, |access| {
        access.field("error").is_empty()
            && access.field("src.identity").ends_with("/sa/frontend")
            && access.field("dst.identity").ends_with("/sa/catalog")
    });
    print_access(&allowed.await?);

    Progress::heading("a denied call: frontend → payments, where only cart may go");
    if let Ok(answer) = frontend.app(&["call", "http://payments.shop/charge", "--timeout-ms", "3000"]).await {
        bail!("payments answered frontend: {answer}");
    }
    say("frontend's connection was closed without an answer");
    let denied = inbound(cluster, |access| {
        access.field("src.identity").ends_with("/sa/frontend")
            && access.field("error").contains("policy rejection")
    });
    print_access(&denied.await?);
    Ok(())
}

/// One request as the application sent it, and as it crossed the fabric.
pub(crate) async fn on_the_wire(cluster: &Cluster, shop: &Shop) -> Result<()> {
    Progress::heading("one request, in the pod and on the wire between the nodes");
    let (frontend, catalog) = (shop.pod("frontend-a")?, shop.pod("catalog-b")?);
    let target = format!("http://{}:{}/pay", catalog.v4(), lab::echo::HTTP);
    let sniffer = cluster.node("a").sniff()?;
    frontend.app(&["call", &target, "--header", &format!("x-secret: {SECRET}")]).await?;
    let frames = sniffer.stop()?.frames;
    ensure!(!frames.is_empty(), "the sniffer saw nothing");
    say(format!("the application of {} sent:", frontend.full_name()));
    let request = format!(
        "GET /pay HTTP/1.1\r\nhost: {}:{}\r\nx-secret: {SECRET}\r\n\r\n",
        catalog.v4(),
        lab::echo::HTTP
    );
    say(hexdump(request.as_bytes(), 6).trim_end());
    let between = |pod: &Pod, ip| pod.v4() == ip;
    let tunnel = frames.iter().filter_map(|frame| frame.packet()).find(|packet| {
        between(frontend, packet.source)
            && between(catalog, packet.destination)
            && packet.tcp().is_some_and(|(_, destination)| destination.port() == HBONE)
            && packet.payload().len() >= REQUEST
    });
    let tunnel = tunnel.context("no packet of the tunnel was seen")?;
    say(format!("what node a sent to {} in its place, the first packet of that size:", catalog.full_name()));
    say(hexdump(tunnel.payload(), 6).trim_end());
    let leaks = frames.iter().filter(|frame| contains(&frame.bytes, SECRET.as_bytes())).count();
    say(format!("{} packets crossed the link meanwhile; {leaks} of them hold the secret", frames.len()));
    ensure!(leaks == 0, "the secret went over the wire in plaintext");
    Ok(())
}

/// Some metrics as any Prometheus would scrape them.
pub(crate) async fn metrics(prometheus: &Prometheus) -> Result<()> {
    Progress::heading("as scraped from node a (:15020/metrics)");
    let text = prometheus.scrape("ztunnel-a").await?;
    for name in [
        "istio_tcp_connections_opened_total{",
        "istio_tcp_sent_bytes_total{",
        "istio_build",
        "istio_active_proxy_count",
    ] {
        if let Some(line) = text.lines().find(|line| line.starts_with(name)) {
            say(line);
        }
    }
    let denied = prometheus.query("sum by (source_principal, destination_principal) (istio_tcp_connections_failed_total{response_flags=\"DENY\"})");
    for row in denied.await? {
        let (from, to) = (short(row.label("source_principal")), short(row.label("destination_principal")));
        say(format!("denied so far: {from} → {to}: {}", row.value()));
    }
    Ok(())
}

/// What to try next.
pub(crate) fn more(kept: bool) {
    Progress::heading("more to try");
    if !kept {
        say("start again with `cargo xtask demo --keep`, then:");
    }
    for line in [
        "lab status --name demo",
        "lab exec --name demo frontend-a curl -s http://catalog.shop/books",
        "lab exec --name demo frontend-a curl -s http://payments.shop/charge      # denied",
        "lab exec --name demo node-a curl -s localhost:15000/config_dump          # what ztunnel knows",
        "lab exec --name demo prometheus curl -s 'localhost:9090/api/v1/query?query=up'",
        "lab exec --name demo cart-b ip -brief address",
        "lab down --name demo",
    ] {
        say(format!("  cargo xtask {line}"));
    }
    say(format!("  edit target/lab/{NAME}/manifests/policies.yaml: a change takes effect within a second"));
}

/// The newest line of an inbound connection that fits, on any node, once it is there.
async fn inbound(cluster: &Cluster, fits: impl Fn(&Access) -> bool) -> Result<Access> {
    eventually(LOG, "the line of that call in an access log", async || {
        let lines = cluster.nodes().iter().flat_map(Node::access_log).collect::<Vec<_>>();
        let fitting = |access: &&Access| access.field("direction") == "inbound" && fits(access);
        lines.iter().rfind(fitting).cloned().context("no line yet")
    })
    .await
}

fn print_access(access: &Access) {
    say("access log of the server's node:");
    for field in [
        "src.identity",
        "dst.identity",
        "dst.addr",
        "dst.hbone_addr",
        "bytes_sent",
        "bytes_recv",
        "duration",
        "error",
    ] {
        if !access.field(field).is_empty() {
            say(format!("  {field:<15} {}", access.field(field)));
        }
    }
}

fn short(principal: &str) -> &str {
    principal.strip_prefix("spiffe://").unwrap_or(principal)
}
