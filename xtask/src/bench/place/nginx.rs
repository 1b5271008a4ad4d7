// SPDX-License-Identifier: Apache-2.0
//! nginx in both pods, which carries each connection in one of mutual TLS: what a mesh costs without anything but TLS. The
//! certificates are not those of the mesh: nginx holds a server to a name, and identities are none.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use lab::{Pod, process::Process};

use super::{
    super::web::{self, HTTP},
    Configuration, IPERF, TUNNELS,
};
use crate::step::output;

/// Processes that do the work, in each pod: as many as the machine has at least.
const WORKERS: u32 = 2;
/// Names in the certificates of the two.
const NAMES: [&str; 2] = ["client", "server"];
const AUTHORITY: &str = "authority";
/// Nothing but what is asked for gets into a certificate.
const PLAIN: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// Starts both; the one of the client first in the list.
pub(super) async fn start(place: &Configuration, program: &Path, module: &Path) -> Result<[Arc<Process>; 2]> {
    let folders = [place.folder_of(NAMES[0])?, place.folder_of(NAMES[1])?];
    let keys = place.folder_of("keys")?;
    certify(&keys)?;
    let [near, far] = &folders;
    let own = settings(module, &server(&keys));
    let server = begin(&place.server, program, far, &own).await?;
    let tunnels = TUNNELS.map(|port| SocketAddr::new(place.server.v4(), port));
    let own = settings(module, &client(&keys, tunnels));
    let client = begin(&place.client, program, near, &own).await?;
    Ok([client, server])
}

/// A process of its own starts it with a namespace of process numbers, so that its workers end with it.
async fn begin(pod: &Pod, program: &Path, folder: &Path, settings: &str) -> Result<Arc<Process>> {
    fs::write(folder.join("nginx.conf"), settings).context("writing nginx' configuration")?;
    let (program, folder) = (program.display().to_string(), folder.display().to_string());
    let apart = ["--pid", "--fork", "--kill-child", &program];
    let arguments = ["-p", &folder, "-e", "stderr", "-c", "nginx.conf"];
    let process = pod.start_program("nginx-tls", "unshare", &[apart.as_slice(), &arguments].concat())?;
    web::listening(pod, process, TUNNELS[1]).await
}

/// An authority, and a key and a certificate of each side, on the curve that the mesh's are on.
fn certify(keys: &Path) -> Result<()> {
    let file = |name: &str| keys.join(name).display().to_string();
    let config = file("plain.cnf");
    fs::write(&config, PLAIN).context("writing openssl's configuration")?;
    let [authority, authority_key] = pair(keys, AUTHORITY);
    let issue = |name: &str, issuer: &[&str], extension: &str| {
        let ([certificate, key], subject) = (pair(keys, name), format!("/CN={name}"));
        let how = ["req", "-x509", "-config", &config, "-days", "2", "-nodes", "-subj", &subject];
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-addext", extension];
        let files = ["-keyout", &key, "-out", &certificate];
        output("openssl", &[how.as_slice(), &curve, issuer, &files].concat()).map(drop)
    };
    issue(AUTHORITY, &[], "basicConstraints=critical,CA:TRUE")?;
    NAMES.into_iter().try_for_each(|name| {
        issue(name, &["-CA", &authority, "-CAkey", &authority_key], &format!("subjectAltName=DNS:{name}"))
    })
}

/// A certificate and its key.
fn pair(keys: &Path, name: &str) -> [String; 2] {
    [format!("{name}.pem"), format!("{name}-key.pem")].map(|file| keys.join(file).display().to_string())
}

/// `nginx.conf`.
fn settings(module: &Path, stream: &str) -> String {
    let module = module.display();
    format!(
        "load_module {module};\ndaemon off;\nuser root;\npid nginx.pid;\nworker_processes {WORKERS};\n\
         worker_rlimit_nofile 65536;\nevents {{ worker_connections 16384; }}\n\
         stream {{\n  proxy_timeout 1h;\n{stream}}}\n"
    )
}

/// Takes plain connections beside the client.
fn client(keys: &Path, tunnels: [SocketAddr; 2]) -> String {
    let ([certificate, key], [authority, _]) = (pair(keys, NAMES[0]), pair(keys, AUTHORITY));
    let mut text = format!(
        "  proxy_ssl on;\n  proxy_ssl_protocols TLSv1.3;\n\
         \x20 proxy_ssl_certificate {certificate};\n  proxy_ssl_certificate_key {key};\n\
         \x20 proxy_ssl_trusted_certificate {authority};\n  proxy_ssl_verify on;\n  proxy_ssl_name {};\n",
        NAMES[1]
    );
    for tunnel in tunnels {
        text.push_str(&listener(&format!("127.0.0.1:{}", tunnel.port()), &tunnel.to_string()));
    }
    text
}

/// Hands what arrives to the applications beside the server.
fn server(keys: &Path) -> String {
    let ([certificate, key], [authority, _]) = (pair(keys, NAMES[1]), pair(keys, AUTHORITY));
    let mut text = format!(
        "  ssl_protocols TLSv1.3;\n  ssl_certificate {certificate};\n  ssl_certificate_key {key};\n\
         \x20 ssl_client_certificate {authority};\n  ssl_verify_client on;\n"
    );
    for (port, application) in TUNNELS.into_iter().zip([HTTP, IPERF]) {
        text.push_str(&listener(&format!("{port} ssl"), &format!("127.0.0.1:{application}")));
    }
    text
}

fn listener(at: &str, to: &str) -> String {
    format!("  server {{ listen {at} backlog=4096; proxy_pass {to}; }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entrance_leads_to_an_exit_of_the_same_port() {
        let tunnels = TUNNELS.map(|port| SocketAddr::from(([10, 20, 2, 3], port)));
        let (client, server) = (client(Path::new("/k"), tunnels), server(Path::new("/k")));
        for (port, application) in TUNNELS.into_iter().zip([HTTP, IPERF]) {
            let entrance = format!("listen 127.0.0.1:{port} backlog=4096; proxy_pass 10.20.2.3:{port};");
            let exit = format!("listen {port} ssl backlog=4096; proxy_pass 127.0.0.1:{application};");
            assert!(client.contains(&entrance), "{client}");
            assert!(server.contains(&exit), "{server}");
        }
    }
}
