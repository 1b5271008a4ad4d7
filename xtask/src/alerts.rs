// SPDX-License-Identifier: Apache-2.0
//! The alert rules as the chart gives them to a Prometheus operator, judged by Prometheus' own `promtool`: every expression
//! and every text with a template in it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lab::kube::Tools;
use serde_json::Value;

use crate::{
    packages,
    step::{output, root, run, step},
};

const CHART: &str = "charts/ambit";
const TEMPLATE: &str = "templates/monitoring.yaml";
const PROMTOOL: &str = "/usr/bin/promtool";

/// Fails when there are none, or Prometheus would not load them.
///
/// # Errors
/// The same, and when the chart cannot be rendered or there is no promtool.
pub(crate) fn check(tools: &Tools) -> Result<()> {
    let promtool = packages::unpacked("prometheus", PROMTOOL)?;
    step("alert rules", || {
        let rules = rendered(tools)?;
        let groups = rules.get("groups").and_then(Value::as_array).into_iter().flatten();
        let count = groups.filter_map(|group| group.get("rules")?.as_array()).map(Vec::len).sum::<usize>();
        ensure!(count > 0, "the chart renders no rule: {rules}");
        let file = root().join("target/alerts.json");
        // JSON is YAML.
        fs::write(&file, rules.to_string()).with_context(|| format!("writing {}", file.display()))?;
        let (promtool, file) = (promtool.display().to_string(), file.display().to_string());
        run(&promtool, &["check", "rules", "--lint-fatal", &file])
    })
}

/// What a PrometheusRule of the chart has.
fn rendered(tools: &Tools) -> Result<Value> {
    let chart = root().join(CHART).display().to_string();
    let arguments =
        ["template", "ambit", &chart, "--set", "monitoring.rules.enabled=true", "--show-only", TEMPLATE];
    let text = output(&tools.program("helm").display().to_string(), &arguments)?;
    let mut object: Value = serde_saphyr::from_str(&text).context("the rendered rules are not YAML")?;
    ensure!(object["kind"] == "PrometheusRule", "the chart renders {}", object["kind"]);
    Ok(object["spec"].take())
}
