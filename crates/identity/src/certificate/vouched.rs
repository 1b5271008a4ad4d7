// SPDX-License-Identifier: Apache-2.0
//! Chains that a set of roots has vouched for already: a peer that comes again with the same certificates has only to prove
//! that it has the key. It belongs to the roots, so other roots begin with none.

use std::{collections::HashMap, ops::RangeInclusive, time::SystemTime};

use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::parse::describe;

/// Chains that are remembered; then all are forgotten. A peer has one at a time and gets another twice a day.
const MOST: usize = 256;

/// See the module. A chain is known by all of its bytes.
#[derive(Debug, Default)]
pub(super) struct Vouched(Mutex<HashMap<Vec<u8>, RangeInclusive<u64>>>);

impl Vouched {
    /// Whether this chain was vouched for and every certificate of it is valid now.
    pub(super) fn has(&self, chain: &[u8], now: UnixTime) -> bool {
        self.0.lock().get(chain).is_some_and(|valid| valid.contains(&now.as_secs()))
    }

    /// Remembers a chain that was vouched for.
    pub(super) fn note(&self, chain: Vec<u8>, certificates: &[&CertificateDer<'_>]) {
        let Some(valid) = validity(certificates) else { return };
        let mut chains = self.0.lock();
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(chain, valid);
    }
}

/// All bytes of a chain, each certificate after its length.
pub(super) fn bytes(certificates: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(certificates.iter().map(|certificate| certificate.len() + 8).sum());
    for certificate in certificates {
        bytes.extend(certificate.len().to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes
}

/// When all of them are valid, in seconds since 1970, both ends included as RFC 5280 §4.1.2.5 has it.
fn validity(certificates: &[&CertificateDer<'_>]) -> Option<RangeInclusive<u64>> {
    let seconds = |time: SystemTime| Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs());
    let mut valid = 0..=u64::MAX;
    for certificate in certificates {
        let described = describe(certificate).ok()?;
        let (from, until) = (seconds(described.not_before)?, seconds(described.not_after)?);
        valid = from.max(*valid.start())..=until.min(*valid.end());
    }
    Some(valid)
}
