// SPDX-License-Identifier: Apache-2.0
//! Every lookup against a naive model, in any order of changes, and what changes say they touched.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    fixtures::{ip, memberships, policy, policy_name, service, service_name, uid, vip, workload},
    name::{Network, TrustDomain},
    policy::Action,
    service::{HealthPolicy, Visibility},
    workload::{Health, TunnelProtocol},
};

fn at(text: &str) -> NetworkAddress {
    NetworkAddress::new(Network::default(), ip(text))
}

fn holder(index: &Index, address: &str) -> Option<String> {
    index.workload_at(&at(address)).map(|workload| workload.name.to_string())
}

#[test]
fn the_newest_claim_has_the_address_and_the_older_cannot_take_it_away() {
    let mut index = Index::new();
    index.apply(Change::Workload(workload("old", &["10.0.0.1"])));
    index.apply(Change::Workload(workload("new", &["10.0.0.1"])));
    assert_eq!(holder(&index, "10.0.0.1").as_deref(), Some("new"));
    index.apply(Change::Workload(Workload { health: Health::Unhealthy, ..workload("old", &["10.0.0.1"]) }));
    assert_eq!(holder(&index, "10.0.0.1").as_deref(), Some("new"), "an update is not a new claim");
    let touched = index.apply(Change::WorkloadGone(uid("Kubernetes//Pod/shop/old")));
    assert_eq!(holder(&index, "10.0.0.1").as_deref(), Some("new"));
    assert_eq!(touched.moved, []);
}

#[test]
fn an_address_falls_back_to_the_older_claim() {
    let mut index = Index::new();
    index.apply(Change::Workload(workload("old", &["10.0.0.1"])));
    index.apply(Change::Workload(workload("new", &["10.0.0.1"])));
    index.apply(Change::WorkloadGone(uid("Kubernetes//Pod/shop/new")));
    assert_eq!(holder(&index, "10.0.0.1").as_deref(), Some("old"));
}

#[test]
fn an_address_that_changes_hands_is_told() {
    let mut index = Index::new();
    let old = workload("old", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(index.apply(Change::Workload(old.clone())).moved, [], "nobody was there");
    let new = workload("new", &["10.0.0.1"]);
    let moved = |address, was: &Workload, now: Option<&Workload>| Moved {
        address: at(address),
        was: was.identity(),
        now: now.map(Workload::identity),
    };
    let touched = index.apply(Change::Workload(new.clone()));
    assert_eq!(touched.moved, [moved("10.0.0.1", &old, Some(&new))]);
    let touched = index.apply(Change::WorkloadGone(old.uid.clone()));
    assert_eq!(touched.moved, [moved("10.0.0.2", &old, None)]);
    let other = Workload { service_account: "other".into(), ..new.clone() };
    let touched = index.apply(Change::Workload(other.clone()));
    assert_eq!(touched.moved, [moved("10.0.0.1", &new, Some(&other))]);
    let twin = Workload { uid: uid("twin"), ..other };
    assert_eq!(index.apply(Change::Workload(twin)).moved, [], "the same identity");
}

#[test]
fn a_workload_on_the_hosts_network_is_not_found_by_address() {
    let mut index = Index::new();
    let host = Workload { network_mode: NetworkMode::HostNetwork, ..workload("host", &["10.0.0.1"]) };
    index.apply(Change::Workload(host.clone()));
    assert_eq!(holder(&index, "10.0.0.1"), None);
    assert!(index.workload(&host.uid).is_some());
}

#[test]
fn endpoints_wait_for_their_service() {
    let mut index = Index::new();
    let web = service("web", &["10.1.0.1"]);
    let pod = Workload { services: memberships(&[(&web, &[])]), ..workload("web-1", &["10.0.0.1"]) };
    index.apply(Change::Workload(pod));
    let staged: Vec<_> = index.staged().map(|(name, endpoints)| (name.clone(), endpoints.len())).collect();
    assert_eq!(staged, [(web.key(), 1)]);
    index.apply(Change::Service(web.clone()));
    assert_eq!(index.staged().count(), 0);
    assert_eq!(index.endpoints(&web).count(), 1);
    index.apply(Change::ServiceGone(web.key()));
    index.apply(Change::Service(web.clone()));
    assert_eq!(index.endpoints(&web).count(), 1, "a service that comes back finds its endpoints");
}

#[test]
fn unhealthy_endpoints_are_left_out_unless_the_service_wants_them() {
    let mut index = Index::new();
    let mut web = service("web", &[]);
    let services = memberships(&[(&web, &[])]);
    let pod = Workload { services, health: Health::Unhealthy, ..workload("web-1", &["10.0.0.1"]) };
    index.apply(Change::Workload(pod));
    assert_eq!(index.endpoints(&web).count(), 0);
    web.load_balancing.health_policy = HealthPolicy::AllowAll;
    assert_eq!(index.endpoints(&web).count(), 1);
}

#[test]
fn a_virtual_address_is_its_own_namespaces_then_the_narrowest_then_the_canonical_one() {
    let of = |name: &str, namespace: &str, vips: &[&str], canonical| Service {
        namespace: namespace.into(),
        canonical,
        ..service(name, vips)
    };
    let single = of("single", "a", &["10.1.0.1"], false);
    let canonical = of("canonical", "b", &["10.1.0.1"], true);
    let narrow = of("narrow", "a", &["10.1.0.0/24"], false);
    let wide = of("wide", "c", &["10.1.0.0/16"], true);
    let private = Service { visibility: Visibility::Namespace, ..of("private", "d", &["10.1.0.1"], true) };
    let six = of("six", "a", &["fd00::/64"], false);
    let mut index = Index::new();
    for service in [single, canonical, narrow, wide, private, six] {
        index.apply(Change::Service(service));
    }
    let cases = [
        ("10.1.0.1", "x", Some("canonical")),
        ("10.1.0.1", "a", Some("single")),
        ("10.1.0.1", "c", Some("wide")),
        ("10.1.0.1", "d", Some("private")),
        ("10.1.0.2", "x", Some("narrow")),
        ("10.1.9.9", "x", Some("wide")),
        ("10.2.0.1", "x", None),
        ("fd00::5", "x", Some("six")),
        ("fd01::5", "x", None),
    ];
    for (address, namespace, expected) in cases {
        let found = index.service_at(&at(address), namespace).map(|service| service.name.as_str());
        assert_eq!(found, expected, "{address} from {namespace}");
    }
}

#[test]
fn a_virtual_address_is_of_one_network() {
    let mut index = Index::new();
    index.apply(Change::Service(service("web", &["10.1.0.1", "10.2.0.0/16"])));
    let elsewhere = |text| NetworkAddress::new(Network("other".into()), ip(text));
    assert!(index.service_at(&elsewhere("10.1.0.1"), "shop").is_none());
    assert!(index.service_at(&elsewhere("10.2.0.1"), "shop").is_none());
}

#[test]
fn repeating_what_is_known_touches_nothing() {
    let mut index = Index::new();
    let changes = [
        Change::Workload(workload("a", &["10.0.0.1"])),
        Change::Service(service("web", &["10.1.0.1"])),
        Change::Policy(policy("shop/p", Action::Deny, vec![])),
    ];
    for change in &changes {
        assert!(!index.apply(change.clone()).is_empty());
    }
    for change in changes {
        assert!(index.apply(change.clone()).is_empty(), "{change:?}");
    }
    assert!(index.apply(Change::WorkloadGone(uid("unknown"))).is_empty());
    assert!(index.apply(Change::ServiceGone(service_name("shop/unknown"))).is_empty());
    assert!(index.apply(Change::PolicyGone(policy_name("shop/unknown"))).is_empty());
}

#[test]
fn other_policies_for_a_workload_ask_its_connections_again() {
    let mut index = Index::new();
    let mut pod = workload("a", &["10.0.0.1"]);
    assert!(index.apply(Change::Workload(pod.clone())).selections.contains(&pod.key()), "it appeared");
    pod.health = Health::Unhealthy;
    assert!(index.apply(Change::Workload(pod.clone())).selections.is_empty());
    pod.policies = vec![policy_name("shop/p")];
    let touched = index.apply(Change::Workload(pod.clone()));
    assert_eq!(touched.selections, BTreeSet::from([pod.key()]));
    assert!(!touched.policies);
}

#[test]
fn identities_of_a_node_are_those_of_its_workloads_that_accept_tunnels() {
    let mut index = Index::new();
    let captured = workload("captured", &[]);
    let plain = Workload { tunnel: TunnelProtocol::None, ..workload("plain", &[]) };
    let elsewhere = Workload { node: "n2".into(), ..workload("elsewhere", &[]) };
    let twin = Workload { uid: uid("twin"), ..captured.clone() };
    for pod in [captured.clone(), plain, elsewhere] {
        index.apply(Change::Workload(pod));
    }
    assert_eq!(index.identities_on("n1").cloned().collect::<Vec<_>>(), [captured.identity()]);
    assert!(index.apply(Change::Workload(twin.clone())).nodes.is_empty());
    assert!(index.apply(Change::WorkloadGone(captured.uid)).nodes.is_empty());
    assert_eq!(index.apply(Change::WorkloadGone(twin.uid)).nodes, BTreeSet::from(["n1".into()]));
    assert_eq!(index.identities_on("n1").count(), 0);
}

#[test]
fn equal_texts_are_kept_once() {
    let mut index = Index::new();
    let web = service("web", &[]);
    for name in ["a", "b"] {
        let services = memberships(&[(&web, &[(80, 8080)])]);
        index.apply(Change::Workload(Workload {
            node: ArcStr::from(String::from("n1")),
            services,
            ..workload(name, &[])
        }));
    }
    let pods: Vec<_> = index.workloads().collect();
    let [a, b] = pods.as_slice() else { panic!("{pods:?}") };
    assert!(ArcStr::ptr_eq(&a.node, &b.node));
    assert!(Arc::ptr_eq(&a.services, &b.services));
}

const NETWORKS: [&str; 2] = ["", "west"];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "fd00::1"];
const NAMESPACES: [&str; 2] = ["shop", "bank"];
const NODES: [&str; 2] = ["n1", "n2"];

fn any_workload() -> impl Strategy<Value = Workload> {
    let place =
        (select(&NETWORKS), vec(select(&ADDRESSES), 0..3), select(&NODES), any::<bool>(), any::<bool>());
    let names = (0..5_u8, select(&["a", "b"]), select(&NAMESPACES), select(&["x", "y"]));
    let rest = (vec((select(&["web", "db"]), any::<bool>()), 0..3), any::<bool>(), 0..2_usize);
    (place, names, rest).prop_map(
        |((network, addresses, node, host, hbone), names, (services, healthy, policies))| {
            let (uid_number, name, namespace, account) = names;
            let entries: Vec<(Service, bool)> =
                services.into_iter().map(|(name, own)| (service(name, &[]), own)).collect();
            let ports = |own: bool| -> &[(u16, u16)] { if own { &[(80, 9090)] } else { &[] } };
            let services: Vec<_> = entries.iter().map(|(service, own)| (service, ports(*own))).collect();
            Workload {
                uid: uid(&format!("uid-{uid_number}")),
                name: name.into(),
                namespace: namespace.into(),
                trust_domain: TrustDomain::parse("cluster.local").unwrap(),
                service_account: account.into(),
                network: Network(network.into()),
                network_mode: if host { NetworkMode::HostNetwork } else { NetworkMode::Standard },
                tunnel: if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None },
                node: node.into(),
                policies: vec![policy_name("shop/p0"); policies],
                services: memberships(&services),
                health: if healthy { Health::Healthy } else { Health::Unhealthy },
                ..workload(name, &addresses)
            }
        },
    )
}

fn any_service() -> impl Strategy<Value = Service> {
    let vips =
        vec(select(&["10.1.0.1", "10.1.0.2", "10.1.0.0/24", "10.0.0.0/8", "fd01::/64", "fd01::1"]), 0..3);
    (select(&["web", "db"]), select(&NAMESPACES), vips, any::<bool>(), any::<bool>()).prop_map(
        |(name, namespace, vips, canonical, public)| Service {
            namespace: namespace.into(),
            vips: vips.into_iter().map(vip).collect(),
            canonical,
            visibility: if public { Visibility::Public } else { Visibility::Namespace },
            ..service(name, &[])
        },
    )
}

fn any_change() -> impl Strategy<Value = Change> {
    let hosts = ["shop/web.shop.svc.cluster.local", "bank/db.shop.svc.cluster.local"];
    prop_oneof![
        4 => any_workload().prop_map(Change::Workload),
        2 => any_service().prop_map(Change::Service),
        1 => (0..3_u8, any::<bool>()).prop_map(|(number, deny)| {
            let action = if deny { Action::Deny } else { Action::Allow };
            Change::Policy(policy(&format!("shop/p{number}"), action, vec![]))
        }),
        2 => (0..5_u8).prop_map(|number| Change::WorkloadGone(uid(&format!("uid-{number}")))),
        1 => select(hosts.to_vec()).prop_map(|name| Change::ServiceGone(service_name(name))),
        1 => (0..3_u8).prop_map(|number| Change::PolicyGone(policy_name(&format!("shop/p{number}")))),
    ]
}

/// The final state of every resource, with workloads in the order in which they first claimed each address.
#[derive(Default)]
struct Model {
    workloads: BTreeMap<WorkloadUid, Workload>,
    services: BTreeMap<ServiceName, Service>,
    policies: BTreeMap<PolicyName, Policy>,
    claims: BTreeMap<NetworkAddress, Vec<WorkloadUid>>,
}

impl Model {
    fn of(changes: &[Change]) -> Self {
        let mut model = Self::default();
        for change in changes.iter().cloned() {
            match change {
                Change::Workload(workload) => model.put(workload.uid.clone(), Some(workload)),
                Change::WorkloadGone(uid) => model.put(uid, None),
                Change::Service(service) => drop(model.services.insert(service.key(), service)),
                Change::ServiceGone(name) => drop(model.services.remove(&name)),
                Change::Policy(policy) => drop(model.policies.insert(policy.name.clone(), policy)),
                Change::PolicyGone(name) => drop(model.policies.remove(&name)),
                Change::Route(_)
                | Change::RouteGone(_)
                | Change::Telemetry(_)
                | Change::TelemetryGone(_)
                | Change::Traffic(_)
                | Change::TrafficGone(_)
                | Change::Guard(_)
                | Change::GuardGone(_)
                | Change::Authentication(_)
                | Change::AuthenticationGone(_) => {}
            }
        }
        model
    }

    fn put(&mut self, uid: WorkloadUid, workload: Option<Workload>) {
        for address in all_addresses() {
            let claims = workload.as_ref().is_some_and(|workload| {
                workload.network_mode == NetworkMode::Standard
                    && workload.network == address.network
                    && workload.addresses.contains(&address.ip)
            });
            let claimants = self.claims.entry(address).or_default();
            if !claims {
                claimants.retain(|known| *known != uid);
            } else if !claimants.contains(&uid) {
                claimants.push(uid.clone());
            }
        }
        match workload {
            Some(workload) => self.workloads.insert(uid, workload),
            None => self.workloads.remove(&uid),
        };
    }

    fn resources(&self) -> Vec<Change> {
        let workloads = self.workloads.values().cloned().map(Change::Workload);
        let services = self.services.values().cloned().map(Change::Service);
        workloads.chain(services).chain(self.policies.values().cloned().map(Change::Policy)).collect()
    }

    fn service_at(&self, ip: std::net::IpAddr, namespace: &str) -> Option<ServiceName> {
        let offers = self.services.values().flat_map(|service| {
            let covering = service.vips.iter().filter(move |vip| vip.net.contains(&ip));
            covering.map(move |vip| (service.namespace == namespace, vip.net.prefix_len(), service))
        });
        offers
            .filter(|(own, _, service)| *own || service.visibility == Visibility::Public)
            .max_by_key(|(own, length, service)| {
                (*own, *length, service.canonical, std::cmp::Reverse(service.key()))
            })
            .map(|(_, _, service)| service.key())
    }

    fn holder(&self, address: &NetworkAddress) -> Option<&Workload> {
        self.claims.get(address)?.last().and_then(|uid| self.workloads.get(uid))
    }
}

fn all_addresses() -> Vec<NetworkAddress> {
    let all = NETWORKS.iter().flat_map(|network| ADDRESSES.iter().map(move |address| (network, address)));
    all.map(|(network, address)| NetworkAddress::new(Network((*network).into()), ip(address))).collect()
}

fn applied(changes: impl IntoIterator<Item = Change>) -> Index {
    let mut index = Index::new();
    for change in changes {
        index.apply(change);
    }
    index
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items
}

/// Every lookup but the one by address, as data.
#[derive(Debug, PartialEq)]
struct View {
    workloads: Vec<(WorkloadUid, Workload)>,
    keys: Vec<(WorkloadKey, Vec<WorkloadUid>)>,
    services: Vec<(ServiceName, Service)>,
    vips: Vec<(String, &'static str, Option<ServiceName>)>,
    hosts: Vec<(String, &'static str, Vec<ServiceName>)>,
    endpoints: Vec<(ServiceName, Vec<WorkloadUid>)>,
    staged: Vec<(ServiceName, Vec<WorkloadUid>)>,
    policies: Vec<(PolicyName, Policy)>,
    identities: Vec<(&'static str, Vec<SpiffeId>)>,
}

const VIPS: [&str; 5] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.9.0.1", "fd01::1"];

fn view(index: &Index) -> View {
    let uids = |workloads: &[Arc<Workload>]| workloads.iter().map(|workload| workload.uid.clone()).collect();
    let keys: BTreeSet<WorkloadKey> = index.workloads().map(|workload| workload.key()).collect();
    let mut staged: Vec<_> = index.staged().map(|(name, group)| (name.clone(), uids(group))).collect();
    staged.sort();
    let mut workloads: Vec<_> =
        index.workloads().map(|known| (known.uid.clone(), Workload::clone(known))).collect();
    workloads.sort_by(|a, b| a.0.cmp(&b.0));
    let mut services: Vec<_> = index.services().map(|known| (known.key(), Service::clone(known))).collect();
    services.sort_by(|a, b| a.0.cmp(&b.0));
    let mut policies: Vec<_> =
        index.policies().map(|known| (known.name.clone(), Policy::clone(known))).collect();
    policies.sort_by(|a, b| a.0.cmp(&b.0));
    let from = |texts: &[&'static str]| -> Vec<(String, &'static str)> {
        texts.iter().flat_map(|text| NAMESPACES.map(|namespace| ((*text).to_owned(), namespace))).collect()
    };
    View {
        keys: keys
            .into_iter()
            .map(|key| {
                let known = sorted(index.workloads_named(&key).map(|workload| workload.uid.clone()));
                (key, known)
            })
            .collect(),
        vips: from(&VIPS)
            .into_iter()
            .map(|(text, namespace)| {
                let found = index.service_at(&at(&text), namespace).map(|service| service.key());
                (text, namespace, found)
            })
            .collect(),
        hosts: from(&["web.shop.svc.cluster.local", "db.shop.svc.cluster.local"])
            .into_iter()
            .map(|(text, namespace)| {
                let host = Hostname::parse(&text).unwrap();
                let found = index.services_of_host(&host, namespace).map(|service| service.key()).collect();
                (text, namespace, found)
            })
            .collect(),
        endpoints: services
            .iter()
            .map(|(name, service)| {
                (name.clone(), index.endpoints(service).map(|workload| workload.uid.clone()).collect())
            })
            .collect(),
        identities: NODES.map(|node| (node, index.identities_on(node).cloned().collect())).to_vec(),
        workloads,
        services,
        staged,
        policies,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn incremental_equals_a_rebuild_in_any_order(
        changes in vec(any_change(), 0..40),
        shuffled in any::<u64>(),
    ) {
        let model = Model::of(&changes);
        let index = applied(changes);
        let mut resources = model.resources();
        crate::chance::Chance::new(shuffled, 0).shuffle(&mut resources);
        let rebuilt = applied(resources);
        prop_assert_eq!(view(&index), view(&rebuilt));
        for (text, namespace, found) in view(&index).vips {
            prop_assert_eq!(found, model.service_at(ip(&text), namespace), "{} from {}", text, namespace);
        }
        for address in all_addresses() {
            let found = index.workload_at(&address).map(|workload| Workload::clone(workload));
            prop_assert_eq!(found.as_ref(), model.holder(&address), "{}", address);
            let claimants = model.claims.get(&address).map(Vec::as_slice).unwrap_or_default();
            let found = rebuilt.workload_at(&address).map(|workload| workload.uid.clone());
            prop_assert_eq!(found.is_some(), !claimants.is_empty());
            prop_assert!(found.is_none_or(|uid| claimants.contains(&uid)));
        }
    }

    #[test]
    fn a_change_tells_exactly_what_it_touched(changes in vec(any_change(), 1..30)) {
        let mut index = Index::new();
        for change in changes {
            let state = |index: &Index| {
                let addresses = all_addresses();
                let holders =
                    addresses.iter().map(|address| index.workload_at(address).map(|known| known.identity()));
                (holders.collect::<Vec<_>>(), view(index).identities)
            };
            let before = state(&index);
            let touched = index.apply(change.clone());
            let after = state(&index);
            let mut expected = Vec::new();
            for ((address, was), now) in all_addresses().into_iter().zip(before.0).zip(after.0) {
                if let Some(was) = was && now.as_ref() != Some(&was) {
                    expected.push(Moved { address, was, now });
                }
            }
            let mut moved = touched.moved.clone();
            moved.sort_by(|a, b| a.address.cmp(&b.address));
            expected.sort_by(|a, b| a.address.cmp(&b.address));
            prop_assert_eq!(moved, expected);
            let nodes: BTreeSet<ArcStr> = before.1.iter().zip(&after.1)
                .filter(|(before, after)| before.1 != after.1)
                .map(|(before, _)| before.0.into())
                .collect();
            prop_assert_eq!(&touched.nodes, &nodes);
            prop_assert!(index.apply(change).is_empty());
        }
    }

    #[test]
    fn nothing_is_left_when_all_is_gone(changes in vec(any_change(), 0..40)) {
        let model = Model::of(&changes);
        let mut index = applied(changes);
        for change in model.resources() {
            index.apply(match change {
                Change::Workload(workload) => Change::WorkloadGone(workload.uid),
                Change::Service(service) => Change::ServiceGone(service.key()),
                Change::Policy(policy) => Change::PolicyGone(policy.name),
                gone => gone,
            });
        }
        prop_assert_eq!(view(&index), view(&Index::new()));
        prop_assert!(all_addresses().iter().all(|address| index.workload_at(address).is_none()));
        prop_assert_eq!(index.staged().count(), 0);
    }
}
