// SPDX-License-Identifier: Apache-2.0
//! How a trace passes from one hop of a request to the next: W3C Trace Context and B3, in one field or several. Read
//! from a caller, written for whoever is called, in the forms that the caller knows.

use http::{HeaderMap, HeaderName, HeaderValue};

const W3C: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Which forms a caller used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// `b3`.
    pub single: bool,
    /// `x-b3-*`.
    pub multi: bool,
}

/// A span by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
}

/// What a caller says of the trace that a request belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The calling span.
    pub parent: Option<Ids>,
    /// Whether it is recorded, where the caller has decided that.
    pub sampled: Option<bool>,
    /// How it was said, besides `traceparent`.
    pub forms: Forms,
}

/// Reads what a caller says. Where it says it twice, W3C's form counts.
pub fn read(headers: &HeaderMap) -> Carried {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let forms = Forms {
        single: headers.contains_key(SINGLE),
        multi: [TRACE, SAMPLED, FLAGS].iter().any(|name| headers.contains_key(name)),
    };
    if let Some((parent, sampled)) = text(&W3C).and_then(w3c) {
        return Carried { parent: Some(parent), sampled: Some(sampled), forms };
    }
    if let Some((parent, sampled)) = text(&SINGLE).and_then(single) {
        return Carried { parent, sampled, forms };
    }
    let parent = text(&TRACE).and_then(trace_id).zip(text(&SPAN).and_then(span_id));
    let sampled = match (text(&FLAGS), text(&SAMPLED)) {
        (Some("1"), _) => Some(true),
        (_, Some(said)) => state(said),
        (_, None) => None,
    };
    Carried { parent: parent.map(|(trace, span)| Ids { trace, span }), sampled, forms }
}

/// Writes a span as the caller of what comes next, in place of what stood there.
pub fn write(headers: &mut HeaderMap, own: Ids, parent: Option<u64>, sampled: bool, forms: Forms) {
    let Ids { trace, span } = own;
    let digit = u8::from(sampled);
    // The state of a trace means nothing beside another trace's number.
    if headers.get(W3C).and_then(|value| w3c(value.to_str().ok()?)).is_none() {
        headers.remove(STATE);
    }
    put(headers, W3C, &format!("00-{trace:032x}-{span:016x}-0{digit}"));
    if forms.single {
        let parent = parent.map_or_else(String::new, |parent| format!("-{parent:016x}"));
        put(headers, SINGLE, &format!("{trace:032x}-{span:016x}-{digit}{parent}"));
    }
    if forms.multi {
        put(headers, TRACE, &format!("{trace:032x}"));
        put(headers, SPAN, &format!("{span:016x}"));
        match parent {
            Some(parent) => put(headers, PARENT, &format!("{parent:016x}")),
            None => drop(headers.remove(PARENT)),
        }
        // Flags of 1 say "sampled" already, and then nothing else may.
        if headers.get(FLAGS).is_none_or(|flags| flags != "1") {
            put(headers, SAMPLED, if sampled { "1" } else { "0" });
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn w3c(value: &str) -> Option<(Ids, bool)> {
    let trace = super::parse(value)?;
    let mut fields = value.split('-').skip(2);
    let span = u64::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((Ids { trace, span }, flags & 1 == 1))
}

/// `<trace>-<span>[-<state>[-<parent>]]`, or the state alone.
fn single(value: &str) -> Option<(Option<Ids>, Option<bool>)> {
    let mut fields = value.split('-');
    let first = fields.next()?;
    let Some(second) = fields.next() else { return Some((None, Some(state(first)?))) };
    let ids = Ids { trace: trace_id(first)?, span: span_id(second)? };
    Some((Some(ids), fields.next().and_then(state)))
}

fn state(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Of 64 or 128 bits.
fn trace_id(text: &str) -> Option<u128> {
    let fits = (text.len() == 16 || text.len() == 32) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|id| fits && *id != 0)
}

fn span_id(text: &str) -> Option<u64> {
    let fits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|id| fits && *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: Ids = Ids { trace: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, span: 0xfeed };
    const T: &str = "0123456789abcdef0123456789abcdef";
    const S: &str = "000000000000feed";

    fn map(fields: &[(&'static str, String)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[track_caller]
    fn check(fields: &[(&'static str, String)], parent: Option<Ids>, sampled: Option<bool>) {
        let carried = read(&map(fields));
        assert_eq!((carried.parent, carried.sampled), (parent, sampled), "{fields:?}");
    }

    #[test]
    fn what_a_caller_says_is_read_in_every_form() {
        check(&[], None, None);
        check(&[("traceparent", format!("00-{T}-{S}-01"))], Some(IDS), Some(true));
        check(&[("traceparent", format!("00-{T}-{S}-00"))], Some(IDS), Some(false));
        check(&[("b3", format!("{T}-{S}-1"))], Some(IDS), Some(true));
        check(&[("b3", format!("{T}-{S}-d-{S}"))], Some(IDS), Some(true));
        check(&[("b3", format!("{T}-{S}"))], Some(IDS), None);
        check(&[("b3", "0".to_owned())], None, Some(false));
        let short = Ids { trace: 0x0123_4567_89ab_cdef, ..IDS };
        let ids = [("x-b3-traceid", T[..16].to_owned()), ("x-b3-spanid", S.to_owned())];
        check(&ids, Some(short), None);
        let with = |name, value: &str| [&ids[..], &[(name, value.to_owned())]].concat();
        check(&with("x-b3-sampled", "0"), Some(short), Some(false));
        check(&with("x-b3-flags", "1"), Some(short), Some(true));
        check(&[("x-b3-sampled", "1".to_owned())], None, Some(true));
    }

    #[test]
    fn what_is_malformed_is_not_said() {
        for value in ["", "x", "-", "1-2", "0-0-1", &format!("{T}-{S}0"), &format!("{}-{S}", "0".repeat(32))]
        {
            check(&[("b3", value.to_owned())], None, None);
        }
        // The other form still counts.
        check(
            &[("traceparent", "nonsense".to_owned()), ("b3", format!("{T}-{S}-0"))],
            Some(IDS),
            Some(false),
        );
        check(&[("x-b3-traceid", T.to_owned())], None, None);
    }

    #[test]
    fn what_is_written_is_read_back_in_each_form() {
        for forms in [
            Forms::default(),
            Forms { single: true, multi: false },
            Forms { single: false, multi: true },
            Forms { single: true, multi: true },
        ] {
            for sampled in [true, false] {
                let mut headers = HeaderMap::new();
                write(&mut headers, IDS, Some(7), sampled, forms);
                let expected = Carried { parent: Some(IDS), sampled: Some(sampled), forms };
                assert_eq!(read(&headers), expected);
                headers.remove(W3C);
                if forms != Forms::default() {
                    assert_eq!(read(&headers), expected);
                }
            }
        }
    }

    #[test]
    fn a_states_trace_goes_on_and_one_without_a_trace_does_not() {
        let mut headers = map(&[("traceparent", format!("00-{T}-{S}-01")), ("tracestate", "a=b".to_owned())]);
        write(&mut headers, IDS, None, true, Forms::default());
        assert_eq!(headers["tracestate"], "a=b");
        let mut headers = map(&[("traceparent", "nonsense".to_owned()), ("tracestate", "a=b".to_owned())]);
        write(&mut headers, IDS, None, true, Forms::default());
        assert!(!headers.contains_key("tracestate"));
    }
}
