// SPDX-License-Identifier: Apache-2.0
//! The shop on Kubernetes with a waypoint, and the Zipkin that it sends its spans to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::StatusCode;
use lab::{
    collectors,
    kube::{mesh, place::Program, shape::node_name},
    net::Namespace,
    observe::Access,
    process::Process,
};
use serde_json::Value;

use super::{Demo, NAMESPACE, ROLL_OUT, requests};
use crate::{demo::Progress, packages, step::say};

const NEXT: &str = include_str!("next.yaml");
const CALL: Duration = Duration::from_secs(15);
/// Every request has a span where nobody before it has decided.
const TELEMETRY: &str = "\
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: shop}
spec:
  tracing:
  - providers: [{name: zipkin}]
    randomSamplingPercentage: 100
";

/// A Zipkin on a node, outside of Kubernetes: somebody else's.
pub(super) struct Zipkin {
    pub(super) address: SocketAddr,
    namespace: Namespace,
    _process: Process,
}

impl Demo<'_> {
    pub(super) async fn start_zipkin(&self) -> Result<Zipkin> {
        self.progress.say("starting a Zipkin beside the cluster");
        let shape = self.cluster.shape();
        let number = shape.numbers().next().context("no node")?;
        let node = node_name(number);
        let path =
            packages::on_path("java").context("Java is needed: apt-get install openjdk-17-jre-headless")?;
        let program = Program {
            name: "zipkin".to_owned(),
            path,
            arguments: collectors::zipkin().await?,
            environment: Vec::new(),
            log: shape.log("zipkin"),
        };
        let process = self.cluster.start_on(&node, "zipkin", program)?;
        let namespace = shape.namespace(&node);
        collectors::zipkin_ready(&process, &namespace).await?;
        let address = SocketAddr::new(IpAddr::V4(shape.block.fabric(number).v4), collectors::ZIPKIN);
        Ok(Zipkin { address, namespace, _process: process })
    }

    /// Puts a waypoint before cart and catalog, and opens the next version of the catalog.
    pub(super) async fn extend(&self) -> Result<()> {
        Progress::heading("a waypoint for cart and catalog");
        self.cluster.apply(&NEXT.replace("@SAMPLE@", mesh::SAMPLE)).await?;
        self.cluster.rolled_out(NAMESPACE, &format!("deployment/{}", requests::NEXT), ROLL_OUT).await?;
        self.apply("guards.yaml", requests::GUARDS).await?;
        let apply = ["waypoint", "apply", "-n", NAMESPACE, "--name", requests::WAYPOINT, "--wait"];
        say(format!("$ ambit {}", apply.join(" ")));
        let ambit = self.settings.binary("ambit")?;
        say(self.cluster.run_program("ambit", ambit, &apply).await?);
        let label = format!("istio.io/use-waypoint={}", requests::WAYPOINT);
        let [cart, catalog] = requests::BEHIND;
        self.kubectl(&["-n", NAMESPACE, "label", "service", cart, catalog, &label]).await?;
        self.apply("telemetry.yaml", TELEMETRY).await?;
        self.apply("routes.yaml", requests::ROUTES).await
    }
}

/// The shop with a waypoint.
pub(super) struct Extended<'a> {
    pub(super) demo: &'a Demo<'a>,
    pub(super) zipkin: &'a Zipkin,
}

impl requests::Place for Extended<'_> {
    async fn ask(&self, url: &str, header: Option<(&str, &str)>) -> Result<(StatusCode, String)> {
        let exec =
            ["-n", NAMESPACE, "exec", "deployment/frontend", "-c", "app", "--", "/lab-app", "call", url];
        let header = header.map(|(name, value)| format!("--header={name}: {value}"));
        let all: Vec<&str> = exec.into_iter().chain(header.as_deref()).collect();
        let kubectl = ("kubectl", self.demo.cluster.shape().tools.program("kubectl"));
        let output = self.demo.cluster.outcome_of(kubectl, &all, CALL).await?;
        // Its first line is the status; that it is no success is not for kubectl to judge.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, body) = said
            .split_once('\n')
            .with_context(|| format!("no answer from {url}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let code = status.split(' ').next().unwrap_or_default();
        Ok((code.parse().with_context(|| format!("{status} is no status"))?, body.trim_end().to_owned()))
    }

    async fn log(&self) -> Result<Vec<Access>> {
        let label = format!("gateway.networking.k8s.io/gateway-name={}", requests::WAYPOINT);
        let logs = ["-n", NAMESPACE, "logs", "-l", &label, "--tail=2000"];
        Ok(Access::parse(&self.demo.cluster.kubectl(&logs).await?))
    }

    async fn spans(&self, trace: &str) -> Result<Vec<Value>> {
        collectors::zipkin_spans(&self.zipkin.namespace, trace).await
    }
}
