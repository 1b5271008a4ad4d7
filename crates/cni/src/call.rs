// SPDX-License-Identifier: Apache-2.0
//! What the runtime wants: the environment and stdin, bounded and parsed once. Names go into paths and messages of the
//! agent, so what cannot be a name is refused here.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    NEWEST, VERSIONS,
    refusal::{Code, Refusal},
};

/// Longest stdin. With 10,000 attachments, which no node has, a GC stays below it.
const MAX_STDIN: u64 = 2 << 20;
/// Longest name of anything; those of Kubernetes have at most 253 characters.
const MAX_NAME: usize = 255;
/// The kernel's limit for interfaces (IFNAMSIZ, less the closing zero).
const MAX_INTERFACE: usize = 15;
const SOCKET: &str = "/var/run/ambit/node.sock";
const SHAPE: &str = "the object of one plugin from a conflist, with the runtime's additions";

/// The configuration of this plugin, as the runtime completes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    cni_version: Option<String>,
    /// Result of the plugins before this one.
    pub(super) prev_result: Option<Map<String, Value>>,
    /// The agent's socket.
    #[serde(default = "socket")]
    pub(super) socket: PathBuf,
    /// Namespaces whose pods start although no agent answers.
    #[serde(default)]
    pub(super) pass_without_agent: Vec<String>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Value>>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) command: Command,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add(Attachment),
    Check(Attachment),
    Delete(Attachment),
    /// Everything but these attachments is gone.
    Collect(Vec<Value>),
    Status,
    Version,
}

/// A container's end of a network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    container: String,
    interface: String,
    /// Empty in a DEL of what has no namespace any more.
    pub(super) netns: String,
    /// None: a container that is no pod of Kubernetes.
    pub(super) pod: Option<PodName>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    uid: Option<String>,
}

fn socket() -> PathBuf {
    SOCKET.into()
}

/// Reads the configuration. An error comes with the version in which to say so.
pub(super) fn read(
    environment: &BTreeMap<String, String>,
    stdin: impl Read,
) -> Result<Network, (String, Refusal)> {
    let unversioned = |refusal| (NEWEST.to_owned(), refusal);
    let mut bytes = Vec::new();
    let read = stdin.take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.map_err(|error| unversioned(Refusal::new(Code::Io, "cannot read stdin", error.to_string())))?;
    if bytes.len() as u64 > MAX_STDIN {
        let message = format!("stdin has more than {MAX_STDIN} bytes");
        return Err(unversioned(Refusal::new(Code::Decode, message, format!("give {SHAPE}"))));
    }
    // Old runtimes ask for the versions without saying anything.
    let asks_for_versions = variable(environment, "CNI_COMMAND") == Some("VERSION");
    let bytes = if asks_for_versions && bytes.is_empty() { b"{}".as_slice() } else { &bytes };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        unversioned(Refusal::new(Code::Decode, "stdin is not JSON", format!("{error}; give {SHAPE}")))
    })?;
    let stated = value.get("cniVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = if VERSIONS.contains(&stated.as_str()) { stated } else { NEWEST.to_owned() };
    let network: Network = serde_json::from_value(value).map_err(|error| {
        let details = format!("{error}; give {SHAPE}");
        (version, Refusal::new(Code::Config, "stdin is not a configuration of ambit-cni", details))
    })?;
    Ok(network)
}

impl Network {
    /// The version to answer in.
    pub(super) fn version(&self) -> &str {
        match &self.cni_version {
            Some(version) if VERSIONS.contains(&version.as_str()) => version,
            _ => NEWEST,
        }
    }

    fn check_version(&self) -> Result<(), Refusal> {
        let version = self.cni_version.as_deref();
        if version.is_some_and(|version| VERSIONS.contains(&version)) {
            return Ok(());
        }
        let message = format!(
            "cniVersion {} is not supported",
            version.map_or_else(|| "(absent)".to_owned(), |version| format!("{version:?}"))
        );
        let details = format!("set cniVersion of the conflist to one of {}", VERSIONS.join(", "));
        Err(Refusal::new(Code::Version, message, details))
    }

    fn check_socket(&self) -> Result<(), Refusal> {
        if self.socket.is_absolute() {
            return Ok(());
        }
        let message = format!("socket {:?} is not an absolute path", self.socket);
        Err(Refusal::new(
            Code::Config,
            message,
            format!("give the path of the node agent's socket; its default is {SOCKET}"),
        ))
    }
}

impl Call {
    pub(super) fn parse(environment: &BTreeMap<String, String>, network: &Network) -> Result<Self, Refusal> {
        let command = variable(environment, "CNI_COMMAND").unwrap_or_default();
        if command != "VERSION" {
            network.check_version()?;
            network.check_socket()?;
        }
        let command = match command {
            "ADD" => Command::Add(Attachment::parse(environment, Presence::Needed)?),
            "CHECK" => Command::Check(Attachment::parse(environment, Presence::Needed)?),
            "DEL" => Command::Delete(Attachment::parse(environment, Presence::MayBeGone)?),
            "GC" => Command::Collect(network.collection()?),
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => {
                let details = "one of ADD, DEL, CHECK, GC, STATUS, VERSION is set by the runtime; this program is not for people";
                return Err(Refusal::new(
                    Code::Environment,
                    format!("CNI_COMMAND {other:?} is unknown"),
                    details,
                ));
            }
        };
        Ok(Self { command })
    }
}

impl Network {
    /// Without the list nothing is known to be gone.
    fn collection(&self) -> Result<Vec<Value>, Refusal> {
        self.valid_attachments.clone().ok_or_else(|| {
            let details = "the runtime lists the attachments that are left (CNI 1.1, GC)";
            Refusal::new(Code::Config, "cni.dev/valid-attachments is absent", details)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Needed,
    MayBeGone,
}

impl Attachment {
    fn parse(environment: &BTreeMap<String, String>, presence: Presence) -> Result<Self, Refusal> {
        let container = needed(environment, "CNI_CONTAINERID", is_name, "letters, digits, '.', '_' and '-'")?;
        let interface = needed(environment, "CNI_IFNAME", is_interface, "the name of an interface")?;
        let netns = match (variable(environment, "CNI_NETNS"), presence) {
            (None, Presence::MayBeGone) => "",
            _ => needed(environment, "CNI_NETNS", is_path, "the absolute path of the network namespace")?,
        };
        Ok(Self {
            container: container.to_owned(),
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            pod: PodName::parse(variable(environment, "CNI_ARGS").unwrap_or_default())?,
        })
    }

    /// What the agent is told; nothing about what is no pod.
    pub(super) fn body(&self, ips: Vec<String>) -> Option<Value> {
        let pod = self.pod.as_ref()?;
        Some(json!({
            "containerId": self.container,
            "interface": self.interface,
            "netns": self.netns,
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "ips": ips,
        }))
    }
}

impl PodName {
    /// From `IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;…`.
    fn parse(arguments: &str) -> Result<Option<Self>, Refusal> {
        let of = |key: &str| {
            let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).find(|value| !value.is_empty())
        };
        let checked = |key: &str, value: &str| {
            if is_name(value) {
                return Ok(value.to_owned());
            }
            let details =
                format!("{key} is set by the runtime to the name of a pod; got {:?}", shortened(value));
            Err(Refusal::new(Code::Environment, format!("{key} in CNI_ARGS is not a name"), details))
        };
        let (Some(namespace), Some(name)) = (of("K8S_POD_NAMESPACE"), of("K8S_POD_NAME")) else {
            return Ok(None);
        };
        let uid = of("K8S_POD_UID").map(|uid| checked("K8S_POD_UID", uid)).transpose()?;
        Ok(Some(Self {
            namespace: checked("K8S_POD_NAMESPACE", namespace)?,
            name: checked("K8S_POD_NAME", name)?,
            uid,
        }))
    }
}

fn variable<'a>(environment: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn needed<'a>(
    environment: &'a BTreeMap<String, String>,
    name: &str,
    fits: impl Fn(&str) -> bool,
    accepted: &str,
) -> Result<&'a str, Refusal> {
    let Some(value) = variable(environment, name) else {
        let details = format!("the runtime sets it to {accepted}");
        return Err(Refusal::new(Code::Environment, format!("{name} is not set"), details));
    };
    if fits(value) {
        return Ok(value);
    }
    let details = format!("must be {accepted}; got {:?}", shortened(value));
    Err(Refusal::new(Code::Environment, format!("{name} cannot be used"), details))
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(allowed)
}

fn is_interface(text: &str) -> bool {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':');
    text.len() <= MAX_INTERFACE && !matches!(text, "." | "..") && text.chars().all(allowed)
}

fn is_path(text: &str) -> bool {
    Path::new(text).is_absolute() && text.len() <= 4096
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
