// SPDX-License-Identifier: Apache-2.0
//! The agent's settings: the only place that reads the environment. Names are Istio's where it has the same thing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use ebpf_loader::Mode;
use ipnet::IpNet;
use kubernetes::Access;
use runtime::{
    env::{Env, InvalidEnvironment},
    log::{Filter, Format, LogSettings},
};

use crate::{conflist::PluginSettings, install::Installation, rules::Rules, sysctl::PROC_SYS};

/// Where the plugin finds the agent unless it is told otherwise.
const API: &str = "/var/run/ambit/node.sock";

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// `INPOD_UDS`: where ztunnel finds the agent.
    pub zds: PathBuf,
    /// `AMBIT_NODE_API`: where the local API is served.
    pub api: PathBuf,
    /// `AMBIT_NODE_STATE`: the folder of records.
    pub state: PathBuf,
    /// `AMBIT_NODE_METRICS`: where metrics are served.
    pub metrics: SocketAddr,
    /// `AMBIT_BPF_DIR`: the folder of pins, in a bpffs.
    pub bpf_dir: PathBuf,
    /// `AMBIT_PROC_SYS`: where kernel settings are read and written.
    pub proc_sys: PathBuf,
    /// `AMBIT_EXEMPT_PEERS`: whose connections to pods go straight to the application (probes of the node).
    pub exempt_peers: Vec<IpNet>,
    /// `AMBIT_TRUST_MARK`: whether a mark proves the proxy, for Istio's ztunnel.
    pub trust_mark: bool,
    /// `AMBIT_EBPF_OBJECT`: programs to load instead of those in the binary.
    pub object: Option<PathBuf>,
    /// `AMBIT_CAPTURE_MODE`: how the programs are attached.
    pub mode: Mode,
    /// Kubernetes, where the agent runs on a node of it; without, pods come by the local API only.
    pub cluster: Option<ClusterConfig>,
    /// `RUST_LOG` and `LOG_FORMAT`.
    pub log: LogSettings,
}

/// What an agent on a node of Kubernetes needs to know.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `AMBIT_KUBERNETES`: `pod`, or the path of a kubeconfig.
    pub access: Access,
    /// `NODE_NAME`: the node that this is.
    pub node: String,
    /// `POD_NAMESPACE`: the mesh's own namespace.
    pub namespace: String,
    /// `AMBIT_DAEMONSET`: the DaemonSet that runs the agent; when it is gone, or wants this node no longer, as the agent is
    /// stopped, the agent takes everything back. Without it everything stays.
    pub daemon_set: Option<String>,
    /// Who is in the mesh and how: `AMBIT_REVISION`, `AMBIT_EXCLUDED_NAMESPACES`, `AMBIT_CAPTURE_DNS`.
    pub rules: Rules,
    /// `AMBIT_CGROUP_ROOT`: where the node's control groups of version 2 are; by default where they are mounted.
    pub cgroup_root: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`: a service address that there is in every cluster.
    pub service: Option<SocketAddr>,
    /// The node's CNI folders; without `AMBIT_CNI_CONFIGURATIONS` they are left alone.
    pub installation: Option<Installation>,
}

impl Config {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// Every variable that cannot be used.
    pub fn from_process() -> Result<Self, InvalidEnvironment> {
        // A variable that is not UTF-8 is none of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::read(Env::new(variables))
    }

    /// Reads the variables.
    ///
    /// # Errors
    /// Every variable that cannot be used.
    pub fn read(mut env: Env) -> Result<Self, InvalidEnvironment> {
        let config = Self {
            zds: env.path("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
            api: env.path("AMBIT_NODE_API", API),
            state: env.path("AMBIT_NODE_STATE", "/var/run/ambit/pods"),
            metrics: env.address("AMBIT_NODE_METRICS", SocketAddr::from((Ipv4Addr::LOCALHOST, 15024))),
            bpf_dir: env.path("AMBIT_BPF_DIR", "/sys/fs/bpf/ambit"),
            proc_sys: env.path("AMBIT_PROC_SYS", PROC_SYS),
            exempt_peers: env.list(
                "AMBIT_EXEMPT_PEERS",
                "IP addresses or networks such as 10.20.0.0/24",
                network,
            ),
            trust_mark: env.flag("AMBIT_TRUST_MARK", false),
            object: env.optional_path("AMBIT_EBPF_OBJECT"),
            mode: env.optional("AMBIT_CAPTURE_MODE", "auto, tcx or clsact", mode).unwrap_or_default(),
            cluster: cluster(&mut env),
            log: LogSettings {
                filter: env
                    .optional("RUST_LOG", "a level, or levels by target", |text| text.parse::<Filter>().ok())
                    .unwrap_or_default(),
                format: env
                    .optional("LOG_FORMAT", "plain or json", |text| text.parse::<Format>().ok())
                    .unwrap_or_default(),
            },
        };
        env.finish().map(|()| config)
    }
}

fn cluster(env: &mut Env) -> Option<ClusterConfig> {
    let access = env.optional("AMBIT_KUBERNETES", "pod, or the absolute path of a kubeconfig", access)?;
    let namespace = env.string("POD_NAMESPACE", "ambit-system");
    let excluded = match env.raw("AMBIT_EXCLUDED_NAMESPACES") {
        None => vec!["kube-system".to_owned()],
        Some(_) => namespaces(env, "AMBIT_EXCLUDED_NAMESPACES"),
    };
    let without_agent = match env.raw("AMBIT_PASS_WITHOUT_AGENT") {
        None => vec![namespace.clone(), "kube-system".to_owned()],
        Some(_) => namespaces(env, "AMBIT_PASS_WITHOUT_AGENT"),
    };
    let installation = env.optional_path("AMBIT_CNI_CONFIGURATIONS").map(|configurations| Installation {
        configurations,
        plugins: env.path("AMBIT_CNI_PLUGINS", "/opt/cni/bin"),
        source: env.path("AMBIT_CNI_SOURCE", "/usr/local/bin/cni"),
        settings: PluginSettings {
            socket: env.string("AMBIT_NODE_API", API),
            pass_without_agent: without_agent,
        },
    });
    let rules = Rules {
        revision: env.optional_string("AMBIT_REVISION"),
        excluded,
        own_namespace: Some(namespace.clone()),
        dns: env.flag("AMBIT_CAPTURE_DNS", true).into(),
    };
    Some(ClusterConfig {
        access,
        node: env.required("NODE_NAME", "the name of this node (spec.nodeName by the downward API)"),
        namespace,
        daemon_set: env.optional_string("AMBIT_DAEMONSET"),
        rules,
        cgroup_root: env.optional_path("AMBIT_CGROUP_ROOT"),
        service: service(env),
        installation,
    })
}

/// Where kubelet has told it; it may be a name, which is no service address.
fn service(env: &Env) -> Option<SocketAddr> {
    let host = env.optional_string("KUBERNETES_SERVICE_HOST")?.parse::<IpAddr>().ok()?;
    Some(SocketAddr::new(host, env.optional_string("KUBERNETES_SERVICE_PORT")?.parse().ok()?))
}

fn access(text: &str) -> Option<Access> {
    match text {
        "pod" => Some(Access::Pod),
        path => path.starts_with('/').then(|| Access::Kubeconfig(path.into())),
    }
}

fn namespaces(env: &mut Env, name: &str) -> Vec<String> {
    env.list(name, "names of namespaces", |text| Some(text.to_owned()))
}

fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip.to_canonical()),
        Err(_no_address) => text.parse::<IpNet>().ok()?.trunc(),
    };
    // Nobody is exempt from everything by a slip.
    (network.prefix_len() > 0).then_some(network)
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "auto" => Some(Mode::Auto),
        "tcx" => Some(Mode::Tcx),
        "clsact" => Some(Mode::Clsact),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Capturing;

    fn read(variables: &[(&str, &str)]) -> Result<Config, InvalidEnvironment> {
        Config::read(Env::new(
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        ))
    }

    #[test]
    fn an_empty_environment_is_a_valid_one() {
        let config = read(&[]).unwrap();
        assert_eq!(config.zds, PathBuf::from("/var/run/ztunnel/ztunnel.sock"));
        assert_eq!((config.mode, config.trust_mark), (Mode::Auto, false));
        assert!(config.exempt_peers.is_empty());
    }

    #[test]
    fn kubernetes_is_used_only_where_it_is_set_and_then_knows_its_node() {
        assert!(read(&[("NODE_NAME", "a")]).unwrap().cluster.is_none());
        let on = |more: &[(&str, &str)]| read(&[&[("AMBIT_KUBERNETES", "pod")], more].concat());
        assert!(on(&[]).unwrap_err().to_string().contains("NODE_NAME"));
        let cluster = on(&[("NODE_NAME", "a"), ("POD_NAMESPACE", "mesh")]).unwrap().cluster.unwrap();
        assert!(cluster.installation.is_none() && cluster.daemon_set.is_none());
        assert_eq!((cluster.access, cluster.rules.excluded), (Access::Pod, vec!["kube-system".to_owned()]));
        assert_eq!(cluster.rules.own_namespace.as_deref(), Some("mesh"));
        let folders =
            [("NODE_NAME", "a"), ("AMBIT_CNI_CONFIGURATIONS", "/etc/cni/net.d"), ("AMBIT_NODE_API", "/x")];
        let installation = on(&folders).unwrap().cluster.unwrap().installation.unwrap();
        assert_eq!(installation.settings.socket, "/x");
        assert_eq!(installation.settings.pass_without_agent, ["ambit-system", "kube-system"]);
        let none = on(&[("NODE_NAME", "a"), ("AMBIT_EXCLUDED_NAMESPACES", "")]).unwrap().cluster.unwrap();
        assert!(none.rules.excluded.is_empty());
        assert_eq!(none.rules.dns, Capturing::On);
        let off = on(&[("NODE_NAME", "a"), ("AMBIT_CAPTURE_DNS", "false")]).unwrap().cluster.unwrap();
        assert_eq!(off.rules.dns, Capturing::Off);
        assert!(read(&[("AMBIT_KUBERNETES", "yes"), ("NODE_NAME", "a")]).is_err());
    }

    #[test]
    fn exempt_peers_are_addresses_and_networks() {
        let config =
            read(&[("AMBIT_EXEMPT_PEERS", "10.20.0.1, 10.20.1.7/24,::ffff:10.0.0.9,fd00::/64")]).unwrap();
        let peers: Vec<_> = config.exempt_peers.iter().map(IpNet::to_string).collect();
        assert_eq!(peers, ["10.20.0.1/32", "10.20.1.0/24", "10.0.0.9/32", "fd00::/64"]);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let error = read(&[
            ("AMBIT_EXEMPT_PEERS", "0.0.0.0/0"),
            ("AMBIT_CAPTURE_MODE", "iptables"),
            ("AMBIT_NODE_METRICS", "15024"),
            ("AMBIT_TRUST_MARK", "perhaps"),
            ("RUST_LOG", "loud"),
        ])
        .unwrap_err()
        .to_string();
        for name in
            ["AMBIT_EXEMPT_PEERS", "AMBIT_CAPTURE_MODE", "AMBIT_NODE_METRICS", "AMBIT_TRUST_MARK", "RUST_LOG"]
        {
            assert!(error.contains(name), "{error}");
        }
    }
}
