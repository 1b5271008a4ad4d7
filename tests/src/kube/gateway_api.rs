// SPDX-License-Identifier: Apache-2.0
//! The Gateway API's own definitions, from its Go module.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The module with the definitions.
const MODULE: &str = "sigs.k8s.io/gateway-api@v1.6.3";

/// The definitions of some kinds, such as `gateways`, as YAML to apply.
///
/// # Errors
/// When the module is neither in Go's cache nor to be had.
pub fn definitions(plurals: &[&str]) -> Result<String> {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json", MODULE]).current_dir(std::env::temp_dir());
    let output = go.output().context("executing go, which fetches the Gateway API's definitions")?;
    ensure!(
        output.status.success(),
        "go mod download {MODULE}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let answer: Value = serde_json::from_slice(&output.stdout).context("reading what go says")?;
    let folder = answer.get("Dir").and_then(Value::as_str).context("go names no folder")?;
    let folder = PathBuf::from(folder).join("config/crd/standard");
    let mut texts = Vec::new();
    for plural in plurals {
        let path = folder.join(format!("gateway.networking.k8s.io_{plural}.yaml"));
        texts.push(fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    Ok(texts.join("\n---\n"))
}
