// SPDX-License-Identifier: Apache-2.0
//! Time spans and points in time as CEL writes them.

const SECOND: i64 = 1_000_000_000;
/// Units of time spans, in nanoseconds; of two that begin alike the longer one is first.
const UNITS: [(&str, i64); 6] = [
    ("ms", SECOND / 1000),
    ("us", SECOND / 1_000_000),
    ("ns", 1),
    ("h", 3600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
];

/// `1h30m`, `1.5s`, `-20ms`, in nanoseconds.
pub(super) fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0_i64;
    loop {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, unit_and_rest) = rest.split_at_checked(digits)?;
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| unit_and_rest.starts_with(unit))?;
        sum = sum.checked_add(scaled(number, scale)?)?;
        rest = unit_and_rest.strip_prefix(unit)?;
        if rest.is_empty() {
            return Some(if negative { -sum } else { sum });
        }
    }
}

/// A decimal number of a unit, without rounding up.
fn scaled(number: &str, scale: i64) -> Option<i64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || part.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
    let mut sum = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in part.bytes() {
        place /= 10;
        sum = sum.checked_add(place.checked_mul(i64::from(digit - b'0'))?)?;
    }
    Some(sum)
}

/// `2026-01-31T12:00:00Z` (RFC 3339), in nanoseconds since 1970.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at_checked(zone)?;
    let (clock, part) = clock.split_once('.').map_or((clock, None), |(clock, part)| (clock, Some(part)));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let ranges = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let part = match part {
        None => 0,
        Some(part) if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) => {
            scaled(&format!("0.{part}"), SECOND)?
        }
        Some(_) => return None,
    };
    let seconds = (days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second - offset(zone)?;
    ranges.then(|| seconds.checked_mul(SECOND)?.checked_add(part))?
}

/// Three numbers of so many digits each.
fn numbers(text: &str, between: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let mut pieces = text.split(between);
    let mut next = |length: usize| {
        let piece = pieces.next()?;
        let fits = piece.len() == length && piece.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| piece.parse().ok())?
    };
    let [first, second, third] = lengths;
    let found = [next(first)?, next(second)?, next(third)?];
    pieces.next().is_none().then_some(found)
}

/// Seconds that a zone is ahead.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, clock) = match zone.strip_prefix('-') {
        Some(clock) => (-1, clock),
        None => (1, zone.strip_prefix('+')?),
    };
    let [hours, minutes, _] = numbers(&format!("{clock}:00"), ':', [2, 2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date, in a year that begins with March, so that a leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read() {
        for (text, nanoseconds) in [
            ("0", Some(0)),
            ("500ms", Some(SECOND / 2)),
            ("1.5s", Some(3 * SECOND / 2)),
            (".5s", Some(SECOND / 2)),
            ("1h2m3s4ms5us6ns", Some(3_723_004_005_006)),
            ("-1m", Some(-60 * SECOND)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("9223372036854775807h", None),
        ] {
            assert_eq!(duration(text), nanoseconds, "{text:?}");
        }
    }

    #[test]
    fn points_in_time_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-22T10:00:00-02:30", Some(1_795_350_600)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("2001-02-29T12:00:00Z", None),
            ("2000-13-01T00:00:00Z", None),
            ("2000-01-01T24:00:00Z", None),
            ("2000-01-01T00:00:00", None),
            ("2000-01-01 00:00:00Z", None),
            ("2000-01-01T00:00:00.Z", None),
            ("2000-1-1T00:00:00Z", None),
        ] {
            assert_eq!(timestamp(text), seconds.map(|seconds: i64| seconds * SECOND), "{text:?}");
        }
        assert_eq!(timestamp("1970-01-01T00:00:00.25Z"), Some(SECOND / 4));
    }
}
