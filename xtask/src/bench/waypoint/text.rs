// SPDX-License-Identifier: Apache-2.0
//! The settings of nginx and of HAProxy: the same rules in their words, both with two threads or processes, connections
//! to servers that are kept, and no access log. Pure.

use std::{fmt::Write as _, net::SocketAddr};

use super::{
    proxy::{PORT, THREADS},
    rules::{Route, Rules, VERSION},
};

/// Files of HAProxy: its settings, and which path leads where and says what.
pub(super) const HAPROXY: [&str; 3] = ["haproxy.cfg", "backends.map", "versions.map"];

/// `nginx.conf`.
pub(super) fn nginx(rules: &Rules, server: SocketAddr) -> String {
    let mut upstreams = upstream(0, &[server], "  keepalive 256;\n  keepalive_requests 1000000000;\n");
    for (backend, endpoints) in rules.others() {
        upstreams.push_str(&upstream(backend, &endpoints, "  keepalive 256;\n"));
    }
    let everything = Route { path: "/".to_owned(), backend: 0, version: 1 };
    let locations: String = rules.routes().chain([everything]).map(|route| location(&route)).collect();
    format!(
        "daemon off;\nuser root;\npid nginx.pid;\nworker_processes {THREADS};\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 3600;\n  keepalive_requests 1000000000;\n\
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n\
         proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         {upstreams}server {{ listen {PORT} backlog=4096;\n{locations}}}\n}}\n"
    )
}

fn upstream(backend: usize, endpoints: &[SocketAddr], more: &str) -> String {
    let mut text = format!("upstream b{backend} {{\n");
    for endpoint in endpoints {
        writeln!(text, "  server {endpoint};").unwrap_or_default();
    }
    text + more + "}\n"
}

fn location(Route { path, backend, version }: &Route) -> String {
    format!("location {path} {{ proxy_pass http://b{backend}; add_header {VERSION} {version}; }}\n")
}

/// The files that [`HAPROXY`] names, which are in `folder`.
pub(super) fn haproxy(rules: &Rules, server: SocketAddr, folder: &str) -> [String; 3] {
    let [_, backends, versions] = HAPROXY.map(|file| format!("{folder}/{file}"));
    let mut settings = format!(
        "global\n  nbthread {THREADS}\n  maxconn 8192\n  hard-stop-after 2s\n\
         defaults\n  mode http\n  option forwardfor\n  http-reuse always\n\
         \x20 timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend all\n  bind :{PORT} backlog 4096\n\
         \x20 http-request set-var(txn.version) path,map_beg({versions},1)\n\
         \x20 http-response set-header {VERSION} %[var(txn.version)]\n\
         \x20 use_backend %[path,map_beg({backends},b0)]\n\
         backend b0\n  server s0 {server}\n"
    );
    for (backend, endpoints) in rules.others() {
        writeln!(settings, "backend b{backend}").unwrap_or_default();
        for (number, endpoint) in endpoints.iter().enumerate() {
            writeln!(settings, "  server s{number} {endpoint}").unwrap_or_default();
        }
    }
    let backends = rules.routes().map(|Route { path, backend, .. }| format!("{path} b{backend}\n")).collect();
    let versions = rules.routes().map(|Route { path, version, .. }| format!("{path} {version}\n")).collect();
    [settings, backends, versions]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        "10.20.2.3:8080".parse().unwrap()
    }

    #[test]
    fn nginx_has_a_location_for_each_route_and_one_for_everything() {
        let text = nginx(&Rules { routes: 2, version: 5, ..Rules::ONE }, server());
        for line in [
            "location /r/0000 { proxy_pass http://b0; add_header x-version 1; }",
            "location /r/0001 { proxy_pass http://b0; add_header x-version 5; }",
            "location / { proxy_pass http://b0; add_header x-version 1; }",
            "server 10.20.2.3:8080;",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line}");
        }
    }

    #[test]
    fn haproxy_finds_backend_and_version_in_its_maps() {
        let rules = Rules { routes: 1, backends: 1, endpoints: 2, version: 5 };
        let [settings, backends, versions] = haproxy(&rules, server(), "/x");
        assert!(settings.contains("map_beg(/x/backends.map,b0)"), "{settings}");
        let bulk = "backend b1\n  server s0 198.18.0.0:80\n  server s1 198.18.0.1:80\n";
        assert!(settings.ends_with(bulk), "{settings}");
        assert_eq!(backends, "/r/0000 b0\n/e/001 b1\n");
        assert_eq!(versions, "/r/0000 5\n/e/001 1\n");
    }
}
