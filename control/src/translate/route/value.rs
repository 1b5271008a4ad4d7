// SPDX-License-Identifier: Apache-2.0
//! Values of routes.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

/// A duration of GEP-2257, `1h30m` or `500ms`; zero is without an end.
pub(in crate::translate) fn duration(text: &str) -> Result<Option<Duration>, String> {
    let wrong =
        || format!("{text:?} is no duration: use up to four of 0 to 99999 with h, m, s or ms, as in 1h30m");
    let (mut rest, mut sum, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let letters = unit.find(|letter: char| letter.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(letters);
        let number: u64 = number.parse().ok().filter(|_| number.len() <= 5).ok_or_else(wrong)?;
        sum += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(wrong()),
        };
        (rest, parts) = (after, parts + 1);
    }
    match parts {
        1..=4 => Ok((!sum.is_zero()).then_some(sum)),
        _ => Err(wrong()),
    }
}

/// A status code of an answer.
pub(super) fn status(code: u16) -> Result<StatusCode, String> {
    let status = StatusCode::from_u16(code).ok().filter(|_| (200..600).contains(&code));
    status.ok_or_else(|| format!("{code} is no status code of an answer"))
}

/// Name of a header.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).ok().ok_or_else(|| format!("{text:?} is no name of a header"))
}

/// Value of a header.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).ok().ok_or_else(|| format!("{text:?} is no value of a header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_form_of_gep_2257() {
        let seconds = |seconds| Ok(Some(Duration::from_secs(seconds)));
        for (text, expected) in [
            ("10s", seconds(10)),
            ("1h30m", seconds(5400)),
            ("1h1m1s", seconds(3661)),
            ("500ms", Ok(Some(Duration::from_millis(500)))),
            ("2s500ms", Ok(Some(Duration::from_millis(2500)))),
            ("0s", Ok(None)),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
        for text in ["", "10", "s", "1d", "-1s", "1.5s", "100000s", "1s1s1s1s1s", "1 s"] {
            assert!(duration(text).unwrap_err().starts_with(&format!("{text:?} is no duration")), "{text}");
        }
    }
}
