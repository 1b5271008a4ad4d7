// SPDX-License-Identifier: Apache-2.0
//! One fact changed, one finding expected.

use super::*;
use crate::{
    control::{Progress, Proxy},
    facts::{
        Crd, Kind, Node, Role,
        fixtures::{self, labels, now},
    },
};

/// What is not well, `grade check`, in order.
fn words(verdict: &Verdict) -> Vec<String> {
    let bad = verdict.findings.iter().filter(|finding| finding.grade != Grade::Ok);
    bad.map(|finding| {
        assert!(!finding.fix.is_empty(), "{finding:?} has no fix");
        format!("{:?} {}", finding.grade, finding.check).to_lowercase()
    })
    .collect()
}

fn check_before(change: impl FnOnce(&mut Facts), revision: Option<&str>, expected: &[&str]) {
    let mut facts = fixtures::empty();
    change(&mut facts);
    let verdict = before(&facts, &[], revision, now());
    assert_eq!(words(&verdict), expected, "{}", verdict.text());
}

fn check_installed(change: impl FnOnce(&mut Facts), expected: &[&str]) {
    let mut facts = fixtures::installed();
    change(&mut facts);
    let verdict = installed(&facts, now());
    assert_eq!(words(&verdict), expected, "{}", verdict.text());
}

fn istio(facts: &mut Facts) {
    for (kind, name) in
        [(Kind::Deployment, "istiod"), (Kind::DaemonSet, "istio-cni-node"), (Kind::DaemonSet, "ztunnel")]
    {
        facts.workloads.push(fixtures::workload(kind, "istio-system", name));
    }
}

#[test]
fn a_good_cluster_is_good_before_and_after() {
    check_before(|_| {}, None, &[]);
    check_installed(|_| {}, &[]);
    let verdict = installed(&fixtures::installed(), now());
    assert!(verdict.text().ends_with("all is well\n") && !verdict.is_bad(), "{}", verdict.text());
}

#[test]
fn an_old_api_server_or_kernel_is_refused() {
    check_before(|facts| facts.server.minor = 29, None, &["failure api server"]);
    check_before(|facts| facts.server.major = 2, None, &[]);
    let node = |change: fn(&mut Node)| move |facts: &mut Facts| facts.nodes.iter_mut().for_each(change);
    check_before(node(|node| node.kernel = "5.10.0-32-amd64".to_owned()), None, &["failure kernel"]);
    check_before(node(|node| node.kernel = "5.15.0-1061-gke".to_owned()), None, &["warning kernel"]);
    check_before(node(|node| node.kernel = "6.6.0".to_owned()), None, &[]);
    check_before(node(|node| node.kernel = "strange".to_owned()), None, &["warning kernel"]);
    check_before(node(|node| node.architecture = "s390x".to_owned()), None, &["failure architecture"]);
    check_before(node(|node| node.system = "windows".to_owned()), None, &["warning nodes"]);
    check_before(|facts| facts.nodes.clear(), None, &["warning nodes"]);
}

#[test]
fn a_permission_that_is_missing_is_named() {
    let permission = |resource, allowed| Permission { group: "apps", resource, allowed };
    let asked = [permission("daemonsets", Ok(false)), permission("deployments", Ok(true))];
    let verdict = before(&fixtures::empty(), &asked, None, now());
    assert_eq!(words(&verdict), ["failure permissions"]);
    assert!(verdict.text().contains("may not create daemonsets.apps"), "{}", verdict.text());
    let asked = [permission("daemonsets", Err("no answer".to_owned()))];
    assert_eq!(words(&before(&fixtures::empty(), &asked, None, now())), ["warning permissions"]);
}

#[test]
fn definitions_of_somebody_else_are_said_and_ours_are_not() {
    let define = |pairs: &'static [(&str, &str)]| {
        move |facts: &mut Facts| {
            let crd = Crd { labels: labels(pairs), ..Crd::default() };
            facts.crds.insert("serviceentries.networking.istio.io".to_owned(), crd);
        }
    };
    check_before(define(&[]), None, &["warning definitions"]);
    check_before(define(&[("app.kubernetes.io/part-of", "ambit")]), None, &[]);
    check_installed(
        |facts| drop(facts.crds.remove("serviceentries.networking.istio.io")),
        &["warning definitions"],
    );
}

#[test]
fn cilium_is_refused_only_with_settings_that_get_in_the_way() {
    let cilium = |pairs: &'static [(&str, &str)]| move |facts: &mut Facts| facts.cilium = labels(pairs);
    check_before(cilium(&[("cni-exclusive", "false"), ("kube-proxy-replacement", "false")]), None, &[]);
    check_before(cilium(&[("cni-exclusive", "true")]), None, &["failure cni order"]);
    check_before(cilium(&[("kube-proxy-replacement", "true")]), None, &["failure socket lb"]);
    check_before(cilium(&[("bpf-lb-sock", "true")]), None, &["failure socket lb"]);
    check_before(
        cilium(&[("kube-proxy-replacement", "true"), ("bpf-lb-sock-hostns-only", "true")]),
        None,
        &[],
    );
    check_before(cilium(&[("kube-proxy-replacement", "true"), ("bpf-lb-sock", "false")]), None, &[]);
    check_before(cilium(&[("enable-ztunnel", "true")]), None, &["warning second mesh"]);
}

#[test]
fn a_second_ambient_mesh_is_refused_unless_a_revision_divides_them() {
    check_before(istio, None, &["failure second mesh"]);
    check_before(istio, Some("ambit"), &["failure second mesh"]);
    let divided = |facts: &mut Facts| {
        istio(facts);
        let selectors =
            "- podSelector: {matchExpressions: [{key: istio.io/rev, operator: NotIn, values: [ambit]}]}";
        facts.istio_cni = labels(&[("AMBIENT_ENABLEMENT_SELECTOR", selectors)]);
    };
    check_before(divided, Some("ambit"), &[]);
    let sidecars = |facts: &mut Facts| {
        facts.workloads.push(fixtures::workload(Kind::Deployment, "istio-system", "istiod-1-30"));
    };
    check_before(sidecars, None, &["warning second mesh"]);
    let linkerd = |facts: &mut Facts| {
        facts.workloads.push(fixtures::workload(Kind::Deployment, "linkerd", "linkerd-destination"));
    };
    check_before(linkerd, None, &["warning second mesh"]);
    check_installed(istio, &["failure second mesh"]);
}

#[test]
fn a_namespace_with_two_owners_is_refused() {
    let shop = |pairs: &'static [(&str, &str)]| {
        move |facts: &mut Facts| {
            let all = [&[("istio.io/dataplane-mode", "ambient")], pairs].concat();
            facts.namespaces.insert("shop".to_owned(), fixtures::namespace(&all));
        }
    };
    check_before(shop(&[("istio-injection", "enabled")]), None, &["failure two owners"]);
    check_before(shop(&[("istio-injection", "disabled")]), None, &[]);
    check_before(shop(&[("istio-injection", "enabled")]), Some("ambit"), &[]);
    check_before(shop(&[("io.cilium/mtls-enabled", "true")]), None, &["failure two owners"]);
    let linkerd = |facts: &mut Facts| {
        let shop = facts.namespaces.get_mut("shop").unwrap();
        shop.annotations = labels(&[("linkerd.io/inject", "enabled")]);
    };
    check_before(linkerd, None, &["failure two owners"]);
    let injected = |facts: &mut Facts| {
        facts.pods[0].object.labels = labels(&[("linkerd.io/control-plane-ns", "linkerd")]);
    };
    check_before(injected, None, &["failure two owners"]);
    check_before(injected, Some("ambit"), &[]);
}

#[test]
fn a_part_that_is_not_there_or_not_ready_is_named() {
    let part =
        |role: Role| move |facts: &mut Facts| facts.workloads.retain(|workload| workload.name != role.text());
    check_installed(part(Role::Node), &["failure node"]);
    let unready = |facts: &mut Facts| {
        facts.workloads.iter_mut().filter(|part| part.name == "ztunnel").for_each(|part| part.ready = 0);
    };
    check_installed(unready, &["failure ztunnel"]);
    let rolling = |facts: &mut Facts| {
        facts.workloads.iter_mut().filter(|part| part.name == "ztunnel").for_each(|part| part.updated = 0);
    };
    check_installed(rolling, &["warning ztunnel"]);
    let unwanted = |facts: &mut Facts| {
        facts.workloads.iter_mut().filter(|part| part.name == "ztunnel").for_each(|part| part.wanted = 0);
    };
    check_installed(unwanted, &["warning ztunnel"]);
    let mixed = |facts: &mut Facts| {
        facts.pods.push(fixtures::part_pod(Role::Ztunnel, "ztunnel-b", "node-b", "0.2.0"));
    };
    check_installed(mixed, &["warning versions"]);
    let tainted = |facts: &mut Facts| facts.nodes[0].taints.push("cni.istio.io/not-ready".to_owned());
    check_installed(tainted, &["failure taint"]);
}

#[test]
fn what_a_node_finds_is_said_with_its_name() {
    let balancer = Finding::failure("socket LB", "program 7 rewrites", "turn it off");
    let found = |finding: Finding| {
        move |facts: &mut Facts| facts.reports.values_mut().flatten().for_each(|it| it.push(finding.clone()))
    };
    check_installed(found(balancer.clone()), &["failure socket lb"]);
    check_installed(found(Finding::warning("kubelet", "shared", "give it its own")), &["warning kubelet"]);
    check_installed(
        |facts| facts.reports = [("node".to_owned(), Err("no way".to_owned()))].into(),
        &["warning node report"],
    );
    let mut facts = fixtures::installed();
    facts.pods.push(fixtures::part_pod(Role::Node, "a-node", "node-b", "0.1.0"));
    for pod in ["node", "a-node"] {
        facts.reports.insert(pod.to_owned(), Ok(vec![balancer.clone()]));
    }
    let text = installed(&facts, now()).text();
    assert!(text.contains("node-a, node-b: program 7 rewrites") && text.contains("1 failure"), "{text}");
}

#[test]
fn what_control_says_of_itself_counts() {
    let control = |change: fn(&mut crate::control::ControlStatus)| {
        move |facts: &mut Facts| facts.controls.values_mut().flatten().for_each(change)
    };
    check_installed(control(|status| status.ready = false), &["failure discovery"]);
    check_installed(control(|status| status.cluster.stale.push("Pod".to_owned())), &["failure discovery"]);
    let lack = |status: &mut crate::control::ControlStatus| {
        status.cluster.lacks.push(crate::control::Lack::default())
    };
    check_installed(control(lack), &["failure permissions"]);
    check_installed(control(|status| status.cluster.leads = false), &["warning discovery"]);
    check_installed(
        control(|status| status.root_expires = "2026-03-01T00:00:00Z".to_owned()),
        &["warning certificates"],
    );
    let refused = |status: &mut crate::control::ControlStatus| {
        let progress = Progress { synced: false, refused: [("a".to_owned(), "no".to_owned())].into() };
        status
            .proxies
            .push(Proxy { node: "ztunnel-a".to_owned(), types: [("Address".to_owned(), progress)].into() });
    };
    check_installed(control(refused), &["failure discovery"]);
    check_installed(
        |facts| drop(facts.controls.insert("control".to_owned(), Err("no".to_owned()))),
        &["warning discovery"],
    );
}

#[test]
fn every_pod_of_the_mesh_is_captured_and_no_other() {
    check_installed(|facts| facts.pods.push(fixtures::pod("shop", "late", "node-a")), &["failure capture"]);
    let starting = |facts: &mut Facts| {
        let mut pod = fixtures::pod("shop", "late", "node-a");
        pod.object.phase = membership::objects::Phase::Pending;
        facts.pods.push(pod);
    };
    check_installed(starting, &[]);
    check_installed(|facts| facts.pods.push(fixtures::pod("shop", "late", "node-b")), &[]);
    let left = |facts: &mut Facts| drop(facts.namespaces.insert("shop".to_owned(), fixtures::namespace(&[])));
    check_installed(left, &["warning capture"]);
    check_installed(
        |facts| drop(facts.ztunnels.insert("ztunnel".to_owned(), Err("no".to_owned()))),
        &["warning capture"],
    );
}

#[test]
fn a_bypass_is_never_forgotten() {
    let bypass = |until: &'static str| {
        move |facts: &mut Facts| {
            facts.namespaces.insert("shop".to_owned(), fixtures::bypassed(until));
            facts.ztunnels.values_mut().flatten().for_each(|dump| dump.workload_state.clear());
        }
    };
    check_installed(bypass("2026-01-31T18:30:00Z"), &["warning bypass"]);
    check_installed(bypass("2026-03-01T00:00:00Z"), &["failure capture", "warning bypass"]);
}

#[test]
fn certificates_near_their_end_are_named() {
    let certificate = |begins: &'static str, expires: &'static str| {
        move |facts: &mut Facts| {
            let identity = fixtures::identity(begins, expires);
            facts.ztunnels.values_mut().flatten().for_each(|dump| dump.certificates = vec![identity.clone()]);
        }
    };
    let begins = "2026-01-31T00:00:00Z";
    check_installed(certificate(begins, "2026-02-01T00:00:00Z"), &[]);
    check_installed(certificate(begins, "2026-01-31T20:00:00Z"), &["failure certificates"]);
    check_installed(certificate(begins, "2026-01-31T17:00:00Z"), &["failure certificates"]);
    let unavailable = |facts: &mut Facts| {
        facts.ztunnels.values_mut().flatten().flat_map(|dump| &mut dump.certificates).for_each(|identity| {
            identity.state = "Unavailable: refused".to_owned();
            identity.cert_chain.clear();
        });
    };
    check_installed(unavailable, &["failure certificates"]);
}
