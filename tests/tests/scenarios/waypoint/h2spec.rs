// SPDX-License-Identifier: Apache-2.0
//! h2spec against a waypoint: what RFC 9113 and RFC 7541 ask of a server, through a client's ztunnel.

use anyhow::{Result, ensure};
use lab::{echo, strangers::H2SPEC};

use super::Behind;
use crate::scene::{Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    let mut all = scenarios![what_h2spec_asks_of_a_server_holds];
    // It is built from Go modules when it is not in the cache.
    all.iter_mut().for_each(|scenario| scenario.long = true);
    all
}

/// What does not hold, and why not.
const EXCEPT: [(&str, &str); 1] =
    [("2: Sends invalid connection preface", "the port speaks HTTP/1.1 too, and answers such bytes in it")];

async fn what_h2spec_asks_of_a_server_holds(scene: Scene) -> Result<()> {
    let program = H2SPEC.ensure()?.display().to_string();
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
