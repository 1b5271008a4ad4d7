// SPDX-License-Identifier: Apache-2.0
//! What proxies are told because of some objects: `golden/<case>/in.yaml` gives `golden/<case>/out.yaml`.
//!
//! After a wanted change, `UPDATE_GOLDEN=1 cargo test -p control --test golden` writes the files anew; review them like
//! code.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test panics")]

#[path = "golden/attached.rs"]
mod attached;
#[path = "golden/view.rs"]
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use control::{
    manifests,
    world::{Event, Settings, World},
};
use mesh::{
    Network, TrustDomain,
    telemetry::{Provider, SpanWire},
};

/// One provider of each kind.
fn providers() -> BTreeMap<arcstr::ArcStr, Arc<Provider>> {
    let provider = |name: &str, wire, port, path: &str| Provider {
        name: name.into(),
        wire,
        host: format!("{name}.istio-system.svc.cluster.local").into(),
        port,
        path: path.into(),
    };
    let all = [
        provider("zipkin", SpanWire::Zipkin, 9411, "/api/v2/spans"),
        provider("otel", SpanWire::Otlp, 4317, ""),
    ];
    all.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect()
}

fn check(case: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let input = fs::read_to_string(folder.join("in.yaml")).expect("every case has an input");
    let content = manifests::read(&input);
    assert_eq!(content.problems, [], "{case}: the input is good");
    let mut world = World::new(Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        cluster: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
        root_namespace: "istio-system".into(),
        providers: providers(),
    });
    let keys: BTreeSet<_> = content.objects.iter().map(|(object, _)| object.key()).collect();
    world.apply(content.objects.into_iter().map(|(object, _)| Event::Applied(Box::new(object))));
    let output = view::yaml(&world, &keys);
    let path = folder.join("out.yaml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &output).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(output == expected, "{case}: {} is not what came out:\n{output}", path.display());
}

#[test]
fn pods_become_workloads() {
    check("workloads");
}

#[test]
fn routes_become_what_a_waypoint_decides_by() {
    check("routes");
}

#[test]
fn services_keep_their_ports_addresses_and_preferences() {
    check("services");
}

#[test]
fn policies_with_a_target_become_what_a_waypoint_can_enforce() {
    check("guards");
}

#[test]
fn policies_become_what_a_node_proxy_can_enforce() {
    check("policies");
}

#[test]
fn http_attributes_are_dropped_on_the_side_of_caution() {
    check("http-attributes");
}

#[test]
fn the_effective_peer_authentication_becomes_a_policy() {
    check("peer-authentication");
}

#[test]
fn ports_with_another_mode_get_a_policy_of_their_own() {
    check("peer-authentication-ports");
}

#[test]
fn a_waypoint_that_is_asked_for_is_reported_as_missing() {
    check("waypoints-missing");
}

#[test]
fn labels_bind_services_and_workloads_to_waypoints() {
    check("waypoints");
}

#[test]
fn workloads_behind_a_waypoint_are_guarded_on_the_ports_that_are_bound() {
    check("waypoints-enforced");
}

#[test]
fn a_service_account_names_a_waypoint_for_all_its_workloads() {
    check("waypoints-accounts");
}

#[test]
fn a_canary_gets_its_share_or_says_why_not() {
    check("waypoints-canary");
}

#[test]
fn slices_by_hand_feed_services_without_a_selector() {
    check("endpoint-slices");
}

#[test]
fn hosts_of_service_entries_become_services_and_their_endpoints_workloads() {
    check("service-entries");
}

#[test]
fn hosts_without_addresses_get_automatic_ones() {
    check("automatic-addresses");
}

#[test]
fn a_host_that_several_claim_has_one_winner() {
    check("rival-hosts");
}

#[test]
fn workload_entries_are_workloads_like_pods() {
    check("workload-entries");
}

#[test]
fn bookinfo_with_its_waypoint_and_policies() {
    check("bookinfo");
}

#[test]
fn what_the_tutorials_of_kubernetes_deploy() {
    check("guestbook");
}

#[test]
fn virtual_machines_beside_the_cluster() {
    check("virtual-machines");
}

#[test]
fn services_outside_of_the_cluster() {
    check("external-services");
}

#[test]
fn the_policies_of_security_tasks() {
    check("security-tasks");
}

#[test]
fn what_is_observed_of_requests() {
    check("telemetry");
}

#[test]
fn servers_outside_the_mesh_are_spoken_to_in_tls() {
    check("backend-tls");
}
