// SPDX-License-Identifier: Apache-2.0
//! Files come and go, break and conflict; what is in force stays sensible.

use proptest::prelude::*;

use super::*;
use crate::manifests::read;

fn namespaces(names: &str) -> Change {
    let documents: Vec<String> = names
        .split_whitespace()
        .map(|name| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"))
        .collect();
    Change::Content("".into(), read(&documents.join("---\n")))
}

/// A file with namespaces of these names; `!` in front: broken.
fn file(path: &str, names: &str) -> Change {
    let content = match (names.strip_prefix('!'), namespaces(names)) {
        (Some(_), _) => read("kind: Namespace\n"),
        (None, Change::Content(_, content)) => content,
        (None, _) => unreachable!(),
    };
    Change::Content(path.into(), content)
}

/// Events as `+name` and `-name`, sorted.
fn events(outcome: &Outcome) -> String {
    let mut events: Vec<String> = outcome
        .events
        .iter()
        .map(|event| match event {
            Event::Applied(object) => format!("+{}", object.metadata().name),
            Event::Deleted(key) => format!("-{}", key.name),
            Event::Noted(key, _) | Event::Broken(key, _) => format!("!{}", key.name),
        })
        .collect();
    events.sort();
    events.join(" ")
}

/// `path:objects` of every file, with `!` for broken ones.
fn state(folder: &Folder) -> String {
    let files = folder.status().into_iter();
    let shown = files.map(|file| {
        let names: Vec<&str> = file.objects.iter().map(|placed| placed.object.name.as_str()).collect();
        let broken = if file.state == FileState::Broken { "!" } else { "" };
        format!("{}{broken}:{}", file.file, names.join(","))
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_broken_file_keeps_its_last_good_state() {
    let mut folder = Folder::new();
    assert_eq!(events(&folder.update([file("a", "one two")])), "+one +two");
    let outcome = folder.update([file("a", "!")]);
    assert_eq!((events(&outcome).as_str(), outcome.broken.len(), outcome.accepted.len()), ("", 1, 0));
    assert_eq!(state(&folder), "a!:one,two");
    let again = folder.update([file("b", "three")]);
    assert_eq!(again.broken.len(), 0, "a broken file is told once");
    let outcome = folder.update([Change::Unreadable("a".into(), "no".to_owned())]);
    assert_eq!(
        (events(&outcome).as_str(), outcome.broken.len()),
        ("", 1),
        "broken in another way is told again"
    );
    assert_eq!(events(&folder.update([file("a", "two four")])), "+four +two -one");
    assert_eq!(state(&folder), "a:four,two b:three");
    assert_eq!(events(&folder.update([Change::Gone("a".into())])), "-four -two");
    assert_eq!(state(&folder), "b:three");
}

#[test]
fn a_file_that_never_was_good_gives_nothing() {
    let mut folder = Folder::new();
    assert_eq!(events(&folder.update([file("a", "!")])), "");
    assert_eq!(state(&folder), "a!:");
    assert_eq!(events(&folder.update([Change::Gone("a".into())])), "");
    assert_eq!(state(&folder), "");
}

#[test]
fn an_object_in_two_files_is_an_error_that_names_both() {
    let mut folder = Folder::new();
    folder.update([file("b", "one")]);
    let outcome = folder.update([file("a", "one two")]);
    assert_eq!(events(&outcome), "", "who has it keeps it");
    let [problem] = &folder.problems("a")[..] else { panic!("one problem") };
    assert_eq!(problem.message, "is already in b at line 1: remove it from b or from a");
    assert_eq!((problem.line, problem.object.as_str()), (1, "Namespace one"));
    // The file of the other is changed, and the waiting one comes into force by itself.
    let outcome = folder.update([file("b", "three")]);
    assert_eq!(events(&outcome), "+one +three +two");
    assert_eq!(state(&folder), "a:one,two b:three");
}

#[test]
fn of_two_new_files_with_one_object_the_first_path_wins() {
    let mut folder = Folder::new();
    folder.update([file("b", "one"), file("a", "one")]);
    assert_eq!(state(&folder), "a:one b!:");
    folder.update([Change::Gone("a".into())]);
    assert_eq!(state(&folder), "b:one");
}

#[test]
fn an_object_that_moves_to_another_file_is_never_deleted() {
    let mut folder = Folder::new();
    folder.update([file("a", "one two"), file("b", "three")]);
    let outcome = folder.update([file("a", "two"), file("b", "three one")]);
    assert_eq!(events(&outcome), "+one +three +two");
    // Two that change places.
    let outcome = folder.update([file("a", "three one"), file("b", "two")]);
    assert_eq!(events(&outcome), "+one +three +two");
    assert_eq!(state(&folder), "a:one,three b:two");
    // First the new place, then the old one is cleared.
    assert_eq!(events(&folder.update([file("c", "two")])), "");
    assert_eq!(state(&folder), "a:one,three b:two c!:");
    assert_eq!(events(&folder.update([Change::Gone("b".into())])), "+two");
    assert_eq!(state(&folder), "a:one,three c:two");
}

#[test]
fn a_refused_file_can_refuse_another_one() {
    let mut folder = Folder::new();
    folder.update([file("a", "one"), file("b", "two"), file("c", "three")]);
    // `a` wants what `c` keeps, so it keeps `one`, so `b` cannot have that.
    let outcome = folder.update([file("a", "three"), file("b", "one")]);
    assert_eq!(events(&outcome), "");
    assert_eq!(state(&folder), "a!:one b!:two c:three");
    folder.update([Change::Gone("c".into())]);
    assert_eq!(state(&folder), "a:three b:one");
}

proptest! {
    /// Whatever happens in whatever order: an object in force is in one file, the events add up to what is in force, and
    /// files without errors and conflicts are in force as they are.
    #[test]
    fn events_add_up_to_what_is_in_force(
        steps in proptest::collection::vec(
            (0..4usize, proptest::option::weighted(0.8, proptest::collection::btree_set(0..5usize, 0..4)), any::<bool>()),
            1..30,
        )
    ) {
        let paths = ["a", "b", "c", "d"];
        let names = ["one", "two", "three", "four", "five"];
        let mut folder = Folder::new();
        let mut replayed: BTreeSet<ArcStr> = BTreeSet::new();
        for (path, content, broken) in steps {
            let change = match content {
                None => Change::Gone(paths[path].into()),
                Some(_) if broken => file(paths[path], "!"),
                Some(objects) => {
                    let names: Vec<&str> = objects.into_iter().map(|index| names[index]).collect();
                    file(paths[path], &names.join(" "))
                }
            };
            for event in folder.update([change]).events {
                match event {
                    Event::Applied(object) => { replayed.insert(object.metadata().name.clone()); }
                    Event::Deleted(key) => { prop_assert!(replayed.remove(&key.name)); }
                    Event::Noted(..) | Event::Broken(..) => prop_assert!(false, "a folder notes nothing"),
                }
            }
            let mut in_force = BTreeSet::new();
            for file in folder.status() {
                for placed in file.objects {
                    prop_assert!(in_force.insert(placed.object.name.clone()), "{} is in two files", placed.object);
                }
            }
            prop_assert_eq!(&in_force, &replayed);
        }
    }
}
