// SPDX-License-Identifier: Apache-2.0
//! What the command line says and which code it ends with.

use std::{fs, path::PathBuf, process::Output, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checks,
    kube::{KubeCluster, suite::Check},
};
use serde_json::{Value, json};

/// Nothing takes longer, unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The cluster, and the program.
pub(crate) struct Stage {
    pub(crate) cluster: KubeCluster,
    pub(crate) program: PathBuf,
}

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![
        version_tells_of_the_server_and_does_without_it,
        an_empty_cluster_may_get_a_mesh_and_has_none,
        what_is_in_the_way_is_refused_with_its_fix,
        who_may_not_install_is_told_so,
        an_uninstall_without_a_node_for_its_jobs_says_so_at_once,
        a_server_that_cannot_be_reached_is_no_failure_of_the_mesh,
        a_bypass_is_written_down_and_ended,
        a_bug_report_has_no_secrets,
        without_helm_an_installation_says_where_to_get_it,
    ]
}

/// How a command ended.
pub(crate) struct Ended {
    code: i32,
    pub(crate) said: String,
    pub(crate) noted: String,
}

impl Ended {
    fn of(output: Output) -> Result<Self> {
        Ok(Self {
            code: output.status.code().context("killed")?,
            said: String::from_utf8(output.stdout)?,
            noted: String::from_utf8(output.stderr)?,
        })
    }

    pub(crate) fn is(&self, code: i32) -> Result<()> {
        ensure!(self.code == code, "ended with {} instead of {code}: {}{}", self.code, self.said, self.noted);
        Ok(())
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.said).with_context(|| format!("no JSON: {:?} {:?}", self.said, self.noted))
    }

    /// What is wrong: the names of the checks.
    fn failures(&self) -> Result<Vec<String>> {
        let json = self.json()?;
        let findings = json.get("findings").and_then(Value::as_array).context("no findings")?;
        let bad = findings.iter().filter(|finding| finding["grade"] == "failure");
        ensure!(bad.clone().all(|finding| finding["fix"].is_string()), "a failure without a fix: {json}");
        Ok(bad.filter_map(|finding| finding["check"].as_str()).map(str::to_owned).collect())
    }
}

impl Stage {
    pub(crate) async fn ambit(&self, arguments: &[&str]) -> Result<Ended> {
        self.ambit_as(&self.cluster.shape().kubeconfig(), arguments).await
    }

    pub(crate) async fn ambit_as(&self, kubeconfig: &std::path::Path, arguments: &[&str]) -> Result<Ended> {
        let mut command = std::process::Command::new(&self.program);
        command.args(arguments).arg("--kubeconfig").arg(kubeconfig);
        Ended::of(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.cluster.shape().state.join(name)
    }
}

async fn version_tells_of_the_server_and_does_without_it(stage: &Stage) -> Result<()> {
    let version = stage.ambit(&["version", "-o", "json"]).await?;
    version.is(0)?;
    let json = version.json()?;
    ensure!(json["server"].as_str().is_some_and(|server| server.starts_with("v1.")), "{json}");
    ensure!(json["parts"] == json!([]) && json["client"].is_string(), "{json}");
    let alone = stage.ambit_as(&stage.file("no-such-file"), &["version"]).await?;
    alone.is(0)?;
    ensure!(alone.noted.contains("no cluster"), "{}", alone.noted);
    Ok(())
}

async fn an_empty_cluster_may_get_a_mesh_and_has_none(stage: &Stage) -> Result<()> {
    let check = stage.ambit(&["check", "-o", "json"]).await?;
    check.is(0)?;
    ensure!(check.json()?["stage"] == "before", "{}", check.said);
    let status = stage.ambit(&["status", "-o", "yaml"]).await?;
    status.is(1)?;
    ensure!(status.said.contains("installed: false"), "{}", status.said);
    stage.ambit(&["ztunnel", "workloads"]).await?.is(1)?;
    stage.ambit(&["ztunnel", "everything"]).await?.is(2)
}

async fn what_is_in_the_way_is_refused_with_its_fix(stage: &Stage) -> Result<()> {
    let cilium = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cilium-config, namespace: kube-system}\n\
                  data: {cni-exclusive: \"true\", kube-proxy-replacement: \"true\"}\n---\n\
                  apiVersion: v1\nkind: Namespace\nmetadata:\n  name: both\n  \
                  labels: {istio.io/dataplane-mode: ambient, istio-injection: enabled}\n";
    stage.cluster.apply(cilium).await?;
    let check = stage.ambit(&["check", "-o", "json"]).await?;
    check.is(1)?;
    let failures = check.failures()?;
    ensure!(failures == ["CNI order", "socket LB", "two owners"], "{failures:?}");
    stage.cluster.kubectl(&["delete", "namespace", "both", "--wait=false"]).await?;
    stage.cluster.kubectl(&["-n", "kube-system", "delete", "configmap", "cilium-config"]).await?;
    Ok(())
}

async fn who_may_not_install_is_told_so(stage: &Stage) -> Result<()> {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: guest, namespace: default}\n";
    stage.cluster.apply(account).await?;
    let token = stage.cluster.kubectl(&["create", "token", "guest"]).await?;
    let admin = fs::read_to_string(stage.cluster.shape().kubeconfig())?;
    let mut config: Value = serde_saphyr::from_str(&admin).context("the administrator's kubeconfig")?;
    *config.pointer_mut("/users/0/user").context("a kubeconfig without a user")? =
        json!({"token": token.trim()});
    let kubeconfig = stage.file("guest.kubeconfig");
    fs::write(&kubeconfig, config.to_string())?;
    let check = stage.ambit_as(&kubeconfig, &["check", "-o", "json"]).await?;
    check.is(1)?;
    ensure!(check.failures()? == ["permissions"], "{}", check.said);
    ensure!(check.said.contains("daemonsets.apps") && check.said.contains("not seen"), "{}", check.said);
    let bypass = ["bypass", "default", "--for", "1m", "--reason", "x"];
    stage.ambit_as(&kubeconfig, &bypass).await?.is(3)
}

async fn an_uninstall_without_a_node_for_its_jobs_says_so_at_once(stage: &Stage) -> Result<()> {
    let uninstall = stage.ambit(&["uninstall", "--wait"]).await?;
    uninstall.is(1)?;
    let noted = &uninstall.noted;
    ensure!(
        noted.contains("nothing was removed") && noted.contains("ambit uninstall --wait --no-hooks"),
        "{noted}"
    );
    Ok(())
}

async fn a_server_that_cannot_be_reached_is_no_failure_of_the_mesh(stage: &Stage) -> Result<()> {
    let admin = fs::read_to_string(stage.cluster.shape().kubeconfig())?;
    let mut config: Value = serde_saphyr::from_str(&admin).context("the administrator's kubeconfig")?;
    let server = config.pointer_mut("/clusters/0/cluster/server").context("a kubeconfig without a server")?;
    *server = json!("https://127.0.0.1:1");
    let kubeconfig = stage.file("nowhere.kubeconfig");
    fs::write(&kubeconfig, config.to_string())?;
    for command in ["check", "status"] {
        stage.ambit_as(&kubeconfig, &[command]).await?.is(3)?;
    }
    Ok(())
}

async fn a_bypass_is_written_down_and_ended(stage: &Stage) -> Result<()> {
    stage.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    let begin = ["bypass", "shop", "--for", "30m", "--reason", "the worst night", "-o", "json"];
    let begun = stage.ambit(&begin).await?;
    begun.is(0)?;
    let until = begun.json()?["until"].as_str().context("no end")?.to_owned();
    let annotations = async || {
        let namespace = stage.cluster.api().get("/api/v1/namespaces/shop").await?;
        anyhow::Ok(namespace.pointer("/metadata/annotations").cloned().unwrap_or_default())
    };
    let found = annotations().await?;
    ensure!(found["ambit.mesh/bypass-until"] == until.as_str(), "{found}");
    ensure!(found["ambit.mesh/bypass-reason"] == "the worst night", "{found}");
    ensure!(
        found["ambit.mesh/bypass-by"] == "admin" && found["ambit.mesh/bypass-since"].is_string(),
        "{found}"
    );
    stage.ambit(&["bypass", "shop", "--end"]).await?.is(0)?;
    let found = annotations().await?;
    ensure!(!found.to_string().contains("ambit.mesh/"), "{found}");
    let events = stage.cluster.kubectl(&["-n", "shop", "get", "events"]).await?;
    ensure!(events.contains("BypassBegun") && events.contains("BypassEnded"), "{events}");
    stage.ambit(&["bypass", "shop", "--for", "25h", "--reason", "x"]).await?.is(2)?;
    stage.ambit(&["bypass", "nowhere", "--for", "1h", "--reason", "x"]).await?.is(1)
}

async fn a_bug_report_has_no_secrets(stage: &Stage) -> Result<()> {
    let secret = "apiVersion: v1\nkind: Namespace\nmetadata: {name: ambit-system}\n---\n\
                  apiVersion: v1\nkind: Secret\nmetadata: {name: ambit-ca, namespace: ambit-system}\n\
                  stringData: {ca-key.pem: a-very-private-key}\n";
    stage.cluster.apply(secret).await?;
    let archive = stage.file("report.tar.gz");
    stage.ambit(&["bug-report", "-f", &archive.display().to_string()]).await?.is(0)?;
    let mut command = std::process::Command::new("tar");
    command.args(["-xzO", "-f"]).arg(&archive);
    let text = Ended::of(tokio::task::spawn_blocking(move || command.output()).await??)?;
    text.is(0)?;
    ensure!(
        text.said.contains("ambit-ca") && text.said.contains("ca-key.pem"),
        "the secret's name is missing"
    );
    let hidden = ["a-very-private-key", "YS12ZXJ5LXByaXZhdGUta2V5"];
    ensure!(hidden.iter().all(|secret| !text.said.contains(secret)), "a secret is in the report");
    Ok(())
}

async fn without_helm_an_installation_says_where_to_get_it(stage: &Stage) -> Result<()> {
    let mut command = std::process::Command::new(&stage.program);
    command.args(["install", "--skip-checks", "--kubeconfig"]).arg(stage.cluster.shape().kubeconfig());
    command.env("PATH", "");
    let ended = Ended::of(tokio::task::spawn_blocking(move || command.output()).await??)?;
    ended.is(4)?;
    ensure!(ended.noted.contains("helm.sh"), "{}", ended.noted);
    Ok(())
}
