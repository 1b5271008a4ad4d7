// SPDX-License-Identifier: Apache-2.0
//! Numbers of texts: the same in every process, on every machine and in every version, so that two replicas of a proxy send
//! a key to the same endpoint. Good for spreading load, not for secrets.

/// A number of some bytes (FNV-1a, its bits mixed); another `salt` gives unrelated numbers.
pub fn hash(bytes: &[u8], salt: u64) -> u64 {
    const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let absorb = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(PRIME);
    mix(bytes.iter().fold(BASIS ^ mix(salt), absorb))
}

/// Spreads a difference of one bit over all of them (SplitMix64's last step).
pub(super) fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        assert_eq!(hash(b"", 0), 0xF52A_15E9_A9B5_E89B);
        assert_ne!(hash(b"a", 0), hash(b"a", 1));
        assert_ne!(hash(b"ab", 0), hash(b"ba", 0));
    }

    #[test]
    fn texts_that_differ_in_a_digit_spread_evenly() {
        let mut counts = [0_u32; 16];
        for number in 0..16_000 {
            let at = hash(format!("10.0.0.{number}").as_bytes(), 0) >> 60;
            counts[usize::try_from(at).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
