// SPDX-License-Identifier: Apache-2.0
//! The World after any history is the World of its objects.

use std::fmt::Write as _;

use mesh::{PolicyName, Route, ServiceName, WorkloadUid};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::testing::{ROOT, events, settings};

/// Everything that a World says, in comparable form.
type Everything = (Vec<Change>, Vec<Report>, BTreeMap<ObjectKey, Vec<Attachment>>);

fn said(world: &World) -> Everything {
    (world.outputs().collect(), world.reports().cloned().collect(), world.attachments.clone())
}

/// What a proxy knows after some changes.
#[derive(Debug, Default, PartialEq)]
struct Told {
    workloads: BTreeMap<String, Workload>,
    services: BTreeMap<String, Service>,
    policies: BTreeMap<String, Policy>,
    routes: BTreeMap<String, Route>,
    telemetries: BTreeMap<String, Telemetry>,
    traffic: BTreeMap<String, Traffic>,
    guards: BTreeMap<String, mesh::Guard>,
    authentications: BTreeMap<String, Authentication>,
}

impl Told {
    fn take(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Workload(workload) => {
                    self.workloads.insert(workload.uid.to_string(), workload);
                }
                Change::Service(service) => {
                    self.services.insert(service.key().to_string(), service);
                }
                Change::Policy(policy) => {
                    self.policies.insert(policy.name.to_string(), policy);
                }
                Change::Route(route) => {
                    self.routes.insert(route.name.to_string(), route);
                }
                Change::Telemetry(telemetry) => {
                    self.telemetries.insert(telemetry.name.to_string(), telemetry);
                }
                Change::TelemetryGone(name) => assert!(self.telemetries.remove(&name.to_string()).is_some()),
                Change::RouteGone(name) => assert!(self.routes.remove(&name.to_string()).is_some()),
                Change::Traffic(traffic) => {
                    self.traffic.insert(traffic.service.to_string(), traffic);
                }
                Change::TrafficGone(name) => assert!(self.traffic.remove(&name.to_string()).is_some()),
                Change::Guard(guard) => {
                    self.guards.insert(guard.name.to_string(), guard);
                }
                Change::GuardGone(name) => assert!(self.guards.remove(&name.to_string()).is_some()),
                Change::Authentication(found) => {
                    self.authentications.insert(found.name.to_string(), found);
                }
                Change::AuthenticationGone(name) => {
                    assert!(self.authentications.remove(&name.to_string()).is_some());
                }
                Change::WorkloadGone(uid) => assert!(self.workloads.remove(&uid.to_string()).is_some()),
                Change::ServiceGone(name) => assert!(self.services.remove(&name.to_string()).is_some()),
                Change::PolicyGone(name) => assert!(self.policies.remove(&name.to_string()).is_some()),
            }
        }
    }
}

/// One object in one of several variants; few names, so that they meet.
fn object() -> impl Strategy<Value = String> {
    let namespace = select(vec!["shop", "bank", "istio-system"]);
    let name = select(vec!["a", "b", "c"]);
    let label = select(vec!["x", "y"]);
    let node = select(vec!["one", "two"]);
    let flag = any::<bool>();
    prop_oneof![
        4 => (namespace.clone(), name.clone(), label.clone(), node.clone(), 0..4u8).prop_map(pod),
        2 => (namespace.clone(), name.clone(), label.clone(), flag).prop_map(|(namespace, name, label, named)| {
            let target = if named { "web" } else { "8080" };
            let annotations = if named { "{ambit.mesh/load-balancer: maglev}" } else { "{}" };
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, annotations: {annotations}}}\n\
                 spec: {{clusterIP: 10.30.0.1, selector: {{app: {label}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
            )
        }),
        1 => (namespace.clone(), flag).prop_map(|(name, near)| {
            let annotation = if near { "PreferClose" } else { "Any" };
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: \
                 {{networking.istio.io/traffic-distribution: {annotation}}}}}\n"
            )
        }),
        1 => (node, label.clone()).prop_map(|(name, zone)| {
            format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n")
        }),
        3 => (namespace.clone(), name.clone(), proptest::option::of(label.clone()), 0..3u8).prop_map(authorization),
        3 => (namespace, name, proptest::option::of(label), 0..4u8, 0..4u8, 0..3u8).prop_map(peer),
        8 => beyond_the_core(),
        3 => tls(),
    ]
}

/// Policies of TLS, and where their certificates come from.
fn tls() -> impl Strategy<Value = String> {
    let name = || select(vec!["a", "b", "c"]);
    let namespace = || select(vec!["shop", "bank"]);
    let roots = select(vec![
        "wellKnownCACertificates: System",
        "caCertificateRefs: [{group: '', kind: ConfigMap, name: a}]",
        "caCertificateRefs: [{group: '', kind: ConfigMap, name: a}, {group: '', kind: ConfigMap, name: b}]",
    ]);
    let target = select(vec![
        "{group: '', kind: Service, name: a}",
        "{group: '', kind: Service, name: b, sectionName: web}",
        "{group: '', kind: Service, name: a}, {group: networking.istio.io, kind: ServiceEntry, name: b}",
        "{group: networking.istio.io, kind: ServiceEntry, name: a, sectionName: web}",
        "{group: networking.istio.io, kind: ServiceEntry, name: b}",
    ]);
    prop_oneof![
        3 => (namespace(), name(), target, roots, 1..4u8).prop_map(|(namespace, name, target, roots, age)| format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
             metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: \"2026-01-0{age}T00:00:00Z\"}}\n\
             spec: {{targetRefs: [{target}], validation: {{hostname: {name}.example.com, {roots}}}}}\n"
        )),
        1 => (namespace(), select(vec!["a", "b"]), any::<bool>()).prop_map(|(namespace, name, good)| {
            let text = if good { ROOT } else { "none" };
            let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 data:\n  ca.crt: |\n{lines}"
            )
        }),
    ]
}

/// Kinds that are not Kubernetes' own, slices, and what binds to waypoints.
fn beyond_the_core() -> impl Strategy<Value = String> {
    let namespace = select(vec!["shop", "bank", "istio-system"]);
    let name = select(vec!["a", "b", "c"]);
    let label = select(vec!["x", "y"]);
    let waypoint = select(WAYPOINTS.to_vec());
    let waypoint_of_account = waypoint.clone();
    let flag = any::<bool>();
    prop_oneof![
        (namespace.clone(), name.clone(), waypoint.clone(), flag).prop_map(|(namespace, name, waypoint, fed)| {
            let selector = if fed { "{}" } else { "{app: x}" };
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{waypoint}}}}}\n\
                 spec: {{clusterIP: 10.30.0.1, selector: {selector}, ports: [{{name: web, port: 80}}]}}\n"
            )
        }),
        (namespace.clone(), name.clone(), name.clone(), 0..4u8).prop_map(slice),
        (namespace.clone(), name.clone(), waypoint.clone(), 0..6u8, 0..3u8).prop_map(entry),
        (namespace.clone(), name.clone(), label, waypoint.clone(), flag).prop_map(
            |(namespace, name, label, waypoint, healthy)| format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
                 metadata: {{name: {name}, namespace: {namespace}, labels: {{{waypoint}}}}}\n\
                 spec: {{address: 10.9.0.1, ports: {{web: 8088}}, labels: {{app: {label}}}}}\n\
                 status: {{conditions: [{{type: Healthy, status: \"{healthy}\"}}]}}\n"
            )
        ),
        (namespace.clone(), name, waypoint.clone()).prop_map(|(namespace, name, waypoint)| format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: {namespace}, labels: {{app: x, {waypoint}}}}}\n\
             status: {{podIP: 10.20.1.1}}\n"
        )),
        (namespace.clone(), waypoint).prop_map(|(namespace, waypoint)| format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{waypoint}}}}}\n"
        )),
        (namespace.clone(), 0..5u8, 0..4u8, flag).prop_map(gateway),
        (namespace.clone(), flag, flag).prop_map(|(namespace, ready, older)| second_gateway(namespace, ready, older)),
        (namespace, waypoint_of_account).prop_map(|(namespace, waypoint)| format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: default, namespace: {namespace}, labels: {{{waypoint}}}}}\n"
        )),
        (0..5u8, flag).prop_map(|(covers, bound)| format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
             metadata: {{name: istio-waypoint, labels: {{{}}}{}}}\nspec: {{controllerName: {}}}\n",
            COVERS[usize::from(covers)],
            if bound { ", annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}" } else { "" },
            if covers % 2 == 0 { "ambit.mesh/waypoint" } else { "istio.io/mesh-controller" },
        )),
    ]
}

/// Labels that name a waypoint, or a part of one.
const WAYPOINTS: [&str; 11] = [
    "istio.io/use-waypoint: w, ambit.mesh/waypoint-enforcement: enforce",
    "istio.io/use-waypoint: v, istio.io/use-waypoint-canary: w",
    "istio.io/use-waypoint: w, istio.io/use-waypoint-canary: v, ambit.mesh/waypoint-enforcement: audit",
    "gateway.networking.k8s.io/gateway-name: v",
    "",
    "istio.io/use-waypoint: w",
    "istio.io/use-waypoint: none",
    "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: bank",
    "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: bank, team: red",
    "istio.io/ingress-use-waypoint: \"true\", team: red",
    "gateway.networking.k8s.io/gateway-name: w",
];

const COVERS: [&str; 5] = [
    "",
    "istio.io/waypoint-for: service",
    "istio.io/waypoint-for: workload",
    "istio.io/waypoint-for: all",
    "istio.io/waypoint-for: none",
];

fn gateway((namespace, covers, routes, ready): (&str, u8, u8, bool)) -> String {
    let routes = [
        "{}",
        "{namespaces: {from: All}}",
        "{namespaces: {from: Same}}",
        "{namespaces: {from: Selector, selector: {matchLabels: {team: red}}}}",
    ][usize::from(routes)];
    let addresses = if ready { "[{value: 10.30.9.9}]" } else { "[]" };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: w, namespace: {namespace}, labels: {{{}}}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {routes}}}]}}\n\
         status: {{addresses: {addresses}}}\n",
        COVERS[usize::from(covers)]
    )
}

/// One that is enforced, of a class that control deploys if it is there, and for a service account.
fn second_gateway(namespace: &str, ready: bool, older: bool) -> String {
    let addresses = if ready { "[{value: 10.30.9.8}]" } else { "[]" };
    let name = if older { "v" } else { "u" };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{istio.io/waypoint-for: all, ambit.mesh/waypoint-enforcement: enforce}}, \
         annotations: {{istio.io/for-service-account: default}}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n\
         status: {{addresses: {addresses}}}\n"
    )
}

fn slice((namespace, name, service, variant): (&str, &str, &str, u8)) -> String {
    let endpoints = [
        "[{addresses: [10.20.1.1], targetRef: {kind: Pod, name: a}}]",
        "[{addresses: [10.20.1.1], targetRef: {kind: Pod, name: a}}, {addresses: [10.20.1.2], targetRef: {kind: Pod, name: b}}]",
        "[{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}]",
        "null",
    ][usize::from(variant)];
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         endpoints: {endpoints}\nports: [{{name: web, port: 808{variant}}}]\n"
    )
}

/// Hosts that several want, one of them a Service's.
fn entry((namespace, name, waypoint, variant, age): (&str, &str, &str, u8, u8)) -> String {
    let spec = [
        "hosts: [a.example.com], resolution: DNS",
        "hosts: [a.example.com, b.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.7, labels: {app: x}}]",
        "hosts: [a.shop.svc.cluster.local], resolution: STATIC, workloadSelector: {labels: {app: x}}",
        "hosts: [a.example.com, a.bank.svc.cluster.local], resolution: STATIC, workloadSelector: {labels: {app: y}}",
        "hosts: [b.example.com], addresses: [10.99.0.0/24]",
        "hosts: ['*.example.com', b.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.8, ports: {web: 99}}]",
    ][usize::from(variant)];
    let created =
        if age > 0 { format!(", creationTimestamp: \"2026-01-0{age}T00:00:00Z\"") } else { String::new() };
    let status = if age == 2 { "{addresses: [{value: 240.240.7.7, host: a.example.com}]}" } else { "{}" };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{{waypoint}}}{created}}}\n\
         spec: {{{spec}, ports: [{{number: 80, name: web, protocol: HTTP}}]}}\nstatus: {status}\n"
    )
}

fn pod((namespace, name, label, node, variant): (&str, &str, &str, &str, u8)) -> String {
    let status = match variant {
        0 => "{phase: Succeeded, podIP: 10.20.1.1}",
        1 => "{phase: Pending}",
        _ => "{phase: Running, podIP: 10.20.1.1, conditions: [{type: Ready, status: \"True\"}]}",
    };
    let ports = if variant == 3 { "[{name: web, containerPort: 8081}]" } else { "[]" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {label}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{ports: {ports}}}]}}\nstatus: {status}\n"
    )
}

fn selector(label: Option<&str>) -> String {
    label.map(|label| format!("selector: {{matchLabels: {{app: {label}}}}}, ")).unwrap_or_default()
}

fn authorization((namespace, name, label, action): (&str, &str, Option<&str>, u8)) -> String {
    let action = ["ALLOW", "DENY", "AUDIT"][usize::from(action)];
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{}action: {action}, rules: [{{}}]}}\n",
        selector(label)
    )
}

fn peer((namespace, name, label, mode, port, age): (&str, &str, Option<&str>, u8, u8, u8)) -> String {
    let modes = ["UNSET", "PERMISSIVE", "STRICT", "DISABLE"];
    let mut text = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}"
    );
    if age > 0 {
        write!(text, ", creationTimestamp: \"2026-01-0{age}T00:00:00Z\"").unwrap();
    }
    let ports = match (label, port) {
        (Some(_), 1..) => format!(", portLevelMtls: {{8080: {{mode: {}}}}}", modes[usize::from(port)]),
        (Some(_) | None, _) => String::new(),
    };
    let mode = modes[usize::from(mode)];
    write!(text, "}}\nspec: {{{}mtls: {{mode: {mode}}}{ports}}}\n", selector(label)).unwrap();
    text
}

/// A history: objects that come or change, and some that go.
fn history() -> impl Strategy<Value = Vec<Event>> {
    let event = (object(), 0..4u8).prop_map(|(text, fate)| {
        let [Event::Applied(object)] = &events(&text)[..] else { panic!("one object: {text}") };
        if fate == 0 { Event::Deleted(object.key()) } else { Event::Applied(object.clone()) }
    });
    proptest::collection::vec(event, 1..40)
}

/// The objects that are left at the end of a history.
fn survivors(history: &[Event]) -> Vec<Event> {
    let mut left: BTreeMap<ObjectKey, Event> = BTreeMap::new();
    for event in history {
        match event {
            Event::Applied(object) => left.insert(object.key(), event.clone()),
            Event::Deleted(key) => left.remove(key),
            Event::Noted(..) | Event::Broken(..) => None,
        };
    }
    left.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_rebuild(history in history(), sizes in proptest::collection::vec(1..5usize, 1..10)) {
        let mut world = World::new(settings());
        let mut told = Told::default();
        let mut rest = history.as_slice();
        for size in sizes.iter().cycle() {
            let (batch, after) = rest.split_at((*size).min(rest.len()));
            told.take(world.apply(batch.to_vec()));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let mut fresh = World::new(settings());
        fresh.apply(survivors(&history));
        prop_assert_eq!(said(&world), said(&fresh));
        let mut anew = Told::default();
        anew.take(fresh.outputs());
        prop_assert_eq!(told, anew, "the changes add up to what there is");
    }

    #[test]
    fn any_order_of_events_converges(history in history(), seed in any::<u64>()) {
        let left = survivors(&history);
        let mut shuffled = left.clone();
        // A permutation from the seed.
        for index in (1..shuffled.len()).rev() {
            let other = usize::try_from(seed.rotate_left(u32::try_from(index).unwrap_or(0)) % (index as u64 + 1));
            shuffled.swap(index, other.unwrap_or(0));
        }
        let (mut ordered, mut disordered) = (World::new(settings()), World::new(settings()));
        ordered.apply(left);
        for event in shuffled {
            disordered.apply([event]);
        }
        prop_assert_eq!(said(&ordered), said(&disordered));
    }

    #[test]
    fn a_workload_names_only_policies_that_are_told_and_no_change_is_told_twice(history in history()) {
        let mut world = World::new(settings());
        let again = survivors(&history);
        world.apply(history);
        let outputs: Vec<Change> = world.outputs().collect();
        let policies: Vec<&PolicyName> = outputs.iter().filter_map(|output| match output {
            Change::Policy(policy) => Some(&policy.name),
            _ => None,
        }).collect();
        for output in &outputs {
            let Change::Workload(workload) = output else { continue };
            for name in &workload.policies {
                prop_assert!(policies.contains(&name), "{} names {name}", workload.uid);
            }
        }
        prop_assert_eq!(world.apply(again), Vec::new());
    }
}

#[test]
fn the_same_object_again_changes_nothing() {
    let text = pod(("shop", "a", "x", "one", 2));
    let mut world = World::new(settings());
    assert_eq!(world.apply(events(&text)).len(), 1);
    assert_eq!(world.apply(events(&text)), []);
}

#[test]
fn what_is_named_comes_before_what_names_it_and_goes_after_it() {
    let mut world = World::new(settings());
    let text = [pod(("shop", "a", "x", "one", 2)), authorization(("shop", "b", Some("x"), 1))].join("---\n");
    let kinds = |changes: Vec<Change>| -> Vec<&str> {
        changes
            .iter()
            .map(|change| match change {
                Change::Workload(_) => "workload",
                Change::Service(_) => "service",
                Change::Policy(_) => "policy",
                Change::WorkloadGone(_) => "workload gone",
                Change::ServiceGone(_) => "service gone",
                Change::PolicyGone(_) => "policy gone",
                Change::Route(_) => "route",
                Change::RouteGone(_) => "route gone",
                Change::Telemetry(_) => "telemetry",
                Change::TelemetryGone(_) => "telemetry gone",
                Change::Traffic(_) => "traffic",
                Change::TrafficGone(_) => "traffic gone",
                Change::Guard(_) => "guard",
                Change::GuardGone(_) => "guard gone",
                Change::Authentication(_) => "authentication",
                Change::AuthenticationGone(_) => "authentication gone",
            })
            .collect()
    };
    assert_eq!(kinds(world.apply(events(&text))), ["policy", "workload"]);
    let key = ObjectKey { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: "b".into() };
    assert_eq!(kinds(world.apply([Event::Deleted(key)])), ["workload", "policy gone"]);
}

#[test]
fn a_nodes_heartbeat_touches_nobody_but_its_move_does() {
    let mut world = World::new(settings());
    let node = |label: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: one, labels: {{{label}: a, topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    world.apply(events(&pod(("shop", "a", "x", "one", 2))));
    assert_eq!(world.apply(events(&node("beat", "z1"))).len(), 1);
    assert_eq!(world.apply(events(&node("beat-again", "z1"))), []);
    let moved = world.apply(events(&node("beat", "z2")));
    assert!(
        matches!(&moved[..], [Change::Workload(workload)] if workload.locality.zone == "z2"),
        "{moved:?}"
    );
}

/// What an event makes translated again, besides the object itself.
fn touched(before: &str, event: &str) -> Vec<String> {
    let mut world = World::new(settings());
    world.apply(events(before));
    let [Event::Applied(object)] = &events(event)[..] else { panic!("one object: {event}") };
    let old = world.objects.insert(object.as_ref().clone());
    let mut affected = Affected::default();
    affected.add(&world.objects, &world.settings, old.as_ref(), Some(object));
    affected.keys.remove(&object.key());
    affected.keys.iter().map(ToString::to_string).collect()
}

#[test]
fn an_event_touches_only_what_it_can_affect() {
    let manifests = |objects: &[String]| objects.join("---\n");
    let pods: Vec<String> = ["a", "b", "c"].map(|name| pod(("shop", name, "x", "one", 2))).into();
    let service = |selector: &str, label: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop, labels: {{{label}}}}}\n\
             spec: {{clusterIP: 10.30.0.1, selector: {selector}, ports: [{{name: web, port: 80}}]}}\n"
        )
    };
    let selected = manifests(&[pods.clone(), vec![service("{app: x}", "")]].concat());
    assert_eq!(touched(&selected, &service("{app: x}", "beat: again")), [] as [&str; 0]);
    assert_eq!(touched(&selected, &service("{app: y}", "")).len(), 3);
    assert_eq!(
        touched(&selected, &slice(("shop", "s", "a", 1))),
        [] as [&str; 0],
        "its pods have the selector"
    );

    let fed = [pods.clone(), vec![service("{}", ""), slice(("shop", "s", "a", 0))]].concat();
    let more = slice(("shop", "s", "a", 1)).replace("8081", "8080");
    assert_eq!(touched(&manifests(&fed), &more), ["Pod shop/b"], "only the new one");

    let of_services = [pods.clone(), vec![gateway(("shop", 1, 0, false))]].concat();
    let bound =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: w}}\n";
    let guarded = ["Pod shop/a", "Pod shop/b", "Pod shop/c"];
    assert_eq!(touched(&manifests(&of_services), bound), guarded, "it guards the endpoints of services too");
    let in_front = [of_services, vec![bound.to_owned(), service("{app: x}", "")]].concat();
    assert_eq!(
        touched(&manifests(&in_front), &gateway(("shop", 1, 0, true))),
        [&["Namespace shop"][..], &guarded[..], &["Service shop/a"][..]].concat()
    );
    assert_eq!(
        touched(&manifests(&in_front), &service("{app: x}", "ambit.mesh/waypoint-enforcement: enforce")),
        guarded
    );
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: shop, labels: {istio.io/use-waypoint: w}}\n";
    assert_eq!(touched(&manifests(&in_front), account), guarded);
    assert_eq!(touched(&manifests(&in_front), &gateway(("shop", 1, 0, false))), [] as [&str; 0]);

    let elsewhere = [pods, vec![entry(("shop", "c", "", 0, 1)), entry(("bank", "b", "", 1, 0))]].concat();
    let younger = entry(("bank", "a", "", 0, 2));
    assert_eq!(
        touched(&manifests(&elsewhere), &younger),
        ["ServiceEntry bank/b", "ServiceEntry shop/c"],
        "who has the same host"
    );
}

#[test]
fn gone_changes_carry_the_names_of_the_wire() {
    let mut world = World::new(settings());
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIP: None}\n";
    world.apply(events(&[pod(("shop", "a", "x", "one", 2)), service.to_owned()].join("---\n")));
    let key = |kind| ObjectKey { kind, namespace: "shop".into(), name: "a".into() };
    let gone = world.apply([Event::Deleted(key(Kind::Pod)), Event::Deleted(key(Kind::Service))]);
    let uid = WorkloadUid::parse("Kubernetes//Pod/shop/a").unwrap();
    let name: ServiceName = "shop/a.shop.svc.cluster.local".parse().unwrap();
    assert_eq!(gone, [Change::ServiceGone(name), Change::WorkloadGone(uid)]);
}

#[test]
fn of_a_broken_object_it_is_said_whether_anything_is_in_force() {
    let mut world = World::new(settings());
    let shop = events(
        "apiVersion: v1
kind: Namespace
metadata: {name: shop}
",
    );
    let [Event::Applied(object)] = &shop[..] else { panic!("one object") };
    let key = object.key();
    let report = Report {
        object: key.clone(),
        field: "metadata.labels".to_owned(),
        severity: crate::report::Severity::Error,
        message: "are none".to_owned(),
    };
    let said = |world: &mut World| {
        world.apply([Event::Broken(key.clone(), vec![report.clone()])]);
        world.reports_of(&key).map(|report| report.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(&mut world), ["are none; nothing of it is in force"]);
    world.apply(shop.clone());
    let stays = "are none; what was last good of it stays in force until control starts again";
    assert_eq!(said(&mut world), [stays]);
    world.apply([Event::Deleted(key.clone())]);
    assert_eq!(said(&mut world), ["are none; nothing of it is in force"]);
}
