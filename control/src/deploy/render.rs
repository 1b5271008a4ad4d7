// SPDX-License-Identifier: Apache-2.0
//! The objects of a waypoint as they are without overlays.

use serde_json::{Map, Value, json};

use super::{MADE_BY, PartKind, Settings};
use crate::{
    objects::{Gateway, Labels},
    translate::waypoint::{GATEWAY_NAME, MANAGED, MANAGED_WAYPOINT},
};

const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Who may be in two nodes and two zones is.
const REPLICAS: u32 = 2;
const MOST_REPLICAS: u32 = 10;
/// Percent of what is requested.
const LOAD: u32 = 75;
/// Seconds from SIGTERM to SIGKILL: connections have this long to go elsewhere.
const GRACE: u32 = 60;
const NOBODY: u32 = 65532;
/// Annotation of a Gateway: servers are told who the client is.
const CLIENT_TO_SERVERS: &str = "ambient.istio.io/xfcc-include-client-identity";
const ROOTS: &str = "/var/run/secrets/istio";
const TOKENS: &str = "/var/run/secrets/tokens";

/// One of them.
pub(super) fn render(kind: PartKind, gateway: &Gateway, settings: &Settings) -> Value {
    let spec = match kind {
        PartKind::ServiceAccount => None,
        PartKind::Service => Some(service(gateway)),
        PartKind::Deployment => Some(deployment(gateway, settings)),
        PartKind::HorizontalPodAutoscaler => Some(autoscaler(gateway)),
        PartKind::PodDisruptionBudget => {
            Some(json!({"maxUnavailable": 1, "selector": {"matchLabels": selector(gateway)}}))
        }
        PartKind::NetworkPolicy => Some(policy(gateway)),
    };
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": metadata(gateway),
    });
    if let Some(spec) = spec {
        object["spec"] = spec;
    }
    object
}

/// Leaves the number of pods to somebody else.
pub(super) fn unscale(deployment: &mut Value) {
    if let Some(spec) = deployment.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
}

fn metadata(gateway: &Gateway) -> Value {
    let Gateway { metadata, spec, .. } = gateway;
    let mut object = json!({
        "name": metadata.name.as_str(),
        "namespace": metadata.namespace.as_str(),
        "labels": labels(gateway),
    });
    if !spec.infrastructure.annotations.is_empty() {
        object["annotations"] = Value::Object(map(&spec.infrastructure.annotations));
    }
    // With it, the waypoint goes when its Gateway goes.
    if let Some(uid) = &metadata.uid {
        object["ownerReferences"] = json!([{
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "name": metadata.name.as_str(),
            "uid": uid.as_str(),
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
    }
    object
}

/// Ours go before those of the Gateway: others find a waypoint by them.
fn labels(gateway: &Gateway) -> Map<String, Value> {
    let mut labels = map(&gateway.spec.infrastructure.labels);
    let ours = [
        (GATEWAY_NAME, gateway.metadata.name.as_str()),
        (CLASS_NAME, gateway.spec.gateway_class_name.as_str()),
        (MANAGED, MANAGED_WAYPOINT),
        MADE_BY,
    ];
    labels.extend(ours.map(|(key, value)| (key.to_owned(), json!(value))));
    labels
}

fn pod_labels(gateway: &Gateway) -> Map<String, Value> {
    let mut labels = labels(gateway);
    let ours = [
        ("istio.io/dataplane-mode", "none"),
        ("sidecar.istio.io/inject", "false"),
        ("service.istio.io/canonical-name", gateway.metadata.name.as_str()),
        ("service.istio.io/canonical-revision", "latest"),
    ];
    labels.extend(ours.map(|(key, value)| (key.to_owned(), json!(value))));
    labels
}

fn selector(gateway: &Gateway) -> Value {
    json!({GATEWAY_NAME: gateway.metadata.name.as_str()})
}

fn service(gateway: &Gateway) -> Value {
    let hbone = gateway.spec.listeners.iter().find(|listener| listener.protocol == "HBONE");
    let port = hbone.map_or(15008, |listener| listener.port);
    json!({
        "ipFamilyPolicy": "PreferDualStack",
        "trafficDistribution": "PreferClose",
        "selector": selector(gateway),
        "ports": [
            {"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP", "appProtocol": "http"},
            {"name": "mesh", "port": port, "targetPort": 15008, "protocol": "TCP", "appProtocol": "hbone"},
        ],
    })
}

fn deployment(gateway: &Gateway, settings: &Settings) -> Value {
    let mut annotations = json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/path": "/metrics",
    });
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.extend(map(&gateway.spec.infrastructure.annotations));
    }
    let mut pod = pod(gateway, settings);
    if !settings.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = settings.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    }
    json!({
        "replicas": REPLICAS,
        "selector": {"matchLabels": selector(gateway)},
        // The new one is ready before an old one ends.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": pod_labels(gateway), "annotations": annotations},
            "spec": pod,
        },
    })
}

fn pod(gateway: &Gateway, settings: &Settings) -> Value {
    let apart = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(gateway)},
        })
    };
    json!({
        "serviceAccountName": gateway.metadata.name.as_str(),
        // It never calls the API server; control gets a token of its own audience.
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [apart("kubernetes.io/hostname"), apart("topology.kubernetes.io/zone")],
        "containers": [container(gateway, settings)],
        "volumes": [
            {"name": "roots", "configMap": {"name": settings.roots}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "path": "istio-token", "audience": settings.audience, "expirationSeconds": 43200,
            }}]}},
        ],
    })
}

fn container(gateway: &Gateway, settings: &Settings) -> Value {
    json!({
        "name": "waypoint",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "env": environment(gateway, settings),
        "ports": [
            {"name": "mesh", "containerPort": 15008, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 15020, "protocol": "TCP"},
            {"name": "status-port", "containerPort": 15021, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"port": "status-port", "path": "/healthz/ready"}, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "roots", "mountPath": ROOTS, "readOnly": true},
            {"name": "token", "mountPath": TOKENS, "readOnly": true},
        ],
    })
}

fn environment(gateway: &Gateway, settings: &Settings) -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let fields = [
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("INSTANCE_IP", "status.podIP"),
    ];
    let (roots, token) = (format!("{ROOTS}/root-cert.pem"), format!("{TOKENS}/istio-token"));
    let (grace, normalisation) = (GRACE.to_string(), settings.normalisation.to_string());
    let told = gateway.metadata.annotations.get(CLIENT_TO_SERVERS).is_some_and(|told| told == "true");
    let values = [
        ("XDS_ADDRESS", settings.control.as_str()),
        ("CA_ADDRESS", &settings.control),
        ("XDS_ROOT_CA", &roots),
        ("CA_ROOT_CA", &roots),
        ("AUTH_TOKEN", &token),
        ("TRUST_DOMAIN", settings.trust_domain.as_str()),
        ("CLUSTER_ID", &settings.cluster),
        ("CLUSTER_DOMAIN", &settings.cluster_domain),
        ("NETWORK", &settings.network),
        ("TERMINATION_GRACE_PERIOD_SECONDS", &grace),
        ("AMBIT_PATH_NORMALIZATION", &normalisation),
    ];
    let asked = told.then_some(("AMBIT_FORWARD_CLIENT_CERT", "true"));
    let values = values.into_iter().chain(asked).map(|(name, value)| json!({"name": name, "value": value}));
    fields.into_iter().chain(values).collect()
}

fn autoscaler(gateway: &Gateway) -> Value {
    json!({
        "scaleTargetRef": {
            "apiVersion": PartKind::Deployment.api_version(),
            "kind": PartKind::Deployment.as_str(),
            "name": gateway.metadata.name.as_str(),
        },
        "minReplicas": REPLICAS,
        "maxReplicas": MOST_REPLICAS,
        "metrics": [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": LOAD},
        }}],
    })
}

/// Lets in what is served: tunnels, metrics and readiness. What it calls is not restricted: that is anything in the mesh.
fn policy(gateway: &Gateway) -> Value {
    let port = |port: u16| json!({"port": port, "protocol": "TCP"});
    json!({
        "podSelector": {"matchLabels": selector(gateway)},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [port(15008), port(15020), port(15021)]}],
    })
}

fn map(labels: &Labels) -> Map<String, Value> {
    labels.iter().map(|(key, value)| (key.to_string(), json!(value.as_str()))).collect()
}
