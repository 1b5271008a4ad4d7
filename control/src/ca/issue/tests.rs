// SPDX-License-Identifier: Apache-2.0
//! Requests, honest and not.

use identity::{Certificate, PrivateKey};
use mesh::TrustDomain;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use x509_parser::extensions::GeneralName;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn root() -> Root {
    let folder = tempfile::tempdir().unwrap();
    Root::open(folder.path(), &TrustDomain::parse("cluster.local").unwrap(), SystemTime::now()).unwrap()
}

fn cart() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()
}

fn leaf<'a>(csr: &'a str, identity: &'a SpiffeId) -> Leaf<'a> {
    Leaf { csr, identity, validity: None }
}

fn request(key: &KeyPair, names: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn a_node_proxy_accepts_what_is_issued() {
    let root = root();
    let key = PrivateKey::generate().unwrap();
    let now = SystemTime::now();
    let csr = key.csr(&cart()).unwrap();
    let issued = root.issue(&leaf(&csr, &cart()), HOUR, now).unwrap();
    assert_eq!(issued.chain.len(), 2, "the leaf, then the roots");
    assert_eq!(issued.chain[1], root.bundle());
    let certificate = Certificate::issued(&cart(), &key, &issued.chain, now).unwrap();
    assert!(certificate.not_before() <= now && certificate.not_before() >= now - Duration::from_secs(121));
    let end = certificate.not_after().duration_since(now).unwrap();
    assert!(end <= HOUR && end >= HOUR - Duration::from_secs(1), "{end:?}");
}

#[test]
fn only_the_key_is_taken_from_a_request() {
    let root = root();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "evil");
    params.subject_alt_names = vec![SanType::URI(cart().to_string().try_into().unwrap())];
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = root.issue(&leaf(&csr, &cart()), HOUR, SystemTime::now()).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(issued.chain[0].as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert_eq!(certificate.subject().iter().count(), 0);
    assert!(!certificate.is_ca());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.code_signing);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "without a subject the names are what counts (RFC 5280 §4.2.1.6)");
    assert_eq!(names.value.general_names, [GeneralName::URI(&cart().to_string())]);
    assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
}

#[test]
fn a_request_must_name_the_identity_and_nothing_else() {
    let root = root();
    let key = KeyPair::generate().unwrap();
    let now = SystemTime::now();
    let (cart, other) = (cart(), "spiffe://cluster.local/ns/bank/sa/vault");
    let text = cart.to_string();
    for names in [&[][..], &[other][..], &[text.as_str(), other][..]] {
        let error = root.issue(&leaf(&request(&key, names), &cart), HOUR, now).unwrap_err();
        assert!(matches!(error, IssueError::Names { .. }), "{names:?}: {error}");
    }
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    assert!(matches!(root.issue(&leaf(&csr, &cart), HOUR, now), Err(IssueError::Names { .. })));
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let root = root();
    let text = cart().to_string();
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (_, pem) = x509_parser::pem::parse_x509_pem(request(&ours, &[&text]).as_bytes()).unwrap();
    // The key of somebody else in the place of ours.
    let ours = ours.subject_public_key_info();
    let at = pem.contents.windows(ours.len()).position(|window| window == ours).unwrap();
    let mut forged = pem.contents.clone();
    forged[at..at + ours.len()].copy_from_slice(&theirs.subject_public_key_info());
    let csr = armored(&forged);
    assert!(matches!(root.issue(&leaf(&csr, &cart()), HOUR, SystemTime::now()), Err(IssueError::Request(_))));
}

/// PEM of some bytes.
fn armored(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    for group in der.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap();
            text.push(if digit <= group.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE REQUEST-----\n"
}

#[test]
fn only_the_curves_of_the_mesh_are_certified() {
    let root = root();
    let text = cart().to_string();
    for (algorithm, allowed) in
        [(&PKCS_ECDSA_P256_SHA256, true), (&PKCS_ECDSA_P384_SHA384, true), (&PKCS_ED25519, false)]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let answer = root.issue(&leaf(&request(&key, &[&text]), &cart()), HOUR, SystemTime::now());
        assert_eq!(answer.is_ok(), allowed, "{algorithm:?}");
    }
}

#[test]
fn validity_is_the_least_of_what_is_wanted_allowed_and_left() {
    let root = root();
    let key = KeyPair::generate().unwrap();
    let text = cart().to_string();
    let csr = request(&key, &[&text]);
    let now = SystemTime::now();
    let end = |wanted: Option<u64>, now: SystemTime| {
        let identity = cart();
        let leaf = Leaf { csr: &csr, identity: &identity, validity: wanted.map(Duration::from_secs) };
        root.issue(&leaf, HOUR, now).map(|issued| issued.not_after)
    };
    assert_eq!(end(None, now).unwrap(), now + HOUR);
    assert_eq!(end(Some(0), now).unwrap(), now + HOUR);
    assert_eq!(end(Some(60), now).unwrap(), now + Duration::from_secs(60));
    assert_eq!(end(Some(u64::MAX), now).unwrap(), now + HOUR);
    let last = root.not_after() - Duration::from_secs(10);
    assert_eq!(end(None, last).unwrap(), root.not_after());
    assert!(matches!(end(None, root.not_after()), Err(IssueError::RootExpired)));
}

#[test]
fn serial_numbers_differ() {
    let root = root();
    let key = KeyPair::generate().unwrap();
    let text = cart().to_string();
    let csr = request(&key, &[&text]);
    let serial = || root.issue(&leaf(&csr, &cart()), HOUR, SystemTime::now()).unwrap().serial;
    assert_ne!(serial(), serial());
}

#[test]
fn an_endless_request_is_refused_unread() {
    let root = root();
    let csr = "x".repeat(LONGEST_REQUEST + 1);
    assert!(matches!(root.issue(&leaf(&csr, &cart()), HOUR, SystemTime::now()), Err(IssueError::TooLong)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Outside bytes: no panic, and nothing is certified but the key that signed. (The few bytes around the signed part
    /// may be encoded loosely; they decide nothing.)
    #[test]
    fn a_damaged_request_certifies_no_other_key(at in 0..400usize, byte in any::<u8>(), cut in any::<bool>()) {
        let root = root();
        let key = KeyPair::generate().unwrap();
        let text = cart().to_string();
        let (_, pem) = x509_parser::pem::parse_x509_pem(request(&key, &[&text]).as_bytes()).unwrap();
        let mut der = pem.contents;
        let at = at % der.len();
        if cut {
            der.truncate(at);
        } else {
            der[at] = byte;
        }
        let answer = root.issue(&leaf(&armored(&der), &cart()), HOUR, SystemTime::now());
        prop_assert!(!cut || answer.is_err());
        if let Ok(issued) = answer {
            let (_, pem) = x509_parser::pem::parse_x509_pem(issued.chain[0].as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            prop_assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
        }
    }
}
