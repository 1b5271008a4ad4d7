// SPDX-License-Identifier: Apache-2.0
//! The table of the contract (§4.2), row by row, and what cannot be outvoted.

use proptest::prelude::*;

use super::*;
use crate::{bypass, objects::fixtures::running, pod::Capturing};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn pod(namespace: &str) -> PodObject {
    running("u-1", namespace, "web-0")
}

fn labelled(labels: &Labels) -> NamespaceObject {
    NamespaceObject { labels: labels.clone(), ..NamespaceObject::default() }
}

fn now() -> Timestamp {
    "2026-01-31T18:00:00Z".parse().unwrap()
}

fn rules() -> Rules {
    Rules {
        revision: None,
        excluded: vec!["kube-system".to_owned()],
        own_namespace: Some("ambit-system".to_owned()),
        dns: Capturing::On,
    }
}

fn reason(rules: &Rules, pod: &PodObject, namespace: &Labels) -> Option<Reason> {
    match rules.decide(pod, &labelled(namespace), now()) {
        Verdict::Enrol(_) => None,
        Verdict::Skip(reason) => Some(reason),
    }
}

#[test]
fn the_labels_of_pod_and_namespace_decide_together() {
    use Reason::{NotLabelled, OptedOut};
    let cases = [
        (None, None, Some(NotLabelled)),
        (None, Some("ambient"), None),
        (None, Some("none"), Some(NotLabelled)),
        (None, Some("Ambient"), Some(NotLabelled)),
        (Some("ambient"), None, None),
        (Some("ambient"), Some("none"), None),
        (Some("none"), Some("ambient"), Some(OptedOut)),
        (Some("none"), None, Some(OptedOut)),
        (Some("sidecar"), Some("ambient"), None),
        (Some(""), Some("ambient"), None),
    ];
    for (of_pod, of_namespace, expected) in cases {
        let label =
            |value: Option<&str>| value.map_or_else(Labels::new, |value| labels(&[(DATAPLANE_MODE, value)]));
        let pod = PodObject { labels: label(of_pod), ..pod("shop") };
        assert_eq!(reason(&rules(), &pod, &label(of_namespace)), expected, "{of_pod:?} {of_namespace:?}");
    }
}

#[test]
fn some_pods_are_out_whatever_their_labels_say() {
    let ambient = labels(&[(DATAPLANE_MODE, AMBIENT)]);
    let labelled = |namespace: &str| PodObject { labels: ambient.clone(), ..pod(namespace) };
    let sidecar = labels(&[("sidecar.istio.io/status", "{}")]);
    let cases = [
        (PodObject { host_network: true, ..labelled("shop") }, Reason::HostNetwork),
        (PodObject { annotations: sidecar, ..labelled("shop") }, Reason::Sidecar),
        (PodObject { phase: Phase::Succeeded, ..labelled("shop") }, Reason::Terminated),
        (PodObject { phase: Phase::Failed, ..labelled("shop") }, Reason::Terminated),
        (labelled("kube-system"), Reason::Excluded),
        (labelled("ambit-system"), Reason::Own),
    ];
    for (pod, expected) in cases {
        assert_eq!(reason(&rules(), &pod, &ambient), Some(expected.clone()));
        assert!(!expected.to_string().is_empty());
    }
    for phase in [Phase::Pending, Phase::Running, Phase::Unknown] {
        assert_eq!(reason(&rules(), &PodObject { phase, ..labelled("shop") }, &ambient), None);
    }
}

#[test]
fn where_another_mesh_reads_the_label_too_only_our_revision_is_ours() {
    let ours = Rules { revision: Some("ambit".to_owned()), ..rules() };
    let other = |found: Option<&str>| Some(Reason::OtherRevision { found: found.map(str::to_owned) });
    let cases = [
        (None, None, other(None)),
        (None, Some("ambit"), None),
        (None, Some("default"), other(Some("default"))),
        (Some("ambit"), Some("default"), None),
        (Some("default"), Some("ambit"), other(Some("default"))),
    ];
    for (of_pod, of_namespace, expected) in cases {
        let with = |revision: Option<&str>| {
            let mut labels = labels(&[(DATAPLANE_MODE, AMBIENT)]);
            labels.extend(revision.map(|revision| (REVISION.to_owned(), revision.to_owned())));
            labels
        };
        let pod = PodObject { labels: with(of_pod), ..pod("shop") };
        assert_eq!(reason(&ours, &pod, &with(of_namespace)), expected, "{of_pod:?} {of_namespace:?}");
        assert_eq!(reason(&rules(), &pod, &with(of_namespace)), None, "alone there is no need for it");
    }
}

#[test]
fn a_bypassed_namespace_is_out_until_the_end_of_its_bypass() {
    let span = |until: &str| {
        let pairs = [
            (bypass::SINCE, "2026-01-31T17:50:00Z"),
            (bypass::UNTIL, until),
            (bypass::BY, "eva"),
            (bypass::REASON, "the worst night"),
        ];
        let bypass = Bypass::of(&labels(&pairs));
        NamespaceObject { labels: labels(&[(DATAPLANE_MODE, AMBIENT)]), bypass, ..NamespaceObject::default() }
    };
    let decide = |namespace: &NamespaceObject| rules().decide(&pod("shop"), namespace, now());
    let Verdict::Skip(reason) = decide(&span("2026-01-31T18:00:01Z")) else { panic!("it is in") };
    let text = "its namespace is bypassed until 2026-01-31T18:00:01Z by eva: the worst night";
    assert_eq!(reason.to_string(), text);
    assert!(matches!(decide(&span("2026-01-31T18:00:00Z")), Verdict::Enrol(_)), "it is over");
    assert!(matches!(decide(&span("2026-02-28T18:00:00Z")), Verdict::Enrol(_)), "too long, so ignored");
    assert!(span("2026-02-28T18:00:00Z").fault(now()).is_some());
    let other = PodObject { labels: labels(&[(DATAPLANE_MODE, NONE)]), ..pod("shop") };
    let verdict = rules().decide(&other, &span("2026-01-31T18:00:01Z"), now());
    assert_eq!(verdict, Verdict::Skip(Reason::OptedOut), "it would be out anyhow");
}

#[test]
fn annotations_say_what_is_captured() {
    let ambient = labels(&[(DATAPLANE_MODE, AMBIENT)]);
    for (annotations, dns, inbound) in [
        (labels(&[]), Capturing::On, Capturing::On),
        (labels(&[(DNS_CAPTURE, "false")]), Capturing::Off, Capturing::On),
        (labels(&[(DNS_CAPTURE, "true")]), Capturing::On, Capturing::On),
        (labels(&[(BYPASS_INBOUND, "true")]), Capturing::On, Capturing::Off),
        (labels(&[(BYPASS_INBOUND, "yes")]), Capturing::On, Capturing::On),
    ] {
        let pod = PodObject { annotations, ..pod("shop") };
        assert_eq!(
            rules().decide(&pod, &labelled(&ambient), now()),
            Verdict::Enrol(Treatment { dns, inbound, ..Treatment::default() })
        );
    }
}

#[test]
fn a_node_s_word_on_dns_holds_for_pods_that_say_nothing() {
    let ambient = labels(&[(DATAPLANE_MODE, AMBIENT)]);
    let off = Rules { dns: Capturing::Off, ..rules() };
    for (annotations, dns) in [
        (labels(&[]), Capturing::Off),
        (labels(&[(DNS_CAPTURE, "perhaps")]), Capturing::Off),
        (labels(&[(DNS_CAPTURE, "false")]), Capturing::Off),
        (labels(&[(DNS_CAPTURE, "true")]), Capturing::On),
    ] {
        let pod = PodObject { annotations, ..pod("shop") };
        assert_eq!(
            off.decide(&pod, &labelled(&ambient), now()),
            Verdict::Enrol(Treatment { dns, ..Treatment::default() })
        );
    }
}

proptest! {
    #[test]
    fn a_pod_that_opts_out_or_shares_the_node_s_network_is_never_in(
        more in prop::collection::btree_map("[a-z./-]{1,20}", "[a-z]{0,8}", 0..4),
        namespace in prop::collection::btree_map("[a-z./-]{1,20}", "[a-z]{0,8}", 0..4),
        revision: Option<String>,
        host_network: bool,
    ) {
        let mut own = more;
        own.insert(DATAPLANE_MODE.to_owned(), (if host_network { AMBIENT } else { NONE }).to_owned());
        let mut namespace = namespace;
        namespace.insert(DATAPLANE_MODE.to_owned(), AMBIENT.to_owned());
        let rules = Rules { revision, ..rules() };
        let pod = PodObject { labels: own, host_network, ..pod("shop") };
        prop_assert!(matches!(rules.decide(&pod, &labelled(&namespace), now()), Verdict::Skip(_)));
    }
}
