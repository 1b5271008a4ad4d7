// SPDX-License-Identifier: Apache-2.0
//! Folders in, our file out. The first table has the whole text; the others look at what they are about.

use proptest::prelude::*;

use super::*;

fn settings() -> PluginSettings {
    PluginSettings {
        socket: "/var/run/ambit/node.sock".to_owned(),
        pass_without_agent: vec!["ambit-system".to_owned(), "kube-system".to_owned()],
    }
}

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

fn folder(files: Files<'_>) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "disableCheck": true,
    "plugins": [{"type": "bridge", "bridge": "cni0", "mtu": 1450}, {"type": "portmap"}]}"#;

#[test]
fn our_list_is_the_primary_s_with_our_plugin_at_the_end() {
    let plan = plan(&folder(&[("10-bridge.conflist", BRIDGE)]), &settings());
    let expected = r#"{
  "cniVersion": "1.0.0",
  "disableCheck": true,
  "name": "pods",
  "plugins": [
    {
      "bridge": "cni0",
      "mtu": 1450,
      "type": "bridge"
    },
    {
      "type": "portmap"
    },
    {
      "passWithoutAgent": [
        "ambit-system",
        "kube-system"
      ],
      "socket": "/var/run/ambit/node.sock",
      "type": "ambit-cni"
    }
  ]
}
"#;
    assert_eq!(plan.own, Some(("00-ambit.conflist", expected.to_owned())));
    assert_eq!(
        (plan.primary.as_deref(), plan.stale, plan.problems),
        (Some("10-bridge.conflist"), vec![], vec![])
    );
}

#[test]
fn a_single_configuration_becomes_a_list() {
    for name in ["10-bridge.conf", "10-bridge.json"] {
        let single =
            r#"{"cniVersion": "0.4.0", "name": "pods", "type": "bridge", "ipam": {"type": "host-local"}}"#;
        let (_, text) = plan(&folder(&[(name, single)]), &settings()).own.unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((list["cniVersion"].as_str(), list["name"].as_str()), (Some("0.4.0"), Some("pods")));
        assert_eq!(list["plugins"][0], serde_json::from_str::<Value>(single).unwrap());
        assert_eq!(
            (list["plugins"][1]["type"].as_str(), list["plugins"].as_array().unwrap().len()),
            (Some(PLUGIN), 2)
        );
    }
}

#[test]
fn the_primary_is_the_first_that_a_runtime_would_use() {
    let other = BRIDGE.replace("pods", "other");
    let loopback = r#"{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}"#;
    let single = r#"{"cniVersion": "1.0.0", "name": "x", "type": "y"}"#;
    let cases: [(Files<'_>, Option<&str>, usize); 10] = [
        (&[("10-a.conflist", BRIDGE), ("20-b.conflist", &other)], Some("10-a.conflist"), 0),
        (&[("10-a.conflist.bak", BRIDGE), ("20-b.conflist", &other)], Some("20-b.conflist"), 0),
        (&[("10-a.conflist", "{"), ("20-b.conflist", &other)], Some("20-b.conflist"), 1),
        (&[("10-a.conf", BRIDGE), ("20-b.conflist", &other)], Some("20-b.conflist"), 1),
        (&[("10-a.conflist", r#"{"cniVersion": "1.0.0", "name": "x", "plugins": []}"#)], None, 1),
        (&[("10-a.conflist", r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{}]}"#)], None, 1),
        (&[("10-a.conflist", r#"{"name": "x", "plugins": [{"type": "y"}]}"#)], None, 1),
        (&[("05-lo.conf", loopback), ("10-a.conf", single)], Some("10-a.conf"), 0),
        (&[("05-lo.conf", loopback)], None, 0),
        (&[], None, 0),
    ];
    for (files, primary, problems) in cases {
        let plan = plan(&folder(files), &settings());
        assert_eq!((plan.primary.as_deref(), plan.own.is_some()), (primary, primary.is_some()), "{files:?}");
        assert_eq!(plan.problems.len(), problems, "{:?}", plan.problems);
    }
}

#[test]
fn every_problem_names_its_file_and_field() {
    for (name, text, word) in [
        ("a.conflist", "{", "JSON"),
        ("a.conflist", "[]", "object"),
        ("a.conf", BRIDGE, "type"),
        ("a.conflist", r#"{"cniVersion": "1.0.0", "plugins": [{"type": "y"}]}"#, "name"),
        ("a.conflist", r#"{"cniVersion": "0.2.0", "name": "x", "plugins": [{"type": "y"}]}"#, "cniVersion"),
    ] {
        let problems = plan(&folder(&[(name, text)]), &settings()).problems;
        assert!(
            problems.len() == 1 && problems[0].starts_with(name) && problems[0].contains(word),
            "{problems:?}"
        );
    }
}

#[test]
fn our_name_sorts_first_and_what_we_called_it_before_goes() {
    for (primary, own) in [
        ("10-x.conflist", "00-ambit.conflist"),
        ("00-cilium.conflist", "00-ambit.conflist"),
        ("00-aws.conflist", "00-ambit.conflist"),
        ("00-aaa.conflist", "0-ambit.conflist"),
        ("0-aaa.conflist", "!-ambit.conflist"),
    ] {
        let mut files = folder(&[(primary, BRIDGE)]);
        for name in OWN {
            files.insert(name.to_owned(), b"anything".to_vec());
        }
        let plan = plan(&files, &settings());
        assert_eq!(plan.own.map(|(name, _)| name), Some(own), "{primary}");
        assert_eq!(plan.stale, OWN.into_iter().filter(|name| *name != own).collect::<Vec<_>>());
    }
    assert!(plan(&folder(&[("!!", BRIDGE), ("!!.conflist", BRIDGE)]), &settings()).own.is_none());
}

#[test]
fn while_the_primary_is_away_or_half_written_ours_stays_in_force() {
    let half = &BRIDGE[..BRIDGE.len() / 2];
    for files in
        [vec![("00-ambit.conflist", BRIDGE)], vec![("00-ambit.conflist", BRIDGE), ("10-a.conflist", half)]]
    {
        let plan = plan(&folder(&files), &settings());
        assert_eq!((plan.own, plan.stale, plan.primary), (None, vec![], None));
    }
}

#[test]
fn a_list_that_has_our_plugin_already_gets_it_once_and_last() {
    let text = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge"}, {"type": "ambit-cni", "socket": "/old"}, {"type": "portmap"}]}"#;
    let (_, text) = plan(&folder(&[("10-a.conflist", text)]), &settings()).own.unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let types: Vec<_> = list["plugins"].as_array().unwrap().iter().filter_map(type_of).collect();
    assert_eq!(types, ["bridge", "portmap", PLUGIN]);
    assert_eq!(list["plugins"][2]["socket"], "/var/run/ambit/node.sock");
}

proptest! {
    #[test]
    fn what_was_planned_needs_no_second_plan(
        names in prop::collection::btree_set("[!-~&&[^/]]{0,6}\\.(conflist|conf|json|bak)", 0..6),
        broken: bool,
    ) {
        let mut files: BTreeMap<_, _> = names.into_iter().map(|name| (name, BRIDGE.as_bytes().to_vec())).collect();
        if broken {
            files.insert("10-x.conflist".to_owned(), vec![b'{']);
        }
        let first = plan(&files, &settings());
        for name in &first.stale {
            files.remove(*name);
        }
        if let Some((name, text)) = &first.own {
            files.insert((*name).to_owned(), text.clone().into_bytes());
            let loaded: Vec<_> = files.keys().filter(|name| is_configuration(name)).collect();
            prop_assert_eq!(loaded[0], *name);
        }
        let second = plan(&files, &settings());
        prop_assert_eq!((&second.own, &second.primary), (&first.own, &first.primary));
        prop_assert!(second.stale.is_empty());
    }
}
