// SPDX-License-Identifier: Apache-2.0
//! Bills of materials in SPDX 2.3 (ISO/IEC 5962), as JSON: the crates that a package is built from, with their checksums
//! of `Cargo.lock`, and the system's packages whose libraries go with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The bill of a package of the workspace at `root`, with the libraries that its programs load.
///
/// # Errors
/// When cargo, git or dpkg fails, or tells what cannot be understood.
pub fn of(root: &Path, package: &str, libraries: &[PathBuf]) -> Result<Value> {
    let metadata = output(Command::new("cargo").current_dir(root).args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("reading Cargo.lock")?;
    let mut packages = metadata.shipped_with(package)?;
    packages.extend(debian(libraries)?);
    // As old as the commit, so that the same commit gives the same bytes; SPDX wants UTC, to the second.
    let format = ["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"];
    let time = output(Command::new("git").current_dir(root).env("TZ", "UTC").args(format))?;
    Ok(document(package, &packages, &lock.checksums(), time.trim()))
}

/// Something that is part of the whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    name: String,
    version: String,
    licence: Option<String>,
    /// Its package URL.
    purl: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `dev`, `build`; none: it is linked.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Metadata {
    /// A package and everything that is linked into it, directly or not, on any platform.
    fn shipped_with(&self, name: &str) -> Result<BTreeSet<Part>> {
        let packages: BTreeMap<&str, &Package> =
            self.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let first = self.packages.iter().find(|package| package.name == name);
        let mut open = vec![first.with_context(|| format!("there is no package {name}"))?.id.as_str()];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                let linked =
                    |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
                let node = nodes.get(id).with_context(|| format!("cargo does not resolve {id}"))?;
                open.extend(node.deps.iter().filter(linked).map(|dependency| dependency.pkg.as_str()));
            }
        }
        seen.into_iter()
            .map(|id| {
                packages.get(id).map(|package| package.part()).with_context(|| format!("no package {id}"))
            })
            .collect()
    }
}

impl Package {
    fn part(&self) -> Part {
        Part {
            name: self.name.clone(),
            version: self.version.clone(),
            // Older crates write `A/B`, which SPDX does not know.
            licence: self.license.as_ref().map(|licence| licence.replace('/', " OR ")),
            purl: format!("pkg:cargo/{}@{}", self.name, self.version),
        }
    }
}

impl Lock {
    fn checksums(self) -> BTreeMap<(String, String), String> {
        let checksum = |locked: Locked| Some(((locked.name, locked.version), locked.checksum?));
        self.package.into_iter().filter_map(checksum).collect()
    }
}

/// The Debian packages that these files belong to.
fn debian(files: &[PathBuf]) -> Result<BTreeSet<Part>> {
    let mut parts = BTreeSet::new();
    for file in files {
        // dpkg knows a file by one of its two paths where /lib is a link to /usr/lib.
        let real = fs::canonicalize(file).with_context(|| format!("where {} is", file.display()))?;
        let owner = [file, &real]
            .into_iter()
            .find_map(|path| output(Command::new("dpkg").arg("--search").arg(path)).ok())
            .with_context(|| format!("no Debian package has {}", file.display()))?;
        let package = owner.rsplit_once(": ").map_or(owner.as_str(), |(package, _)| package);
        let query = ["--show", "--showformat", "${Package} ${Version} ${Architecture}", package];
        let answer = output(Command::new("dpkg-query").args(query))?;
        let mut words = answer.split_whitespace().map(str::to_owned);
        let (Some(name), Some(version), Some(architecture)) = (words.next(), words.next(), words.next())
        else {
            anyhow::bail!("dpkg-query says {answer:?} of {package}");
        };
        let purl = format!("pkg:deb/debian/{name}@{version}?arch={architecture}");
        parts.insert(Part { name, version, licence: None, purl });
    }
    Ok(parts)
}

fn document(
    package: &str,
    parts: &BTreeSet<Part>,
    checksums: &BTreeMap<(String, String), String>,
    created: &str,
) -> Value {
    let mut whole = Sha256::new();
    for part in parts {
        whole.update(&part.purl);
        whole.update([0]);
    }
    let hash = hex::encode(whole.finalize());
    let id = |number: usize| format!("SPDXRef-{number}");
    let described = parts.iter().position(|part| part.purl.starts_with(&format!("pkg:cargo/{package}@")));
    let described = id(described.unwrap_or_default());
    let packages: Vec<Value> = parts
        .iter()
        .enumerate()
        .map(|(number, part)| {
            let checksum = checksums.get(&(part.name.clone(), part.version.clone()));
            let checksums: Vec<Value> =
                checksum.iter().map(|sum| json!({"algorithm": "SHA256", "checksumValue": sum})).collect();
            json!({
                "SPDXID": id(number),
                "name": part.name,
                "versionInfo": part.version,
                "downloadLocation": "NOASSERTION",
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": part.licence.as_deref().unwrap_or("NOASSERTION"),
                "copyrightText": "NOASSERTION",
                "filesAnalyzed": false,
                "checksums": checksums,
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": part.purl,
                }],
            })
        })
        .collect();
    let contained = (0..parts.len()).map(id).filter(|part| *part != described).map(
        |part| json!({"spdxElementId": described, "relationshipType": "CONTAINS", "relatedSpdxElement": part}),
    );
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": described,
    });
    let relationships: Vec<Value> = std::iter::once(describes).chain(contained).collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("ambit-{package}"),
        "documentNamespace": format!("urn:ambit:sbom:{package}:{hash}"),
        "creationInfo": {"created": created, "creators": ["Tool: cargo-xtask-image"]},
        "packages": packages,
        "relationships": relationships,
    })
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("executing {name}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, error.trim());
    String::from_utf8(output.stdout).with_context(|| format!("reading what {name} wrote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let dependency = |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let package =
            |name: &str| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0"});
        let names = ["control", "linked", "deeper", "builder", "tester"];
        serde_json::from_value(json!({
            "packages": names.map(package),
            "resolve": {"nodes": [
                {"id": "control", "deps": [dependency("linked", None), dependency("builder", Some("build"))]},
                {"id": "linked", "deps": [dependency("deeper", None), dependency("tester", Some("dev"))]},
                {"id": "deeper", "deps": []},
                {"id": "builder", "deps": []},
                {"id": "tester", "deps": []},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let parts = metadata().shipped_with("control").unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["control", "deeper", "linked"]);
        assert!(parts.iter().all(|part| part.licence.as_deref() == Some("MIT OR Apache-2.0")));
    }

    #[test]
    fn a_bill_describes_the_package_and_has_the_checksums_of_the_lock_file() {
        let parts = metadata().shipped_with("control").unwrap();
        let lock: Lock = toml::from_str(
            "[[package]]\nname = \"control\"\nversion = \"1.0.0\"\n\
             [[package]]\nname = \"linked\"\nversion = \"1.0.0\"\nchecksum = \"12ab\"\n",
        )
        .unwrap();
        let bill = document("control", &parts, &lock.checksums(), "2026-01-01T00:00:00Z");
        let packages = bill["packages"].as_array().unwrap();
        let linked = packages.iter().find(|package| package["name"] == "linked").unwrap();
        assert_eq!(linked["checksums"][0]["checksumValue"], "12ab");
        let described = &bill["relationships"][0];
        assert_eq!(described["relationshipType"], "DESCRIBES");
        let control = packages.iter().find(|package| package["name"] == "control").unwrap();
        assert_eq!(described["relatedSpdxElement"], control["SPDXID"]);
        assert_eq!(bill["relationships"].as_array().unwrap().len(), 3);
    }
}
