// SPDX-License-Identifier: Apache-2.0
//! What a pod is to this agent, parsed once at its edge: names that are safe in a path and fit a ZDS packet,
//! addresses in canonical form. It refuses to know whether the pod exists.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

pub use membership::exclusions::Exclusions;
pub use membership::pod::{Capturing, PodError, Treatment, Uid};
use serde::{Deserialize, Serialize};

/// Kubernetes names are at most this long (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// A namespace is one DNS label.
const MAX_NAMESPACE: usize = 63;

/// A pod to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Identity for the life of the pod.
    pub uid: Uid,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Its own addresses, `status.podIPs`, never empty.
    pub ips: Vec<IpAddr>,
    /// What of its traffic is captured.
    pub treatment: Treatment,
    /// The runtime's id of its sandbox, where a runtime has announced it.
    pub sandbox: Option<String>,
}

impl fmt::Display for Pod {
    /// As in a log: `namespace/name (uid)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// A pod as JSON: the body of `POST /pods` and the heart of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodJson {
    /// See [`Pod::uid`].
    pub uid: String,
    /// See [`Pod::name`].
    pub name: String,
    /// See [`Pod::namespace`].
    pub namespace: String,
    /// See [`Pod::service_account`].
    pub service_account: String,
    /// See [`Pod::netns`].
    pub netns: String,
    /// See [`Pod::ips`].
    pub ips: Vec<String>,
    /// See [`Treatment::dns`].
    #[serde(default = "on")]
    pub capture_dns: bool,
    /// See [`Treatment::inbound`].
    #[serde(default = "on")]
    pub capture_inbound: bool,
    /// See [`Treatment::exclusions`].
    #[serde(default, skip_serializing_if = "Exclusions::is_empty")]
    pub exclusions: Exclusions,
    /// See [`Pod::sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

fn on() -> bool {
    true
}

impl TryFrom<&PodJson> for Pod {
    type Error = PodError;

    fn try_from(json: &PodJson) -> Result<Self, PodError> {
        Ok(Self {
            uid: Uid::parse(&json.uid)?,
            name: name("name", &json.name, MAX_NAME)?,
            namespace: name("namespace", &json.namespace, MAX_NAMESPACE)?,
            service_account: name("serviceAccount", &json.service_account, MAX_NAME)?,
            netns: netns(&json.netns)?,
            ips: ips(&json.ips)?,
            treatment: Treatment {
                dns: json.capture_dns.into(),
                inbound: json.capture_inbound.into(),
                exclusions: json.exclusions.clone(),
            },
            sandbox: json.sandbox.clone(),
        })
    }
}

impl From<&Pod> for PodJson {
    fn from(pod: &Pod) -> Self {
        Self {
            uid: pod.uid.to_string(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            netns: pod.netns.display().to_string(),
            ips: pod.ips.iter().map(IpAddr::to_string).collect(),
            capture_dns: pod.treatment.dns == Capturing::On,
            capture_inbound: pod.treatment.inbound == Capturing::On,
            exclusions: pod.treatment.exclusions.clone(),
            sandbox: pod.sandbox.clone(),
        }
    }
}

fn name(field: &'static str, text: &str, limit: usize) -> Result<String, PodError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if text.is_empty() || text.len() > limit || !text.chars().all(allowed) {
        return Err(PodError {
            field,
            problem: format!("{text:?} is not a Kubernetes name"),
            fix: "give lower case letters, digits, '-' and '.', as in the object's metadata",
        });
    }
    Ok(text.to_owned())
}

fn netns(text: &str) -> Result<PathBuf, PodError> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(PodError {
            field: "netns",
            problem: format!("{text:?} is not an absolute path"),
            fix: "give the namespace's file, for example /run/netns/NAME or /proc/PID/ns/net",
        });
    }
    Ok(path.to_owned())
}

fn ips(texts: &[String]) -> Result<Vec<IpAddr>, PodError> {
    const FIX: &str = "give every address of the pod, without prefix length, as in status.podIPs";
    if texts.is_empty() {
        return Err(PodError { field: "ips", problem: "the list is empty".to_owned(), fix: FIX });
    }
    let mut ips = Vec::with_capacity(texts.len());
    for text in texts {
        let ip = text.parse::<IpAddr>().map(|ip| ip.to_canonical()).ok();
        let usable = ip.filter(|ip| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast());
        let Some(ip) = usable else {
            return Err(PodError {
                field: "ips",
                problem: format!("{text:?} is not a pod's address"),
                fix: FIX,
            });
        };
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json() -> PodJson {
        PodJson {
            uid: "c7a1-44".to_owned(),
            name: "client".to_owned(),
            namespace: "default".to_owned(),
            service_account: "sleep".to_owned(),
            netns: "/run/netns/client".to_owned(),
            ips: vec!["10.20.1.2".to_owned(), "fd00:20:1::2".to_owned()],
            capture_dns: false,
            capture_inbound: true,
            exclusions: Exclusions::default(),
            sandbox: Some("4f1c".to_owned()),
        }
    }

    #[test]
    fn a_pod_survives_the_way_to_json_and_back() {
        let pod = Pod::try_from(&json()).unwrap();
        assert_eq!(Pod::try_from(&PodJson::from(&pod)).unwrap(), pod);
    }

    #[test]
    fn an_address_is_canonical_and_counted_once() {
        let ips = vec!["::ffff:10.0.0.1".to_owned(), "10.0.0.1".to_owned()];
        let pod = Pod::try_from(&PodJson { ips, ..json() }).unwrap();
        assert_eq!(pod.ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn every_refusal_names_its_field() {
        let long = "a".repeat(254);
        let cases: [(&str, PodJson); 12] = [
            ("uid", PodJson { uid: String::new(), ..json() }),
            ("uid", PodJson { uid: "../etc".to_owned(), ..json() }),
            ("uid", PodJson { uid: ".hidden".to_owned(), ..json() }),
            ("uid", PodJson { uid: long.clone(), ..json() }),
            ("name", PodJson { name: long.clone(), ..json() }),
            ("name", PodJson { name: "Client".to_owned(), ..json() }),
            ("namespace", PodJson { namespace: String::new(), ..json() }),
            ("serviceAccount", PodJson { service_account: "a b".to_owned(), ..json() }),
            ("netns", PodJson { netns: "netns/x".to_owned(), ..json() }),
            ("ips", PodJson { ips: vec![], ..json() }),
            ("ips", PodJson { ips: vec!["10.0.0.1/32".to_owned()], ..json() }),
            ("ips", PodJson { ips: vec!["127.0.0.1".to_owned()], ..json() }),
        ];
        for (field, json) in cases {
            let error = Pod::try_from(&json).unwrap_err();
            assert_eq!(error.field, field, "{json:?}");
            assert!(!error.fix.is_empty());
        }
    }
}
