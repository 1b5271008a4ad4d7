// SPDX-License-Identifier: Apache-2.0
//! The `baggage` header: what one proxy tells the other about its workload.
//!
//! Pairs `key=value` separated by commas (W3C Baggage), without percent encoding, as ambient proxies do. It is a claim of
//! the peer: good for telemetry, never for policy.

use mesh::Workload;

/// What the header says; absent or empty values are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baggage<'a> {
    /// `k8s.cluster.name`.
    pub cluster: Option<&'a str>,
    /// `k8s.namespace.name`.
    pub namespace: Option<&'a str>,
    /// Name of what owns it, `k8s.<type>.name`: of a deployment, cronjob, pod or job.
    pub workload: Option<&'a str>,
    /// `service.name`.
    pub service: Option<&'a str>,
    /// `service.version`.
    pub version: Option<&'a str>,
    /// `cloud.region`.
    pub region: Option<&'a str>,
    /// `cloud.availability_zone`.
    pub zone: Option<&'a str>,
}

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const VERSION: &str = "service.version";
const REGION: &str = "cloud.region";
const ZONE: &str = "cloud.availability_zone";

/// The header's value for a workload. A value that would break the header is left out.
pub fn header(workload: &Workload) -> String {
    let named = format!("k8s.{}.name", workload.workload_type.as_str());
    let pairs = [
        (CLUSTER, &workload.cluster),
        (NAMESPACE, &workload.namespace),
        (named.as_str(), &workload.workload_name),
        (SERVICE, &workload.canonical_name),
        (VERSION, &workload.canonical_revision),
        (REGION, &workload.locality.region),
        (ZONE, &workload.locality.zone),
    ];
    let mut value = String::new();
    for (key, text) in pairs {
        if text.is_empty() || !text.bytes().all(carried) {
            continue;
        }
        if !value.is_empty() {
            value.push(',');
        }
        value.push_str(key);
        value.push('=');
        value.push_str(text);
    }
    value
}

/// `baggage-octet` (W3C Baggage §3.3.1): visible ASCII without `"`, `,`, `;` and `\`.
fn carried(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// Reads a value; what it does not know or cannot read is skipped. Of a repeated key the last counts.
pub fn parse(value: &str) -> Baggage<'_> {
    let mut baggage = Baggage::default();
    for member in value.split(',') {
        // Properties of a member follow a semicolon.
        let pair = member.split_once(';').map_or(member, |(pair, _)| pair);
        let Some((key, text)) = pair.split_once('=') else { continue };
        let text = Some(text.trim()).filter(|text| !text.is_empty());
        match key.trim() {
            CLUSTER => baggage.cluster = text,
            NAMESPACE => baggage.namespace = text,
            SERVICE => baggage.service = text,
            VERSION => baggage.version = text,
            REGION => baggage.region = text,
            ZONE => baggage.zone = text,
            "k8s.deployment.name" | "k8s.cronjob.name" | "k8s.pod.name" | "k8s.job.name" => {
                baggage.workload = text;
            }
            _ => {}
        }
    }
    baggage
}

#[cfg(test)]
mod tests {
    use mesh::workload::{Locality, WorkloadType};
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::workload;

    #[test]
    fn a_workload_is_described_in_the_order_of_the_contract() {
        let mut pod = workload("web", &[]);
        pod.workload_type = WorkloadType::CronJob;
        pod.locality = Locality { region: "r1".into(), zone: "z1".into(), subzone: "s1".into() };
        assert_eq!(
            header(&pod),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.cronjob.name=web,service.name=web,\
             service.version=v1,cloud.region=r1,cloud.availability_zone=z1"
        );
    }

    #[test]
    fn absent_values_and_values_that_would_break_the_header_are_left_out() {
        let mut pod = workload("web", &[]);
        pod.cluster = "".into();
        pod.workload_name = "a,b=c".into();
        pod.canonical_name = "new\r\nline".into();
        assert_eq!(header(&pod), "k8s.namespace.name=shop,service.version=v1");
    }

    #[test]
    fn reading_is_tolerant() {
        let cases = [
            ("", Baggage::default()),
            ("garbage,,=,==,a=b", Baggage::default()),
            ("k8s.cluster.name=", Baggage::default()),
            ("k8s.node.name=x,k8s..name=y", Baggage::default()),
            (
                " service.name = web ;p=1, cloud.region=r=1",
                Baggage { service: Some("web"), region: Some("r=1"), ..Baggage::default() },
            ),
            ("k8s.pod.name=a,k8s.deployment.name=b", Baggage { workload: Some("b"), ..Baggage::default() }),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let pod = workload("web", &[]);
        let value = header(&pod);
        let expected = Baggage {
            cluster: Some("Kubernetes"),
            namespace: Some("shop"),
            workload: Some("web"),
            service: Some("web"),
            version: Some("v1"),
            region: None,
            zone: None,
        };
        assert_eq!(parse(&value), expected);
    }

    proptest! {
        #[test]
        fn no_value_breaks_the_reader(value in "\\PC*") {
            let _baggage = parse(&value);
        }
    }
}
