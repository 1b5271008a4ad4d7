// SPDX-License-Identifier: Apache-2.0
//! A waypoint on the cluster: applied, routed by, scaled, rolled out, killed and deleted while requests go on.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::BoxFuture;
use lab::{
    checks, echo, eventually,
    kube::{
        gateway_api,
        suite::{Check, say},
    },
    observe::Access,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    checks::archived,
    load::{Outcome, TO_THE_END, none_failed, signal_containers},
    scene::{ROLL_OUT, SOON, Scene, addresses, name, restarts, url},
};

const LOAD: (&str, &str) = ("shop", "load");
const CLIENT: (&str, &str) = ("shop", "client-a");
const PODS: &str = "gateway.networking.k8s.io/gateway-name=waypoint";
const REQUESTS: &str = "istio_requests_total";
/// A connection is reset with the waypoint that has it.
const LOST_WITH_A_KILLED_ONE: u64 = 1;
/// A second version of the web, and where its number of replicas is said.
const CANARY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: canary, namespace: shop}
spec:
  selector: {matchLabels: {app: canary}}
  template:
    metadata: {labels: {app: canary}}
    spec:
      containers:
      - {name: app, image: \"@SAMPLE@\", imagePullPolicy: Never, args: [serve, --name, canary]}
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec:
  selector: {app: canary}
  ports: [{name: http, port: 80, targetPort: 8080}]
";
const SCALED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: ambit-waypoint
  infrastructure: {parametersRef: {group: \"\", kind: ConfigMap, name: waypoint}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

/// However its path is written.
const ADMIN: [&str; 3] = ["http://web/admin/", "http://web/x/../admin/", "http://web/%61dmin/"];
const NO_ADMIN: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*]}}]}]
";

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_waypoint_takes_over_a_namespace_without_a_failed_request,
        requests_follow_headers_and_weights_without_a_failure,
        a_path_that_a_policy_denies_is_answered_by_the_waypoint,
        a_waypoint_that_scales_and_rolls_out_fails_no_request,
        a_killed_waypoint_loses_what_it_had_under_way_and_no_more,
        a_waypoint_that_is_deleted_under_load_fails_no_request,
    ]
}

async fn a_waypoint_takes_over_a_namespace_without_a_failed_request(scene: &Scene) -> Result<()> {
    scene.cluster.apply(&gateway_api::all()?).await?;
    scene.apply(CANARY).await?;
    scene.cluster.rolled_out("shop", "deployment/canary", ROLL_OUT).await?;
    scene.start_load(LOAD, "http://web/", TO_THE_END).await?;
    let applied = async {
        eventually(ROLL_OUT, "the class of waypoints", async || {
            scene.object("/apis/gateway.networking.k8s.io/v1/gatewayclasses/ambit-waypoint").await
        })
        .await?;
        scene.ambit(&["waypoint", "apply", "-n", "shop", "--enroll-namespace", "--wait"]).await?;
        scene.passes_the_waypoint().await
    };
    let applied = applied.await;
    none_failed(&scene.end_load(LOAD).await?)?;
    applied?;
    // A pod's own address leads past the waypoint of its service.
    let web = scene.pods("shop", "app=web").await?;
    let past = url(*addresses(web.first().context("no web")?).first().context("no address")?, echo::HTTP);
    eventually(SOON, "what enforcing would stop", async || {
        scene.call(CLIENT, &past).await?;
        let said = scene.ambit(&["waypoint", "status", "-n", "shop", "-o", "json"]).await?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("reading {said}"))?;
        ensure!(said.pointer("/0/wouldStop").and_then(Value::as_u64) > Some(0), "{said}");
        Ok(())
    })
    .await
}

async fn requests_follow_headers_and_weights_without_a_failure(scene: &Scene) -> Result<()> {
    let weights = async {
        for (web, canary) in [(100, 0), (50, 50), (0, 100)] {
            scene.apply(&shares(web, canary)).await?;
            scene.answered_by_the_canary(canary).await?;
        }
        anyhow::Ok(())
    };
    scene.through_the_waypoint(Box::pin(weights), none_failed).await?;
    scene.apply(&by_header()).await?;
    eventually(SOON, "the header alone deciding", async || {
        let asked = ["call", "http://web/", "--timeout-ms", "3000"];
        let plain = scene.run(CLIENT, &asked).await?;
        let marked =
            scene.run(CLIENT, &[&asked, ["--header", "x-version: canary"].as_slice()].concat()).await?;
        ensure!(plain.contains(r#""name":"web""#), "without it: {plain}");
        ensure!(marked.contains(r#""name":"canary""#), "with it: {marked}");
        Ok(())
    })
    .await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "httproute", "web"]).await.map(drop)
}

async fn a_path_that_a_policy_denies_is_answered_by_the_waypoint(scene: &Scene) -> Result<()> {
    scene.apply(NO_ADMIN).await?;
    for url in ADMIN {
        eventually(SOON, "the policy in force", async || match scene.call(CLIENT, url).await {
            Ok(answer) => bail!("{url}: {answer:?}"),
            Err(refused) => {
                let said = format!("{refused:#}");
                ensure!(said.contains("403"), "{url}: {said}");
                Ok(())
            }
        })
        .await?;
    }
    scene.answers(CLIENT, "http://web/books").await?;
    // It may be another waypoint that is asked, which hears of the policy by itself.
    eventually(SOON, "the command line saying so", async || scene.is_explained().await).await?;
    scene.is_reported().await?;
    let logs = ["-n", "shop", "logs", "-l", PODS, "--tail=500"];
    eventually(SOON, "a line about it", async || {
        let lines = Access::parse(&scene.cluster.kubectl(&logs).await?);
        // What was asked before the policy was in force has lines too, which name none.
        let is_it = |access: &Access| {
            access.field("path").starts_with("/admin") && access.field("policy") == "shop/no-admin"
        };
        ensure!(lines.iter().any(is_it), "{lines:?}");
        Ok(())
    })
    .await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "authorizationpolicy", "no-admin"]).await.map(drop)
}

async fn a_waypoint_that_scales_and_rolls_out_fails_no_request(scene: &Scene) -> Result<()> {
    let changed = async {
        scene.apply(SCALED).await?;
        for replicas in [1, 3, 1, 2] {
            scene.apply(&replicas_of(replicas)).await?;
            eventually(ROLL_OUT, &format!("{replicas} waypoints"), async || {
                let found = scene.waypoints().await?.len();
                ensure!(found == replicas, "{found} of {replicas}");
                Ok(())
            })
            .await?;
        }
        scene.cluster.kubectl(&["-n", "shop", "rollout", "restart", "deployment/waypoint"]).await?;
        scene.cluster.rolled_out("shop", "deployment/waypoint", ROLL_OUT).await?;
        scene.passes_the_waypoint().await
    };
    scene.through_the_waypoint(Box::pin(changed), none_failed).await
}

async fn a_killed_waypoint_loses_what_it_had_under_way_and_no_more(scene: &Scene) -> Result<()> {
    let killed = async {
        let both = eventually(SOON, "two waypoints", async || {
            let pods = scene.waypoint_pods().await?;
            ensure!(pods.len() == 2, "{} are ready", pods.len());
            Ok(pods)
        });
        for pod in both.await? {
            let before = restarts(&pod);
            signal_containers(&pod, Signal::SIGKILL)?;
            eventually(SOON, "the waypoint again", async || {
                let again = scene.pod("shop", name(&pod)?).await?;
                ensure!(restarts(&again) > before && is_ready(&again), "it has not started again");
                Ok(())
            })
            .await?;
            scene.passes_the_waypoint().await?;
        }
        anyhow::Ok(())
    };
    let few = |outcomes: &[Outcome]| {
        for outcome in outcomes {
            say(&format!("both waypoints killed, one after the other: {}", outcome.said));
            ensure!(outcome.failed <= 2 * LOST_WITH_A_KILLED_ONE && outcome.ok > 0, "{}", outcome.said);
        }
        Ok(())
    };
    scene.through_the_waypoint(Box::pin(killed), few).await
}

async fn a_waypoint_that_is_deleted_under_load_fails_no_request(scene: &Scene) -> Result<()> {
    let deleted = async {
        let before = scene.mutual("load", "web").await?;
        scene.cluster.kubectl(&["label", "namespace", "shop", "istio.io/use-waypoint-"]).await?;
        eventually(SOON, "requests that pass it by", async || {
            ensure!(scene.mutual("load", "web").await? > before, "they still come through it");
            Ok(())
        })
        .await?;
        scene.ambit(&["waypoint", "delete", "-n", "shop", "waypoint"]).await?;
        eventually(ROLL_OUT, "its objects gone", async || {
            let list =
                ["-n", "shop", "get", "deployment,service,serviceaccount,pdb", "-l", PODS, "-o", "name"];
            let left = scene.cluster.kubectl(&list).await?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
        .await
    };
    scene.through_the_waypoint(Box::pin(deleted), none_failed).await?;
    let rest = ["deployment/canary", "service/canary", "configmap/waypoint", "--ignore-not-found"];
    scene.cluster.kubectl(&[&["-n", "shop", "delete"], rest.as_slice()].concat()).await.map(drop)
}

impl Scene {
    /// Does something while requests go on through the waypoint, and judges what became of them.
    async fn through_the_waypoint(
        &self,
        trouble: BoxFuture<'_, Result<()>>,
        judge: impl Fn(&[Outcome]) -> Result<()>,
    ) -> Result<()> {
        self.start_load(LOAD, "http://web/", TO_THE_END).await?;
        let trouble = async {
            self.passes_the_waypoint().await?;
            trouble.await
        };
        let trouble = trouble.await;
        let outcomes = self.end_load(LOAD).await?;
        trouble?;
        judge(&outcomes)
    }

    /// The command line says what the proxies on the way would do, which is what they did.
    async fn is_explained(&self) -> Result<()> {
        let from = format!("{}/{}", CLIENT.0, CLIENT.1);
        let explain =
            async |path| self.ambit_says(&["explain", &from, "shop/web", "--path", path, "-o", "json"]).await;
        let (said, code) = explain("/books").await?;
        ensure!(code == 0, "{code}: {said}");
        let (said, code) = explain("/x/../admin/").await?;
        ensure!(code == 1 && said.contains("shop/no-admin"), "{code}: {said}");
        Ok(())
    }

    /// A report on the mesh has what its waypoints know.
    async fn is_reported(&self) -> Result<()> {
        let archive = self.cluster.shape().state.join("waypoints.tar.gz");
        self.ambit(&["bug-report", "-f", &archive.display().to_string()]).await?;
        let files = archived(&archive, "-tz").await?;
        let pods = self.waypoint_pods().await?;
        ensure!(!pods.is_empty(), "no waypoint is ready");
        for pod in pods {
            for file in ["log.txt", "metrics.txt", "config_dump.json"] {
                let wanted = format!("waypoints/shop/{}/{file}", name(&pod)?);
                ensure!(files.lines().any(|file| file.ends_with(&wanted)), "no {wanted} among\n{files}");
            }
        }
        Ok(())
    }

    /// Waits until a request of the load has come through a waypoint that is there now.
    async fn passes_the_waypoint(&self) -> Result<()> {
        let from = [("source_workload", "load"), ("response_code", "200")];
        let now = async || Self::count_at(&self.waypoints().await?, REQUESTS, &from).await;
        // One that was killed is called ready until the kubelet has noticed.
        let before = eventually(SOON, "metrics of the waypoints", now).await?;
        eventually(SOON, "requests through the waypoint", async || {
            let now = now().await?;
            ensure!(now > before, "{now} after {before}");
            Ok(())
        })
        .await
    }

    /// The waypoints that are ready and stay: one that drains is there for a while.
    async fn waypoint_pods(&self) -> Result<Vec<Value>> {
        let mut pods = self.pods("shop", PODS).await?;
        pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none() && is_ready(pod));
        Ok(pods)
    }

    /// Their addresses.
    async fn waypoints(&self) -> Result<Vec<IpAddr>> {
        let pods = self.waypoint_pods().await?;
        let address = |pod: &Value| addresses(pod).first().copied().context("a waypoint has no address");
        pods.iter().map(address).collect()
    }

    /// Waits until a share of the answers, in percent, comes from the canary.
    async fn answered_by_the_canary(&self, percent: u32) -> Result<()> {
        let whom = if percent == 0 { "web" } else { "canary" };
        // Ten calls one after the other take a while, and it may take more than one round of them.
        eventually(ROLL_OUT, &format!("{percent}% of answers from the canary"), async || {
            let mut names = String::new();
            for _ in 0..10 {
                write!(names, "{} ", self.call(CLIENT, "http://web/").await?.name)?;
            }
            let both = names.contains("web") && names.contains("canary");
            ensure!(names.contains(whom) && both == (percent == 50), "answers of {names}");
            Ok(())
        })
        .await
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A route of the web's by weight.
fn shares(web: u32, canary: u32) -> String {
    route(&format!(
        "  - backendRefs: [{{name: web, port: 80, weight: {web}}}, {{name: canary, port: 80, weight: {canary}}}]\n"
    ))
}

/// A route of the web's by a header.
fn by_header() -> String {
    route(
        "  - matches: [{headers: [{name: x-version, value: canary}]}]\n    backendRefs: [{name: canary, port: 80}]\n  - \
         backendRefs: [{name: web, port: 80}]\n",
    )
}

fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n{rules}"
    )
}

fn replicas_of(count: usize) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: waypoint, namespace: shop}}\ndata:\n  deployment: '{{spec: \
         {{replicas: {count}}}}}'\n"
    )
}
