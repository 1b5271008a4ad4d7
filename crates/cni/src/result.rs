// SPDX-License-Identifier: Apache-2.0
//! The result of the plugins before this one: passed on as it is, and read for the pod's addresses.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{
    call::Network,
    refusal::{Code, Refusal},
};

const CHAIN: &str =
    "ambit-cni makes no network itself: it has to come after the plugin that does, in one conflist";

/// The result that this plugin gives: that of those before it, in the version of the configuration.
pub(super) fn passed_on(network: &Network) -> Result<Vec<u8>, Refusal> {
    let mut result = previous(network)?.clone();
    let version = network.version();
    if let Some(ips) = result.get_mut("ips").and_then(Value::as_array_mut) {
        for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
            convert(ip, version);
        }
    }
    result.insert("cniVersion".to_owned(), version.into());
    Ok(Value::Object(result).to_string().into_bytes())
}

/// The addresses inside the sandbox, without prefix lengths. None in a result without any.
pub(super) fn addresses(network: &Network, netns: &str) -> Result<Vec<String>, Refusal> {
    let result = previous(network)?;
    let list = |name: &str| result.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let interfaces = list("interfaces");
    let mut addresses = Vec::new();
    for ip in list("ips") {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let address = text.split('/').next().unwrap_or_default();
        if address.parse::<IpAddr>().is_err() {
            let message = format!("ips[].address {text:?} of prevResult is not an address");
            return Err(Refusal::new(
                Code::Config,
                message,
                "it is the plugin before ambit-cni that gave it",
            ));
        }
        if is_inside(ip, interfaces, netns) {
            addresses.push(address.to_owned());
        }
    }
    Ok(addresses)
}

fn previous(network: &Network) -> Result<&Map<String, Value>, Refusal> {
    let previous = network.prev_result.as_ref();
    previous.ok_or_else(|| Refusal::new(Code::Config, "prevResult is absent", CHAIN))
}

/// An address without an interface is the container's; one of an interface without a sandbox is the node's.
fn is_inside(ip: &Value, interfaces: &[Value], netns: &str) -> bool {
    let index = ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
    let Some(interface) = index.and_then(|index| interfaces.get(index)) else { return true };
    let sandbox = interface.get("sandbox").and_then(Value::as_str).unwrap_or_default();
    sandbox == netns || (netns.is_empty() && !sandbox.is_empty())
}

/// Before 1.0 an address says its family, since then it does not.
fn convert(ip: &mut Map<String, Value>, version: &str) {
    if !version.starts_with("0.") {
        ip.remove("version");
    } else if !ip.contains_key("version") {
        let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let family = if address.contains(':') { "6" } else { "4" };
        ip.insert("version".to_owned(), family.into());
    }
}
