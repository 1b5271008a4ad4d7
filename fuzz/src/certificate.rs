// SPDX-License-Identifier: Apache-2.0
//! X.509: requests that the authority is sent, and certificates that peers and authorities show.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use control::ca::{IssueError, Leaf, Root};
use identity::{Certificate, PrivateKey, Roots, peer_identity};
use mesh::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use x509_parser::pem::parse_x509_pem;

use crate::text;

/// Longest validity of a leaf.
const HOUR: Duration = Duration::from_secs(3600);
/// Whom requests are for.
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

static ROOT: LazyLock<Root> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let domain = TrustDomain::parse("cluster.local").expect("it is a domain");
    Root::open(folder.path(), &domain, SystemTime::now()).expect("a new root")
});
static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate().expect("a new key"));

/// Seconds that are asked for, in two bytes, then a request: in PEM, or in DER to be put into PEM.
pub(crate) fn csr(bytes: &[u8]) {
    let Some((seconds, request)) = bytes.split_first_chunk::<2>() else { return };
    let seconds = u64::from(u16::from_be_bytes(*seconds));
    let pem = match text(request) {
        Some(text) if text.contains("-----BEGIN") => text.to_owned(),
        Some(_) | None => pem("CERTIFICATE REQUEST", request),
    };
    let identity: SpiffeId = CART.parse().expect("it is an id");
    let (now, validity) = (SystemTime::now(), Some(Duration::from_secs(seconds)));
    let leaf = Leaf { csr: &pem, identity: &identity, validity };
    let issued = match ROOT.issue(&leaf, HOUR, now) {
        Ok(issued) => issued,
        Err(IssueError::RootExpired | IssueError::Sign(_)) => panic!("the request is to blame for nothing"),
        Err(_theirs) => return,
    };
    // Whatever was in the request, this is in the certificate.
    assert!(issued.not_after <= now + HOUR && issued.not_after > now);
    let [leaf, bundle] = issued.chain.as_slice() else { panic!("{} certificates", issued.chain.len()) };
    assert_eq!(bundle, ROOT.bundle());
    let (_, pem) = parse_x509_pem(leaf.as_bytes()).expect("our own PEM");
    assert_eq!(peer_identity(&[pem.contents.as_slice().into()]), Some(identity));
    let (_, parsed) = x509_parser::parse_x509_certificate(&pem.contents).expect("our own certificate");
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().iter().count(), 0);
    let names = parsed.subject_alternative_name().expect("it can be read").expect("it is there");
    assert_eq!(names.value.general_names.len(), 1);
}

/// A certificate in DER, or a chain in PEM.
pub(crate) fn certificate(bytes: &[u8]) {
    let der = CertificateDer::from(bytes);
    if let Some(identity) = peer_identity(&[der]) {
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }
    if let Ok(roots) = Roots::from_pem(bytes) {
        for described in roots.certificates() {
            assert!(text(bytes).is_none_or(|text| text.contains("BEGIN")));
            let (_, again) = parse_x509_pem(described.pem().as_bytes()).expect("our own PEM");
            assert_eq!(again.contents, described.der.as_ref());
        }
    }
    // Nobody who does not have our key or root is believed, wherever its certificate stands in the chain.
    let identity: SpiffeId = CART.parse().expect("it is an id");
    let given = text(bytes).map_or_else(|| pem("CERTIFICATE", bytes), str::to_owned);
    let now = SystemTime::now();
    for chain in
        [vec![given.clone()], vec![given.clone(), ROOT.bundle().to_owned()], vec![given.clone(), given]]
    {
        assert!(Certificate::issued(&identity, &KEY, &chain, now).is_err(), "{chain:?}");
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----");
    for (index, chunk) in der.chunks(3).enumerate() {
        if index % 16 == 0 {
            text.push('\n');
        }
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).expect("six bits");
            text.push(if place > chunk.len() { '=' } else { DIGITS[digit].into() });
        }
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
