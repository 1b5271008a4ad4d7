// SPDX-License-Identifier: Apache-2.0
//! The web server that all load ends at, and how long a program in a pod may take until it listens.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lab::{Pod, process::Process};
use tokio::net::TcpStream;

/// What the web server's answer ends with.
pub(crate) const END_OF_ANSWER: &str = "served~";
/// Its port.
pub(crate) const HTTP: u16 = 8080;
/// The path of a big answer, and how many bytes that has.
pub(crate) const BIG: (&str, u64) = ("/big", 16 << 20);
const START: Duration = Duration::from_secs(20);

/// Starts nginx in a pod.
pub(crate) async fn serve(pod: &Pod, nginx: &Path, folder: &Path) -> Result<Arc<Process>> {
    fs::create_dir_all(folder).context("making nginx' folder")?;
    fs::write(folder.join("nginx.conf"), settings()).context("writing nginx' configuration")?;
    let (path, bytes) = BIG;
    let big = fs::File::create(folder.join(path.trim_start_matches('/'))).context("making a big file")?;
    big.set_len(bytes).context("making it big")?;
    let (program, folder) = (nginx.display().to_string(), folder.display().to_string());
    let arguments = ["-p", &folder, "-e", "stderr", "-c", "nginx.conf"];
    listening(pod, pod.start_program("nginx", &program, &arguments)?, HTTP).await
}

/// Waits until a program of a pod listens on a port.
pub(crate) async fn listening(pod: &Pod, process: Arc<Process>, port: u16) -> Result<Arc<Process>> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let reach = async || {
        let connect = async move || TcpStream::connect(local).await.map(drop).context("not listening yet");
        pod.run(connect).await
    };
    process.ready(START, reach).await?;
    Ok(process)
}

/// One process, so that whoever ends it leaves none behind.
fn settings() -> String {
    let (big, _) = BIG;
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 3600;\n  keepalive_requests 1000000000;\n\
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  sendfile on;\n\
         server {{ listen {HTTP} backlog=4096; root .;\n\
         location / {{ return 200 \"{END_OF_ANSWER}\"; }}\n  location = {big} {{ }}\n}}\n}}\n"
    )
}
