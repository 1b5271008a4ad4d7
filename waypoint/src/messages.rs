// SPDX-License-Identifier: Apache-2.0
//! Counts gRPC messages in a body as it passes: a flag, a length of four bytes, and the message (gRPC over HTTP/2,
//! "Length-Prefixed-Message").

/// How far the body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Bytes of the prefix that were seen.
    prefix: usize,
    /// The length as far as it was seen.
    length: u32,
    /// Bytes of the message that are still to come.
    left: u64,
}

const PREFIX: usize = 5;

impl Messages {
    /// Takes the next bytes; says how many messages have begun in them.
    pub fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else { break };
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.prefix += 1;
            bytes = rest;
            if self.prefix == PREFIX {
                begun += 1;
                *self = Self { left: self.length.into(), ..Self::default() };
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 0], &[7; 256]].concat();
        for size in [1, 2, 3, 5, 7, 64, 1000] {
            let mut messages = Messages::default();
            let count: u64 = body.chunks(size).map(|piece| messages.take(piece)).sum();
            assert_eq!(count, 3, "in pieces of {size}");
            assert_eq!(messages, Messages::default());
        }
    }

    #[test]
    fn a_length_that_never_comes_true_holds_nothing() {
        let mut messages = Messages::default();
        assert_eq!(messages.take(&[0, 0xFF, 0xFF, 0xFF, 0xFF]), 1);
        assert_eq!(messages.take(&[0; 1 << 16]), 0);
    }
}
