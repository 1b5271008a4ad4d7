// SPDX-License-Identifier: Apache-2.0
//! What is depended on, held to `deny.toml` without a tool or a network: licences, bans and sources. `cargo deny check`
//! says the same of every platform and knows advisories besides.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Breach;
use crate::step::{output, root};

/// The rules that are looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    licences: BTreeSet<String>,
    exceptions: Vec<Exception>,
    banned: BTreeSet<String>,
}

#[derive(Deserialize)]
struct File {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

/// Licences that one package may have besides those that are allowed everywhere.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

/// Every dependency that a rule forbids.
pub(super) fn breaches() -> Result<Vec<Breach>> {
    let text = fs::read_to_string(root().join("deny.toml")).context("reading deny.toml")?;
    let rules = Rules::read(&text).context("reading deny.toml")?;
    ensure!(!rules.licences.is_empty() && !rules.banned.is_empty(), "deny.toml has no rules");
    let arguments =
        ["tree", "--workspace", "--all-features", "--locked", "--prefix", "none", "--format", "{p}\t{l}"];
    let tree = output("cargo", &arguments)?;
    let lines: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(lines.into_iter().filter(|line| !line.is_empty()).flat_map(|line| rules.of(line)).collect())
}

impl Rules {
    /// Reads the lists `licenses.allow`, `licenses.exceptions` and `bans.deny`.
    fn read(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let Licences { allow: licences, exceptions } = file.licenses;
        for Exception { name, .. } in &exceptions {
            // cargo-deny would take it for some versions only; here it would be for none.
            ensure!(!name.contains(['@', ':']), "an exception is for every version of a crate, not {name}");
        }
        let banned = file.bans.deny.into_iter().map(|ban| ban.name).collect();
        Ok(Self { licences, exceptions, banned })
    }

    /// `name version (where from)`, a tab, a licence.
    fn of(&self, line: &str) -> Vec<Breach> {
        let (package, licence) = line.split_once('\t').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or_default();
        let mut breaches = Vec::new();
        if self.banned.contains(name) {
            breaches.push(Breach::new(package, "is banned; deny.toml says why"));
        }
        if package.contains("://") {
            breaches.push(Breach::new(package, "comes from elsewhere than crates.io"));
        }
        let ours = package.contains("(/");
        if !ours && !self.allowed(name).meets(licence) {
            breaches.push(Breach::new(package, format!("has the licence {licence:?}")));
        }
        breaches
    }

    /// The licences that a package may have.
    fn allowed(&self, name: &str) -> Allowed<'_> {
        let exception = self.exceptions.iter().find(|exception| exception.name == name);
        Allowed { everywhere: &self.licences, besides: exception.map(|exception| &exception.allow) }
    }
}

/// See [`Rules::allowed`].
struct Allowed<'a> {
    everywhere: &'a BTreeSet<String>,
    besides: Option<&'a BTreeSet<String>>,
}

impl Allowed<'_> {
    /// Whether an SPDX expression (or the older `A/B`) can be met with these licences alone.
    fn meets(&self, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        let met = self.any(&mut rest);
        met && rest.is_empty()
    }

    fn any(&self, words: &mut &[&str]) -> bool {
        let mut met = self.every(words);
        while let [first, rest @ ..] = *words
            && *first == "OR"
        {
            *words = rest;
            met |= self.every(words);
        }
        met
    }

    fn every(&self, words: &mut &[&str]) -> bool {
        let mut met = self.one(words);
        while let [first, rest @ ..] = *words
            && *first == "AND"
        {
            *words = rest;
            met &= self.one(words);
        }
        met
    }

    fn one(&self, words: &mut &[&str]) -> bool {
        match *words {
            ["(", rest @ ..] => {
                *words = rest;
                let met = self.any(words);
                let Some((&")", rest)) = words.split_first() else { return false };
                *words = rest;
                met
            }
            [licence, "WITH", exception, rest @ ..] => {
                *words = rest;
                self.contains(&format!("{licence} WITH {exception}"))
            }
            [licence, rest @ ..] => {
                *words = rest;
                self.contains(licence)
            }
            [] => false,
        }
    }

    fn contains(&self, licence: &str) -> bool {
        self.everywhere.contains(licence) || self.besides.is_some_and(|besides| besides.contains(licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[licenses]\nallow = [\n    \"MIT\",\n    \"ISC\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n\
                        exceptions = [\n    { crate = \"x\", allow = [\"NCSA\"] },\n]\n\
                        [bans]\ndeny = [\n    { crate = \"ring\", reason = \"one\" },\n]\n\
                        skip = [\n    { crate = \"old\", reason = \"two\" },\n]\n";

    #[test]
    fn the_lists_of_the_file_are_the_rules() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let licences = set(&["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        let exceptions = vec![Exception { name: "x".to_owned(), allow: set(&["NCSA"]) }];
        assert_eq!(Rules::read(TEXT).unwrap(), Rules { licences, exceptions, banned: set(&["ring"]) });
    }

    #[test]
    fn an_exception_for_some_versions_is_not_understood() {
        for other in ["crate = \"x@1\"", "crate = \"x:1\"", "crate = \"x\", version = \"1\""] {
            let text = TEXT.replace("crate = \"x\"", other);
            assert!(text != TEXT && Rules::read(&text).is_err(), "{other}");
        }
    }

    #[test]
    fn an_exception_is_for_its_package_and_adds_to_what_is_allowed() {
        let rules = Rules::read(TEXT).unwrap();
        for (line, expected) in [
            ("x v1.0.0\tNCSA", 0),
            ("x v1.0.0\tMIT", 0),
            ("x v1.0.0\t(MIT OR GPL-3.0) AND NCSA", 0),
            ("x v1.0.0\tGPL-3.0", 1),
            ("y v1.0.0\tNCSA", 1),
            ("y v1.0.0\tMIT AND NCSA", 1),
        ] {
            assert_eq!(rules.of(line).len(), expected, "{line}");
        }
    }

    #[test]
    fn a_licence_is_met_by_what_is_allowed() {
        let rules = Rules::read(TEXT).unwrap();
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("Unlicense/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("ISC AND (GPL-3.0 OR AGPL-3.0)", false),
            ("MIT OR GPL-3.0 AND AGPL-3.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0 WITH another", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(rules.allowed("any").meets(expression), expected, "{expression}");
        }
    }

    #[test]
    fn a_dependency_that_breaks_a_rule_is_reported() {
        let rules = Rules::read(TEXT).unwrap();
        for (line, expected) in [
            ("bytes v1.0.0\tMIT", 0),
            ("ours v0.1.0 (/somewhere)\tGPL-3.0", 0),
            ("macros v1.0.0 (proc-macro)\tMIT", 0),
            ("ring v0.17.0\tISC", 1),
            ("fork v1.0.0 (https://example.com/fork#1234)\tMIT", 1),
            ("nameless v1.0.0\t", 1),
        ] {
            assert_eq!(rules.of(line).len(), expected, "{line}");
        }
    }
}
