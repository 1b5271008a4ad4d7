// SPDX-License-Identifier: Apache-2.0
//! Roots in real folders.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn open(folder: &Path) -> Result<Root, RootError> {
    Root::open(folder, &domain(), SystemTime::now())
}

/// Name, how to spoil a folder (with a certificate of another root), what is told.
type Case = (&'static str, fn(&Path, &str), &'static str);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_root_is_made_once_and_its_key_is_its_owners() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("deep/state");
    let first = open(&state).unwrap();
    let again = open(&state).unwrap();
    assert_eq!(first.bundle(), again.bundle());
    assert_eq!(mode(&state.join(KEY_FILE)), 0o600);
    assert_eq!(fs::read_to_string(state.join(CERTIFICATE_FILE)).unwrap(), first.bundle());
    let years = first.not_after().duration_since(SystemTime::now()).unwrap().as_secs() / (365 * 24 * 3600);
    assert_eq!(years, 9, "ten years less a moment");
}

#[test]
fn a_start_that_was_cut_short_is_finished_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap();
    let key = fs::read_to_string(folder.path().join(KEY_FILE)).unwrap();
    fs::remove_file(folder.path().join(CERTIFICATE_FILE)).unwrap();
    open(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join(KEY_FILE)).unwrap(), key);
}

#[test]
fn what_cannot_be_a_root_is_refused_and_left_as_it_is() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(theirs.path()).unwrap();
    let other_certificate = fs::read_to_string(theirs.path().join(CERTIFICATE_FILE)).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().self_signed(&leaf_key).unwrap().pem();
    let cases: [Case; 6] = [
        (
            "a certificate of another key",
            |path, other| fs::write(path.join(CERTIFICATE_FILE), other).unwrap(),
            "does not belong to the key",
        ),
        ("no PEM", |path, _| fs::write(path.join(CERTIFICATE_FILE), "x").unwrap(), "exactly one certificate"),
        (
            "two certificates",
            |path, other| {
                let both = fs::read_to_string(path.join(CERTIFICATE_FILE)).unwrap() + other;
                fs::write(path.join(CERTIFICATE_FILE), both).unwrap();
            },
            "exactly one certificate",
        ),
        ("no key", |path, _| fs::remove_file(path.join(KEY_FILE)).unwrap(), "restore the key"),
        ("a key that is none", |path, _| fs::write(path.join(KEY_FILE), "x").unwrap(), "is not usable"),
        (
            "a key for everybody",
            |path, _| {
                fs::set_permissions(path.join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
            },
            "chmod 600",
        ),
    ];
    for (name, spoil, expected) in cases {
        open(ours.path()).unwrap();
        spoil(ours.path(), &other_certificate);
        let before = fs::read_to_string(ours.path().join(CERTIFICATE_FILE)).unwrap();
        let error = open(ours.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(fs::read_to_string(ours.path().join(CERTIFICATE_FILE)).unwrap(), before, "{name}");
        for file in fs::read_dir(ours.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    // With its own key, but no authority.
    fs::write(ours.path().join(CERTIFICATE_FILE), leaf).unwrap();
    store::write(&ours.path().join(KEY_FILE), &leaf_key.serialize_pem(), store::Secrecy::Secret).unwrap();
    let error = open(ours.path()).unwrap_err().to_string();
    assert!(error.contains("may not sign"), "{error}");
}

#[test]
fn an_expired_root_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap();
    let later = SystemTime::now() + VALIDITY + Duration::from_secs(1);
    let error = Root::open(folder.path(), &domain(), later).unwrap_err().to_string();
    assert!(error.contains("has expired"), "{error}");
}

#[test]
fn a_serving_certificate_has_names_and_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let root = open(folder.path()).unwrap();
    let names = ["istiod.istio-system.svc", "127.0.0.1", "::1"].map(|name| name.parse().unwrap());
    let serving = root.serving(&names, SystemTime::now()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&serving.chain[0]).unwrap();
    let found = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(found, 3);
    assert!(serving.half_life > Duration::from_secs(11 * 3600));
}
