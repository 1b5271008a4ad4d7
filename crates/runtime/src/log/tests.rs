// SPDX-License-Identifier: Apache-2.0
//! Tests: what is logged, and changing it.

use tracing::{Level, enabled};

use super::*;

#[test]
fn filters_are_levels_and_targets() {
    for (text, shown) in [
        ("", "info"),
        ("debug", "debug"),
        ("WARN", "warn"),
        ("access=off", "info,access=off"),
        ("info, dns=debug ,access=off", "info,access=off,dns=debug"),
        ("trace,off", "off"),
    ] {
        assert_eq!(text.parse::<Filter>().map(|filter| filter.to_string()), Ok(shown.to_owned()), "{text}");
    }
    for text in ["loud", "access=loud", "=debug", "info,access", "access="] {
        assert!(text.parse::<Filter>().is_err(), "{text}");
    }
}

#[test]
fn what_is_logged_changes_while_the_process_runs() {
    let settings = LogSettings { filter: "info,access=off".parse().unwrap(), format: Format::Json };
    let control = init(settings.clone()).unwrap();
    let now = || {
        let general = enabled!(target: "proxy", Level::DEBUG);
        (enabled!(target: "proxy", Level::INFO), general, enabled!(target: "access", Level::INFO))
    };
    assert_eq!(now(), (true, false, false));
    control.set("debug").unwrap();
    assert_eq!(now(), (true, true, false), "targets keep their own level");
    control.set("access=info,off").unwrap();
    assert_eq!(now(), (false, false, true));
    assert!(control.set("access=off,proxy=loud").is_err());
    assert_eq!(now(), (false, false, true), "a wrong directive changes nothing");
    control.reset();
    assert_eq!(now(), (true, false, false));
    assert_eq!(control.current(), settings.filter);
    assert!(init(settings).is_err(), "once per process");
}
