// SPDX-License-Identifier: Apache-2.0
//! Texts in the head of a tunnel, and names.

use std::{fmt::Display, net::SocketAddr, str::FromStr, sync::Arc, time::Instant};

use hbone::{Head, HeaderMap, HeaderValue};
use mesh::{
    Hostname, Network, PolicyName, ServiceName, SpiffeId, TrustDomain, Workload, WorkloadUid,
    workload::{Health, Locality, NetworkMode, TunnelProtocol, WorkloadType},
};
use plan::{Authority, baggage::Baggage, forwarded, trace};
use proxy::hearsay::Heard;

use crate::text;

/// The longest text that is believed of a peer, as `proxy::hearsay` has it.
const LONGEST_HEARSAY: usize = 253;

pub(crate) fn authority(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(authority) = text.parse::<Authority>() else { return };
    let written = authority.to_string();
    assert_eq!(written.parse::<Authority>().as_ref(), Ok(&authority), "written as {written}");
    match &authority {
        Authority::Address(address) => {
            assert_eq!(address.ip(), address.ip().to_canonical());
            assert_ne!(address.port(), 0);
        }
        Authority::Host { hostname, port } => {
            assert!(hostname.as_str().parse::<std::net::IpAddr>().is_err(), "an address as a name");
            assert_ne!(*port, 0);
        }
    }
    let head = Head::new(&written, HeaderMap::new());
    assert!(head.is_ok_and(|head| head.authority() == written), "{written} cannot be asked for");
}

pub(crate) fn baggage(bytes: &[u8]) {
    let Some(value) = text(bytes) else { return };
    let told = plan::baggage::parse(value);
    let texts =
        [told.cluster, told.namespace, told.workload, told.service, told.version, told.region, told.zone];
    for text in texts.into_iter().flatten() {
        assert!(!text.is_empty() && text == text.trim() && !text.contains([',', ';']), "{text:?}");
    }
    if let Some(heard) = Heard::default().note(&told, Instant::now()) {
        let kept = [&heard.cluster, &heard.namespace, &heard.workload, &heard.service, &heard.version];
        assert!(kept.iter().all(|text| text.len() <= LONGEST_HEARSAY));
    }
    // What a workload of these names says of itself is read back, but for what a header cannot carry.
    let workload = workload(&told);
    let written = plan::baggage::header(&workload);
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written:?}");
    let again = plan::baggage::parse(&written);
    let carried = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    assert_eq!(again.cluster, told.cluster.filter(|text| carried(text)));
    assert_eq!(again.namespace, told.namespace.filter(|text| carried(text)));
    assert_eq!(again.workload, told.workload.filter(|text| carried(text)));
    assert_eq!(again.service, told.service.filter(|text| carried(text)));
    assert_eq!(again.version, told.version.filter(|text| carried(text)));
    assert_eq!(again.region, told.region.filter(|text| carried(text)));
    assert_eq!(again.zone, told.zone.filter(|text| carried(text)));
}

fn workload(told: &Baggage<'_>) -> Workload {
    let text = |value: Option<&str>| value.unwrap_or_default().into();
    Workload {
        uid: WorkloadUid::parse("uid").expect("it is not empty"),
        name: "name".into(),
        namespace: text(told.namespace),
        trust_domain: TrustDomain::parse("cluster.local").expect("it is a domain"),
        service_account: "account".into(),
        addresses: Vec::new(),
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "node".into(),
        locality: Locality { region: text(told.region), zone: text(told.zone), subzone: "".into() },
        cluster: text(told.cluster),
        canonical_name: text(told.service),
        canonical_revision: text(told.version),
        workload_type: WorkloadType::Deployment,
        workload_name: text(told.workload),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
}

pub(crate) fn forwarded(bytes: &[u8]) {
    let Some(host) = text(bytes).and_then(forwarded::host) else { return };
    let source = SocketAddr::from(([10, 0, 0, 1], 4000));
    let written = forwarded::header(source, Some(&host));
    assert_eq!(forwarded::host(&written), Some(host), "written as {written}");
}

pub(crate) fn traceparent(bytes: &[u8]) {
    for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-sampled"] {
        carried(name, bytes);
    }
    let Some(trace) = text(bytes).and_then(trace::parse) else { return };
    assert_ne!(trace, 0);
    assert_eq!(trace::parse(&trace::header(trace, 1)), Some(trace));
}

/// What a caller says of a trace is passed on as it was understood.
fn carried(name: &'static str, bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    let said = trace::carried::read(&headers);
    let Some(parent) = said.parent else { return };
    assert!(parent.trace != 0 && parent.span != 0, "{parent:?}");
    let sampled = said.sampled.unwrap_or_default();
    trace::carried::write(&mut headers, parent, None, sampled, said.forms);
    let again = trace::carried::read(&headers);
    assert_eq!((again.parent, again.sampled), (Some(parent), Some(sampled)));
}

pub(crate) fn name(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(host) = Hostname::parse(text) {
        assert!(host.as_str().len() <= 253 && !host.as_str().ends_with('.'));
        assert!(!host.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));
        assert_eq!(Hostname::parse(host.as_str()), Ok(host));
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(TrustDomain::parse(domain.as_str()), Ok(domain));
    }
    again::<SpiffeId>(text);
    again::<ServiceName>(text);
    again::<PolicyName>(text);
    // A name on the wire and what it is the key of.
    for kind in xds::Kind::ALL {
        for key in xds::codec::ResourceKey::named(kind, text).into_iter().flatten() {
            let written = key.to_string();
            assert!(xds::codec::ResourceKey::named(kind, &written).contains(&Some(key)), "{written}");
        }
    }
    if let Ok(account) = text.parse::<control::ca::ServiceAccountName>() {
        assert_eq!(account.to_string(), text);
    }
}

/// What was understood is understood again as it is written.
fn again<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        let written = name.to_string();
        assert!(written.parse::<T>().is_ok_and(|again| again == name), "{text:?} is written {written:?}");
    }
}
