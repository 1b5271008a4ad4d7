// SPDX-License-Identifier: Apache-2.0
//! Other meshes, and networks that hide from capture what they should not: as far as the API server knows.

use finding::Finding;
use jiff::Timestamp;
use membership::rules::{AMBIENT, DATAPLANE_MODE, REVISION, Rules, Verdict};

use crate::{
    facts::{Facts, Kind, Workload},
    output::some,
};

/// Cilium's settings that take packets or configurations away from us.
pub(super) fn cilium(facts: &Facts) -> Vec<Finding> {
    if facts.cilium.is_empty() {
        return vec![Finding::ok("network", "no network that is known to get in the way")];
    }
    let is = |key: &str, word: &str| facts.cilium.get(key).is_some_and(|value| value == word);
    let mut findings = Vec::new();
    if is("cni-exclusive", "true") {
        findings.push(Finding::failure(
            "CNI order",
            "Cilium removes the CNI configurations of others (cni-exclusive: true), ours with them",
            "helm upgrade cilium ... --reuse-values --set cni.exclusive=false",
        ));
    }
    // Replacement implies it unless it is turned off; the host's namespace alone is no obstacle.
    let replaces = is("kube-proxy-replacement", "true") || is("kube-proxy-replacement", "strict");
    let balances = is("bpf-lb-sock", "true") || is("enable-host-reachable-services", "true");
    if (replaces || balances) && !is("bpf-lb-sock", "false") && !is("bpf-lb-sock-hostns-only", "true") {
        findings.push(Finding::failure(
            "socket LB",
            "Cilium rewrites service addresses in the socket, before capture: policies and balancing see pods, not services",
            "helm upgrade cilium ... --reuse-values --set socketLB.hostNamespaceOnly=true, then restart the cilium pods",
        ));
    }
    if is("enable-ztunnel", "true") || is("mesh-auth-enabled", "true") {
        findings.push(Finding::warning(
            "second mesh",
            "Cilium authenticates pods itself (enable-ztunnel or mesh-auth-enabled)",
            "turn one of both off where both would have the same pods",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("network", "Cilium, with settings that leave room"));
    }
    findings
}

/// Meshes whose control planes are there.
pub(super) fn meshes(facts: &Facts, revision: Option<&str>) -> Vec<Finding> {
    let elsewhere = |workload: &&Workload| workload.namespace != facts.home;
    let here = |word: &str, kind: Kind| {
        let mut found = facts.workloads.iter().filter(elsewhere).filter(|workload| workload.kind == kind);
        found
            .find(|workload| workload.name.contains(word))
            .map(|found| format!("{}/{}", found.namespace, found.name))
    };
    let mut findings = Vec::new();
    let (istiod, cni) = (here("istiod", Kind::Deployment), here("istio-cni", Kind::DaemonSet));
    let ztunnel = here("ztunnel", Kind::DaemonSet);
    match (istiod, cni.zip(ztunnel)) {
        (Some(_), Some((cni, ztunnel))) if revision.is_none() => findings.push(Finding::failure(
            "second mesh",
            format!("Istio's ambient mode reads the same labels ({cni}, {ztunnel}), and each pod has one owner"),
            "have Istio's CNI leave istio.io/rev=ambit alone, install with --set \
             global.revision=ambit,global.rootsConfigMap=ambit-ca-root-cert, and move a namespace with `kubectl label \
             namespace NAME istio.io/rev=ambit --overwrite` (docs/interop.md)",
        )),
        (Some(_), Some((cni, _))) if !tells_revisions_apart(facts) => findings.push(Finding::failure(
            "second mesh",
            format!(
                "Istio's CNI ({cni}) enrols what has istio.io/dataplane-mode=ambient whatever its istio.io/rev, also what is ours \
                 by istio.io/rev={}",
                revision.unwrap_or_default()
            ),
            "give it values ambient.enablementSelectors that leave out our revision (docs/interop.md), before a namespace moves",
        )),
        (Some(_), Some((cni, _))) => findings.push(Finding::ok(
            "second mesh",
            format!(
                "Istio's ambient mode is here ({cni}); ours are only pods with istio.io/rev={}",
                revision.unwrap_or_default()
            ),
        )),
        (Some(istiod), None) => findings.push(Finding::warning(
            "second mesh",
            format!("Istio runs here ({istiod}), without its ambient mode"),
            "keep sidecar injection off in namespaces that are to be in this mesh",
        )),
        (None, _) => {}
    }
    if let Some(linkerd) = here("linkerd-destination", Kind::Deployment) {
        findings.push(Finding::warning(
            "second mesh",
            format!("Linkerd runs here ({linkerd})"),
            "keep linkerd.io/inject off in namespaces that are to be in this mesh",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("second mesh", "none is here"));
    }
    findings
}

/// Whether Istio's CNI looks at revisions. Its own default does not.
fn tells_revisions_apart(facts: &Facts) -> bool {
    facts
        .istio_cni
        .get("AMBIENT_ENABLEMENT_SELECTOR")
        .is_some_and(|selectors| selectors.contains("istio.io/rev"))
}

/// Namespaces and pods that two meshes would have.
pub(super) fn owners(facts: &Facts, revision: Option<&str>, now: Timestamp) -> Vec<Finding> {
    let mut findings = namespaces(facts, revision);
    findings.extend(pods(facts, revision, now));
    findings
}

/// Pods that have another mesh's proxy in them, of which our rules do not know.
fn pods(facts: &Facts, revision: Option<&str>, now: Timestamp) -> Option<Finding> {
    let rules = Rules { revision: revision.map(str::to_owned), ..facts.rules() };
    let both = facts.pods.iter().filter_map(|pod| {
        let (labels, annotations) = (&pod.object.labels, &pod.object.annotations);
        let proxy = if labels.contains_key("linkerd.io/control-plane-ns") {
            "Linkerd"
        } else if annotations.get("kuma.io/sidecar-injected").is_some_and(|value| value == "true") {
            "Kuma"
        } else {
            return None;
        };
        let namespace = facts.namespaces.get(&pod.object.namespace)?;
        let verdict = rules.decide(&pod.object, &namespace.object, now);
        matches!(verdict, Verdict::Enrol(_)).then(|| format!("{} ({proxy})", pod.full_name()))
    });
    let both: Vec<String> = both.collect();
    (!both.is_empty()).then(|| {
        Finding::failure(
            "two owners",
            format!("pods of this mesh with a proxy of another: {}", some(&both)),
            "turn the other mesh's injection off and restart them, or label them istio.io/dataplane-mode=none",
        )
    })
}

fn namespaces(facts: &Facts, revision: Option<&str>) -> Vec<Finding> {
    let mut both = Vec::new();
    for (name, namespace) in &facts.namespaces {
        let labels = &namespace.object.labels;
        let is = |key: &str, word: &str| labels.get(key).is_some_and(|value| value == word);
        let ours = revision.is_none_or(|revision| is(REVISION, revision));
        if !is(DATAPLANE_MODE, AMBIENT) || !ours {
            continue;
        }
        let annotated = |key: &str| namespace.annotations.get(key).is_some_and(|value| value == "enabled");
        // Of Istio's, a revision means injection; with the ambient label it names a control plane.
        if is("istio-injection", "enabled") {
            both.push(format!("{name} (istio-injection)"));
        }
        if annotated("linkerd.io/inject") || annotated("config.linkerd.io/inject") {
            both.push(format!("{name} (linkerd.io/inject)"));
        }
        if is("kuma.io/sidecar-injection", "enabled") {
            both.push(format!("{name} (kuma.io/sidecar-injection)"));
        }
        if is("io.cilium/mtls-enabled", "true") {
            both.push(format!("{name} (io.cilium/mtls-enabled)"));
        }
    }
    if both.is_empty() {
        return Vec::new();
    }
    vec![Finding::failure(
        "two owners",
        format!("namespaces of this mesh and of another: {}", some(&both)),
        "take one of both labels or annotations away, and restart pods that still have a sidecar",
    )]
}
