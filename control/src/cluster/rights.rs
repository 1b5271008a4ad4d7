// SPDX-License-Identifier: Apache-2.0
//! What control's roles (`charts/control/templates/role.yaml`) must allow, what does not work without it, and whether
//! they do: looked at again and again, for the log, the metric and `/status`.

use std::{sync::Arc, time::Duration};

use kubernetes::{Api, Lack, Right};
use parking_lot::RwLock;
use runtime::Shutdown;

use crate::{config::Kubernetes, metrics};

const CLUSTER: &str = "clusterrole/ambit-control";
const OWN: &str = "role/control";
const FOLLOW: &[&str] = &["list", "watch"];
/// To write a condition beside those of others, `get`.
const JUDGE: &[&str] = &["list", "watch", "get"];
const PATCH: &[&str] = &["patch"];
/// One small question each.
const LOOK: Duration = Duration::from_secs(10);

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// Those that are needed whatever is set: group, resource, verbs, what does not work without.
const ALWAYS: [(&str, &str, &[&str], &str); 35] = [
    ("", "namespaces", FOLLOW, "new namespaces and their labels do not count, and get no roots"),
    ("", "nodes", FOLLOW, "workloads have no locality, and new nodes none of their addresses"),
    (
        "",
        "pods",
        FOLLOW,
        "new pods are not known: nobody reaches them by the mesh, and after a moment no certificate is issued",
    ),
    ("", "services", FOLLOW, "new and changed services are not known"),
    ("", "serviceaccounts", FOLLOW, "annotations of service accounts do not count"),
    ("discovery.k8s.io", "endpointslices", FOLLOW, "endpoints of services without a selector are not known"),
    (NETWORKING, "serviceentries", JUDGE, "services outside of the cluster are not known"),
    (NETWORKING, "workloadentries", JUDGE, "workloads outside of the cluster are not known"),
    (NETWORKING, "workloadgroups", JUDGE, "groups of workloads outside of the cluster are not known"),
    (SECURITY, "authorizationpolicies", JUDGE, "new and changed policies are not enforced"),
    (SECURITY, "peerauthentications", JUDGE, "new and changed requirements of mutual TLS are not enforced"),
    (
        SECURITY,
        "requestauthentications",
        JUDGE,
        "new and changed issuers of tokens are not known to waypoints",
    ),
    (TELEMETRY, "telemetries", JUDGE, "new and changed wishes for traces and logs do not count"),
    (TELEMETRY, "telemetries/status", PATCH, "what became of them is not written into their status"),
    (GATEWAY, "gateways", FOLLOW, "waypoints are not known"),
    (GATEWAY, "gatewayclasses", FOLLOW, "waypoints are not known"),
    (GATEWAY, "httproutes", JUDGE, "new and changed routes do not count"),
    (GATEWAY, "grpcroutes", JUDGE, "new and changed routes do not count"),
    (GATEWAY, "tlsroutes", JUDGE, "new and changed routes do not count"),
    (GATEWAY, "tcproutes", JUDGE, "new and changed routes do not count"),
    (GATEWAY, "backendtlspolicies", JUDGE, "new and changed policies of TLS with servers do not count"),
    (GATEWAY, "backendtlspolicies/status", PATCH, "what became of them is not written into their status"),
    (GATEWAY, "httproutes/status", PATCH, "what became of them is not written into their status"),
    (GATEWAY, "grpcroutes/status", PATCH, "what became of them is not written into their status"),
    (GATEWAY, "tlsroutes/status", PATCH, "what became of them is not written into their status"),
    (GATEWAY, "tcproutes/status", PATCH, "what became of them is not written into their status"),
    (NETWORKING, "serviceentries/status", PATCH, "what became of them is not written into their status"),
    (NETWORKING, "workloadentries/status", PATCH, "what became of them is not written into their status"),
    (NETWORKING, "workloadgroups/status", PATCH, "what became of them is not written into their status"),
    (SECURITY, "authorizationpolicies/status", PATCH, "what became of them is not written into their status"),
    (SECURITY, "peerauthentications/status", PATCH, "what became of them is not written into their status"),
    (
        SECURITY,
        "requestauthentications/status",
        PATCH,
        "what became of them is not written into their status",
    ),
    ("", "namespaces/status", PATCH, "what is wrong with them is not written into their status"),
    ("", "services/status", PATCH, "what is wrong with them is not written into their status"),
    (
        GATEWAY,
        "gateways/status",
        PATCH,
        "waypoints get no address, so nobody uses new ones, and what is wrong with them is not written into their status",
    ),
];

const WAYPOINTS: &str = "waypoints are not deployed, or not as their Gateways say";

/// Those that are needed where waypoints are deployed.
const DEPLOY: [(&str, &str, &[&str], &str); 10] = [
    ("", "serviceaccounts", &["get", "create", "patch"], WAYPOINTS),
    ("", "services", &["get", "create", "patch"], WAYPOINTS),
    ("apps", "deployments", &["list", "watch", "get", "create", "patch"], WAYPOINTS),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        &["list", "watch", "get", "create", "patch", "delete"],
        WAYPOINTS,
    ),
    ("policy", "poddisruptionbudgets", &["list", "watch", "get", "create", "patch", "delete"], WAYPOINTS),
    ("networking.k8s.io", "networkpolicies", &["list", "watch", "get", "create", "patch"], WAYPOINTS),
    (
        "",
        "configmaps",
        &["get"],
        "Gateways with spec.infrastructure.parametersRef are not deployed, and policies of TLS with caCertificateRefs believe nobody",
    ),
    (GATEWAY, "gatewayclasses", &["get", "create", "patch"], "there is no class for waypoints"),
    (GATEWAY, "gatewayclasses/status", PATCH, "nobody is told that the class for waypoints is served"),
    (
        GATEWAY,
        "gateways/finalizers",
        &["update"],
        "where the API server asks for it, nothing can be made to go with its Gateway",
    ),
];

/// What is lacking now; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacks(Arc<RwLock<Vec<Lack>>>);

/// Looks after the roles of a cluster.
#[derive(Debug)]
pub(super) struct Rights {
    api: Api,
    needed: Vec<Right>,
    lacks: Lacks,
}

impl Lacks {
    /// All of it.
    pub(crate) fn now(&self) -> Vec<Lack> {
        self.0.read().clone()
    }
}

impl Rights {
    pub(super) fn new(api: Api, settings: &Kubernetes, namespace: &str) -> Self {
        Self { needed: needed(settings, namespace), lacks: Lacks::default(), api }
    }

    pub(super) fn lacks(&self) -> Lacks {
        self.lacks.clone()
    }

    /// Looks once; what is new is logged. An API server that does not answer has changed nothing.
    pub(super) async fn look(&self) {
        let Ok(found) = self.api.lacking(&self.needed).await else { return };
        let before = std::mem::replace(&mut *self.lacks.0.write(), found.clone());
        for Lack { role, resource, verbs, breaks } in found.iter().filter(|lack| !before.contains(lack)) {
            tracing::error!(role, resource, ?verbs, breaks, "the role lacks a rule that the chart gives it");
        }
        for Lack { role, resource, verbs, .. } in before.iter().filter(|lack| !found.contains(lack)) {
            tracing::info!(role, resource, ?verbs, "the role has changed, this is lacking no more");
        }
        metrics::rights_lacking(found.len());
    }

    /// Looks until asked to finish.
    pub(super) async fn keep(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look().await;
        }
    }
}

fn needed(settings: &Kubernetes, namespace: &str) -> Vec<Right> {
    let right = |(group, resource, verbs, breaks), names: &[&str]| Right {
        role: CLUSTER,
        group,
        resource,
        verbs,
        namespace: None,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        breaks,
    };
    let mut needed: Vec<Right> = ALWAYS.iter().map(|always| right(*always, &[])).collect();
    let tokens = "nobody's token is judged: proxies get neither discovery nor certificates";
    needed.push(right(("authentication.k8s.io", "tokenreviews", &["create"], tokens), &[]));
    if settings.waypoints.is_some() {
        needed.extend(DEPLOY.map(|deploy| right(deploy, &[])));
    }
    if let Some(name) = &settings.webhook {
        let breaks = "the API server does not believe the webhook after the root has changed, and asks nobody about objects";
        let resource = (
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            &["list", "watch", "patch"][..],
            breaks,
        );
        needed.push(right(resource, &[name]));
    }
    if let Some(name) = &settings.bundle {
        let breaks =
            "new namespaces get no roots, and changed roots reach nobody, so proxies cannot believe control";
        needed.push(right(("", "configmaps", &["list", "watch", "patch"], breaks), &[name]));
        needed.push(right(("", "configmaps", &["create"], breaks), &[]));
    }
    let own = own(settings, right);
    needed.extend(own.into_iter().map(|right| Right {
        role: OWN,
        namespace: Some(namespace.to_owned()),
        ..right
    }));
    needed
}

/// Those in control's own namespace.
fn own(settings: &Kubernetes, right: impl Fn(Breaks, &[&str]) -> Right) -> Vec<Right> {
    let secrets =
        "a certificate authority that is plugged in or rotated is not seen, and control cannot start again";
    let mut own = vec![
        right(("", "secrets", &["get", "list", "watch"], secrets), &["ambit-ca", "cacerts"]),
        right(("", "secrets", &["update"], "the root is not rotated, and ends some day"), &["ambit-ca"]),
        right(
            (
                "",
                "secrets",
                &["create"],
                "a new mesh gets no root, and a root that was deleted does not come back",
            ),
            &[],
        ),
        right(
            (
                "coordination.k8s.io",
                "leases",
                &["get", "update"],
                "no replica leads: conditions, roots and rotations are not written",
            ),
            &[super::LEASE],
        ),
        right(("coordination.k8s.io", "leases", &["create"], "no replica leads a new mesh"), &[]),
    ];
    if settings.waypoints.is_some() {
        let breaks = "overlays for all waypoints of a class are not known, so none is deployed";
        own.push(right(("", "configmaps", FOLLOW, breaks), &[]));
    }
    own
}

/// Group, resource, verbs, and what does not work without.
type Breaks = (&'static str, &'static str, &'static [&'static str], &'static str);
