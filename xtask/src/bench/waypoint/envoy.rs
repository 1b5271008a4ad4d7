// SPDX-License-Identifier: Apache-2.0
//! Envoy's settings: as a proxy between plain connections, and as a waypoint, which ends tunnels, looks at the requests in
//! them and sends these on in tunnels of its own. Pure.
//!
//! ```text
//!  tunnels (mutual TLS, CONNECT) ─► inner-N (internal listener: requests) ─► server            plain
//!                                                                         └► outer ─► tunnel  mutual TLS, CONNECT
//! ```

use std::{net::SocketAddr, path::Path};

use lab::envoy::{Certified, HBONE};
use serde_json::{Value, json};

use super::{
    proxy::PORT,
    rules::{Route, Rules, VERSION},
};

const TYPE: &str = "type.googleapis.com/envoy";
const ROUTES: &str = "routes";

/// What of the mesh an Envoy that stands for a waypoint serves.
pub(super) struct Served {
    /// The service's address, as tunnels ask for it.
    pub(super) service: SocketAddr,
    /// Its endpoint.
    pub(super) server: SocketAddr,
    /// Whom to expect there; without, it is no part of the mesh.
    pub(super) identity: Option<String>,
}

/// Between plain connections; routes come from `routes`, a file that may be replaced.
pub(super) fn plain(rules: &Rules, server: SocketAddr, routes: &Path) -> Value {
    let source =
        json!({"resource_api_version": "V3", "path_config_source": {"path": routes.display().to_string()}});
    let routes = json!({"rds": {"route_config_name": ROUTES, "config_source": source}});
    let mut clusters = vec![cluster("b0", &[server])];
    clusters.extend(rules.others().map(|(backend, endpoints)| cluster(&format!("b{backend}"), &endpoints)));
    let listener = json!({
        "name": "all", "address": address("0.0.0.0", PORT),
        "filter_chains": [{"filters": [requests("all", &routes)]}],
    });
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    })
}

/// The file of routes, as discovery would send it.
pub(super) fn routes(rules: &Rules) -> Value {
    let mut resource = configuration(rules);
    resource["@type"] = json!(format!("{TYPE}.config.route.v3.RouteConfiguration"));
    json!({"version_info": rules.version.to_string(), "resources": [resource]})
}

/// In the place of a waypoint.
pub(super) fn waypoint(certified: &Certified, served: &[Served]) -> Value {
    let mut listeners = vec![tunnels(certified, served)];
    let mut clusters = Vec::new();
    for (number, Served { server, identity, .. }) in served.iter().enumerate() {
        let (inner, outer) = (format!("inner-{number}"), format!("outer-{number}"));
        let mut routes = configuration(&Rules::ONE);
        routes["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!(format!("server-{number}"));
        listeners.push(internal(&inner, &requests(&inner, &json!({"route_config": routes}))));
        clusters.push(to_internal(&inner, &inner));
        match identity {
            None => clusters.push(cluster(&format!("server-{number}"), &[*server])),
            Some(identity) => {
                let proxy = json!({
                    "@type": format!("{TYPE}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": outer, "cluster": format!("tunnel-{number}"),
                    "tunneling_config": {"hostname": server.to_string()},
                });
                let filter = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy});
                listeners.push(internal(&outer, &filter));
                clusters.push(to_internal(&format!("server-{number}"), &outer));
                let tunnel = SocketAddr::new(server.ip(), HBONE);
                clusters.push(secured(cluster(&format!("tunnel-{number}"), &[tunnel]), certified, identity));
            }
        }
    }
    let internal =
        json!({"@type": format!("{TYPE}.extensions.bootstrap.internal_listener.v3.InternalListener")});
    json!({
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": internal}],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// Ends tunnels of anybody in the mesh, and hands what is in them to the listener of the service that they ask for.
fn tunnels(certified: &Certified, served: &[Served]) -> Value {
    let connect = json!({"upgrade_type": "CONNECT", "connect_config": {}});
    let host = |(number, served): (usize, &Served)| {
        let route = json!({"cluster": format!("inner-{number}"), "upgrade_configs": [&connect]});
        json!({
            "name": format!("service-{number}"), "domains": [served.service.to_string()],
            "routes": [{"match": {"connect_matcher": {}}, "route": route}],
        })
    };
    let hosts: Vec<_> = served.iter().enumerate().map(host).collect();
    let mut manager = requests("tunnels", &json!({"route_config": {"virtual_hosts": hosts}}));
    let config = &mut manager["typed_config"];
    config["codec_type"] = json!("HTTP2");
    config["http2_protocol_options"] = json!({"allow_connect": true});
    config["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    let tls = json!({
        "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common(certified, &json!({"prefix": "spiffe://cluster.local/"})),
    });
    json!({
        "name": "tunnels", "address": address("0.0.0.0", HBONE),
        "filter_chains": [{
            "filters": [manager],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        }],
    })
}

/// All routes in one virtual host.
fn configuration(rules: &Rules) -> Value {
    let everything = Route { path: "/".to_owned(), backend: 0, version: 1 };
    let route = |Route { path, backend, version }: Route| {
        let header = json!({"key": VERSION, "value": version.to_string()});
        json!({
            "match": {"prefix": path}, "route": {"cluster": format!("b{backend}")},
            "response_headers_to_add":
                [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        })
    };
    let routes: Vec<_> = rules.routes().chain([everything]).map(route).collect();
    json!({"name": ROUTES, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]})
}

/// The filter that looks at requests.
fn requests(name: &str, routes: &Value) -> Value {
    let router = json!({"@type": format!("{TYPE}.extensions.filters.http.router.v3.Router")});
    let mut config = json!({
        "@type":
            format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "use_remote_address": true,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    });
    if let (Some(config), Some(routes)) = (config.as_object_mut(), routes.as_object()) {
        config.extend(routes.clone());
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

fn internal(name: &str, filter: &Value) -> Value {
    json!({"name": name, "internal_listener": {}, "filter_chains": [{"filters": [filter]}]})
}

fn to_internal(name: &str, listener: &str) -> Value {
    let address = json!({"envoy_internal_address": {"server_listener_name": listener}});
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [unlimited()]},
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoint =
        |at: &SocketAddr| json!({"endpoint": {"address": address(&at.ip().to_string(), at.port())}});
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [unlimited()]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

/// The same over HTTP/2 in mutual TLS, to a peer of this identity only.
fn secured(mut cluster: Value, certified: &Certified, identity: &str) -> Value {
    let options = format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions");
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
            {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}},
    });
    let tls = json!({
        "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common(certified, &json!({"exact": identity})),
    });
    cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    cluster
}

fn common(certified: &Certified, peer: &Value) -> Value {
    let file = |path: &Path| json!({"filename": path.display().to_string()});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates":
            [{"certificate_chain": file(&certified.chain), "private_key": file(&certified.key)}],
        "validation_context": {
            "trusted_ca": file(&certified.roots),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
        },
    })
}

/// As good as no limit: the default is 1024 of each.
fn unlimited() -> Value {
    json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000})
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_that_a_route_names_is_there() {
        let server = "10.20.2.3:8080".parse().unwrap();
        let rules = Rules { routes: 2, backends: 3, endpoints: 2, version: 4 };
        let settings = plain(&rules, server, Path::new("/x/routes.json"));
        let known: Vec<_> = settings["static_resources"]["clusters"].as_array().unwrap().iter().collect();
        let routes = routes(&rules);
        let routes = routes["resources"][0]["virtual_hosts"][0]["routes"].as_array().unwrap();
        assert_eq!(routes.len(), 6);
        for route in routes {
            assert!(known.iter().any(|cluster| cluster["name"] == route["route"]["cluster"]), "{route}");
        }
    }

    #[test]
    fn a_server_in_the_mesh_is_reached_by_a_tunnel_only() {
        let [key, chain, roots] = ["k", "c", "r"].map(Into::into);
        let certified = Certified { key, chain, roots };
        let served = |identity: Option<&str>| Served {
            service: "10.30.0.1:80".parse().unwrap(),
            server: "10.20.2.3:8080".parse().unwrap(),
            identity: identity.map(str::to_owned),
        };
        let settings = waypoint(&certified, &[served(None), served(Some("spiffe://cluster.local/x"))]);
        let clusters = settings["static_resources"]["clusters"].as_array().unwrap();
        let to = |name: &str| {
            let cluster = clusters.iter().find(|cluster| cluster["name"] == name).unwrap();
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"].clone()
        };
        assert_eq!(to("server-0")["socket_address"]["port_value"], 8080);
        assert_eq!(to("server-1")["envoy_internal_address"]["server_listener_name"], "outer-1");
        assert_eq!(to("tunnel-1")["socket_address"]["port_value"], 15008);
    }
}
