// SPDX-License-Identifier: Apache-2.0
//! What a ztunnel's `config_dump` says, as far as it is shown or judged here. Istio's ztunnel says the same in the same
//! words, so these commands work with both.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The dump.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Dump {
    pub(crate) version: Build,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<Service>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) certificates: Vec<Identity>,
    /// Pods that it serves, by uid.
    pub(crate) workload_state: BTreeMap<String, Served>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Build {
    pub(crate) version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) workload_ips: Vec<String>,
    pub(crate) node: String,
    pub(crate) protocol: String,
    pub(crate) status: String,
    pub(crate) service_account: String,
    pub(crate) trust_domain: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) waypoint: Way,
}

/// Where a waypoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Way {
    pub(crate) destination: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) vips: Vec<String>,
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) endpoints: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) waypoint: Way,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) scope: String,
    pub(crate) action: String,
    pub(crate) dry_run: bool,
    pub(crate) rules: Vec<serde_json::Value>,
}

/// An identity and what certifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Identity {
    pub(crate) identity: String,
    pub(crate) state: String,
    pub(crate) cert_chain: Vec<Certificate>,
    pub(crate) root_certs: Vec<Certificate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) serial_number: String,
    pub(crate) valid_from: String,
    pub(crate) expiration_time: String,
}

/// A pod that a ztunnel serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Served {
    pub(crate) state: String,
    pub(crate) info: Named,
    pub(crate) connections: Connections,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Connections {
    pub(crate) inbound: Vec<Connection>,
    pub(crate) outbound: Vec<Connection>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Connection {
    pub(crate) src: String,
    pub(crate) original_dst: String,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_recv: u64,
}

impl Certificate {
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expiration_time.parse().ok()
    }

    pub(crate) fn begins(&self) -> Option<Timestamp> {
        self.valid_from.parse().ok()
    }
}

fn nullable<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dump_is_read_as_far_as_it_matters_and_nulls_are_nothing() {
        let json = json!({
            "version": {"version": "0.1.0"}, "staticConfig": {}, "config": {"x": 1}, "stagedServices": {},
            "workloads": [{"uid": "u", "name": "web", "namespace": "shop", "workloadIps": ["10.0.0.1"], "waypoint": null}],
            "services": [{"hostname": "web.shop", "vips": ["/10.1.0.1"], "ports": {"80": 8080},
                          "endpoints": {"u": {"workloadUid": "u", "port": null}}, "waypoint": {"destination": "a/b"}}],
            "policies": [], "certificates": [{"identity": "spiffe://a", "state": "Available", "certChain":
                [{"pem": "x", "serialNumber": "1", "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "no time"}]}],
            "workloadState": {"u-1": {"state": "Up", "info": {"name": "web", "namespace": "shop", "serviceAccount": "w"},
                "connections": {"inbound": [{"src": "1", "originalDst": "2", "bytesSent": 3, "bytesRecv": 4}], "outbound": []}}},
        });
        let dump: Dump = serde_json::from_value(json).unwrap();
        assert_eq!(dump.services[0].waypoint.destination, "a/b");
        assert_eq!(dump.workload_state["u-1"].connections.inbound[0].bytes_recv, 4);
        let certificate = &dump.certificates[0].cert_chain[0];
        assert!(certificate.begins().is_some() && certificate.expires().is_none());
        assert!(serde_json::from_value::<Dump>(json!({})).is_ok());
    }
}
