// SPDX-License-Identifier: Apache-2.0
//! The `traceparent` header (W3C Trace Context §3.2): names one flow in the logs of both proxies. What requests inside it
//! carry of traces is in [`carried`], and whether they are recorded in [`is_sampled`].

pub mod carried;

use mesh::{chance::Chance, telemetry::Share};

use self::carried::Carried;

/// So that a sample is not drawn as an endpoint is.
const SAMPLES: u64 = 0x0073_616d_706c;

/// Whether a request is recorded: as its caller decided, else a share of all by chance.
pub fn is_sampled(carried: &Carried, share: Share, seed: u64) -> bool {
    carried
        .sampled
        .unwrap_or_else(|| Chance::new(seed, SAMPLES).below(Share::WHOLE.into()) < share.parts().into())
}

/// The header's value for two random numbers; zero, which the standard forbids, becomes one.
pub fn header(trace: u128, span: u64) -> String {
    format!("00-{:032x}-{:016x}-00", trace.max(1), span.max(1))
}

/// The trace of a value; `None` when it is malformed. A later version may have more fields, which are skipped.
pub fn parse(value: &str) -> Option<u128> {
    let mut fields = value.split('-');
    let version = fields.next().filter(|text| is_hex(text, 2) && *text != "ff")?;
    let trace = fields.next().filter(|text| is_hex(text, 32))?;
    let span = fields.next().filter(|text| is_hex(text, 16))?;
    fields.next().filter(|text| is_hex(text, 2))?;
    if version == "00" && fields.next().is_some() {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
    Some(trace)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back() {
        let value = header(0xabc, 0xdef);
        assert_eq!(value, "00-00000000000000000000000000000abc-0000000000000def-00");
        assert_eq!(parse(&value), Some(0xabc));
        assert_eq!(parse(&header(0, 0)), Some(1));
    }

    #[test]
    fn a_caller_decides_what_is_recorded_and_chance_where_none_has() {
        let drawn = |sampled, percent: f64| {
            let carried = Carried { sampled, ..Carried::default() };
            let share = Share::percent(percent).unwrap();
            (0..10_000).filter(|seed| is_sampled(&carried, share, *seed)).count()
        };
        assert_eq!((drawn(Some(true), 0.0), drawn(Some(false), 100.0)), (10_000, 0));
        assert_eq!((drawn(None, 0.0), drawn(None, 100.0)), (0, 10_000));
        assert!((900..1100).contains(&drawn(None, 10.0)), "{}", drawn(None, 10.0));
    }

    #[test]
    fn malformed_headers_are_not_read() {
        let trace = "0123456789abcdef0123456789abcdef";
        let cases = [
            (format!("00-{trace}-0123456789abcdef-01"), true),
            (format!("01-{trace}-0123456789abcdef-01-more"), true),
            (format!("00-{trace}-0123456789abcdef-01-more"), false),
            (format!("ff-{trace}-0123456789abcdef-01"), false),
            (format!("00-{trace}-0123456789abcdef"), false),
            (format!("00-{trace}-0123456789ABCDEF-01"), false),
            (format!("00-{}-0123456789abcdef-01", "0".repeat(32)), false),
            (format!("00-{trace}-0000000000000000-01"), false),
            (String::new(), false),
        ];
        for (value, readable) in cases {
            assert_eq!(parse(&value).is_some(), readable, "{value}");
        }
    }
}
