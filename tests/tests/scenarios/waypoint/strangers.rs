// SPDX-License-Identifier: Apache-2.0
//! Clients that are not ours through a waypoint: curl, h2load, wrk, grpcurl.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    echo::{self, Echo},
    strangers::GRPCURL,
};

use super::Behind;
use crate::scene::{Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        curl_gets_its_answers_in_every_version_and_uploads_what_it_has,
        h2load_gets_an_answer_to_every_request_of_either_version,
        wrk_gets_nothing_but_answers,
        grpcurl_gets_an_answer_of_grpc,
    ]
}

/// Runs a program in a pod; its output. It must end well.
async fn run(client: &Pod, program: &str, arguments: &[&str]) -> Result<String> {
    let output = client.exec(program, arguments).await?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {arguments:?}: {}: {out}{error}", output.status);
    Ok(out.into_owned())
}

async fn curl_gets_its_answers_in_every_version_and_uploads_what_it_has(scene: Scene) -> Result<()> {
    const UPLOAD: usize = 1 << 20;
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let file = scene.cluster.state().join("curl-upload");
    fs::write(&file, vec![b'x'; UPLOAD]).context("writing what curl uploads")?;
    let (data, url) = (format!("@{}", file.display()), format!("http://{}/headers", behind.target()));
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let curl = async |more: &[&str]| -> Result<Echo> {
            let common = ["--silent", "--show-error", "--fail", "--max-time", "20", version];
            let text = run(&behind.client, "curl", &[&common, more, &[&url]].concat()).await?;
            serde_json::from_str(&text).with_context(|| format!("curl {version} {more:?} got {text:?}"))
        };
        let echo = curl(&[]).await?;
        ensure!(echo.name == "server" && echo.method == "GET", "{version}: {echo:?}");
        let echo = curl(&["--data-binary", &data]).await?;
        ensure!(echo.received == UPLOAD, "{version}: {} bytes of {UPLOAD} arrived", echo.received);
        let echo = curl(&["--header", "expect: 100-continue", "--data-binary", &data]).await?;
        ensure!(echo.received == UPLOAD, "{version}, waiting: {} of {UPLOAD} arrived", echo.received);
    }
    let chunked = ["--silent", "--http1.1", "--header", "transfer-encoding: chunked", "--data-binary"];
    let text = run(&behind.client, "curl", &[&chunked, [data.as_str(), &url].as_slice()].concat()).await?;
    let echo: Echo = serde_json::from_str(&text).with_context(|| format!("in chunks: {text:?}"))?;
    ensure!(echo.received == UPLOAD, "in chunks: {} of {UPLOAD} arrived", echo.received);
    Ok(())
}

async fn h2load_gets_an_answer_to_every_request_of_either_version(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let url = format!("http://{}/", behind.target());
    for version in [["-m", "20"].as_slice(), &["--h1"]] {
        let arguments = [["-n", "2000", "-c", "8"].as_slice(), version, &[&url]].concat();
        let text = run(&behind.client, "h2load", &arguments).await?;
        let found =
            text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout") && text.contains("2000 2xx");
        ensure!(found, "{version:?}: {text}");
    }
    Ok(())
}

async fn wrk_gets_nothing_but_answers(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let url = format!("http://{}/", behind.target());
    let text = run(&behind.client, "wrk", &["-t", "1", "-c", "8", "-d", "2s", &url]).await?;
    let bad = text.contains("Socket errors") || text.contains("Non-2xx");
    ensure!(!bad && text.contains("requests in"), "{text}");
    Ok(())
}

/// Of grpc.health.v1, which a client must know that is given no reflection.
const HEALTH: &str = "\
syntax = \"proto3\";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
";

async fn grpcurl_gets_an_answer_of_grpc(scene: Scene) -> Result<()> {
    let program = GRPCURL.ensure()?.display().to_string();
    let behind = Behind::begin(&scene, echo::GRPC, "grpc").await?;
    let folder = scene.cluster.state().display().to_string();
    fs::write(scene.cluster.state().join("health.proto"), HEALTH).context("writing health.proto")?;
    let target = behind.target().to_string();
    let arguments = [
        "-plaintext",
        "-import-path",
        &folder,
        "-proto",
        "health.proto",
        &target,
        "grpc.health.v1.Health/Check",
    ];
    let text = run(&behind.client, &program, &arguments).await?;
    ensure!(text.contains("\"SERVING\""), "{text}");
    let line = behind.written(|access| access.field("path") == "/grpc.health.v1.Health/Check").await?;
    ensure!(line.field("grpc_status") == "0", "{}", line.line);
    Ok(())
}
