// SPDX-License-Identifier: Apache-2.0
//! What the demo prints, each part read from what runs.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    Cluster, Node, Pod,
    dns::{Over, RecordType},
    eventually,
    net::{
        packet::{contains, hexdump},
        sniffer::Frame,
    },
    observe::Access,
};

use super::{NAME, Progress, prometheus::Prometheus, shop::Shop};
use crate::step::say;

const LOG: Duration = Duration::from_secs(10);
const HBONE: u16 = 15008;
/// Something that no other packet holds.
pub(super) const SECRET: &str = "card=4929-1234-5678-9012";
/// Type of TLS records that carry application data (RFC 8446, section 5.1).
const APPLICATION_DATA: u8 = 23;
/// How long Prometheus may take to have scraped what has just happened.
const SCRAPED: Duration = Duration::from_secs(10);
const DENIED: &str = "sum by (source_principal, destination_principal) \
                      (istio_tcp_connections_failed_total{reporter=\"destination\",response_flags=\"DENY\"})";

/// Who talks to whom under which identity, as Prometheus knows it from the nodes.
pub(crate) async fn who_talks_to_whom(prometheus: &Prometheus) -> Result<()> {
    Progress::heading(
        "who talks to whom, under which identity (Prometheus: istio_tcp_connections_opened_total)",
    );
    let rows = prometheus
        .query(
            "sum by (source_principal, destination_principal, connection_security_policy) \
             (istio_tcp_connections_opened_total{reporter=\"destination\"})",
        )
        .await?;
    ensure!(!rows.is_empty(), "prometheus knows of no connection");
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{:<34} → {:<34} {:>5} connections, {}",
                short(row.label("source_principal")),
                short(row.label("destination_principal")),
                row.value(),
                row.label("connection_security_policy"),
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
    let (own, answer) = call(frontend, "catalog.shop.svc.cluster.local", "/books").await?;
    say(answer.context("catalog refused frontend")?);
    let written = access(cluster, "node a", |access| access.field("src.addr") == own.to_string());
    print_access(&written.await?);

    Progress::heading("a denied call: frontend → payments, where only cart may go");
    let (_own, answer) = call(frontend, "payments.shop.svc.cluster.local", "/charge").await?;
    if let Ok(answer) = answer {
        bail!("payments answered frontend: {answer}");
    }
    say("frontend's connection was closed without an answer");
    let written = access(cluster, "the server's node", |access| {
        access.field("direction") == "inbound"
            && access.field("src.identity") == frontend.identity()
            && access.field("error").contains("policy rejection")
    });
    print_access(&written.await?);
    Ok(())
}

/// A request to a service by its name, as the mesh's DNS has it: the client's address, and the answer.
async fn call(client: &Pod, host: &str, path: &str) -> Result<(SocketAddr, Result<String>)> {
    let found = client.resolve(host, RecordType::A, Over::Udp).await?;
    let ip = found.addresses.first().with_context(|| format!("{host} has no address"))?;
    say(format!("{}: GET http://{host}{path} (DNS of the mesh: {ip})", client.full_name()));
    let stream = client.connect(SocketAddr::new(*ip, 80)).await?;
    let own = stream.local_addr()?;
    let answer = lab::http::get_over(stream, host, path).await;
    Ok((own, answer))
}

/// One request as the application sent it, and as it crossed the fabric.
pub(crate) async fn on_the_wire(cluster: &Cluster, shop: &Shop) -> Result<()> {
    Progress::heading("one request, in the pod and on the wire between the nodes");
    let (frontend, catalog) = (shop.pod("frontend-a")?, shop.pod("catalog-b")?);
    let host = format!("{}:{}", catalog.v4(), lab::echo::HTTP);
    let path = format!("/pay?{SECRET}");
    let sniffer = cluster.node("a").sniff()?;
    let stream = frontend.connect(host.parse()?).await?;
    lab::http::get_over(stream, &host, &path).await?;
    let frames = sniffer.stop()?.frames;
    let (from, to) = (frontend.full_name(), catalog.full_name());
    tunnel(
        &frames,
        (&from, frontend.v4()),
        (&to, catalog.v4()),
        &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    )
}

/// A request as the application sent it, and what of it was seen on the link of its node.
pub(super) fn tunnel(
    frames: &[Frame],
    from: (&str, IpAddr),
    to: (&str, IpAddr),
    request: &str,
) -> Result<()> {
    ensure!(!frames.is_empty(), "the sniffer saw nothing");
    say(format!("the application of {} sent:", from.0));
    say(hexdump(request.as_bytes(), 8).trim_end());
    // After its handshake TLS 1.3 carries everything in records of type 23, longer than what is in them; the request is
    // in the last one of its length.
    let tunnel = frames.iter().rev().filter_map(Frame::packet).find(|packet| {
        packet.source == from.1
            && packet.destination == to.1
            && packet.tcp().is_some_and(|(_, destination)| destination.port() == HBONE)
            && packet.payload().first() == Some(&APPLICATION_DATA)
            && packet.payload().len() > request.len()
    });
    let tunnel = tunnel.context("no packet of the tunnel was seen")?;
    say(format!("its node sent to {} in its place, in a TLS record of the tunnel to port {HBONE}:", to.0));
    say(hexdump(tunnel.payload(), 8).trim_end());
    let leaks = frames.iter().filter(|frame| contains(&frame.bytes, SECRET.as_bytes())).count();
    say(format!("{} packets crossed the link meanwhile; {leaks} of them hold the secret", frames.len()));
    ensure!(leaks == 0, "the secret went over the wire in plaintext");
    Ok(())
}

/// Some metrics as any Prometheus would scrape them.
pub(crate) async fn metrics(prometheus: &Prometheus) -> Result<()> {
    Progress::heading("as scraped from node a (:15020/metrics)");
    let text = prometheus.scrape("ztunnel-a").await?;
    for (name, label) in [
        ("istio_tcp_connections_opened_total{", "reporter=\"source\""),
        ("istio_tcp_received_bytes_total{", "reporter=\"destination\""),
        ("istio_active_proxy_count", ""),
        ("ambit_certificate_expiry_seconds", ""),
    ] {
        if let Some(line) = text.lines().find(|line| line.starts_with(name) && line.contains(label)) {
            say(line);
        }
    }
    denied(prometheus).await
}

/// What was refused so far, once Prometheus knows.
pub(super) async fn denied(prometheus: &Prometheus) -> Result<()> {
    let denied = eventually(SCRAPED, "the refusal in prometheus", async || {
        let rows = prometheus.query(DENIED).await?;
        ensure!(!rows.is_empty(), "not scraped yet");
        Ok(rows)
    });
    for row in denied.await? {
        let (from, to) = (short(row.label("source_principal")), short(row.label("destination_principal")));
        say(format!("denied so far: {from} → {to}: {} connections", row.value()));
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
        "lab exec --name demo frontend-a curl -s -H 'x-tester: yes' http://catalog.shop/books",
        "lab exec --name demo zipkin curl -s 'localhost:9411/api/v2/traces?limit=1'",
        "lab exec --name demo node-a curl -s localhost:15000/config_dump          # what ztunnel knows",
        "lab exec --name demo prometheus curl -s 'localhost:9090/api/v1/query?query=up'",
        "lab exec --name demo cart-b ip -brief address",
        "lab down --name demo",
    ] {
        say(format!("  cargo xtask {line}"));
    }
    say(format!("  edit target/lab/{NAME}/manifests/policies.yaml: a change takes effect within a second"));
}

/// The newest line that fits, on any node, once it is there.
async fn access(cluster: &Cluster, place: &str, fits: impl Fn(&Access) -> bool) -> Result<Access> {
    let found = eventually(LOG, "the line of that call in an access log", async || {
        let lines = cluster.nodes().iter().flat_map(Node::access_log).collect::<Vec<_>>();
        lines.iter().rfind(|access| fits(access)).cloned().context("no line yet")
    });
    let found = found.await?;
    say(format!("access log of {place}:"));
    Ok(found)
}

pub(super) fn print_access(access: &Access) {
    for field in [
        "direction",
        "src.identity",
        "dst.identity",
        "dst.addr",
        "dst.hbone_addr",
        "method",
        "path",
        "status",
        "route",
        "policy",
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
