// SPDX-License-Identifier: Apache-2.0
//! How the traffic of a service is handled behind its waypoint, by its annotations and by the policies of TLS that it has.

use http::HeaderName;
use mesh::{
    ServiceName,
    l7::traffic::{Balancer, HashOn, Limits, Traffic},
};

use super::{Translation, entry, service, tls};
use crate::{
    objects::{Kind, Metadata, Service, ServiceEntry},
    report::Reports,
    world::{Objects, Settings},
};

const BALANCER: &str = "ambit.mesh/load-balancer";
const HASH_ON: &str = "ambit.mesh/hash-on";
const MAX_ACTIVE: &str = "ambit.mesh/max-requests";
const MAX_WAITING: &str = "ambit.mesh/max-pending-requests";
const BALANCERS: &str = "peak-ewma, least-request, round-robin, random, ring-hash, maglev";

/// What is said of a service; nothing where nothing is.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &Service,
) -> Translation<Vec<Traffic>> {
    let name = service::name(settings, object).filter(|_| !service::is_external_name(object));
    said(objects, Kind::Service, &object.metadata, name.into_iter().collect())
}

/// The same of each host of a service entry.
pub(crate) fn of_entry(
    objects: &Objects,
    settings: &Settings,
    object: &ServiceEntry,
) -> Translation<Vec<Traffic>> {
    let names = entry::names(objects, settings, object).collect();
    said(objects, Kind::ServiceEntry, &object.metadata, names)
}

fn said(
    objects: &Objects,
    kind: Kind,
    metadata: &Metadata,
    names: Vec<ServiceName>,
) -> Translation<Vec<Traffic>> {
    let key = metadata.key(kind);
    let mut reports = Reports::of(key.clone());
    if names.is_empty() {
        return Translation { output: None, reports: reports.done() };
    }
    let limits = Limits {
        active: number(metadata, MAX_ACTIVE, &mut reports),
        waiting: number(metadata, MAX_WAITING, &mut reports),
    };
    let balancer = balancer(metadata, &mut reports);
    let tls = tls::ports(objects, &key);
    let output = names.into_iter().filter_map(|name| {
        let plain = Traffic::plain(name);
        let said = Traffic { balancer: balancer.clone(), limits, tls: tls.clone(), ..plain.clone() };
        (said != plain).then_some(said)
    });
    Translation { output: Some(output.collect()), reports: reports.done() }
}

/// How endpoints are chosen; what cannot be honoured is said, and the default chosen.
fn balancer(metadata: &Metadata, reports: &mut Reports) -> Balancer {
    let on = metadata.annotation(HASH_ON).and_then(|text| match hash_on(text) {
        Ok(on) => Some(on),
        Err(why) => {
            reports.warning(annotation(HASH_ON), format!("{text:?} {why}: the client's address is used"));
            None
        }
    });
    let hashes = |make: fn(HashOn) -> Balancer| make(on.clone().unwrap_or_default());
    let (balancer, by_key) = match metadata.annotation(BALANCER).map(|text| text.as_str()) {
        // A key alone is a wish for a balancer that has one.
        None if on.is_some() => (hashes(Balancer::RingHash), true),
        None | Some("peak-ewma") => (Balancer::PeakEwma, false),
        Some("least-request") => (Balancer::LeastRequest, false),
        Some("round-robin") => (Balancer::RoundRobin, false),
        Some("random") => (Balancer::Random, false),
        Some("ring-hash") => (hashes(Balancer::RingHash), true),
        Some("maglev") => (hashes(Balancer::Maglev), true),
        Some(other) => {
            let why = format!("{other:?} is not one of {BALANCERS}: peak-ewma is used");
            reports.warning(annotation(BALANCER), why);
            (Balancer::PeakEwma, false)
        }
    };
    if on.is_some() && !by_key {
        reports.warning(annotation(HASH_ON), format!("has no effect: {BALANCER} is not ring-hash or maglev"));
    }
    balancer
}

fn hash_on(text: &str) -> Result<HashOn, &'static str> {
    let named = |name: &str| if name.is_empty() { Err("has no name") } else { Ok(name.into()) };
    match text.split_once(':') {
        None if text == "source-ip" => Ok(HashOn::SourceIp),
        Some(("header", name)) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(HashOn::Header(name)),
            Err(_invalid) => Err("is no name of a header"),
        },
        Some(("cookie", name)) => named(name).map(HashOn::Cookie),
        Some(("query", name)) => named(name).map(HashOn::Query),
        Some(_) | None => Err("is not source-ip, header:NAME, cookie:NAME or query:NAME"),
    }
}

fn number(metadata: &Metadata, key: &str, reports: &mut Reports) -> Option<u32> {
    let text = metadata.annotation(key)?;
    let number = text.parse().ok().filter(|number| *number > 0);
    if number.is_none() {
        reports.warning(
            annotation(key),
            format!("{text:?} is no number above 0: the waypoint's own bound holds"),
        );
    }
    number
}

fn annotation(key: &str) -> String {
    format!("metadata.annotations[{key:?}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::Object,
        testing::{events, settings},
        world::Event,
    };

    /// What annotations come to, and about which of them something is said.
    fn said(annotations: &str) -> (Option<Traffic>, Vec<String>) {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}\n\
             spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}\n"
        );
        let Some(Event::Applied(object)) = events(&yaml).pop() else { panic!("no object") };
        let Object::Service(service) = *object else { panic!("another kind") };
        let Translation { output, reports } = translate(&Objects::default(), &settings(), &service);
        (output.unwrap_or_default().pop(), reports.into_iter().map(|report| report.field).collect())
    }

    fn balancer_of(annotations: &str) -> Balancer {
        let (traffic, reports) = said(annotations);
        assert_eq!(reports, Vec::<String>::new(), "{annotations}");
        traffic.map(|traffic| traffic.balancer).unwrap_or_default()
    }

    #[test]
    fn annotations_choose_the_balancer_and_its_key() {
        let header = HashOn::Header(HeaderName::from_static("x-user"));
        for (annotations, expected) in [
            ("", Balancer::PeakEwma),
            ("ambit.mesh/load-balancer: least-request", Balancer::LeastRequest),
            ("ambit.mesh/load-balancer: round-robin", Balancer::RoundRobin),
            ("ambit.mesh/load-balancer: random", Balancer::Random),
            ("ambit.mesh/load-balancer: maglev", Balancer::Maglev(HashOn::SourceIp)),
            ("ambit.mesh/hash-on: 'header:X-User'", Balancer::RingHash(header)),
            (
                "ambit.mesh/load-balancer: maglev, ambit.mesh/hash-on: 'cookie:sid'",
                Balancer::Maglev(HashOn::Cookie("sid".into())),
            ),
            ("ambit.mesh/hash-on: 'query:q'", Balancer::RingHash(HashOn::Query("q".into()))),
        ] {
            assert_eq!(balancer_of(annotations), expected, "{annotations}");
        }
    }

    #[test]
    fn bounds_are_read_too() {
        let (traffic, reports) = said("ambit.mesh/max-requests: '100', ambit.mesh/max-pending-requests: '5'");
        assert_eq!(traffic.unwrap().limits, Limits { active: Some(100), waiting: Some(5) });
        assert!(reports.is_empty());
    }

    #[test]
    fn what_cannot_be_honoured_is_said_with_its_annotation() {
        for (annotations, key) in [
            ("ambit.mesh/load-balancer: fastest", BALANCER),
            ("ambit.mesh/hash-on: 'header:'", HASH_ON),
            ("ambit.mesh/hash-on: 'body:x'", HASH_ON),
            ("ambit.mesh/load-balancer: random, ambit.mesh/hash-on: source-ip", HASH_ON),
            ("ambit.mesh/max-requests: '0'", MAX_ACTIVE),
            ("ambit.mesh/max-pending-requests: many", MAX_WAITING),
        ] {
            assert_eq!(said(annotations).1, [annotation(key)], "{annotations}");
        }
    }
}
