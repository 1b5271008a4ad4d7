// SPDX-License-Identifier: Apache-2.0
//! Tests: what variables mean, and what is said of those that mean nothing.

use std::net::Ipv4Addr;

use super::*;

fn env(variables: &[(&str, &str)]) -> Env {
    Env::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn what_is_unset_or_empty_has_its_default() {
    let mut env = env(&[("EMPTY", ""), ("SPACE", " ")]);
    for name in ["EMPTY", "UNSET"] {
        assert_eq!(env.string(name, "default"), "default");
        assert_eq!(env.optional_string(name), None);
        assert_eq!(env.path(name, "/tmp"), PathBuf::from("/tmp"));
    }
    for name in ["EMPTY", "SPACE", "UNSET"] {
        assert!(env.flag(name, true));
        assert_eq!(env.duration(name, Duration::from_secs(3)).as_secs(), 3);
        assert_eq!(env.number(name, 7, 1..=9), 7);
        assert_eq!(env.ip(name), None);
        assert!(env.list::<u8>(name, "numbers", |item| item.parse().ok()).is_empty());
    }
    assert_eq!(env.raw("EMPTY"), Some(""), "some variables are switched off by the empty value");
    assert_eq!(env.raw("UNSET"), None);
    env.finish().unwrap();
}

#[test]
fn values_are_read_by_type() {
    let mut env = env(&[
        ("FLAG", "True"),
        ("OFF", "0"),
        ("IP", "::ffff:10.0.0.1"),
        ("ADDRESS", "[::]:15012"),
        ("LIST", "1, 2,,3 "),
        ("PREFIX_one", "1"),
        ("PREFIX_two", ""),
    ]);
    assert!(env.flag("FLAG", false));
    assert!(!env.flag("OFF", true));
    assert_eq!(env.ip("IP"), Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))));
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    assert_eq!(env.address("ADDRESS", unspecified).port(), 15012);
    assert_eq!(env.list::<u8>("LIST", "numbers", |item| item.parse().ok()), [1, 2, 3]);
    let prefixed: Vec<_> = env.with_prefix("PREFIX_").into_iter().collect();
    assert_eq!(prefixed, [("one".to_owned(), "1".to_owned()), ("two".to_owned(), String::new())]);
    env.finish().unwrap();
}

#[test]
fn durations_are_written_as_in_go() {
    for (text, milliseconds) in [
        ("0", Some(0)),
        ("500ms", Some(500)),
        ("5s", Some(5_000)),
        ("1.5s", Some(1_500)),
        ("1h30m", Some(5_400_000)),
        ("24h", Some(86_400_000)),
        ("100us", Some(0)),
        ("5", None),
        ("s", None),
        ("-5s", None),
        ("5 s", None),
        ("5d", None),
        ("1..5s", None),
        ("1e999s", None),
        ("99999999999999999999h", None),
    ] {
        assert_eq!(parse_duration(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
    }
}

#[test]
fn every_mistake_is_reported_with_its_value_and_what_is_accepted() {
    let mut env = env(&[("FLAG", "yes"), ("TIME", "soon"), ("PORT", "0"), ("IPS", "10.0.0.1,here")]);
    assert!(env.flag("FLAG", true), "reading goes on with the default");
    env.duration("TIME", Duration::ZERO);
    env.number::<u16>("PORT", 1, 1..=65535);
    env.list::<IpAddr>("IPS", "IP addresses", |item| item.parse().ok());
    env.required("NAME", "the name of this node");
    let expected = "invalid environment
  FLAG=\"yes\": must be true or false
  TIME=\"soon\": must be a duration such as 500ms, 5s or 1h30m
  PORT=\"0\": must be a number from 1 to 65535
  IPS=\"10.0.0.1,here\": must be a list, between commas, of IP addresses
  NAME=\"\": must be the name of this node";
    assert_eq!(env.finish().unwrap_err().to_string(), expected);
}
