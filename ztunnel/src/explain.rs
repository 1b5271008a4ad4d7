// SPDX-License-Identifier: Apache-2.0
//! What would become of a connection of a pod of this node, or to one: the answer of `plan`, for the admin interface.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::StatusCode;
use mesh::SpiffeId;
use plan::{Flow, Protocol, Resolved, inbound, outbound};
use proxy::explain as shown;
use runtime::http::{Request, Response, respond};
use serde_json::{Value, json};

use crate::{node::Node, pod::Pod};

/// How to ask.
pub const USAGE: &str = "\
/explain?direction=outbound&source=NAMESPACE/POD&destination=ADDRESS_OR_NAME:PORT
/explain?direction=inbound&destination=NAMESPACE/POD&port=PORT&source=IP[&identity=spiffe://...][&authority=A]
";

/// Answers `/explain`.
pub fn answer(node: &Node, request: &Request) -> Response {
    match explain(node, request) {
        Ok(value) => respond::json(StatusCode::OK, format!("{value:#}\n")),
        Err(why) => respond::text(StatusCode::BAD_REQUEST, format!("{why}\n{USAGE}")),
    }
}

fn explain(node: &Node, request: &Request) -> Result<Value, String> {
    let said = |name: &str| request.query.get(name).map(String::as_str);
    let need = |name: &str| said(name).ok_or_else(|| format!("{name} is missing"));
    match need("direction")? {
        "outbound" => {
            let pod = pod(node, need("source")?)?;
            outgoing(node, &pod, need("destination")?)
        }
        "inbound" => {
            let pod = pod(node, need("destination")?)?;
            let port = need("port")?.parse().map_err(|_not| "port is no number".to_owned())?;
            let source = need("source")?.parse().map_err(|_not| "source is no address".to_owned())?;
            let identity =
                said("identity").map(|text| text.parse::<SpiffeId>().map_err(|error| error.to_string()));
            Ok(incoming(
                node,
                &pod,
                &Door {
                    port,
                    source: SocketAddr::new(source, 0),
                    identity: identity.transpose()?,
                    authority: said("authority"),
                },
            ))
        }
        _ => Err("direction is outbound or inbound".to_owned()),
    }
}

/// A pod that this process serves.
fn pod(node: &Node, name: &str) -> Result<Arc<Pod>, String> {
    let of = |pod: &Pod| {
        let key = &pod.local().workload;
        format!("{}/{}", key.namespace, key.name) == name || pod.uid == name
    };
    let found = node.shards().into_iter().find(|shard| of(&shard.pod));
    found.map(|shard| Arc::clone(&shard.pod)).ok_or_else(|| format!("{name} is not served here"))
}

fn outgoing(node: &Node, pod: &Pod, destination: &str) -> Result<Value, String> {
    let local = pod.local();
    let aside = node.aside.held(Instant::now());
    node.replica.read(|index| {
        let client = &local.workload.namespace;
        let to = shown::resolve(index, local, client, destination)
            .ok_or_else(|| format!("{destination} is neither an address nor a service that is known here"))?;
        let own = index.workloads_named(&local.workload).next().cloned();
        let source = own.as_deref().and_then(|own| own.addresses.first().copied());
        let flow = Flow {
            protocol: Protocol::TCP,
            source: SocketAddr::new(source.unwrap_or_else(|| to.ip()), 0),
            destination: to,
            seed: rand::random(),
            resolved: Resolved::default(),
        };
        let decided = outbound::decide(index, local, &flow, &aside);
        let at = mesh::NetworkAddress::new(local.network.clone(), to.ip());
        let service = index.service_at(&at, client);
        Ok(json!({
            "direction": "outbound",
            "destination": to.to_string(),
            "source": own.as_deref().map(shown::workload),
            "service": service.map(|service| service.key().to_string()),
            "endpoints": service.map(|service| shown::endpoints(index, service, &aside)),
            "hop": shown::answer(decided, shown::hop),
        }))
    })
}

/// A connection that comes in.
struct Door<'a> {
    port: u16,
    source: SocketAddr,
    identity: Option<SpiffeId>,
    authority: Option<&'a str>,
}

fn incoming(node: &Node, pod: &Pod, door: &Door<'_>) -> Value {
    let local = pod.local();
    node.replica.read(|index| {
        let own = index.workloads_named(&local.workload).next().cloned();
        let Some(ip) = own.as_deref().and_then(|own| own.addresses.first().copied()) else {
            return json!({ "direction": "inbound", "failure": { "reason": "the workload is not known here" } });
        };
        let reached = SocketAddr::new(ip, door.port);
        let decided = match &door.identity {
            Some(identity) => {
                let asked = reached.to_string();
                let connect = inbound::Connect {
                    protocol: Protocol::TCP,
                    source: door.source,
                    identity: identity.clone(),
                    local: SocketAddr::new(ip, plan::HBONE_PORT),
                    authority: door.authority.unwrap_or(&asked),
                    forwarded: None,
                    forwarded_network: None,
                };
                inbound::decide(index, local, &connect)
            }
            None => {
                let plain =
                    inbound::Plain { protocol: Protocol::TCP, source: door.source, destination: reached };
                inbound::decide_plain(index, local, &plain)
            }
        };
        json!({
            "direction": "inbound",
            "destination": own.as_deref().map(shown::workload),
            "address": reached.to_string(),
            "identity": door.identity.as_ref().map(ToString::to_string),
            "policies": shown::answer(decided, |upstream| {
                let mut value = shown::judgement(&upstream.judgement);
                if let Value::Object(fields) = &mut value {
                    fields.insert("delivered".into(), json!(upstream.address.to_string()));
                }
                value
            }),
        })
    })
}
