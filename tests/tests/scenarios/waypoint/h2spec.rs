// SPDX-License-Identifier: Apache-2.0
//! h2spec against a waypoint: what RFC 9113 and RFC 7541 ask of a server, through a client's ztunnel.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use lab::{config::cache_folder, echo};

use super::Behind;
use crate::scene::{Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    let mut all = scenarios![what_h2spec_asks_of_a_server_holds];
    // It is built from Go modules when it is not in the cache.
    all.iter_mut().for_each(|scenario| scenario.long = true);
    all
}

const MODULE: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// What does not hold, and why not.
const EXCEPT: [(&str, &str); 1] =
    [("2: Sends invalid connection preface", "the port speaks HTTP/1.1 too, and answers such bytes in it")];

fn h2spec() -> Result<PathBuf> {
    let folder = cache_folder()?.join("h2spec-2.2.1");
    let program = folder.join("h2spec");
    if !program.exists() {
        let built = Command::new("go").args(["install", MODULE]).env("GOBIN", &folder).output();
        let built = built.context("running go: install it, for instance by `apt install golang`")?;
        ensure!(built.status.success(), "building h2spec: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(program)
}

async fn what_h2spec_asks_of_a_server_holds(scene: Scene) -> Result<()> {
    let program = h2spec()?.display().to_string();
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let target = behind.target();
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let arguments = ["-h", &host, "-p", &port, "-P", "/", "-o", "5"];
    let output = behind.client.exec(&program, &arguments).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text.lines().map(str::trim).filter(|line| line.starts_with('\u{d7}'));
    let failed: Vec<&str> =
        failed.filter(|line| !EXCEPT.iter().any(|(name, _why)| line.contains(name))).collect();
    ensure!(text.contains(" passed"), "it did not run: {text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(failed.is_empty(), "{failed:#?}\n{text}");
    Ok(())
}
