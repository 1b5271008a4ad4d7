// SPDX-License-Identifier: Apache-2.0
//! The plugin as a runtime sees it: environment and stdin in, stdout and exit code out; the agent is a socket that says
//! one thing and keeps what it was asked.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, sync_channel},
};

use serde_json::Value;

use super::*;

const ENDED: Duration = Duration::from_secs(30);

/// A socket that answers every request alike.
struct Says {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    asked: Receiver<(String, Value)>,
}

fn agent(status: u16, answer: &Value) -> Says {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (tell, asked) = sync_channel(8);
    let answer = answer.to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = whole(&mut stream);
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let length = answer.len();
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{answer}").unwrap();
            if tell.send((path, serde_json::from_str(body).unwrap())).is_err() {
                return;
            }
        }
    });
    Says { _folder: folder, socket, asked }
}

fn whole(stream: &mut impl Read) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head.rsplit("Content-Length: ").next().unwrap().parse().unwrap();
        if body.len() >= length {
            return text;
        }
    }
}

fn environment(command: &str) -> BTreeMap<String, String> {
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
        ("CNI_ARGS", arguments),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn with(command: &str, name: &str, value: &str) -> BTreeMap<String, String> {
    let mut environment = environment(command);
    environment.insert(name.to_owned(), value.to_owned());
    environment
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "aa:aa:aa:aa:aa:aa"},
            {"name": "eth0", "mac": "bb:bb:bb:bb:bb:bb", "sandbox": "/run/netns/cni-1"},
        ],
        "ips": [
            {"interface": 1, "address": "10.7.0.9/24", "gateway": "10.7.0.1"},
            {"address": "fd07::9/64"},
            {"interface": 0, "address": "10.7.0.1/24"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.96.0.10"]},
        "of a later version": true,
    })
}

fn network(socket: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "ambit-cni",
        "socket": socket,
        "passWithoutAgent": ["ambit-system", "kube-system"],
        "prevResult": result(),
    })
}

fn ask(environment: &BTreeMap<String, String>, network: &Value) -> (bool, Value) {
    let outcome = run(environment, network.to_string().as_bytes());
    let output = if outcome.output.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&outcome.output).unwrap()
    };
    (outcome.success, output)
}

fn nobody() -> &'static Path {
    Path::new("/run/there-is-no-agent.sock")
}

#[test]
fn an_add_tells_the_agent_about_the_pod_and_passes_the_result_on() {
    let says = agent(200, &json!({"state": "enrolled"}));
    let (success, output) = ask(&environment("ADD"), &network(&says.socket));
    assert!(success, "{output}");
    assert_eq!(output, result());
    let (path, body) = says.asked.recv_timeout(ENDED).unwrap();
    assert_eq!(path, "/cni/add");
    let expected = json!({
        "containerId": "c1", "interface": "eth0", "netns": "/run/netns/cni-1", "namespace": "shop", "name": "web-0",
        "uid": "u-1", "ips": ["10.7.0.9", "fd07::9"],
    });
    assert_eq!(body, expected);
}

#[test]
fn a_result_of_an_older_version_says_the_family_and_one_of_a_newer_does_not() {
    let says = agent(200, &json!({}));
    for (version, family) in [("0.3.1", Some("4")), ("0.4.0", Some("4")), ("1.0.0", None), ("1.1.0", None)] {
        let mut network = network(&says.socket);
        network["cniVersion"] = version.into();
        if version == "1.1.0" {
            network["prevResult"]["ips"][0]["version"] = "4".into();
        }
        let (_, output) = ask(&environment("ADD"), &network);
        assert_eq!(
            (output["cniVersion"].as_str(), output["ips"][0]["version"].as_str()),
            (Some(version), family)
        );
        says.asked.recv_timeout(ENDED).unwrap();
    }
}

#[test]
fn while_the_agent_is_away_only_pods_of_the_listed_namespaces_start() {
    for (namespace, starts) in
        [("kube-system", true), ("ambit-system", true), ("shop", false), ("kube", false)]
    {
        let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-0");
        let (success, output) = ask(&with("ADD", "CNI_ARGS", &arguments), &network(nobody()));
        assert_eq!(success, starts, "{namespace}: {output}");
        if !starts {
            assert_eq!(output["code"], 11);
            let text = format!("{} {}", output["msg"], output["details"]);
            for part in [
                namespace,
                "web-0",
                "/run/there-is-no-agent.sock",
                "No such file",
                "kube-system",
                "kubelet tries again",
            ] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
        }
    }
}

#[test]
fn what_the_agent_answers_decides_for_a_pod() {
    let pending = json!({"error": "no ztunnel connected", "fix": "start ztunnel", "state": "pending"});
    let unknown = json!({"error": "the API server does not answer", "fix": "wait"});
    let cases = [
        (503, &pending, "shop", Some(11)),
        (503, &pending, "kube-system", Some(11)),
        (503, &unknown, "shop", Some(11)),
        (503, &unknown, "kube-system", None),
        (500, &unknown, "kube-system", Some(100)),
        (409, &unknown, "shop", Some(100)),
        (404, &json!("not found"), "shop", Some(100)),
    ];
    for (status, body, namespace, code) in cases {
        let says = agent(status, body);
        let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-0");
        for command in ["ADD", "CHECK"] {
            let (success, output) = ask(&with(command, "CNI_ARGS", &arguments), &network(&says.socket));
            assert_eq!(
                (success, output["code"].as_u64()),
                (code.is_none(), code),
                "{status} {namespace}: {output}"
            );
        }
    }
}

#[test]
fn a_container_that_is_no_pod_is_none_of_ours() {
    for arguments in ["", "IgnoreUnknown=1", "K8S_POD_NAME=web-0"] {
        let (success, output) = ask(&with("ADD", "CNI_ARGS", arguments), &network(nobody()));
        assert_eq!((success, output), (true, result()));
    }
}

#[test]
fn a_pod_ends_whatever_the_agent_says() {
    let says = agent(500, &json!({"error": "cannot detach the capture programs"}));
    for socket in [says.socket.as_path(), nobody()] {
        let mut environment = environment("DEL");
        environment.remove("CNI_NETNS");
        let mut network = network(socket);
        network.as_object_mut().unwrap().remove("prevResult");
        let outcome = run(&environment, network.to_string().as_bytes());
        assert!(outcome.success && outcome.output.is_empty());
        assert!(outcome.note.unwrap().contains("cleans up later"));
    }
    assert_eq!(says.asked.recv_timeout(ENDED).unwrap().0, "/cni/del");
}

#[test]
fn status_fails_only_where_no_pod_could_start() {
    let says = agent(200, &json!({}));
    let mut closed = network(nobody());
    closed["passWithoutAgent"] = json!([]);
    for (network, code) in [(network(&says.socket), None), (network(nobody()), None), (closed, Some(50))] {
        let (success, output) = ask(&environment("STATUS"), &network);
        assert_eq!((success, output["code"].as_u64()), (code.is_none(), code), "{output}");
    }
}

#[test]
fn a_collection_names_what_is_left() {
    let says = agent(200, &json!({}));
    let mut collected = network(&says.socket);
    let (success, output) = ask(&environment("GC"), &collected);
    assert_eq!((success, output["code"].as_u64()), (false, Some(7)), "nothing is known to be gone: {output}");
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
    collected["cni.dev/valid-attachments"] = valid.clone();
    assert!(ask(&environment("GC"), &collected).0);
    assert_eq!(says.asked.recv_timeout(ENDED).unwrap(), ("/cni/gc".to_owned(), json!({"valid": valid})));
    collected["socket"] = "/run/there-is-no-agent.sock".into();
    assert_eq!(ask(&environment("GC"), &collected).1["code"], 11);
}

#[test]
fn version_needs_nothing_and_other_versions_are_refused() {
    let only = BTreeMap::from([("CNI_COMMAND".to_owned(), "VERSION".to_owned())]);
    for stdin in ["", "{}", r#"{"cniVersion": "9.9.9"}"#, r#"{"cniVersion": "1.1.0"}"#] {
        let outcome = run(&only, stdin.as_bytes());
        let output: Value = serde_json::from_slice(&outcome.output).unwrap();
        assert!(outcome.success, "{output}");
        assert_eq!(
            (&output["cniVersion"], &output["supportedVersions"]),
            (&json!("1.1.0"), &json!(VERSIONS))
        );
    }
    for version in [json!("0.2.0"), json!("2.0.0"), Value::Null] {
        let mut network = network(nobody());
        network["cniVersion"] = version;
        let (success, output) = ask(&environment("ADD"), &network);
        assert_eq!((success, output["code"].as_u64()), (false, Some(1)), "{output}");
        assert!(output["details"].as_str().unwrap().contains("0.4.0"));
    }
}

#[test]
fn every_mistake_is_named_with_its_field_and_what_to_do() {
    let long = "x".repeat(300);
    let environments = [
        ("CNI_COMMAND", "UPDATE", 4),
        ("CNI_CONTAINERID", "", 4),
        ("CNI_CONTAINERID", "../etc", 4),
        ("CNI_CONTAINERID", long.as_str(), 4),
        ("CNI_NETNS", "", 4),
        ("CNI_NETNS", "netns/x", 4),
        ("CNI_IFNAME", "a/b", 4),
        ("CNI_IFNAME", "sixteen-letters-", 4),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=../x;K8S_POD_NAME=web-0", 4),
    ];
    for (name, value, code) in environments {
        let (success, output) = ask(&with("ADD", name, value), &network(nobody()));
        assert_eq!((success, output["code"].as_u64()), (false, Some(code)), "{name}={value}: {output}");
        let field = if name == "CNI_ARGS" { "K8S_POD_NAMESPACE" } else { name };
        assert!(output["msg"].as_str().unwrap().contains(field), "{output}");
        assert!(!output["details"].as_str().unwrap().is_empty());
    }
    let configurations = [
        ("prevResult", Value::Null, "prevResult"),
        ("prevResult", json!([]), "prevResult"),
        ("prevResult", json!({"ips": [{"address": "ten"}]}), "ips[].address"),
        ("socket", json!("node.sock"), "socket"),
        ("passWithoutAgent", json!("kube-system"), "sequence"),
    ];
    for (name, value, word) in configurations {
        let mut network = network(nobody());
        network[name] = value;
        let (success, output) = ask(&environment("ADD"), &network);
        let text = format!("{} {}", output["msg"], output["details"]);
        assert_eq!((success, output["code"].as_u64()), (false, Some(7)), "{text}");
        assert!(text.contains(word) || text.contains("expected a map"), "{text}");
    }
}

#[test]
fn bad_and_endless_stdin_is_refused() {
    let deep = "[".repeat(100_000);
    for (stdin, code) in [("", 6), ("{", 6), ("null", 7), ("[]", 7), (deep.as_str(), 6)] {
        let outcome = run(&environment("ADD"), stdin.as_bytes());
        let output: Value = serde_json::from_slice(&outcome.output).unwrap();
        assert_eq!((outcome.success, output["code"].as_u64()), (false, Some(code)), "{output}");
    }
    let outcome = run(&environment("ADD"), io::repeat(b' '));
    let output: Value = serde_json::from_slice(&outcome.output).unwrap();
    assert_eq!(output["code"], 6, "{output}");
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_makes_it_panic(bytes: Vec<u8>, command: String, arguments: String) {
        let mut environment = with("ADD", "CNI_ARGS", &arguments);
        drop(run(&environment, bytes.as_slice()));
        environment.insert("CNI_COMMAND".to_owned(), command);
        drop(run(&environment, network(nobody()).to_string().as_bytes()));
    }
}
