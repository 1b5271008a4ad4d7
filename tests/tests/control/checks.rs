// SPDX-License-Identifier: Apache-2.0
//! What control does while all is well.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use identity::{AuthorityError, ca::Subject};
use lab::{
    checks, eventually,
    kube::suite::{Check, say},
};
use mesh::{Index, policy::Action};
use serde_json::{Value, json};
use xds::Replica;

use crate::{
    crds::{AUTHORIZATION, ENTRY, PEER},
    link::Link,
    plane::{CONFIGURATION, Plane, SOON, Scene, until},
};

/// The cluster, two replicas of control, and a node proxy that follows the first.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) first: Plane,
    pub(crate) second: Plane,
    /// The second one's way to the API server.
    pub(crate) link: Link,
    pub(crate) proxy: Replica,
    pub(crate) token: String,
    pub(crate) roots: String,
}

pub(crate) fn all() -> Vec<Check<Stage>> {
    checks![
        two_replicas_that_start_at_once_have_one_root_and_one_leader,
        what_is_applied_with_kubectl_reaches_a_node_proxy,
        a_lone_change_is_pushed_at_once_and_a_burst_arrives_whole,
        a_kind_that_appears_later_is_picked_up,
        an_unknown_field_of_a_policy_lets_nobody_in_and_is_said,
        a_label_that_names_no_waypoint_is_said_where_it_is_until_it_is_gone,
        a_broken_object_is_named_and_the_others_go_on,
        a_broken_policy_is_refused_and_one_without_effect_is_warned_of,
        roots_are_in_every_namespace_and_come_back,
        a_certificate_is_for_who_runs_on_the_nodes_pods_and_nobody_else,
    ]
}

impl Stage {
    /// Starts both replicas at once and waits for them.
    pub(crate) async fn new(scene: Scene) -> Result<Self> {
        let first = scene.start("control-0", (15012, 15014))?;
        let (link, kubeconfig) = scene.link().await?;
        let kubeconfig = kubeconfig.display().to_string();
        let second =
            scene.start_with("control-1", (16112, 16114), &[("AMBIT_KUBECONFIG", kubeconfig.as_str())])?;
        tokio::try_join!(first.ready(), second.ready())?;
        let roots = eventually(SOON, "the roots in a namespace", async || scene.roots("shop").await).await?;
        let token = scene.pod_token("ambit-system", "ztunnel-a", "istio-ca").await?;
        let proxy = scene.subscribe(&first, &token).await?;
        Ok(Self { scene, first, second, link, proxy, token, roots })
    }

    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        self.scene.cluster.apply(yaml).await.map(drop)
    }
}

/// Names of the pods that a proxy knows.
pub(crate) fn knows_pod(index: &Index, name: &str) -> bool {
    index.workloads().any(|workload| workload.name == name)
}

async fn two_replicas_that_start_at_once_have_one_root_and_one_leader(stage: &Stage) -> Result<()> {
    let leads = |status: &Value| status.pointer("/cluster/leads").and_then(Value::as_bool);
    eventually(SOON, "one leader", async || {
        let leaders = [leads(&stage.first.status().await?), leads(&stage.second.status().await?)];
        ensure!(leaders.iter().filter(|leads| **leads == Some(true)).count() == 1, "leaders: {leaders:?}");
        Ok(())
    })
    .await?;
    // The second one's server is believed by who believes the roots that were published.
    stage.scene.subscribe(&stage.second, &stage.token).await?;
    let identity = "spiffe://cluster.local/ns/ambit-system/sa/ztunnel";
    for plane in [&stage.first, &stage.second] {
        let issued = stage.scene.certificate(plane, (&stage.token, Subject::Caller), identity).await?;
        issued.context("a certificate of its own identity")?;
    }
    Ok(())
}

async fn what_is_applied_with_kubectl_reaches_a_node_proxy(stage: &Stage) -> Result<()> {
    until(&stage.proxy, "pod, service and their bond", |index| {
        let cart = index.workloads().find(|workload| workload.name == "cart");
        let service = index.services().find(|service| service.name == "cart" && service.namespace == "shop");
        let bound = service.is_some_and(|service| {
            !service.vips.is_empty() && index.endpoints(service).any(|endpoint| endpoint.name == "cart")
        });
        let placed = cart.is_some_and(|cart| cart.node == "node-a" && cart.locality.region == "north");
        bound && placed
    })
    .await?;
    Ok(())
}

/// Creates and deletes a pod and says how long the proxy took to hear of each.
async fn a_lone_change_is_pushed_at_once_and_a_burst_arrives_whole(stage: &Stage) -> Result<()> {
    let api = stage.scene.cluster.api();
    let pod = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("burst-{number}"), "namespace": "shop"},
            "spec": {"nodeName": "node-b", "serviceAccountName": "till", "containers": [{"name": "app", "image": "none"}]},
        })
    };
    let status = |number: usize| json!({"status": {"phase": "Running", "podIP": format!("10.9.{}.{}", 1 + number / 200, 1 + number % 200)}});
    let pods = "/api/v1/namespaces/shop/pods";
    let mut lone = Vec::new();
    for number in 0..10 {
        api.create(pods, &pod(number)).await?;
        let name = format!("burst-{number}");
        let started = Instant::now();
        api.merge(&format!("{pods}/{name}/status"), &status(number)).await?;
        until(&stage.proxy, "a pod", |index| knows_pod(index, &name)).await?;
        lone.push(started.elapsed());
    }
    let started = Instant::now();
    for number in 10..110 {
        api.create(pods, &pod(number)).await?;
        api.merge(&format!("{pods}/burst-{number}/status"), &status(number)).await?;
    }
    let all = |index: &Index| (0..110).all(|number| knows_pod(index, &format!("burst-{number}")));
    until(&stage.proxy, "a hundred pods", all).await?;
    let burst = started.elapsed();
    lone.sort();
    say(&format!("from before the API write to the proxy: one pod {lone:?}; a hundred in {burst:?}"));
    clear(stage).await?;
    // Whatever else the machine does adds to some of them; what waits for more changes adds to each.
    let quickest = lone.first().copied().unwrap_or(Duration::MAX);
    ensure!(quickest < Duration::from_millis(250), "a lone change takes {quickest:?}");
    Ok(())
}

/// Takes the pods away from node b, but for the one that belongs there.
async fn clear(stage: &Stage) -> Result<()> {
    let words =
        "-n shop delete pod --field-selector=spec.nodeName=node-b --wait=false --grace-period=0 --force";
    stage.scene.cluster.kubectl(&words.split(' ').collect::<Vec<_>>()).await?;
    let none = |index: &Index| !index.workloads().any(|workload| workload.name.starts_with("burst"));
    until(&stage.proxy, "their end", none).await?;
    let till = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "till", "namespace": "shop"},
        "spec": {"nodeName": "node-b", "serviceAccountName": "till", "containers": [{"name": "app", "image": "none"}]},
    });
    stage.scene.cluster.api().create("/api/v1/namespaces/shop/pods", &till).await.map(drop)
}

async fn a_kind_that_appears_later_is_picked_up(stage: &Stage) -> Result<()> {
    for custom in [AUTHORIZATION, PEER, ENTRY] {
        stage.apply(&custom.definition()).await?;
    }
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}
";
    eventually(SOON, "the kind served", async || stage.apply(policy).await).await?;
    until(&stage.proxy, "the policy", |index| {
        index.policies().any(|policy| policy.name.name == "guard" && policy.action == Action::Deny)
    })
    .await?;
    Ok(())
}

async fn an_unknown_field_of_a_policy_lets_nobody_in_and_is_said(stage: &Stage) -> Result<()> {
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: unknown, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {namespaces: [shop], moons: [full]}}]
";
    stage.apply(policy).await?;
    until(&stage.proxy, "a policy that allows nothing", |index| {
        index.policies().any(|policy| {
            policy.name.name == "unknown" && policy.action == Action::Allow && policy.rules.is_empty()
        })
    })
    .await?;
    eventually(SOON, "a report", async || {
        let said = stage.first.reports("AuthorizationPolicy shop/unknown").await?;
        let [(field, message)] = said.as_slice() else { bail!("reports: {said:?}") };
        ensure!(field == "spec.rules[0].from[0].source.moons", "it says {field}: {message}");
        Ok(())
    })
    .await?;
    eventually(SOON, "a condition", async || {
        let object = "authorizationpolicies/unknown";
        let (status, text) = condition(stage, "security.istio.io/v1", object, "ZtunnelAccepted").await?;
        ensure!(status == "False" && text.contains("source.moons"), "the condition is {status}: {text}");
        Ok(())
    })
    .await?;
    stage.scene.cluster.kubectl(&["-n", "shop", "delete", "authorizationpolicies", "--all"]).await?;
    until(&stage.proxy, "no policies", |index| index.policies().next().is_none()).await?;
    eventually(SOON, "no report", async || {
        let said = stage.first.reports("AuthorizationPolicy shop/unknown").await?;
        ensure!(said.is_empty(), "it is still said: {said:?}");
        Ok(())
    })
    .await
}

async fn a_label_that_names_no_waypoint_is_said_where_it_is_until_it_is_gone(stage: &Stage) -> Result<()> {
    let cluster = &stage.scene.cluster;
    let service = "
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop, labels: {istio.io/use-waypoint: nowhere}}
spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}
";
    stage.apply(service).await?;
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/use-waypoint=nowhere"]).await?;
    let places = ["/api/v1/namespaces/shop/services/odd", "/api/v1/namespaces/shop"];
    for place in places {
        eventually(SOON, "a condition", async || {
            let (status, text) = condition_at(stage, place, "AmbitAccepted").await?;
            ensure!(
                status == "False" && text.contains("nowhere"),
                "the condition of {place} is {status}: {text}"
            );
            Ok(())
        })
        .await?;
    }
    for object in [["namespace", "shop"], ["service", "odd"]] {
        let label = ["-n", "shop", "label", object[0], object[1], "istio.io/use-waypoint-"];
        cluster.kubectl(&label).await?;
    }
    for place in places {
        eventually(SOON, "no condition", async || {
            let left = condition_at(stage, place, "AmbitAccepted").await;
            ensure!(left.is_err(), "{place} still has {left:?}");
            Ok(())
        })
        .await?;
    }
    cluster.kubectl(&["-n", "shop", "delete", "service", "odd"]).await.map(drop)
}

async fn a_broken_object_is_named_and_the_others_go_on(stage: &Stage) -> Result<()> {
    let entries = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: broken, namespace: shop}
spec: {hosts: [broken.example], ports: [{number: 80, protocol: TCP, name: tcp}], resolution: MAYBE}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good, namespace: shop}
spec: {hosts: [good.example], ports: [{number: 80, protocol: TCP, name: tcp}], resolution: DNS, moon: full}
";
    stage.apply(entries).await?;
    until(&stage.proxy, "the good one", |index| {
        index.services().any(|service| service.hostname.as_str() == "good.example")
    })
    .await?;
    for (name, wrong) in [("broken", "spec.resolution"), ("good", "spec.moon")] {
        eventually(SOON, "reports", async || {
            let said = stage.first.reports(&format!("ServiceEntry shop/{name}")).await?;
            ensure!(said.iter().any(|(field, _)| field == wrong), "reports: {said:?}");
            Ok(())
        })
        .await?;
    }
    for name in ["good", "broken"] {
        eventually(SOON, "a condition", async || {
            let (status, _) = condition(
                stage,
                "networking.istio.io/v1",
                &format!("serviceentries/{name}"),
                "AmbitAccepted",
            )
            .await?;
            ensure!(status == "False", "the condition of {name} is {status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn a_broken_policy_is_refused_and_one_without_effect_is_warned_of(stage: &Stage) -> Result<()> {
    let address = stage.first.webhook();
    stage
        .apply(&format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: \
             {CONFIGURATION}}}\nwebhooks:\n- name: objects.validate.ambit.mesh\n  clientConfig: {{url: \
             \"https://{address}/validate\"}}\n  rules:\n  - {{apiGroups: [security.istio.io], apiVersions: [v1], resources: \
             [authorizationpolicies], operations: [CREATE, UPDATE]}}\n  failurePolicy: Fail\n  sideEffects: None\n  \
             admissionReviewVersions: [v1]\n"
        ))
        .await?;
    let judged = policies_are_judged(stage).await;
    // Without a replica that answers, nobody could change a policy.
    let delete = ["delete", "validatingwebhookconfiguration", CONFIGURATION];
    stage.scene.cluster.kubectl(&delete).await?;
    judged
}

async fn policies_are_judged(stage: &Stage) -> Result<()> {
    let policy = |rule: &str| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "asked", "namespace": "shop"},
            "spec": serde_json::from_str::<Value>(rule).unwrap_or_default(),
        })
    };
    let files = &stage.scene.cluster.shape().state;
    let asked = async |rule: &str, more: &[&str]| {
        let file = files.join("asked.json");
        std::fs::write(&file, policy(rule).to_string())?;
        let file = file.display().to_string();
        let apply = ["apply", "--dry-run=server", "-f", file.as_str()];
        stage.scene.cluster.kubectl(&[&apply, more].concat()).await
    };
    let broken = r#"{"rules": [{"from": [{"source": {"ipBlocks": ["ten.dot.zero"]}}]}]}"#;
    // The API server hears of the configuration after a moment, and asks in vain until the leader has written the
    // roots.
    eventually(SOON, "a broken policy refused", async || {
        let Err(refused) = asked(broken, &[]).await else { bail!("it is let in") };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("denied the request: spec.rules[0].from[0].source.ipBlocks"), "{refused}");
        Ok(())
    })
    .await?;
    let good = r#"{"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]}"#;
    asked(good, &["--warnings-as-errors"]).await?;
    let idle = r#"{"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}"#;
    asked(idle, &[]).await?;
    let Err(warned) = asked(idle, &["--warnings-as-errors"]).await else { bail!("no warning") };
    ensure!(format!("{warned:#}").contains("denies nothing"), "{warned:#}");
    Ok(())
}

async fn roots_are_in_every_namespace_and_come_back(stage: &Stage) -> Result<()> {
    let expected = stage.scene.roots("shop").await?;
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: late}}").await?;
    let same = async || {
        let found = stage.scene.roots("late").await?;
        ensure!(found == expected, "other roots");
        Ok(())
    };
    eventually(SOON, "the roots in a new namespace", same).await?;
    stage.scene.cluster.kubectl(&["-n", "late", "delete", "configmap", "istio-ca-root-cert"]).await?;
    eventually(SOON, "the roots again", same).await?;
    let patch = json!({"data": {"root-cert.pem": "nonsense"}});
    stage.scene.cluster.api().merge("/api/v1/namespaces/late/configmaps/istio-ca-root-cert", &patch).await?;
    eventually(SOON, "the right roots again", same).await
}

async fn a_certificate_is_for_who_runs_on_the_nodes_pods_and_nobody_else(stage: &Stage) -> Result<()> {
    let ask = async |token: &str, subject, identity: &str| {
        stage.scene.certificate(&stage.first, (token, subject), identity).await
    };
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let issued = ask(&stage.token, Subject::Impersonated, cart).await?;
    ensure!(issued.is_ok_and(|certificate| certificate.identity().to_string() == cart), "not issued");
    eventually(SOON, "the audit", async || {
        let log = stage.first.process().log();
        ensure!(log.contains("certificate issued"), "no certificate was issued");
        ensure!(log.contains("ambit-system/ztunnel on node-a"), "nobody has asked for it");
        Ok(())
    })
    .await?;

    let other_node = "spiffe://cluster.local/ns/shop/sa/till";
    let elsewhere = stage.scene.pod_token("ambit-system", "ztunnel-a", "somebody-else").await?;
    let own = stage.scene.pod_token("shop", "cart", "istio-ca").await?;
    for (token, identity, reason) in [
        (&stage.token, other_node, "runs on node node-a"),
        (&elsewhere, cart, "refused"),
        (&own, other_node, "not the service account of a node proxy"),
        (&"nonsense".to_owned(), cart, "refused"),
    ] {
        let refused = ask(token, Subject::Impersonated, identity).await?;
        let Err(AuthorityError::Refused { reason: text }) = &refused else {
            bail!("{identity} by another: {refused:?}");
        };
        ensure!(text.contains(reason), "the reason is {text}, not {reason}");
    }
    let issued = ask(&own, Subject::Caller, cart).await?;
    issued.context("its own identity")?;
    Ok(())
}

/// Status and message of a condition of an object in the namespace of the shop.
async fn condition(stage: &Stage, api: &str, object: &str, kind: &str) -> Result<(String, String)> {
    condition_at(stage, &format!("/apis/{api}/namespaces/shop/{object}"), kind).await
}

pub(crate) async fn condition_at(stage: &Stage, path: &str, kind: &str) -> Result<(String, String)> {
    let found = stage.scene.cluster.api().get(path).await?;
    let conditions =
        found.pointer("/status/conditions").and_then(Value::as_array).context("no conditions")?;
    let is_it = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(kind);
    let condition = conditions.iter().find(is_it).with_context(|| format!("no {kind}: {conditions:?}"))?;
    let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((text("status"), text("message")))
}
