// SPDX-License-Identifier: Apache-2.0
//! A histogram of durations in constant memory: 32 buckets per power of two of microseconds, 3% wide.

use std::time::Duration;

const PER_OCTAVE: u64 = 32;
const BUCKETS: usize = 32 * 60;

/// Counts of durations.
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one more.
    pub(super) fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(micros)) {
            *bucket += 1;
        }
        self.count += 1;
        self.longest = self.longest.max(duration);
    }

    /// How many were counted.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The duration that a share of `quantile` did not exceed; at most 3% too long, never longer than the longest.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a rank between 0 and the count"
    )]
    pub(super) fn at(&self, quantile: f64) -> Duration {
        let rank = ((self.count as f64 * quantile).ceil() as u64).clamp(1, self.count.max(1));
        let mut passed = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return Duration::from_micros(end_of(bucket)).min(self.longest);
            }
        }
        self.longest
    }
}

fn bucket_of(micros: u64) -> usize {
    let octave = u64::from(micros.max(PER_OCTAVE).ilog2()) - 5;
    let bucket = octave * PER_OCTAVE + (micros >> octave);
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value that falls into a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_OCTAVE {
        return bucket;
    }
    let octave = bucket / PER_OCTAVE - 1;
    ((bucket - octave * PER_OCTAVE + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_three_percent() {
        for micros in (0..2_000).chain([65_535, 65_536, 1_000_000, 59_999_999]) {
            let end = end_of(bucket_of(micros));
            assert!(end >= micros && end - micros <= micros / 32, "{micros}: {end}");
        }
    }

    #[test]
    fn quantiles_of_one_to_a_thousand_are_where_they_should_be() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (quantile, expected) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let at = histogram.at(quantile).as_millis();
            assert!(at >= expected && at <= expected + expected / 32, "{quantile}: {at}");
        }
        assert_eq!(Histogram::default().at(0.99), Duration::ZERO);
    }
}
