// SPDX-License-Identifier: Apache-2.0
//! A namespace that has left the mesh for a while. Annotations on it say until when, since when, who and why; that is
//! all there is of it, so it ends by itself on every node, whether or not anybody who began it still runs.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::objects::Labels;

/// When it ends, RFC 3339.
pub const UNTIL: &str = "ambit.mesh/bypass-until";
/// When it began, RFC 3339. Without it an end far ahead would come into force a day before it.
pub const SINCE: &str = "ambit.mesh/bypass-since";
/// Who began it.
pub const BY: &str = "ambit.mesh/bypass-by";
/// Why.
pub const REASON: &str = "ambit.mesh/bypass-reason";
/// All of them.
pub const ANNOTATIONS: [&str; 4] = [UNTIL, SINCE, BY, REASON];
/// No bypass lasts longer.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// How far the clocks of the writer and of a node may be apart.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A bypass that was asked for properly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// When it began.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Why a bypass is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is an end, and something else is not there.
    #[error("annotation {0} is missing")]
    Missing(&'static str),
    /// A time that is none.
    #[error("annotation {annotation} is not a time such as 2026-01-31T18:00:00Z: {found:?}")]
    NoTime {
        /// Which one.
        annotation: &'static str,
        /// What it says.
        found: String,
    },
    /// It would last too long, or less than no time.
    #[error("it would last from {since} until {until}, and must end within 24 hours after it began")]
    Span {
        /// Its beginning.
        since: Timestamp,
        /// Its end.
        until: Timestamp,
    },
    /// It has not begun.
    #[error("it begins in the future, at {0}")]
    Early(Timestamp),
}

impl Bypass {
    /// What the annotations of a namespace ask for, if anything.
    ///
    /// # Errors
    /// When it is not all there, or asks for too much.
    pub fn of(annotations: &Labels) -> Option<Result<Self, Fault>> {
        annotations.contains_key(UNTIL).then(|| Self::parse(annotations))
    }

    fn parse(annotations: &Labels) -> Result<Self, Fault> {
        let text = |name: &'static str| {
            let found = annotations.get(name).filter(|text| !text.trim().is_empty());
            found.cloned().ok_or(Fault::Missing(name))
        };
        let time = |annotation: &'static str| {
            let found = text(annotation)?;
            found.parse::<Timestamp>().map_err(|_no_time| Fault::NoTime { annotation, found })
        };
        let (since, until) = (time(SINCE)?, time(UNTIL)?);
        let lasts = until.duration_since(since);
        if lasts > LONGEST || lasts.is_negative() {
            return Err(Fault::Span { since, until });
        }
        Ok(Self { since, until, by: text(BY)?, reason: text(REASON)? })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// When it is ignored because it has not begun.
    pub fn holds(&self, now: Timestamp) -> Result<bool, Fault> {
        if self.since.duration_since(now) > SKEW {
            return Err(Fault::Early(self.since));
        }
        Ok(now < self.until)
    }

    /// The annotations that ask for it.
    pub fn annotations(&self) -> Labels {
        let pairs = [
            (UNTIL, self.until.to_string()),
            (SINCE, self.since.to_string()),
            (BY, self.by.clone()),
            (REASON, self.reason.clone()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bypassed until {} by {}: {}", self.until, self.by, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(since: &str, until: &str) -> Labels {
        let pairs = [(SINCE, since), (UNTIL, until), (BY, "eva"), (REASON, "the worst night")];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_bypass_holds_until_its_end_and_no_longer() {
        let bypass = Bypass::of(&asked("2026-01-31T18:00:00Z", "2026-01-31T18:30:00Z")).unwrap().unwrap();
        for (now, holds) in [
            ("2026-01-31T17:56:00Z", Ok(true)),
            ("2026-01-31T18:29:59Z", Ok(true)),
            ("2026-01-31T18:30:00Z", Ok(false)),
            ("2027-01-31T18:30:00Z", Ok(false)),
            ("2026-01-31T17:54:00Z", Err(Fault::Early(bypass.since))),
        ] {
            assert_eq!(bypass.holds(now.parse().unwrap()), holds, "{now}");
        }
        assert_eq!(Bypass::of(&bypass.annotations()), Some(Ok(bypass)));
        assert_eq!(Bypass::of(&Labels::new()), None);
    }

    #[test]
    fn what_is_not_asked_for_properly_is_ignored_with_a_reason() {
        let since = "2026-01-31T18:00:00Z";
        let good = asked(since, "2026-02-01T18:00:00Z");
        assert!(Bypass::of(&good).unwrap().is_ok(), "a whole day");
        let without = |name: &str| {
            let mut annotations = good.clone();
            annotations.remove(name);
            Bypass::of(&annotations).unwrap().unwrap_err()
        };
        assert_eq!(without(SINCE), Fault::Missing(SINCE));
        assert_eq!(without(REASON), Fault::Missing(REASON));
        assert_eq!(without(BY), Fault::Missing(BY));
        for until in
            ["2026-02-01T18:00:01Z", "2026-01-31T17:59:59Z", "forever", "30m", "9999-12-31T00:00:00Z"]
        {
            let fault = Bypass::of(&asked(since, until)).unwrap().unwrap_err();
            assert!(matches!(fault, Fault::Span { .. } | Fault::NoTime { .. }), "{until}: {fault}");
        }
    }
}
