// SPDX-License-Identifier: Apache-2.0
//! The table, played as conversations: what each link is told, in which order, for which history.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Any namespace will do; the table never enters it.
fn netns() -> Netns {
    Netns::adopt(std::fs::File::open("/proc/self/ns/net").unwrap()).unwrap()
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn workload(text: &str) -> Workload {
    Workload {
        uid: uid(text),
        name: text.to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        netns: Some(netns()),
    }
}

fn kept(text: &str) -> Workload {
    Workload { netns: None, ..workload(text) }
}

fn text(message: &Message) -> String {
    match message {
        Message::Add(workload, _) => format!("add {}", workload.uid),
        Message::Keep(uid) => format!("keep {uid}"),
        Message::Del(uid) => format!("del {uid}"),
        Message::SnapshotSent => "sent".to_owned(),
    }
}

/// Talks on a link until it is idle; `refuse` names what the ztunnel refuses.
fn talk(roster: &mut Roster, link: LinkId, refuse: &[&str], now: Instant) -> Vec<String> {
    let mut said = Vec::new();
    while let Next::Send(message) = roster.next(link, now) {
        let line = text(&message);
        let error = if refuse.contains(&line.as_str()) { "the port is taken" } else { "" };
        roster.answered(link, &message, error, now);
        said.push(line);
        assert!(said.len() < 100, "the conversation does not end: {said:?}");
    }
    said
}

#[test]
fn a_new_ztunnel_gets_everything_then_the_end_of_the_snapshot_then_what_changes() {
    let now = Instant::now();
    let mut roster = Roster::default();
    roster.announce(workload("a"));
    roster.announce(kept("b"));
    roster.announce(workload("c"));
    let link = roster.connect();
    assert_eq!(talk(&mut roster, link, &[], now), ["add a", "keep b", "add c", "sent"]);
    roster.announce(workload("d"));
    roster.withdraw(&uid("a"));
    assert_eq!(talk(&mut roster, link, &[], now), ["del a", "add d"]);
    assert!(talk(&mut roster, link, &[], now).is_empty());
}

#[test]
fn adds_go_to_the_newest_and_deletions_to_all() {
    let now = Instant::now();
    let mut roster = Roster::default();
    roster.announce(workload("a"));
    let old = roster.connect();
    talk(&mut roster, old, &[], now);
    let new = roster.connect();
    assert_eq!(talk(&mut roster, new, &[], now), ["add a", "sent"]);
    roster.announce(workload("b"));
    assert!(talk(&mut roster, old, &[], now).is_empty());
    assert_eq!(talk(&mut roster, new, &[], now), ["add b"]);
    roster.withdraw(&uid("a"));
    assert!(roster.is_told(&uid("a")));
    assert_eq!(talk(&mut roster, old, &[], now), ["del a"]);
    assert!(roster.is_told(&uid("a")), "the new one still serves it");
    assert_eq!(talk(&mut roster, new, &[], now), ["del a"]);
    assert!(!roster.is_told(&uid("a")));
}

#[test]
fn when_the_newest_goes_the_one_before_takes_over_what_it_was_never_told() {
    let now = Instant::now();
    let mut roster = Roster::default();
    let old = roster.connect();
    talk(&mut roster, old, &[], now);
    let new = roster.connect();
    talk(&mut roster, new, &[], now);
    roster.announce(workload("a"));
    talk(&mut roster, new, &[], now);
    assert_eq!(roster.standing(&uid("a")), Standing::Acknowledged);
    roster.disconnect(new);
    assert_eq!(roster.standing(&uid("a")), Standing::Waiting);
    assert_eq!(talk(&mut roster, old, &[], now), ["add a"]);
    assert_eq!(roster.standing(&uid("a")), Standing::Acknowledged);
}

#[test]
fn a_pod_is_never_called_served_without_a_ztunnel() {
    let now = Instant::now();
    let mut roster = Roster::default();
    assert_eq!(roster.standing(&uid("a")), Standing::Unknown);
    roster.announce(workload("a"));
    assert_eq!(roster.standing(&uid("a")), Standing::NoZtunnel);
    let link = roster.connect();
    assert_eq!(roster.standing(&uid("a")), Standing::Waiting);
    talk(&mut roster, link, &[], now);
    assert_eq!(roster.standing(&uid("a")), Standing::Acknowledged);
    roster.disconnect(link);
    assert_eq!(roster.standing(&uid("a")), Standing::NoZtunnel);
}

#[test]
fn a_refused_pod_is_asked_again_with_growing_patience_and_stops_nobody_else() {
    let mut now = Instant::now();
    let mut roster = Roster::default();
    let link = roster.connect();
    roster.announce(workload("a"));
    roster.announce(workload("b"));
    assert_eq!(talk(&mut roster, link, &["add a"], now), ["add a", "add b", "sent"]);
    assert_eq!(roster.standing(&uid("a")), Standing::Refused("the port is taken".to_owned()));
    let mut waits = Vec::new();
    for _ in 0..14 {
        let Next::Idle(Some(again)) = roster.next(link, now) else { panic!("it must wait") };
        waits.push((again - now).as_millis());
        now = again;
        assert_eq!(talk(&mut roster, link, &["add a"], now), ["add a"]);
    }
    assert_eq!(waits[..4], [5, 10, 20, 40]);
    assert_eq!(waits[13], 15_000);
    now += LONGEST_RETRY;
    assert_eq!(talk(&mut roster, link, &[], now), ["add a"]);
    assert_eq!(roster.standing(&uid("a")), Standing::Acknowledged);
}

#[test]
fn announcing_again_asks_again_at_once() {
    let now = Instant::now();
    let mut roster = Roster::default();
    let link = roster.connect();
    roster.announce(workload("a"));
    talk(&mut roster, link, &["add a"], now);
    roster.announce(workload("a"));
    assert_eq!(roster.standing(&uid("a")), Standing::Waiting);
    assert_eq!(talk(&mut roster, link, &[], now), ["add a"]);
}

#[test]
fn a_kept_pod_is_added_once_its_namespace_can_be_opened() {
    let now = Instant::now();
    let mut roster = Roster::default();
    roster.announce(kept("a"));
    let link = roster.connect();
    assert_eq!(talk(&mut roster, link, &[], now), ["keep a", "sent"]);
    assert!(talk(&mut roster, link, &[], now).is_empty(), "a keep after the snapshot breaks the protocol");
    roster.announce(workload("a"));
    assert_eq!(talk(&mut roster, link, &[], now), ["add a"]);
}

#[test]
fn a_pod_that_leaves_during_the_snapshot_is_deleted_after_it() {
    let now = Instant::now();
    let mut roster = Roster::default();
    roster.announce(workload("a"));
    let link = roster.connect();
    let Next::Send(message) = roster.next(link, now) else { panic!("the snapshot starts") };
    roster.withdraw(&uid("a"));
    roster.answered(link, &message, "", now);
    assert_eq!(talk(&mut roster, link, &[], now), ["sent", "del a"]);
}

#[test]
fn an_answer_to_an_old_announcement_does_not_count_for_a_new_one() {
    let now = Instant::now();
    let mut roster = Roster::default();
    let link = roster.connect();
    talk(&mut roster, link, &[], now);
    roster.announce(workload("a"));
    let Next::Send(old) = roster.next(link, now) else { panic!("an add is due") };
    roster.announce(workload("a"));
    roster.answered(link, &old, "", now);
    assert_eq!(roster.standing(&uid("a")), Standing::Waiting);
    assert_eq!(talk(&mut roster, link, &[], now), ["add a"]);
}

/// What may happen to a roster.
#[derive(Clone, Debug)]
enum Step {
    Announce(u8),
    Keep(u8),
    Withdraw(u8),
    Connect,
    Disconnect(prop::sample::Index),
    /// One message on one link, taken or refused.
    Talk(prop::sample::Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 0_u8..4;
    prop_oneof![
        3 => pod.clone().prop_map(Step::Announce),
        1 => pod.clone().prop_map(Step::Keep),
        2 => pod.prop_map(Step::Withdraw),
        1 => Just(Step::Connect),
        1 => any::<prop::sample::Index>().prop_map(Step::Disconnect),
        6 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(link, taken)| Step::Talk(link, taken)),
    ]
}

proptest! {
    /// After any history: once everybody takes what is said, the newest serves exactly the pods that can be served, nobody
    /// serves one that was withdrawn, and nobody has anything left to say.
    #[test]
    fn any_history_ends_in_what_should_be(steps in prop::collection::vec(step(), 0..60)) {
        let mut now = Instant::now();
        let mut roster = Roster::default();
        let mut links = Vec::new();
        let mut wanted = BTreeMap::new();
        for step in steps {
            now += Duration::from_millis(1);
            match step {
                Step::Announce(pod) | Step::Keep(pod) => {
                    let name = format!("pod-{pod}");
                    let keep = matches!(step, Step::Keep(_));
                    roster.announce(if keep { kept(&name) } else { workload(&name) });
                    wanted.insert(name, !keep);
                }
                Step::Withdraw(pod) => {
                    roster.withdraw(&uid(&format!("pod-{pod}")));
                    wanted.remove(&format!("pod-{pod}"));
                }
                Step::Connect => links.push(roster.connect()),
                Step::Disconnect(index) if !links.is_empty() => roster.disconnect(links.remove(index.index(links.len()))),
                Step::Talk(index, taken) if !links.is_empty() => {
                    let link = links[index.index(links.len())];
                    if let Next::Send(message) = roster.next(link, now) {
                        roster.answered(link, &message, if taken { "" } else { "no" }, now);
                    }
                }
                Step::Disconnect(_) | Step::Talk(..) => {}
            }
        }
        now += LONGEST_RETRY;
        for link in &links {
            talk(&mut roster, *link, &[], now);
        }
        for link in &links {
            prop_assert!(talk(&mut roster, *link, &[], now).is_empty());
            let told: BTreeSet<_> = roster.links[link].told.keys().map(ToString::to_string).collect();
            prop_assert!(told.iter().all(|pod| wanted.contains_key(pod)));
        }
        for (pod, can_be_served) in wanted {
            let served = roster.standing(&uid(&pod)) == Standing::Acknowledged;
            prop_assert_eq!(served, can_be_served && !links.is_empty(), "{}", pod);
        }
    }
}
