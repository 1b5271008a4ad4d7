// SPDX-License-Identifier: Apache-2.0
//! Answers of `plan` as JSON, for whoever asks a proxy what it would do: the same decisions that traffic gets, with nothing
//! sent.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use mesh::{
    Hostname, Index, Service, Workload, WorkloadUid,
    authz::{Judgement, Verdict},
    workload::{Health, TunnelProtocol},
};
use plan::{
    Answer, Failure, Local,
    outbound::{End, Hop, Transport, Tunnel},
    waypoint::address_of,
};
use serde_json::{Value, json};

/// Endpoints that are named; of more there is a count.
const SHOWN: usize = 50;

/// A decision, or why there is none; `shown` says what it is.
pub fn answer<T>(answer: Answer<Result<T, Failure>>, shown: impl FnOnce(&T) -> Value) -> Value {
    match answer {
        Answer::Ready(Ok(decision)) => shown(&decision),
        Answer::Ready(Err(failure)) => self::failure(&failure),
        Answer::Needs(missing) => {
            let failure = Failure::from(missing.failure());
            json!({ "waitsFor": format!("{missing:?}"), "failure": self::failure(&failure)["failure"] })
        }
    }
}

/// Why nothing comes of it.
pub fn failure(failure: &Failure) -> Value {
    json!({ "failure": {
        "reason": failure.to_string(), "flag": failure.flag().as_str(), "status": failure.status(),
    } })
}

/// A workload, as far as it tells who it is.
pub fn workload(workload: &Workload) -> Value {
    json!({
        "uid": workload.uid.as_str(),
        "name": workload.name,
        "namespace": workload.namespace,
        "identity": workload.identity().to_string(),
        "addresses": workload.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "node": workload.node,
        "protocol": match workload.tunnel {
            TunnelProtocol::None => "TCP",
            TunnelProtocol::Hbone => "HBONE",
            TunnelProtocol::LegacyMtls => "LegacyIstioMtls",
        },
        "healthy": workload.health == Health::Healthy,
    })
}

/// Where a flow goes next.
pub fn hop(hop: &Hop) -> Value {
    let (transport, tunnel) = match &hop.transport {
        Transport::Passthrough(_) => ("passthrough", None),
        Transport::Plain(_) => ("plain", None),
        Transport::Tunnel(tunnel) => ("hbone", Some(tunnel)),
        Transport::Nested { outer, .. } => ("nested", Some(outer)),
    };
    let expected = |tunnel: &Tunnel| tunnel.expected.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "transport": transport,
        "address": hop.address().to_string(),
        "to": match tunnel.map(|tunnel| tunnel.end) {
            Some(End::Waypoint) => "waypoint",
            Some(End::Gateway) => "gateway",
            Some(End::Workload) => "workload",
            None => if hop.next.is_some() { "workload" } else { "outside" },
        },
        "authority": hop.authority().map(ToString::to_string),
        "expected": tunnel.map(expected),
        "source": workload(&hop.source),
        "next": hop.next.as_deref().map(workload),
        "service": hop.service.as_deref().map(|service| service.key().to_string()),
        "setAside": hop.set_aside,
    })
}

/// What the policies say.
pub fn judgement(judgement: &Judgement) -> Value {
    json!({
        "verdict": verdict(&judgement.verdict),
        "dryRun": judgement.dry_run.as_ref().map(verdict),
    })
}

/// What policies say in the end, and which of them.
pub fn verdict(verdict: &Verdict) -> Value {
    let (allowed, reason) = match verdict {
        Verdict::Open => (true, "no policy stands against it"),
        Verdict::Allowed(_) => (true, "a policy allows it"),
        Verdict::Denied(_) => (false, "a policy denies it"),
        Verdict::NotAllowed(_) => (false, "policies allow others, and not this"),
    };
    json!({ "allowed": allowed, "policy": verdict.policy().map(ToString::to_string), "reason": reason })
}

/// Who may answer for a service, and who of them is set aside.
pub fn endpoints(index: &Index, service: &Service, aside: &HashSet<WorkloadUid>) -> Value {
    let mut all: Vec<_> = index.endpoints(service).collect();
    all.sort_by(|one, other| one.uid.cmp(&other.uid));
    let shown = all.iter().take(SHOWN).map(|endpoint| {
        let mut value = workload(endpoint);
        if let Value::Object(fields) = &mut value {
            fields.insert("setAside".into(), json!(aside.contains(&endpoint.uid)));
        }
        value
    });
    json!({ "count": all.len(), "first": shown.collect::<Vec<_>>() })
}

/// The address that `text` means to clients of a namespace: itself, or that of the service of this name.
pub fn resolve(index: &Index, local: &Local, client: &str, text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let hostname = Hostname::parse(host).ok()?;
    let service: &Arc<Service> = index.services_of_host(&hostname, client).next()?;
    Some(SocketAddr::new(address_of(service, local), port.parse().ok()?))
}
