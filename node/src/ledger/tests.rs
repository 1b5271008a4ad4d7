// SPDX-License-Identifier: Apache-2.0
//! What the watches told against what is captured.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    bypass::Bypass,
    netns::NetnsId,
    objects::{Labels, Phase, PodJson},
    pod::{Capturing, Pod},
    rules::{AMBIENT, DATAPLANE_MODE, NONE},
};

fn labels(mode: Option<&str>) -> Labels {
    mode.map(|mode| (DATAPLANE_MODE.to_owned(), mode.to_owned())).into_iter().collect()
}

fn labelled(mode: Option<&str>) -> NamespaceObject {
    NamespaceObject { labels: labels(mode), ..NamespaceObject::default() }
}

fn now() -> Timestamp {
    "2026-01-31T18:00:00Z".parse().unwrap()
}

fn pod(uid: &str) -> PodObject {
    let json = json!({
        "metadata": {"uid": uid, "namespace": "shop", "name": format!("web-{uid}")},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.7.0.9"}]},
    });
    serde_json::from_value::<PodJson>(json).unwrap().try_into().unwrap()
}

fn marked(uid: &str) -> PodObject {
    let mut pod = pod(uid);
    pod.mark(true);
    pod
}

fn captured(uid: &str, state: State) -> Status {
    let object = pod(uid);
    let pod = Pod {
        uid: object.uid,
        name: object.name,
        namespace: object.namespace,
        service_account: object.service_account,
        netns: "/run/netns/x".into(),
        ips: object.ips,
        treatment: Treatment::default(),
        sandbox: None,
    };
    Status { pod, netns: NetnsId { device: 4, inode: 1 }, state }
}

fn ledger(pods: impl IntoIterator<Item = PodObject>, namespace: Option<&str>) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.namespace_is("shop".to_owned(), labelled(namespace));
    pods.into_iter().for_each(|pod| ledger.pod_is(pod));
    ledger
}

/// Words for steps: `enrol a`.
fn words(steps: &[Step]) -> Vec<String> {
    let word = |step: &Step| match step {
        Step::Enrol(..) => "enrol",
        Step::Release(..) => "release",
        Step::Absent(_) => "absent",
        Step::Mark(_, true) => "mark",
        Step::Mark(_, false) => "unmark",
    };
    steps.iter().map(|step| format!("{} {}", word(step), step.uid())).collect()
}

fn check(ledger: &Ledger, held: &[Status], expected: &[&str]) {
    assert_eq!(words(&ledger.steps(&Rules::default(), held, now())), expected);
}

#[test]
fn a_running_pod_comes_and_goes_with_the_labels() {
    let mut ledger = ledger([pod("a"), PodObject { labels: labels(Some(NONE)), ..pod("b") }], None);
    check(&ledger, &[], &[]);
    ledger.namespace_is("shop".to_owned(), labelled(Some(AMBIENT)));
    check(&ledger, &[], &["enrol a"]);
    let held = [captured("a", State::Enrolled)];
    check(&ledger, &held, &["mark a"]);
    ledger.pod_is_marked(&pod("a").uid, true);
    check(&ledger, &held, &[]);
    ledger.pod_is(PodObject { labels: labels(Some(NONE)), ..pod("a") });
    check(&ledger, &held, &["release a"]);
    ledger.pod_is(PodObject { labels: labels(Some(AMBIENT)), ..pod("b") });
    ledger.namespace_is("shop".to_owned(), labelled(None));
    check(&ledger, &[], &["enrol b"]);
}

#[test]
fn a_pod_without_a_sandbox_is_left_to_the_plugin_and_one_that_has_ended_is_let_go() {
    let starting = PodObject { ips: vec![], phase: Phase::Pending, ..pod("a") };
    check(&ledger([starting], Some(AMBIENT)), &[], &[]);
    let ended = PodObject { phase: Phase::Succeeded, ..pod("a") };
    check(&ledger([ended.clone()], Some(AMBIENT)), &[], &[]);
    check(&ledger([ended], Some(AMBIENT)), &[captured("a", State::Enrolled)], &["release a"]);
}

#[test]
fn what_failed_or_has_changed_is_done_again_and_what_waits_for_ztunnel_is_not() {
    let ledger = ledger([marked("a")], Some(AMBIENT));
    check(&ledger, &[captured("a", State::Pending("no ztunnel connected".to_owned()))], &[]);
    check(&ledger, &[captured("a", State::Failed("no memory".to_owned()))], &["enrol a"]);
    let mut other = captured("a", State::Enrolled);
    other.pod.treatment.dns = Capturing::Off;
    check(&ledger, &[other], &["enrol a"]);
}

#[test]
fn the_mesh_is_told_of_a_pod_when_it_is_served_and_not_before() {
    let held = |state| [captured("a", state)];
    let pending = held(State::Pending("no ztunnel connected".to_owned()));
    let ledger_of = |pod| ledger([pod], Some(AMBIENT));
    check(&ledger_of(pod("a")), &pending, &[]);
    check(&ledger_of(pod("a")), &held(State::Enrolled), &["mark a"]);
    // Captured without a ztunnel it still takes nothing but HBONE.
    check(&ledger_of(marked("a")), &pending, &[]);
}

#[test]
fn a_mark_that_was_left_behind_is_taken_away_and_another_meshs_is_not() {
    check(&ledger([marked("a")], None), &[], &["unmark a"]);
    // Whoever marked it: a mesh that reads the label, and one that does not (NotLabelled goes before OtherRevision).
    let theirs = PodObject { mark_is_ours: false, ..marked("a") };
    let revision = Rules { revision: Some("ours".to_owned()), ..Rules::default() };
    for (rules, namespace) in [(&revision, Some(AMBIENT)), (&revision, None), (&Rules::default(), None)] {
        assert_eq!(ledger([theirs.clone()], namespace).steps(rules, &[], now()), []);
    }
}

#[test]
fn a_mark_that_could_not_be_taken_away_at_the_release_is_whatever_the_reason() {
    let unmarked = |pod: &PodObject, rules: &Rules, namespace: NamespaceObject| {
        let mut ledger = ledger([pod.clone()], None);
        ledger.namespace_is("shop".to_owned(), namespace);
        assert_eq!(words(&ledger.steps(rules, &[captured("a", State::Enrolled)], now())), ["release a"]);
        assert_eq!(words(&ledger.steps(rules, &[], now())), ["unmark a"]);
        ledger.pod_is_marked(&pod.uid, false);
        assert_eq!(ledger.steps(rules, &[], now()), []);
    };
    let (since, until) = (now(), now() + jiff::SignedDuration::from_mins(30));
    let bypass = Bypass { since, until, by: "eva".to_owned(), reason: "the worst night".to_owned() };
    let bypassed = NamespaceObject { bypass: Some(Ok(bypass)), ..labelled(Some(AMBIENT)) };
    unmarked(&marked("a"), &Rules::default(), bypassed);
    let excluded = Rules { excluded: vec!["shop".to_owned()], ..Rules::default() };
    unmarked(&marked("a"), &excluded, labelled(Some(AMBIENT)));
    let revision = Rules { revision: Some("ours".to_owned()), ..Rules::default() };
    unmarked(&marked("a"), &revision, labelled(Some(AMBIENT)));
    let ended = PodObject { phase: Phase::Succeeded, ..marked("a") };
    unmarked(&ended, &Rules::default(), labelled(Some(AMBIENT)));
}

#[test]
fn a_pod_that_the_api_server_no_longer_has_may_still_run() {
    let mut ledger = ledger([pod("a")], Some(AMBIENT));
    ledger.pod_left("shop", "web-a");
    check(&ledger, &[captured("a", State::Enrolled)], &["absent a"]);
    let mut again = pod("z");
    again.name = "web-a".to_owned();
    ledger.pod_is(again);
    check(&ledger, &[captured("a", State::Enrolled)], &["enrol z", "absent a"]);
}

#[test]
fn nothing_is_decided_about_pods_of_a_namespace_that_is_gone() {
    let mut ledger = ledger([pod("a")], Some(AMBIENT));
    ledger.namespace_left("shop");
    check(&ledger, &[captured("a", State::Enrolled)], &[]);
    check(&ledger, &[], &[]);
    assert!(ledger.find("shop", "web-a").is_none());
}

#[test]
fn a_bypass_lets_pods_out_and_its_end_brings_them_back() {
    let mut ledger = ledger([pod("a")], Some(AMBIENT));
    let (since, until) = (now(), now() + jiff::SignedDuration::from_mins(30));
    let bypass = Bypass { since, until, by: "eva".to_owned(), reason: "the worst night".to_owned() };
    let namespace = NamespaceObject { bypass: Some(Ok(bypass)), ..labelled(Some(AMBIENT)) };
    assert_eq!(ledger.next_end(now()), None);
    ledger.namespace_is("shop".to_owned(), namespace);
    check(&ledger, &[captured("a", State::Enrolled)], &["release a"]);
    check(&ledger, &[], &[]);
    assert_eq!(ledger.next_end(now()), Some(until));
    assert_eq!(words(&ledger.steps(&Rules::default(), &[], until)), ["enrol a"]);
    assert_eq!(ledger.next_end(until), None);
}

proptest! {
    /// After the steps are done there are none left, whatever was there before.
    #[test]
    fn doing_the_steps_settles_it(
        modes in prop::collection::vec(prop::option::of(prop::sample::select(vec![AMBIENT, NONE])), 5),
        namespace in prop::option::of(prop::sample::select(vec![AMBIENT, NONE])),
        held in prop::collection::btree_set(0..8_usize, 0..8),
    ) {
        let pods = modes.iter().enumerate().map(|(index, mode)| PodObject { labels: labels(*mode), ..pod(&index.to_string()) });
        let mut ledger = ledger(pods, namespace);
        let rules = Rules::default();
        let mut held: BTreeMap<_, _> = held.iter().map(|index| captured(&index.to_string(), State::Enrolled))
            .map(|status| (status.pod.uid.clone(), status)).collect();
        let list = |held: &BTreeMap<Uid, Status>| held.values().cloned().collect::<Vec<_>>();
        for step in ledger.steps(&rules, &list(&held), now()) {
            match step {
                // A pod is marked once it is in.
                Step::Mark(..) => {}
                Step::Enrol(pod, _) => drop(held.insert(pod.uid.clone(), captured(pod.uid.as_str(), State::Enrolled))),
                Step::Release(uid, _) | Step::Absent(uid) => drop(held.remove(&uid)),
            }
        }
        for step in ledger.steps(&rules, &list(&held), now()) {
            match step {
                Step::Mark(pod, marked) => ledger.pod_is_marked(&pod.uid, marked),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(ledger.steps(&rules, &list(&held), now()).is_empty());
        for (index, mode) in modes.iter().enumerate() {
            let is_in = *mode == Some(AMBIENT) || (*mode != Some(NONE) && namespace == Some(AMBIENT));
            prop_assert_eq!(held.contains_key(&Uid::parse(&index.to_string()).unwrap()), is_in);
        }
    }
}
