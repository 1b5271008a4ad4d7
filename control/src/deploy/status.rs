// SPDX-License-Identifier: Apache-2.0
//! What the status of a Gateway says of its waypoint: whether it is accepted, whether it runs, where it is.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Fault, Settings};
use crate::objects::{Gateway, Listener};

/// Kinds of routes that a waypoint takes.
const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];
const GROUP: &str = "gateway.networking.k8s.io";

/// How things stand with a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Why nothing is deployed.
    pub(crate) fault: Option<Fault>,
    /// What the API server, or what is there already, has against its objects.
    pub(crate) refused: Option<String>,
    /// Pods that can take traffic.
    pub(crate) ready: usize,
    /// Addresses of its Service.
    pub(crate) addresses: Vec<String>,
}

/// What stands in the status now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before<'a> {
    pub(crate) conditions: &'a [Value],
    pub(crate) listeners: &'a [Value],
}

/// A condition that is to be there.
struct Condition {
    kind: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn good(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, is_true: true, reason, message: message.into() }
    }

    fn bad(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, is_true: false, reason, message: message.into() }
    }

    /// As it is written; one that has not turned has turned when it did.
    fn written(self, generation: i64, before: &[Value], now: Timestamp) -> Value {
        let status = if self.is_true { "True" } else { "False" };
        let same =
            before.iter().find(|condition| condition["type"] == self.kind && condition["status"] == status);
        let since = same.and_then(|condition| condition["lastTransitionTime"].as_str());
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        json!({
            "type": self.kind,
            "status": status,
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or(&now),
        })
    }
}

/// The status. An address that was given once stays: who is bound to a waypoint does not come past it because of a
/// roll-out.
pub(crate) fn status(
    gateway: &Gateway,
    standing: &Standing,
    settings: &Settings,
    before: &Before<'_>,
    now: Timestamp,
) -> Value {
    let generation = gateway.metadata.generation;
    let is_served = standing.ready > 0 || !gateway.status.addresses.is_empty();
    let conditions = [accepted(gateway, standing), programmed(gateway, standing, is_served)]
        .map(|condition| condition.written(generation, before.conditions, now));
    let listeners = gateway.spec.listeners.iter().map(|own| {
        let same = before.listeners.iter().find(|other| other["name"] == own.name.as_str());
        let before = same.and_then(|same| same["conditions"].as_array()).map_or(&[][..], Vec::as_slice);
        let conditions = listener(own, standing)
            .into_iter()
            .map(|condition| condition.written(generation, before, now))
            .collect::<Vec<Value>>();
        json!({
            "name": own.name.as_str(),
            "attachedRoutes": 0,
            "supportedKinds": kinds(own),
            "conditions": conditions,
        })
    });
    let mut status = json!({"conditions": conditions, "listeners": listeners.collect::<Vec<Value>>()});
    if is_served {
        let metadata = &gateway.metadata;
        let host = format!("{}.{}.svc.{}", metadata.name, metadata.namespace, settings.cluster_domain);
        let name = json!({"type": "Hostname", "value": host});
        let addresses =
            standing.addresses.iter().map(|address| json!({"type": "IPAddress", "value": address}));
        status["addresses"] = [name].into_iter().chain(addresses).collect();
    }
    status
}

fn accepted(gateway: &Gateway, standing: &Standing) -> Condition {
    const KIND: &str = "Accepted";
    if let Some(fault) = &standing.fault {
        return Condition::bad(KIND, "InvalidParameters", format!("{fault}: nothing of it is applied"));
    }
    if !gateway.spec.listeners.iter().any(is_hbone) {
        return Condition::bad(
            KIND,
            "ListenersNotValid",
            "a waypoint has a listener with protocol HBONE: add {name: mesh, port: 15008, protocol: HBONE}",
        );
    }
    Condition::good(KIND, "Accepted", "control runs a waypoint for it")
}

fn programmed(gateway: &Gateway, standing: &Standing, is_served: bool) -> Condition {
    const KIND: &str = "Programmed";
    if standing.fault.is_some() || !gateway.spec.listeners.iter().any(is_hbone) {
        return Condition::bad(KIND, "Invalid", "it is not accepted: see the condition Accepted");
    }
    if let Some(refused) = &standing.refused {
        return Condition::bad(KIND, "Invalid", refused);
    }
    match (standing.ready, is_served) {
        (0, false) => Condition::bad(KIND, "Pending", "no pod of it is ready yet"),
        (0, true) => Condition::bad(KIND, "NoResources", "no pod of it is ready any more"),
        (1, _) => Condition::good(KIND, "Programmed", "1 pod is ready"),
        (many, _) => Condition::good(KIND, "Programmed", format!("{many} pods are ready")),
    }
}

fn is_hbone(listener: &Listener) -> bool {
    listener.protocol == "HBONE"
}

/// The kinds of routes that a listener takes: those that it names, of those that there are.
fn kinds(listener: &Listener) -> Vec<Value> {
    let named = &listener.allowed_routes.kinds;
    let takes = |route: &&&str| named.is_empty() || named.iter().any(|kind| kind.is(GROUP, route));
    ROUTES.iter().filter(takes).map(|route| json!({"group": GROUP, "kind": route})).collect()
}

fn listener(listener: &Listener, standing: &Standing) -> Vec<Condition> {
    if !is_hbone(listener) {
        let message = format!("a waypoint has no listener with protocol {}", listener.protocol);
        return vec![
            Condition::bad("Accepted", "UnsupportedProtocol", message.clone()),
            Condition::bad("Programmed", "Invalid", message),
        ];
    }
    let unknown =
        listener.allowed_routes.kinds.iter().find(|kind| !ROUTES.iter().any(|route| kind.is(GROUP, route)));
    let references = match unknown {
        Some(kind) => {
            Condition::bad("ResolvedRefs", "InvalidRouteKinds", format!("a waypoint takes no {}", kind.kind))
        }
        None => Condition::good("ResolvedRefs", "ResolvedRefs", "nothing is missing"),
    };
    let programmed = if standing.ready > 0 {
        Condition::good("Programmed", "Programmed", "it listens")
    } else {
        Condition::bad("Programmed", "Pending", "no pod is ready")
    };
    vec![
        Condition::good("Accepted", "Accepted", "it is one of a waypoint"),
        Condition::bad("Conflicted", "NoConflicts", "no other listener is in its way"),
        references,
        programmed,
    ]
}
