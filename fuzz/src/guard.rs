// SPDX-License-Identifier: Apache-2.0
//! What requests are judged by: their path, and the token that they carry.

use std::sync::LazyLock;

use mesh::l7::guard::Normalisation;
use plan::guard::path::normalise;
use waypoint::jwt::{
    keys::KeySet,
    token::{LONGEST, Token},
};

const ALL: [Normalisation; 4] = [
    Normalisation::Nothing,
    Normalisation::Base,
    Normalisation::MergeSlashes,
    Normalisation::DecodeAndMergeSlashes,
];

/// The path of a request.
pub(crate) fn path(bytes: &[u8]) {
    let Some(text) = crate::text(bytes) else { return };
    for how in ALL {
        let Ok(once) = normalise(text, how) else { continue };
        let again = normalise(&once, how).expect("what is normal stays normal");
        assert_eq!(again, once, "{how}");
        assert!(once.len() <= text.len().max(1), "it grows: {once:?}");
        if how == Normalisation::Nothing || !text.starts_with('/') {
            continue;
        }
        assert!(once.starts_with('/') && !once.contains('\\'), "{once:?}");
        assert!(once.split('/').all(|element| element != "." && element != ".."), "{once:?}");
        assert!(how == Normalisation::Base || !once.contains("//"), "{once:?}");
    }
}

/// A token, and where a zero is among its bytes, a set of keys before that.
pub(crate) fn jwt(bytes: &[u8]) {
    static NOBODY: LazyLock<KeySet> = LazyLock::new(KeySet::default);
    let cut = bytes.iter().position(|byte| *byte == 0);
    let (keys, token) =
        cut.map_or((None, bytes), |at| (bytes.get(..at), bytes.get(at + 1..).unwrap_or_default()));
    let keys = keys.and_then(|keys| KeySet::parse(keys).ok());
    let Some(text) = crate::text(token) else { return };
    let Ok(token) = Token::parse(text) else { return };
    assert!(text.len() <= LONGEST && text.starts_with(token.signed));
    assert!(token.claims().contains_key("iss") || token.issuer().is_none());
    token.holds_at(0).unwrap_or_default();
    assert!(token.is_for(&[]).is_ok());
    assert!(NOBODY.prove(&token).is_err(), "nobody's keys prove nothing");
    if let Some(keys) = keys {
        // Whoever brings the keys may be believed; nothing may break.
        keys.prove(&token).unwrap_or_default();
    }
}
