// SPDX-License-Identifier: Apache-2.0
//! What expressions come to, and which are refused.

use std::borrow::Cow;

use http::HeaderName;
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

/// A request `GET /cart/1?full=yes`, that was answered with 503 after 1.5 seconds.
struct Sample;

impl Facts for Sample {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let text = |text| Some(Value::Text(Cow::Borrowed(text)));
        match attribute {
            Attribute::Path => text("/cart/1?full=yes"),
            Attribute::UrlPath => text("/cart/1"),
            Attribute::Query => text("full=yes"),
            Attribute::Host => text("web.shop"),
            Attribute::Scheme => text("http"),
            Attribute::Method => text("GET"),
            Attribute::Protocol => text("HTTP/1.1"),
            Attribute::UserAgent => text("curl/8"),
            Attribute::RequestId => text("0af7"),
            Attribute::SourceAddress => text("10.0.0.1:4000"),
            Attribute::DestinationAddress => text("10.9.9.1:80"),
            Attribute::CodeDetails => text("via_upstream"),
            Attribute::PeerIdentity => text("spiffe://cluster.local/ns/shop/sa/client"),
            Attribute::OwnIdentity => text("spiffe://cluster.local/ns/shop/sa/gate"),
            Attribute::Code => Some(Value::Int(503)),
            Attribute::Flags => Some(Value::Int(2)),
            Attribute::RequestSize | Attribute::RequestTotalSize => Some(Value::Int(10)),
            Attribute::ResponseSize | Attribute::ResponseTotalSize => Some(Value::Int(1000)),
            Attribute::SourcePort => Some(Value::Int(4000)),
            Attribute::DestinationPort => Some(Value::Int(80)),
            Attribute::MutualTls => Some(Value::Bool(true)),
            Attribute::RequestTime => Some(Value::Time(1_767_225_600 * SECOND)),
            Attribute::RequestDuration => Some(Value::Duration(3 * SECOND / 2)),
            Attribute::Referer
            | Attribute::GrpcStatus
            | Attribute::UpstreamAddress
            | Attribute::UpstreamPort => None,
        }
    }

    fn header(&self, side: Side, name: &HeaderName) -> Option<Cow<'_, str>> {
        match (side, name.as_str()) {
            (Side::Request, "x-user") => Some("alice".into()),
            (Side::Request, "x-level") => Some("7".into()),
            (Side::Response, "server") => Some("nginx".into()),
            _ => None,
        }
    }
}

#[test]
fn filters_are_true_or_not() {
    for (text, expected) in [
        ("true", true),
        ("response.code >= 500", true),
        ("response.code >= 500 && response.code < 503", false),
        ("response.code == 503 || request.size > 100", true),
        ("!(response.code == 503)", false),
        ("response.code in [500, 502, 503]", true),
        ("request.method in ['POST', \"PUT\"]", false),
        ("response.flags != 0", true),
        ("request.url_path.startsWith('/cart/')", true),
        ("request.path.endsWith('yes') && request.query.contains('full')", true),
        ("request.path.matches('^/cart/[0-9]+[?]')", true),
        (r"request.path.matches(r'\d')", true),
        (r"request.path.matches('\\d$')", false),
        ("matches(request.host, 'shop')", true),
        ("request.duration > duration('1s')", true),
        ("request.duration > duration('1.5s')", false),
        ("request.time >= timestamp('2026-01-01T00:00:00Z')", true),
        ("request.time + request.duration < timestamp('2026-01-01T00:00:01Z')", false),
        ("timestamp('2026-01-01T00:00:03Z') - request.time == duration('3s')", true),
        ("request.headers['x-user'] == 'alice'", true),
        ("request.headers['X-User'] == 'alice'", true),
        ("request.headers.server == 'x' || response.headers['server'] == 'nginx'", true),
        ("request.headers[':authority'] == request.host", true),
        ("response.headers[':status'] == '503'", true),
        ("int(request.headers['x-level']) > 5", true),
        ("string(response.code).startsWith('5')", true),
        ("size(request.method) == 3 && request.method.size() == 3", true),
        ("response.size / 100 * 3 - 1 == 29", true),
        ("response.size % 7 == 6 && -response.size < -999", true),
        ("double(response.size) / 3.0 > 333.3 && 0x1f4 == 500 && 1e3 == 1000.0", true),
        ("connection.mtls && connection.uri_san_peer_certificate.contains('/sa/client')", true),
        ("request.method == 'GET' ? response.code == 503 : false", true),
        ("source.port == 4000 && destination.port == 80 // and nothing else", true),
        ("request.host + ':' + string(destination.port) == 'web.shop:80'", true),
        ("'\\u0041\\x42\\t' == 'AB\\t'", true),
    ] {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.holds(&Sample), expected, "{text}");
    }
}

#[test]
fn a_request_that_lacks_what_is_asked_for_fits_only_where_that_does_not_matter() {
    for (text, expected) in [
        ("response.grpc_status == 0", false),
        ("response.grpc_status != 0", false),
        ("!(response.grpc_status == 0)", false),
        ("request.headers['x'] != 'y'", false),
        ("request.headers['x'] != 'y' || response.code == 503", true),
        ("response.code == 503 || request.headers['x'] != 'y'", true),
        ("request.headers['x'] != 'y' && response.code == 200", false),
        ("!(request.headers['x'] != 'y' && response.code == 200)", true),
        ("'GET' in [request.referer, request.method]", true),
        ("'PUT' in [request.referer, request.method]", false),
        ("has(request.headers.x)", false),
        ("!has(request.headers['x']) && has(request.headers['x-user'])", true),
        ("'x' in request.headers", false),
        ("'x-user' in request.headers && !('x' in response.headers)", true),
        ("has(upstream.address) || !has(request.path)", false),
        ("has(upstream.address) ? upstream.address == 'a' : true", true),
        ("upstream.port > 0 ? true : true", false),
        ("response.size / (response.code - 503) == 0 || true", true),
        ("response.size / (response.code - 503) == 0", false),
        ("9223372036854775807 + response.size > 0", false),
        ("int(request.headers['x-user']) > 0", false),
        ("double('nan') == double('nan')", false),
    ] {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.holds(&Sample), expected, "{text}");
    }
}

#[test]
fn formulas_come_to_texts() {
    for (text, expected) in [
        ("'blue'", Some("blue")),
        ("request.host", Some("web.shop")),
        ("response.code", Some("503")),
        ("connection.mtls", Some("true")),
        ("request.headers['x-user']", Some("alice")),
        ("request.headers['x']", None),
        ("has(request.headers.x) ? request.headers.x : 'none'", Some("none")),
        ("response.code >= 500 ? 'bad' : response.code >= 400 ? 'wrong' : 'good'", Some("bad")),
        ("double(response.size) / 8.0", Some("125")),
    ] {
        let formula = Formula::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(formula.text(&Sample).as_deref(), expected, "{text}");
    }
    assert!(Formula::parse("'blue'").unwrap().is_constant());
    assert!(!Formula::parse("request.host").unwrap().is_constant());
    assert!(Formula::parse("request.time").unwrap_err().reason.contains("comes to a timestamp"));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    for (text, at, part) in [
        ("", 1, "something is missing"),
        ("response.code", 1, "comes to an int"),
        ("response.code >=", 17, "something is missing"),
        ("response.code >= '500'", 18, "an int and a string are compared"),
        ("response.code >= 500.0", 18, "an int and a double are compared"),
        ("response.cod == 1", 1, "response.cod is no attribute"),
        ("true && who.code == 1", 9, "who.code is no attribute"),
        ("xds.cluster_name == 'x'", 1, "Envoy's inside"),
        ("request.method == 'GET", 23, "no end"),
        ("request.method == 'a\nb'", 22, "no end on its line"),
        ("request.method == 'a\\q'", 23, "is no escape"),
        ("request.method == b'a'", 20, "begin with b"),
        ("response.code == 7u", 20, "without the u"),
        ("response.code == 99999999999999999999", 38, "no number of 64 bits"),
        ("response.code = 500", 15, "means nothing"),
        ("response.code == 500 500", 22, "500 is not expected"),
        ("(response.code == 500", 22, ") is missing"),
        ("request.headers == 'x'", 20, "all headers and a string"),
        ("request.headers[request.host] == 'x'", 17, "written out"),
        ("request.headers['a b'] == 'x'", 17, "no name of a header"),
        ("request.headers.size() > 1", 1, "size needs a string"),
        ("request.headers.all(x, true)", 21, "x is no attribute"),
        ("request.path.exists('x')", 1, "exists is a loop"),
        ("request.path.reverse() == 'x'", 1, "reverse is no function"),
        ("request.path.length == 1", 14, "length is no part"),
        ("request.path.matches('(')", 22, "no regular expression"),
        ("request.path.matches('(\\\\w{1000}){1000}')", 22, "no regular expression"),
        ("request.path.matches(request.host)", 22, "written out"),
        ("request.path.contains()", 1, "lacks an argument"),
        ("request.path.contains('a', 'b')", 28, "one more than contains takes"),
        ("request.path.contains(1)", 23, "contains needs a string, and this is an int"),
        ("request.path[0] == 'a'", 13, "only headers"),
        ("[1] == [1]", 1, "behind `in`"),
        ("1 in 2", 6, "what follows `in`"),
        ("1 in ['a']", 7, "an int and a string are compared"),
        ("1 < 2 < 3", 7, "two can be compared"),
        ("null == null", 1, "has("),
        ("has(1)", 5, "has() asks for"),
        ("duration('5') > duration('1s')", 10, "write it like 1h30m"),
        ("timestamp(request.host) > request.time", 11, "written out"),
        ("request.duration > 5", 20, "a duration and an int"),
        ("request.path - 'a' == 'b'", 16, "cannot be combined by -"),
        ("true && 1", 9, "&& needs a bool, and this is an int"),
        ("!1", 2, "! needs a bool"),
        ("-'a' == 'a'", 2, "- needs a number"),
        ("true ? 1 : 'a'", 12, "two sides of one choice"),
        ("int(connection.mtls) == 1", 5, "int makes nothing of a bool"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        assert!(error.reason.contains(part), "{text}: {error}");
        assert_eq!(error.at, at, "{text}: {error}");
    }
}

#[test]
fn what_an_expression_costs_is_bounded() {
    let deep = |count: usize| format!("{}true{}", "(".repeat(count), ")".repeat(count));
    assert!(Filter::parse(&deep(20)).is_ok());
    let sums = |count: usize| format!("0{} == 0", " + 1".repeat(count));
    assert!(Filter::parse(&sums(30)).is_ok());
    let patterns = |count: usize| vec!["request.path.matches('a')"; count].join(" || ");
    assert!(Filter::parse(&patterns(16)).is_ok());
    let many = vec!["request.path.startsWith('/a')"; 120].join(" || ");
    assert!(Filter::parse(&many).is_ok(), "a long filter that is not deep");
    for (text, part) in [
        (deep(2000), "levels deep"),
        ("!".repeat(4000), "levels deep"),
        ("-".repeat(4000), "levels deep"),
        ("has(".repeat(1000), "levels deep"),
        ("true ? true : ".repeat(290), "levels deep"),
        (sums(1000), "calculates more than"),
        (patterns(17), "more than 16 patterns"),
        ("a".repeat(LONGEST + 1), "the longest that is read"),
    ] {
        let error = Filter::parse(&text).unwrap_err();
        assert!(error.reason.contains(part), "{part}: {error}");
    }
    let calls = format!("'a'{} == 'a'", ".string()".repeat(5));
    assert!(Filter::parse(&calls).unwrap_err().reason.contains("calls follow one another"));
}

/// Headers as long as a peer may make them.
struct Long;

impl Facts for Long {
    fn attribute(&self, _attribute: Attribute) -> Option<Value<'_>> {
        None
    }

    fn header(&self, _side: Side, _name: &HeaderName) -> Option<Cow<'_, str>> {
        Some("x".repeat(4096).into())
    }
}

#[test]
fn no_text_grows_without_bounds() {
    let sum = |count: usize| vec!["request.headers.x"; count].join(" + ");
    assert!(Formula::parse(&sum(2)).unwrap().text(&Long).is_some());
    assert_eq!(Formula::parse(&sum(3)).unwrap().text(&Long), None);
}

#[test]
fn what_must_be_kept_of_a_request_is_known() {
    for (text, request, response) in [
        ("response.code == 1", false, false),
        ("request.headers['x'] == 'a'", true, false),
        ("request.headers[':path'] == 'a'", false, false),
        ("has(response.headers.x)", false, true),
        ("'x' in response.headers", false, true),
        ("request.useragent == 'a' || response.total_size > 1", true, true),
    ] {
        let uses = Filter::parse(text).unwrap().uses();
        assert_eq!((uses.request_headers, uses.response_headers), (request, response), "{text}");
    }
}

/// Pieces that expressions are made of, and some that they are not.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "response.code",
        "request.path",
        "request.headers",
        "['x-user']",
        ".x",
        "'a'",
        "\"b",
        "1",
        "2.5",
        "7u",
        "0x",
        "(",
        ")",
        "[",
        "]",
        "{",
        "?",
        ":",
        "!",
        "-",
        "+",
        "/",
        "%",
        "==",
        "<",
        ">=",
        "&&",
        "||",
        "in",
        "has(",
        "true",
        ".matches(",
        ".startsWith(",
        "size(",
        "duration('1s')",
        "request.duration",
        ",",
        ".",
        "é",
        "\\",
        "//",
        "\n",
        " ",
    ])
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_in_its_own_words(pieces in prop::collection::vec(piece(), 0..40)) {
        let text: String = pieces.concat();
        match Filter::parse(&text) {
            Ok(filter) => {
                filter.holds(&Sample);
                prop_assert_eq!(Filter::parse(filter.as_str()), Ok(filter));
            }
            Err(error) => {
                prop_assert!(!error.reason.is_empty() && (1..=text.chars().count() + 1).contains(&error.at));
            }
        }
    }
}
