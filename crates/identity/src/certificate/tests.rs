// SPDX-License-Identifier: Apache-2.0
//! Tests: which answers of an authority become certificates.

use proptest::prelude::*;
use rcgen::CertificateSigningRequestParams;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::*;
use crate::testing::{TestAuthority, id};

const LIFE: Duration = Duration::from_secs(3600);

/// A key, and what an authority answers to it.
fn answer(authority: &TestAuthority, identities: &[SpiffeId]) -> (PrivateKey, Vec<String>) {
    let key = PrivateKey::generate().unwrap();
    let csr = CertificateSigningRequestParams::from_pem(&key.csr(&identities[0]).unwrap()).unwrap();
    let chain = authority.chain(identities, &csr.public_key);
    (key, chain)
}

#[test]
fn a_request_has_an_empty_subject_and_one_critical_uri_name() {
    let identity = id("cluster.local/ns/a/sa/b");
    let key = PrivateKey::generate().unwrap();
    let pem = key.csr(&identity).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{pem}");
    let params = CertificateSigningRequestParams::from_pem(&pem).unwrap();
    assert_eq!(params.public_key.algorithm(), &rcgen::PKCS_ECDSA_P256_SHA256);
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    assert_eq!(request.certification_request_info.subject_pki.raw, key.public_key());
    let attributes = request.certification_request_info.attributes();
    let extensions: Vec<_> = attributes
        .iter()
        .filter_map(|attribute| match attribute.parsed_attribute() {
            x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(request) => {
                Some(&request.extensions)
            }
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(extensions.len(), 1);
    assert!(extensions[0].critical);
    let ParsedExtension::SubjectAlternativeName(names) = extensions[0].parsed_extension() else {
        panic!("{:?}", extensions[0]);
    };
    assert_eq!(names.general_names, [GeneralName::URI("spiffe://cluster.local/ns/a/sa/b")]);
}

#[test]
fn an_answer_is_a_leaf_then_intermediates_then_all_roots_in_one_text() {
    let (authority, other) = (TestAuthority::today(), TestAuthority::today());
    let identity = id("cluster.local/ns/a/sa/b");
    let (key, mut chain) = answer(&authority, std::slice::from_ref(&identity));
    chain[2] = format!("{}\n# another root\n{}", other.root(), authority.root());
    let now = SystemTime::now();
    let certificate = Certificate::issued(&identity, &key, &chain, now).unwrap();
    assert_eq!(certificate.identity(), &identity);
    assert_eq!(certificate.chain().len(), 2);
    assert_eq!(certificate.roots().certificates().len(), 2);
    assert!(certificate.is_valid(now) && !certificate.is_valid(now + LIFE));
    assert!(certificate.not_before() < now);
    assert_eq!(certificate.not_after(), certificate.chain()[0].not_after);
    assert_eq!(certificate.serial().unwrap(), certificate.chain()[0].serial);

    let printed = &certificate.chain()[0];
    assert_eq!(
        certificates(printed.pem().as_bytes()).unwrap(),
        std::slice::from_ref(&printed.der),
        "what we print can be read"
    );
    chain.splice(0..2, [format!("{}{}", chain[0], chain[1])]);
    assert!(
        Certificate::issued(&identity, &key, &chain, now).is_ok(),
        "a leaf and its intermediate in one text"
    );
}

#[test]
fn an_answer_that_was_not_asked_for_is_refused() {
    let (authority, other) = (TestAuthority::today(), TestAuthority::today());
    let identity = id("cluster.local/ns/a/sa/b");
    let (key, chain) = answer(&authority, std::slice::from_ref(&identity));
    let somebody = id("cluster.local/ns/a/sa/c");
    let (their_key, theirs) = answer(&authority, std::slice::from_ref(&somebody));
    let (both_key, both) = answer(&authority, &[identity.clone(), somebody]);
    let now = SystemTime::now();
    let check = |key: &PrivateKey, chain: &[&str], now: SystemTime, expected: &str| {
        let chain: Vec<String> = chain.iter().map(|text| (*text).to_owned()).collect();
        let error = Certificate::issued(&identity, key, &chain, now).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}, not {expected}");
    };
    let [leaf, intermediate, root] = [chain[0].as_str(), chain[1].as_str(), chain[2].as_str()];
    check(&key, &[], now, "the certificate chain has no certificate");
    check(&key, &[root], now, "the certificate chain has no leaf");
    check(&key, &[leaf, intermediate, ""], now, "the certificate chain has no root");
    check(&key, &["-----BEGIN CERTIFICATE-----\n", root], now, "the certificate chain is not PEM");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(&key, &[garbage, root], now, "a certificate of the chain cannot be read");
    check(&key, &[leaf, intermediate, garbage], now, "no root can be used");
    let named = "asked for a certificate of spiffe://cluster.local/ns/a/sa/b, got one of ";
    check(
        &their_key,
        &[&theirs[0], intermediate, root],
        now,
        &format!("{named}spiffe://cluster.local/ns/a/sa/c"),
    );
    check(
        &both_key,
        &[&both[0], intermediate, root],
        now,
        &format!("{named}spiffe://cluster.local/ns/a/sa/b, "),
    );
    check(&key, &[intermediate, root], now, &format!("{named}nobody"));
    check(&their_key, &[leaf, intermediate, root], now, "the certificate is not for the key that was sent");
    let untrusted = "the certificate is not valid under the roots that came with it";
    check(&key, &[leaf, intermediate, &other.root()], now, untrusted);
    check(&key, &[leaf, root], now, untrusted);
    check(&key, &[leaf, intermediate, root], now + 2 * LIFE, untrusted);
    check(&key, &[leaf, intermediate, root], now - LIFE, untrusted);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(chain in proptest::collection::vec(".{0,200}|(-----(BEGIN|END) CERTIFICATE-----\n?|[A-Za-z0-9+/=\n]{0,64}){0,6}", 0..4)) {
        let key = PrivateKey::generate().unwrap();
        let issued = Certificate::issued(&id("cluster.local/ns/a/sa/b"), &key, &chain, SystemTime::now());
        prop_assert!(issued.is_err());
    }

    #[test]
    fn a_certificate_with_any_byte_changed_is_refused_or_means_the_same(
        place in 0_usize..10_000, change in 1_u8..=255, element in 0_usize..3,
    ) {
        let authority = TestAuthority::today();
        let identity = id("cluster.local/ns/a/sa/b");
        let (key, mut chain) = answer(&authority, std::slice::from_ref(&identity));
        let der = certificates(chain[element].as_bytes()).unwrap().remove(0);
        let mut bytes = der.to_vec();
        let place = place % bytes.len();
        bytes[place] ^= change;
        let der = CertificateDer::from(bytes);
        identities(&der);
        let printed = Described { der, serial: String::new(), not_before: SystemTime::now(), not_after: SystemTime::now() };
        chain[element] = printed.pem();
        if let Ok(certificate) = Certificate::issued(&identity, &key, &chain, SystemTime::now()) {
            // Only a root, which nobody signs for us, may differ where no chain depends on it.
            prop_assert_eq!(element, 2);
            prop_assert_eq!(certificate.identity(), &identity);
        }
    }
}

#[test]
fn a_chain_that_was_vouched_for_is_still_judged_by_the_time_and_by_other_roots() {
    let authority = TestAuthority::today();
    let certificate = authority.issue(&id("cluster.local/ns/a/sa/b"));
    let chain = &certificate.certified().cert;
    let (leaf, intermediates) = chain.split_first().unwrap();
    let at = |time: SystemTime| {
        UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    };
    let roots = authority.roots();
    let (from, until) = (certificate.not_before(), certificate.not_after());
    let second = Duration::from_secs(1);
    for time in [from, until, from] {
        roots.vouch_for(leaf, intermediates, at(time)).unwrap();
    }
    for time in [from - second, until + second] {
        let afresh = authority.roots().vouch_for(leaf, intermediates, at(time)).unwrap_err();
        assert_eq!(roots.vouch_for(leaf, intermediates, at(time)).unwrap_err(), afresh);
    }
    TestAuthority::today().roots().vouch_for(leaf, intermediates, at(from)).unwrap_err();
    let mut altered = leaf.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    roots.vouch_for(&altered.into(), intermediates, at(from)).unwrap_err();
}
