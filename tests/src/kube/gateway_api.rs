// SPDX-License-Identifier: Apache-2.0
//! The Gateway API's own definitions, from its Go module.

use std::fs;

use anyhow::{Context as _, Result};

use super::{build, modules::GATEWAY_API};

const STANDARD: &str = "config/crd/standard";
const EXPERIMENTAL: &str = "config/crd/experimental";

/// The definitions of some kinds, such as `gateways`, as YAML to apply.
///
/// # Errors
/// When the module is neither in Go's cache nor to be had.
pub fn definitions(plurals: &[&str]) -> Result<String> {
    let folder = build::module(GATEWAY_API)?.join(STANDARD);
    let mut texts = Vec::new();
    for plural in plurals {
        let path = folder.join(format!("gateway.networking.k8s.io_{plural}.yaml"));
        texts.push(fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    Ok(texts.join("\n---\n"))
}

/// All of its definitions, those of its experimental channel too.
///
/// # Errors
/// As [`definitions`].
pub fn all() -> Result<String> {
    let folder = build::module(GATEWAY_API)?.join(EXPERIMENTAL);
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let is_definition =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gateway"));
        if is_definition {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path| fs::read_to_string(path).context("reading a definition");
    Ok(paths.iter().map(read).collect::<Result<Vec<_>>>()?.join("\n---\n"))
}
