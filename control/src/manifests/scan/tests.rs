// SPDX-License-Identifier: Apache-2.0
//! A real folder under a clock of the test: files are as old as the test says.

use std::fs::FileTimes;

use super::*;

struct Fixture {
    folder: tempfile::TempDir,
    scanner: Scanner,
    now: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scanner = Scanner::new(folder.path());
        Self { folder, scanner, now: SystemTime::now() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that was last written so many milliseconds before `now`.
    fn write(&self, name: &str, text: &str, age: u64) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        let times = FileTimes::new().set_modified(self.now - Duration::from_millis(age));
        File::options().write(true).open(self.path(name)).unwrap().set_times(times).unwrap();
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    /// `name=text`, `name?` for unreadable, `-name` for gone, and `...` while something is being written.
    fn look(&mut self) -> String {
        let look = self.scanner.look(self.now);
        let mut told: Vec<String> = look
            .seen
            .into_iter()
            .map(|seen| match seen {
                Seen::Text(path, text) => format!("{path}={text}"),
                Seen::Unreadable(path, _) => format!("{path}?"),
                Seen::Gone(path) => format!("-{path}"),
            })
            .collect();
        told.extend(look.unsettled.then(|| "...".to_owned()));
        told.extend(look.failures);
        told.join(" ")
    }
}

#[test]
fn manifests_are_found_in_folders_and_other_files_are_not() {
    let mut fixture = Fixture::new();
    for name in
        ["a.yaml", "b.yml", "c.json", "deep/er/d.yaml", ".e.yaml", ".git/f.yaml", "g.yaml~", "h.txt", "yaml"]
    {
        fixture.write(name, "x", 1000);
    }
    assert_eq!(fixture.look(), "a.yaml=x b.yml=x c.json=x deep/er/d.yaml=x");
    assert_eq!(fixture.look(), "", "nothing has changed");
}

#[test]
fn a_file_that_was_moved_into_place_is_whole() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "one", 0);
    fixture.write("b.yaml", "two", 0);
    fixture.scanner.moved().note(fixture.path("b.yaml"));
    assert_eq!(fixture.look(), "b.yaml=two ...", "the other may be half of itself");
    fixture.write("b.yaml", "three", 0);
    assert_eq!(fixture.look(), "...", "that counts once");
}

#[test]
fn a_file_that_is_being_written_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "one", 1000);
    assert_eq!(fixture.look(), "a.yaml=one");
    fixture.write("a.yaml", "tw", 0);
    assert_eq!(fixture.look(), "...");
    fixture.pass(30);
    fixture.write("a.yaml", "two", 0);
    assert_eq!(fixture.look(), "...");
    fixture.pass(60);
    assert_eq!(fixture.look(), "a.yaml=two");
}

#[test]
fn a_file_that_became_empty_or_went_away_is_waited_for() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "one", 1000);
    fixture.write("b.yaml", "two", 1000);
    fixture.look();
    fixture.write("a.yaml", "", 0);
    fs::remove_file(fixture.path("b.yaml")).unwrap();
    assert_eq!(fixture.look(), "...");
    fixture.pass(100);
    assert_eq!(fixture.look(), "...");
    fixture.write("b.yaml", "new", 100);
    assert_eq!(fixture.look(), "b.yaml=new ...", "a replacement is no removal");
    fixture.pass(110);
    assert_eq!(fixture.look(), "a.yaml=", "it was meant to be empty");
    fs::remove_file(fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.look(), "...");
    fixture.pass(200);
    assert_eq!(fixture.look(), "-a.yaml");
}

#[test]
fn an_atomic_replacement_of_the_same_size_and_time_is_seen() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "one", 1000);
    fixture.look();
    fixture.write("b.tmp", "two", 1000);
    fs::rename(fixture.path("b.tmp"), fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.look(), "a.yaml=two");
}

#[test]
fn links_are_followed_as_in_a_mounted_config_map() {
    let mut fixture = Fixture::new();
    fixture.write("..v1/a.yaml", "one", 1000);
    fixture.write("..v2/a.yaml", "two", 1000);
    std::os::unix::fs::symlink("..v1", fixture.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", fixture.path("a.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", fixture.path("b.yaml")).unwrap();
    assert_eq!(fixture.look(), "a.yaml=one");
    std::os::unix::fs::symlink("..v2", fixture.path("..next")).unwrap();
    fs::rename(fixture.path("..next"), fixture.path("..data")).unwrap();
    assert_eq!(fixture.look(), "a.yaml=two");
    std::os::unix::fs::symlink(".", fixture.path("loop")).unwrap();
    assert!(fixture.look().contains("loop/a.yaml=two"), "a loop ends");
}

#[test]
fn a_folder_that_cannot_be_listed_takes_nothing_away() {
    let mut fixture = Fixture::new();
    fixture.write("sub/a.yaml", "one", 1000);
    fixture.write("b.yaml", "two", 1000);
    fixture.look();
    let root = fixture.folder.path().to_owned();
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    for _ in 0..3 {
        fixture.pass(300);
        let told = fixture.look();
        assert!(told.starts_with("cannot list ") && !told.contains("-b.yaml"), "{told}");
    }
    fs::rename(&away, &root).unwrap();
    assert_eq!(fixture.look(), "");
}

#[test]
fn what_is_no_text_or_no_file_is_told() {
    let mut fixture = Fixture::new();
    fixture.write("a.yaml", "x", 1000);
    fs::write(fixture.path("b.yaml"), [0xff, 0xfe]).unwrap();
    // Like a pipe it would block its reader for ever.
    drop(std::os::unix::net::UnixListener::bind(fixture.path("c.yaml")).unwrap());
    fixture.pass(1000);
    assert_eq!(fixture.look(), "a.yaml=x b.yaml?");
}
