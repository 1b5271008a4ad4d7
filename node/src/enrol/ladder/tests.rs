// SPDX-License-Identifier: Apache-2.0
//! Climbs as tables: which steps fail, what was done in which order, how it ended and what stands.

use super::{Action::*, *};

struct Climb {
    actions: Vec<Action>,
    end: Turn<&'static str>,
    standing: Option<Rung>,
}

fn climb(mut ladder: Ladder<&'static str>, failing: &[(Action, &'static str)]) -> Climb {
    let mut actions = Vec::new();
    loop {
        match ladder.turn() {
            Turn::Do(action) => {
                actions.push(action);
                assert!(actions.len() < 20, "the climb does not end: {actions:?}");
                match failing.iter().find(|(failing, _)| *failing == action) {
                    Some((_, error)) => ladder.failed(error),
                    None => ladder.done(),
                }
            }
            end => return Climb { actions, end, standing: ladder.standing() },
        }
    }
}

#[test]
fn a_pod_goes_up_step_by_step_and_down_in_the_reverse_order() {
    let up = climb(Ladder::up(None), &[]);
    assert_eq!(up.actions, [Record, Route, Attach, Announce]);
    assert_eq!((up.end, up.standing), (Turn::Enrolled, Some(Rung::Announced)));
    let down = climb(Ladder::down(up.standing, Departure::Cleared), &[]);
    assert_eq!(down.actions, [Withdraw, Detach, Unroute, Forget]);
    assert_eq!((down.end, down.standing), (Turn::Removed, None));
}

#[test]
fn a_pod_that_leaves_and_lives_on_is_remembered_until_it_ends() {
    let left = climb(Ladder::down(Some(Rung::Announced), Departure::LivesOn), &[]);
    assert_eq!(left.actions, [Withdraw, Release, Unroute]);
    assert_eq!((left.end, left.standing), (Turn::Released, Some(Rung::Recorded)));
    let ended = climb(Ladder::down(left.standing, Departure::Ended), &[]);
    assert_eq!(ended.actions, [Detach, Forget]);
    assert_eq!((ended.end, ended.standing), (Turn::Removed, None));
    let back = climb(Ladder::up(left.standing), &[]);
    assert_eq!((back.end, back.standing), (Turn::Enrolled, Some(Rung::Announced)));
}

#[test]
fn a_failed_first_enrolment_leaves_nothing_behind() {
    let cases: [(Action, &[Action]); 3] =
        [(Record, &[Forget]), (Route, &[Unroute, Forget]), (Attach, &[Detach, Unroute, Forget])];
    for (failed, undone) in cases {
        let climb = climb(Ladder::up(None), &[(failed, "no")]);
        let end = Turn::Undone { failed, error: "no", undone: undone.to_vec() };
        assert_eq!((climb.end, climb.standing), (end, None), "{failed:?}");
        assert!(climb.actions.ends_with(undone));
    }
}

#[test]
fn a_pod_that_ztunnel_does_not_take_stays_captured() {
    let climb = climb(Ladder::up(None), &[(Announce, "no ztunnel")]);
    assert_eq!(climb.actions, [Record, Route, Attach, Announce]);
    assert_eq!((climb.end, climb.standing), (Turn::Pending("no ztunnel"), Some(Rung::Announced)));
}

#[test]
fn a_captured_pod_is_never_let_out_by_a_failed_repair() {
    for failed in [Record, Route, Attach] {
        let climb = climb(Ladder::up(Some(Rung::Announced)), &[(failed, "no")]);
        assert_eq!(climb.end, Turn::Stuck { failed, error: "no", before: None }, "{failed:?}");
        assert_eq!(climb.standing, Some(Rung::Announced));
        assert!(climb.actions.iter().all(|action| matches!(action, Record | Route | Attach)));
    }
}

#[test]
fn a_pod_that_was_released_and_cannot_come_back_is_released_again() {
    for before in [Rung::Recorded, Rung::Routed] {
        let climb = climb(Ladder::up(Some(before)), &[(Attach, "no")]);
        assert_eq!(climb.actions, [Record, Route, Attach, Release, Unroute]);
        assert!(matches!(climb.end, Turn::Undone { failed: Attach, .. }), "{:?}", climb.end);
        assert_eq!(climb.standing, Some(Rung::Recorded));
    }
}

#[test]
fn a_repair_makes_sure_of_every_rung_again() {
    let climb = climb(Ladder::up(Some(Rung::Announced)), &[]);
    assert_eq!(climb.actions, [Record, Route, Attach, Announce]);
    assert_eq!(climb.end, Turn::Enrolled);
}

#[test]
fn what_cannot_be_undone_stays_recorded_where_it_stands() {
    let cases: [(Action, Option<Rung>); 3] =
        [(Detach, Some(Rung::Attached)), (Unroute, Some(Rung::Routed)), (Forget, Some(Rung::Recorded))];
    for (failed, standing) in cases {
        let down = climb(Ladder::down(Some(Rung::Announced), Departure::Cleared), &[(failed, "no")]);
        assert_eq!(down.end, Turn::Stuck { failed, error: "no", before: None });
        assert_eq!(down.standing, standing);
        let again = climb(Ladder::down(standing, Departure::Cleared), &[]);
        assert_eq!((again.actions, again.end), (vec![Detach, Unroute, Forget], Turn::Removed));
    }
    let both = climb(Ladder::up(None), &[(Attach, "no program"), (Detach, "no pin")]);
    let before = Some((Attach, "no program"));
    assert_eq!(both.end, Turn::Stuck { failed: Detach, error: "no pin", before });
    assert_eq!(both.standing, Some(Rung::Attached));
}

#[test]
fn a_pod_that_is_gone_is_cleaned_up_on_the_node_only() {
    let climb = climb(Ladder::down(Some(Rung::Announced), Departure::Ended), &[]);
    assert_eq!(climb.actions, [Withdraw, Detach, Forget]);
    assert_eq!((climb.end, climb.standing), (Turn::Removed, None));
}

const ALL: [Action; 9] = [Record, Route, Attach, Announce, Withdraw, Release, Detach, Unroute, Forget];
const STANDINGS: [Option<Rung>; 5] =
    [None, Some(Rung::Recorded), Some(Rung::Routed), Some(Rung::Attached), Some(Rung::Announced)];

#[test]
fn whatever_fails_a_captured_pod_is_let_out_only_when_asked_and_nothing_is_forgotten_that_stands() {
    for set in 0_u32..512 {
        let failing: Vec<_> =
            ALL.into_iter().filter(|action| set & (1 << *action as u32) != 0).map(|a| (a, "no")).collect();
        for before in STANDINGS {
            let up = climb(Ladder::up(before), &failing);
            let lets_out = up.actions.iter().any(|action| *action as u32 >= Withdraw as u32);
            assert!(!lets_out || before < Some(Rung::Attached), "{before:?} {failing:?}: {:?}", up.actions);
            let remembered = before.map(|_| Rung::Recorded);
            assert!(
                !matches!(up.end, Turn::Undone { .. }) || up.standing == remembered,
                "{before:?} {failing:?}"
            );
            assert!(
                !matches!(up.end, Turn::Enrolled | Turn::Pending(_)) || up.standing == Some(Rung::Announced)
            );
            for departure in [Departure::LivesOn, Departure::Cleared, Departure::Ended] {
                let down = climb(Ladder::down(before, departure), &failing);
                assert_eq!(down.end == Turn::Removed, down.standing.is_none(), "{before:?} {failing:?}");
                assert!(
                    down.standing <= before.max(Some(Rung::Attached))
                        && down.actions.iter().all(|action| *action as u32 >= Withdraw as u32)
                );
            }
        }
    }
}
