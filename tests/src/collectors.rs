// SPDX-License-Identifier: Apache-2.0
//! A real Zipkin and a real OpenTelemetry Collector: where they come from, how they start in a pod, and what they have got.
//! Both are kept in the cache between runs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Pod, config::cache_folder, http, net::Namespace, process::Process};

/// Zipkin's port.
pub const ZIPKIN: u16 = 9411;
/// The collector's port of OTLP over gRPC.
pub const OTLP: u16 = 4317;
const ZIPKIN_JAR: &str =
    "https://repo1.maven.org/maven2/io/zipkin/zipkin-server/3.5.1/zipkin-server-3.5.1-exec.jar";
/// The collector's own builder, of the version that the parts have too.
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder@v0.158.0";
const PARTS: &str = "\
dist: {module: ambit/otelcol, name: otelcol, output_path: ./out, version: 0.158.0}
receivers: [{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v0.158.0}]
exporters: [{gomod: go.opentelemetry.io/collector/exporter/debugexporter v0.158.0}]
";
/// What it does: takes spans and prints each.
const SETTINGS: &str = "\
receivers: {otlp: {protocols: {grpc: {endpoint: '0.0.0.0:4317'}}}}
exporters: {debug: {verbosity: detailed}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
";
/// Either may take so long to start on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Runs a command that brings a tool; its error has the command, for whoever is to run it by hand.
async fn bring(tool: &str, folder: &Path, line: String) -> Result<()> {
    fs::create_dir_all(folder).context("making a folder in the cache")?;
    let (folder, shown) = (folder.to_path_buf(), line.clone());
    let run = move || Command::new("sh").args(["-c", &line]).current_dir(folder).output();
    let output = tokio::task::spawn_blocking(run).await?;
    let output = output.with_context(|| format!("{tool} is needed: {shown}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let error: String = error.chars().skip(error.chars().count().saturating_sub(2000)).collect();
    ensure!(output.status.success(), "{tool} is needed, and `{shown}` failed: {error}");
    Ok(())
}

/// The jar of Zipkin's server, downloaded the first time.
///
/// # Errors
/// When it is not there and cannot be had; with the command.
pub async fn zipkin_jar() -> Result<PathBuf> {
    let folder = cache_folder()?.join("collectors");
    let jar = folder.join("zipkin-3.5.1.jar");
    if !jar.is_file() {
        let to = jar.display();
        bring("Zipkin", &folder, format!("curl -fsSL -o '{to}.part' {ZIPKIN_JAR} && mv '{to}.part' '{to}'"))
            .await?;
    }
    Ok(jar)
}

/// The program of the collector, built the first time, which takes minutes.
///
/// # Errors
/// When it is not there and cannot be built; with the command.
pub async fn collector() -> Result<PathBuf> {
    let folder = cache_folder()?.join("collectors");
    let program = folder.join("otelcol-0.158.0");
    if !program.is_file() {
        fs::create_dir_all(&folder).context("making a folder in the cache")?;
        fs::write(folder.join("builder.yaml"), PARTS).context("writing the collector's parts")?;
        let to = program.display();
        // Not every part of it has an entry in the database of checksums.
        let line = format!(
            "CGO_ENABLED=0 GOFLAGS=-buildvcs=false GONOSUMDB='*' go run {BUILDER} --config builder.yaml \
             && mv out/otelcol '{to}' && rm -r out"
        );
        bring("the OpenTelemetry Collector", &folder, line).await?;
    }
    Ok(program)
}

/// What Java is to be told to run Zipkin.
///
/// # Errors
/// When Zipkin is not there and cannot be had.
pub async fn zipkin() -> Result<Vec<String>> {
    let jar = zipkin_jar().await?.display().to_string();
    Ok(["-Xmx256m", "-XX:+UseSerialGC", "-jar", &jar].into_iter().map(str::to_owned).collect())
}

/// Waits until a Zipkin answers that was started in a namespace.
///
/// # Errors
/// When it does not start; with its log.
pub async fn zipkin_ready(process: &Process, namespace: &Namespace) -> Result<()> {
    process.ready(START, async || zipkin_says(namespace, "/health").await.map(drop)).await
}

/// Starts Zipkin in a pod.
///
/// # Errors
/// When Java is missing, or it does not start; with its log.
pub async fn start_zipkin(pod: &Pod) -> Result<Arc<Process>> {
    let arguments = zipkin().await?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let started = pod.start_program("zipkin", "java", &arguments);
    let process = started.context("Java is needed: apt-get install openjdk-17-jre-headless")?;
    zipkin_ready(&process, pod.namespace()).await?;
    Ok(process)
}

/// Starts the collector in a pod; what it gets is in its log.
///
/// # Errors
/// When it cannot be built or does not start; with its log.
pub async fn start_collector(pod: &Pod, folder: &Path) -> Result<Arc<Process>> {
    let program = collector().await?;
    let file = folder.join(format!("otelcol-{}.yaml", pod.name()));
    fs::write(&file, SETTINGS).context("writing the collector's settings")?;
    let (program, file) = (program.display().to_string(), file.display().to_string());
    let process = pod.start_program("otelcol", &program, &["--config", &file])?;
    let listens = async || {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, OTLP));
        pod.run(async move || tokio::net::TcpStream::connect(at).await.map(drop).context("not yet")).await
    };
    process.ready(START, listens).await?;
    Ok(process)
}

/// The spans of a trace that a Zipkin has, asked from where it runs.
///
/// # Errors
/// When it does not answer, or has not heard of the trace.
pub async fn zipkin_spans(namespace: &Namespace, trace: &str) -> Result<Vec<Value>> {
    let body = zipkin_says(namespace, &format!("/api/v2/trace/{trace}")).await?;
    serde_json::from_str(&body).context("reading what Zipkin answers")
}

async fn zipkin_says(namespace: &Namespace, path: &str) -> Result<String> {
    let (at, path) = (SocketAddr::from((Ipv4Addr::LOCALHOST, ZIPKIN)), path.to_owned());
    namespace.run(async move || http::get(at, &path).await).await
}
