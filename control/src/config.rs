// SPDX-License-Identifier: Apache-2.0
//! What the environment says, read once, with every mistake at once. Names without the prefix `AMBIT_` are Istio's.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arcstr::ArcStr;
use kubernetes::Access;
use mesh::{
    Hostname, Network, TrustDomain,
    l7::guard::Normalisation,
    telemetry::{Provider, SpanWire},
};
use runtime::{
    env::{Env, InvalidEnvironment},
    log::LogSettings,
};

use crate::{
    ca::{NodeAccounts, ServiceAccountName, ServingName},
    deploy::Settings as Waypoints,
    world::Settings,
};

/// Longest life of a certificate; what is older was forgotten, not wanted.
const LONGEST_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TLS_NAMES: &str = "istiod.istio-system.svc,control.ambit-system.svc,localhost";
const AUDIENCE: &str = "istio-ca";
const BUNDLE: &str = "istio-ca-root-cert";
const WAYPOINT_CLASSES: &str = "ambit-waypoint";
const NODE_ACCOUNTS: &str = "istio-system/ztunnel,ambit-system/ztunnel";

/// The configuration of the process.
#[derive(Clone, Debug)]
pub struct Config {
    /// `AMBIT_SOURCE`: where the objects are.
    pub source: Source,
    /// `AMBIT_XDS_ADDR`: where discovery and certificates are served.
    pub discovery_address: SocketAddr,
    /// `AMBIT_METRICS_ADDR`: where metrics, readiness and status are served.
    pub metrics_address: SocketAddr,
    /// `TRUST_DOMAIN`, `CLUSTER_ID`, `CLUSTER_DOMAIN`, `NETWORK`, `AMBIT_ROOT_NAMESPACE`.
    pub mesh: Settings,
    /// `AMBIT_CERT_TTL`: longest validity of a workload's certificate.
    pub certificate_ttl: Duration,
    /// `AMBIT_TLS_NAMES`: names in the certificate of this server.
    pub tls_names: Vec<ServingName>,
    /// `CA_TRUSTED_NODE_ACCOUNTS`: service accounts of node proxies.
    pub node_accounts: NodeAccounts,
    /// `TERMINATION_GRACE_PERIOD_SECONDS`, less a second: how long a drain may take.
    pub drain: Duration,
    /// `RUST_LOG`, `LOG_FORMAT`.
    pub log: LogSettings,
}

/// Where the objects, the root and the judgement of tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `folder`: standalone mode.
    Folder(Folder),
    /// `kubernetes`: an API server.
    Kubernetes(Kubernetes),
}

/// Standalone mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// `AMBIT_MANIFESTS`: the folder of YAML.
    pub manifests: PathBuf,
    /// `AMBIT_STATE_DIR`: root key and certificate, and the last good content of each manifest.
    pub state: PathBuf,
    /// `AMBIT_TOKENS`: the file of static tokens; without one nobody is let in.
    pub tokens: Option<PathBuf>,
}

/// In a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `AMBIT_KUBECONFIG`; without one, the pod's service account.
    pub access: Access,
    /// `POD_NAMESPACE`: where our own Secret and Lease are; without it, what `access` says.
    pub namespace: Option<String>,
    /// `POD_NAME`: who this replica is to the others.
    pub replica: String,
    /// `AMBIT_TOKEN_AUDIENCE`: whom tokens must be meant for.
    pub audience: String,
    /// `AMBIT_CA_CONFIGMAP`: name of the ConfigMap with the roots in every namespace; `none`: it is not written.
    pub bundle: Option<String>,
    /// `AMBIT_WEBHOOK_ADDR`: where the API server asks about objects before it stores them.
    pub webhook_address: SocketAddr,
    /// `AMBIT_WEBHOOK`: name of the ValidatingWebhookConfiguration that gets the roots; without one, none does.
    pub webhook: Option<String>,
    /// `AMBIT_WAYPOINT_IMAGE` and others: how waypoints are deployed; without an image none is.
    pub waypoints: Option<Box<Waypoints>>,
}

impl Config {
    /// From the environment of this process.
    ///
    /// # Errors
    /// When variables cannot be used: all of them.
    pub fn from_process() -> Result<Self, InvalidEnvironment> {
        Self::read(Env::new(std::env::vars()))
    }

    /// From variables.
    ///
    /// # Errors
    /// When variables cannot be used: all of them.
    pub fn read(mut env: Env) -> Result<Self, InvalidEnvironment> {
        let drain = env.number("TERMINATION_GRACE_PERIOD_SECONDS", 6, 1..=3600u64);
        let source = source(&mut env);
        let mut config = Self {
            discovery_address: env.address("AMBIT_XDS_ADDR", wildcard(15012)),
            metrics_address: env.address("AMBIT_METRICS_ADDR", wildcard(15014)),
            mesh: mesh_settings(&mut env, &source),
            certificate_ttl: certificate_ttl(&mut env),
            tls_names: list(&mut env, "AMBIT_TLS_NAMES", TLS_NAMES, "DNS names and addresses", |text| {
                text.parse::<ServingName>().ok()
            }),
            node_accounts: list(
                &mut env,
                "CA_TRUSTED_NODE_ACCOUNTS",
                NODE_ACCOUNTS,
                "<namespace>/<service account>",
                |text| text.parse::<ServiceAccountName>().ok(),
            )
            .into_iter()
            .collect(),
            drain: Duration::from_secs(drain.saturating_sub(1).max(1)),
            log: LogSettings {
                filter: env
                    .optional("RUST_LOG", "levels such as info,control=debug", |text| text.parse().ok())
                    .unwrap_or_default(),
                format: env
                    .optional("LOG_FORMAT", "plain or json", |text| text.parse().ok())
                    .unwrap_or_default(),
            },
            source,
        };
        if let Source::Kubernetes(cluster) = &mut config.source {
            cluster.waypoints = waypoints(&mut env, cluster, &config.mesh).map(Box::new);
        }
        env.finish()?;
        Ok(config)
    }
}

fn wildcard(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn source(env: &mut Env) -> Source {
    let is_cluster = env.optional("AMBIT_SOURCE", "folder or kubernetes", |text| match text {
        "folder" => Some(false),
        "kubernetes" => Some(true),
        _ => None,
    });
    if is_cluster != Some(true) {
        let folder = Folder {
            manifests: env.required("AMBIT_MANIFESTS", "the folder of manifests").into(),
            state: env.required("AMBIT_STATE_DIR", "a folder for the root certificate and its key").into(),
            tokens: env.optional_path("AMBIT_TOKENS"),
        };
        // What is kept of the manifests must not be taken for manifests.
        let is_given = !folder.manifests.as_os_str().is_empty();
        if is_given && folder.state.starts_with(&folder.manifests) {
            env.reject("AMBIT_STATE_DIR", "a folder outside AMBIT_MANIFESTS");
        }
        return Source::Folder(folder);
    }
    let bundle = env.string("AMBIT_CA_CONFIGMAP", BUNDLE);
    Source::Kubernetes(Kubernetes {
        access: env.optional_path("AMBIT_KUBECONFIG").map_or(Access::Pod, Access::Kubeconfig),
        namespace: env.optional_string("POD_NAMESPACE"),
        replica: env
            .optional_string("POD_NAME")
            .unwrap_or_else(|| format!("control-{:016x}", rand::random::<u64>())),
        audience: env.string("AMBIT_TOKEN_AUDIENCE", AUDIENCE),
        bundle: (bundle != "none").then_some(bundle),
        webhook_address: env.address("AMBIT_WEBHOOK_ADDR", wildcard(15017)),
        webhook: env.optional_string("AMBIT_WEBHOOK"),
        waypoints: None,
    })
}

fn waypoints(env: &mut Env, cluster: &Kubernetes, mesh: &Settings) -> Option<Waypoints> {
    let control =
        format!("https://control.{}.svc:15012", cluster.namespace.as_deref().unwrap_or("ambit-system"));
    let control = env.string("AMBIT_WAYPOINT_CONTROL", &control);
    let pull_policy = env.string("AMBIT_WAYPOINT_PULL_POLICY", "IfNotPresent");
    let classes = list(env, "AMBIT_WAYPOINT_CLASSES", WAYPOINT_CLASSES, "names of GatewayClasses", |text| {
        Some(text.to_owned())
    });
    let pull_secrets =
        list(env, "AMBIT_WAYPOINT_PULL_SECRETS", "", "names of Secrets", |text| Some(text.to_owned()));
    let normalisation =
        env.optional("AMBIT_PATH_NORMALIZATION", Normalisation::ACCEPTED, |text| text.parse().ok());
    Some(Waypoints {
        classes,
        image: env.optional_string("AMBIT_WAYPOINT_IMAGE")?,
        pull_policy,
        pull_secrets: pull_secrets.into_iter().filter(|name| !name.is_empty()).collect(),
        control,
        roots: cluster.bundle.clone().unwrap_or_else(|| BUNDLE.to_owned()),
        audience: cluster.audience.clone(),
        trust_domain: mesh.trust_domain.clone(),
        cluster: mesh.cluster.to_string(),
        cluster_domain: mesh.cluster_domain.to_string(),
        network: mesh.network.to_string(),
        normalisation: normalisation.unwrap_or_default(),
    })
}

fn mesh_settings(env: &mut Env, source: &Source) -> Settings {
    let root_namespace = match source {
        Source::Folder(_) => "istio-system",
        Source::Kubernetes(_) => "ambit-system",
    };
    let trust_domain = env.optional("TRUST_DOMAIN", "a trust domain", |text| TrustDomain::parse(text).ok());
    let cluster_domain = env
        .optional("CLUSTER_DOMAIN", "a DNS name", |text| Hostname::parse(text).ok())
        .map_or_else(|| arcstr::literal!("cluster.local"), |name| name.as_str().into());
    Settings {
        trust_domain: trust_domain.unwrap_or_else(default_trust_domain),
        cluster: env.string("CLUSTER_ID", "Kubernetes").into(),
        cluster_domain,
        network: Network(env.string("NETWORK", "").into()),
        root_namespace: env.string("AMBIT_ROOT_NAMESPACE", root_namespace).into(),
        providers: providers(env),
    }
}

/// `AMBIT_PROVIDERS`: `name=zipkin://host:port[/path]` or `name=otlp://host:port`, between commas.
fn providers(env: &mut Env) -> BTreeMap<ArcStr, Arc<Provider>> {
    let accepted = "name=zipkin://host:port[/path] or name=otlp://host:port, between commas";
    let all = env.list("AMBIT_PROVIDERS", accepted, provider);
    all.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect()
}

fn provider(text: &str) -> Option<Provider> {
    let (name, uri) = text.split_once('=')?;
    let uri: http::Uri = uri.parse().ok()?;
    let (wire, usual) = match uri.scheme_str()? {
        "zipkin" => (SpanWire::Zipkin, "/api/v2/spans"),
        "otlp" => (SpanWire::Otlp, ""),
        _ => return None,
    };
    let path = Some(uri.path()).filter(|path| wire == SpanWire::Zipkin && path.len() > 1);
    Some(Provider {
        name: Some(name).filter(|name| !name.is_empty())?.into(),
        wire,
        host: uri.host()?.trim_start_matches('[').trim_end_matches(']').into(),
        port: uri.port_u16()?,
        path: path.unwrap_or(usual).into(),
    })
}

#[expect(clippy::expect_used, reason = "a constant")]
fn default_trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("a constant that is a trust domain")
}

fn certificate_ttl(env: &mut Env) -> Duration {
    let ttl = env.duration("AMBIT_CERT_TTL", DAY);
    // X.509 counts in seconds.
    if ttl < Duration::from_secs(2) || ttl > LONGEST_TTL {
        env.reject("AMBIT_CERT_TTL", "a duration from 2s to 2160h");
    }
    ttl
}

/// A list between commas with a default in the same form.
fn list<T>(
    env: &mut Env,
    name: &str,
    default: &str,
    accepted: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    match env.optional_string(name) {
        Some(_) => env.list(name, accepted, parse),
        None => default.split(',').filter_map(parse).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, InvalidEnvironment> {
        let given = [("AMBIT_MANIFESTS", "/m"), ("AMBIT_STATE_DIR", "/s")];
        let all =
            given.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(Env::new(all))
    }

    #[test]
    fn defaults_are_those_of_istio() {
        let config = read(&[]).unwrap();
        assert_eq!(config.discovery_address.to_string(), "[::]:15012");
        assert_eq!(config.metrics_address.to_string(), "[::]:15014");
        assert_eq!(config.mesh.trust_domain.as_str(), "cluster.local");
        assert_eq!(config.mesh.cluster, "Kubernetes");
        assert_eq!(config.mesh.root_namespace, "istio-system");
        assert_eq!(config.certificate_ttl, DAY);
        assert_eq!(config.tls_names.len(), 3);
        assert_eq!(config.node_accounts.len(), 2);
    }

    #[test]
    fn providers_of_traces_are_told_by_name() {
        let text = "a=zipkin://zipkin.observe:9411,b=otlp://[::1]:4317";
        let providers = read(&[("AMBIT_PROVIDERS", text)]).unwrap().mesh.providers;
        let shown = |name: &str| {
            let provider = &providers[name];
            format!("{:?} {} {} {}", provider.wire, provider.host, provider.port, provider.path)
        };
        assert_eq!(shown("a"), "Zipkin zipkin.observe 9411 /api/v2/spans");
        assert_eq!(shown("b"), "Otlp ::1 4317 ");
        for wrong in ["zipkin://a:1", "=zipkin://a:1", "a=http://a:1", "a=otlp://a"] {
            assert!(read(&[("AMBIT_PROVIDERS", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn in_a_cluster_no_folder_is_needed() {
        let variables = [
            ("AMBIT_SOURCE", "kubernetes"),
            ("AMBIT_CA_CONFIGMAP", "none"),
            ("AMBIT_WEBHOOK", "ambit-control"),
            ("POD_NAME", "a"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::read(Env::new(variables)).unwrap();
        assert_eq!(config.mesh.root_namespace, "ambit-system");
        let expected = Kubernetes {
            access: Access::Pod,
            namespace: None,
            replica: "a".to_owned(),
            audience: "istio-ca".to_owned(),
            bundle: None,
            webhook_address: "[::]:15017".parse().unwrap(),
            webhook: Some("ambit-control".to_owned()),
            waypoints: None,
        };
        assert_eq!(config.source, Source::Kubernetes(expected));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let error = read(&[
            ("AMBIT_MANIFESTS", ""),
            ("AMBIT_XDS_ADDR", "15012"),
            ("TRUST_DOMAIN", "a/b"),
            ("AMBIT_CERT_TTL", "1s"),
            ("CA_TRUSTED_NODE_ACCOUNTS", "ztunnel"),
            ("LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        let inside = read(&[("AMBIT_STATE_DIR", "/m/state")]).unwrap_err();
        assert_eq!(inside.0[0].accepted, "a folder outside AMBIT_MANIFESTS");
        let names: Vec<&str> = error.0.iter().map(|invalid| invalid.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "AMBIT_MANIFESTS",
                "AMBIT_XDS_ADDR",
                "TRUST_DOMAIN",
                "AMBIT_CERT_TTL",
                "CA_TRUSTED_NODE_ACCOUNTS",
                "LOG_FORMAT"
            ]
        );
    }
}
