// SPDX-License-Identifier: Apache-2.0
//! Rules about single files: how they begin, how long they are, which names and imports they hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::Breach;
use crate::step::root;

const LONGEST_FILE: usize = 600;
const LONGEST_LIB: usize = 120;
const LONGEST_MAIN: usize = 40;
const LONGEST_TEST_MODULE: usize = 150;
const SPDX: &str = "// SPDX-License-Identifier: Apache-2.0";
/// Names that say nothing about what a thing is.
const EMPTY_NAMES: &[&str] =
    &["Manager", "Handler", "Helper", "Wrapper", "Util", "Utils", "Info", "Data", "Impl", "Context"];
/// What a decision must not touch.
const IMPURE_PATHS: &[&str] = &[
    "tokio::",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::sync::Mutex",
    "async fn",
    ".await",
];
const PURE_FOLDERS: &[&str] = &["crates/mesh/src", "crates/plan/src"];

/// Every breach in a source or text file of the repository.
pub(super) fn breaches() -> Result<Vec<Breach>> {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    let mut breaches = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        let bytes = fs::read(&file).with_context(|| format!("reading {name}"))?;
        // What is no text is no source.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        breaches.extend(of_any_text(&name, &text));
        if file.extension().is_some_and(|extension| extension == "rs") {
            breaches.extend(of_source(&name, &text));
        }
    }
    Ok(breaches)
}

/// Files of the repository; build folders and hidden files (but for CI) are not.
pub(super) fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "target" || (name.starts_with('.') && name != ".ci") {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn of_any_text(name: &str, text: &str) -> Vec<Breach> {
    // In two parts, or this line would be a breach.
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Use", "rs/")];
    numbered(text)
        .filter(|(_, line)| homes.iter().any(|home| line.contains(home)))
        .map(|(number, _)| Breach::new(format!("{name}:{number}"), "holds the path of somebody's home"))
        .collect()
}

fn of_source(name: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut lines = text.lines();
    if lines.next() != Some(SPDX) {
        breaches.push(Breach::new(name, format!("does not begin with `{SPDX}`")));
    }
    if !lines.next().is_some_and(|line| line.starts_with("//! ")) {
        breaches.push(Breach::new(name, "says nothing about itself: the second line begins with `//! `"));
    }
    if name.ends_with("/mod.rs") {
        breaches.push(Breach::new(name, "is a mod.rs: a module `foo` is in foo.rs"));
    }
    breaches.extend(lengths(name, text));
    breaches.extend(numbered(text).flat_map(|(number, line)| of_line(name, number, line)));
    breaches
}

fn lengths(name: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if is_test_code(name) {
        return breaches;
    }
    let all = text.lines().count();
    let product = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let limit = match name.rsplit('/').next() {
        Some("lib.rs") => LONGEST_LIB,
        // A program for the kernel is its main.rs.
        Some("main.rs") if !name.starts_with("ebpf/") => LONGEST_MAIN,
        _ => LONGEST_FILE,
    };
    if product > limit {
        breaches
            .push(Breach::new(name, format!("has {product} lines without its tests, {limit} are allowed")));
    }
    let tests = all.saturating_sub(product);
    if tests > LONGEST_TEST_MODULE {
        let what =
            format!("has {tests} lines of tests: over {LONGEST_TEST_MODULE} they move to a file tests.rs");
        breaches.push(Breach::new(name, what));
    }
    breaches
}

/// Test programs, and test modules that have moved to a file of their own.
fn is_test_code(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") && !name.starts_with("tests/src/")
}

fn of_line(name: &str, number: usize, line: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |what: String| breaches.push(Breach::new(format!("{name}:{number}"), what));
    let (code, comment) = line.split_once("//").unwrap_or((line, ""));
    if let Some(rest) = comment.split(concat!("TO", "DO")).nth(1)
        && !rest.starts_with("(#")
    {
        breach("a note of something to do names its issue: (#12)".to_owned());
    }
    if let Some(ending) = declared_type(code).and_then(empty_ending) {
        breach(format!("a type that ends in {ending} has no name yet"));
    }
    if PURE_FOLDERS.iter().any(|folder| name.starts_with(folder)) && !is_test_code(name) {
        for path in IMPURE_PATHS.iter().filter(|path| code.contains(**path)) {
            breach(format!("a pure package must not use `{path}`"));
        }
    }
    breaches
}

/// The name of the type that a line of code declares.
fn declared_type(code: &str) -> Option<&str> {
    let mut words = code.split_whitespace().skip_while(|word| word.starts_with("pub"));
    match words.next()? {
        "struct" | "enum" | "trait" | "union" => {}
        // An indented one implements somebody else's trait, which has chosen the name.
        "type" if !code.starts_with(' ') => {}
        _ => return None,
    }
    let name = words.next()?;
    name.split(|character: char| !character.is_alphanumeric() && character != '_').next()
}

fn empty_ending(declared: &str) -> Option<&'static str> {
    EMPTY_NAMES.iter().copied().find(|ending| declared.ends_with(ending))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(body: &str) -> String {
        format!("{SPDX}\n//! What it is for.\n{body}")
    }

    #[test]
    fn a_source_file_that_breaks_a_rule_is_reported() {
        let long = "//\n".repeat(LONGEST_FILE);
        let tests = format!("#[cfg(test)]\n{}", "//\n".repeat(LONGEST_TEST_MODULE));
        for (name, text, expected) in [
            ("crates/x/src/a.rs", source("pub struct Pool;"), 0),
            ("crates/x/src/a.rs", "//! No licence.\n".to_owned(), 2),
            ("crates/x/src/a.rs", format!("{SPDX}\nfn silent() {{}}\n"), 1),
            ("crates/x/src/mod.rs", source(""), 1),
            ("crates/x/src/a.rs", source(&long), 1),
            ("crates/x/src/a/tests.rs", source(&long), 0),
            ("crates/x/src/a.rs", source(&tests), 1),
            ("crates/x/src/lib.rs", source(&"//\n".repeat(LONGEST_LIB)), 1),
            ("crates/x/src/main.rs", source(&"//\n".repeat(LONGEST_MAIN)), 1),
            ("crates/x/src/a.rs", source("pub(crate) struct PoolManager<T> {"), 1),
            ("crates/x/src/a.rs", source("    struct Managers;"), 0),
            ("crates/x/src/a.rs", source("type RequestContext = u8;"), 1),
            ("crates/x/src/a.rs", source("    type Data = Bytes;"), 0),
            ("crates/x/src/a.rs", source(concat!("// TO", "DO: later")), 1),
            ("crates/x/src/a.rs", source(concat!("// TO", "DO(#3): later")), 0),
            ("crates/mesh/src/a.rs", source("use std::time::Instant;"), 1),
            ("crates/mesh/src/a.rs", source("// tokio::spawn is not for here"), 0),
            ("crates/x/src/a.rs", source("use std::time::Instant;"), 0),
        ] {
            let found = of_source(name, &text);
            assert_eq!(found.len(), expected, "{name}: {found:?}");
        }
    }

    #[test]
    fn a_path_into_a_home_folder_is_reported_in_any_text() {
        assert_eq!(of_any_text("a.yaml", concat!("path: /ho", "me/me/x")).len(), 1);
        assert_eq!(of_any_text("a.yaml", "path: /var/run/x").len(), 0);
    }
}
