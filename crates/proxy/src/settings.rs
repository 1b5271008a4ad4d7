// SPDX-License-Identifier: Apache-2.0
//! What both proxies read from the environment, under Istio's names and with Istio's defaults. It does not read it by
//! itself: each proxy's config.rs does, once.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hbone::Settings;
use identity::{Compliance, Profile, RootSource, Token, Trust};
use mesh::{Network, TrustDomain};
use runtime::{
    env::Env,
    log::{Filter, Format, LogSettings},
};

use crate::shown::Addresses;

/// What every proxy is told.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Discovery (`XDS_ADDRESS`).
    pub xds: Upstream,
    /// Certificates (`CA_ADDRESS`).
    pub ca: Upstream,
    /// Bearer token: a file, or the token itself (`AUTH_TOKEN`).
    pub token: Token,
    /// `CLUSTER_ID`.
    pub cluster: String,
    /// Network of this process (`NETWORK`).
    pub network: Network,
    /// What the discovery server is told about this process.
    pub node_id: NodeId,
    /// Life of the certificates that are asked for (`SECRET_TTL`).
    pub certificate_life: Duration,
    /// Only the post-quantum key exchange, or not (`COMPLIANCE_POLICY=pqc`).
    pub compliance: Compliance,
    /// Trust domains that are accepted besides the own one (`AMBIT_TRUST_DOMAIN_ALIASES`).
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Tunnels.
    pub tunnel: TunnelConfig,
    /// Time that what runs gets at the end.
    pub drain: Duration,
    /// `RUST_LOG`, `LOG_FORMAT`.
    pub log: LogSettings,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// `15000` on loopback, `15020` and `15021`.
    pub addresses: Addresses,
}

impl ProxyConfig {
    /// Of a proxy of a role (`ztunnel`, `waypoint`); `stream_window` is that of a tunnel's stream unless something else is
    /// said.
    pub fn new(env: &mut Env, role: &str, stream_window: u32) -> Self {
        let cluster = env.string("ISTIO_META_CLUSTER_ID", "Kubernetes");
        let cluster = env.string("CLUSTER_ID", &cluster);
        let ipv6 = env.flag("IPV6_ENABLED", true);
        let pqc = env.optional("COMPLIANCE_POLICY", "pqc", |text| (text == "pqc").then_some(()));
        Self {
            xds: upstream(env, "XDS"),
            ca: upstream(env, "CA"),
            token: token(env),
            network: Network(env.string("NETWORK", "").into()),
            node_id: node_id(env, role, &cluster),
            certificate_life: env.duration("SECRET_TTL", Duration::from_secs(24 * 3600)),
            compliance: pqc.map_or(Compliance::Preferred, |()| Compliance::PostQuantum),
            trust_domain_aliases: env
                .list("AMBIT_TRUST_DOMAIN_ALIASES", "trust domains", |text| TrustDomain::parse(text).ok()),
            tunnel: tunnel(env, stream_window),
            drain: drain(env),
            log: log(env),
            ipv6,
            addresses: Addresses {
                admin: env.address("AMBIT_ADMIN_ADDR", SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000)),
                metrics: env.address("AMBIT_METRICS_ADDR", everywhere(ipv6, 15020)),
                readiness: env.address("AMBIT_READINESS_ADDR", everywhere(ipv6, 15021)),
            },
            cluster,
        }
    }

    /// A port of every address.
    pub fn everywhere(&self, port: u16) -> SocketAddr {
        everywhere(self.ipv6, port)
    }

    /// How TLS is done.
    pub fn profile(&self) -> Profile {
        let trust = Trust { aliases: self.trust_domain_aliases.clone(), bundles: Vec::new() };
        Profile::new(self.compliance, trust)
    }
}

fn everywhere(ipv6: bool, port: u16) -> SocketAddr {
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

/// A server of the control plane.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `https://host:port`.
    pub address: String,
    /// Root certificates: a file, the PEM text itself, or `SYSTEM`.
    pub roots: RootSource,
    /// Another name that the server's certificate may carry (`ALT_*_HOSTNAME`).
    pub alternative_name: Option<String>,
    /// `*_HEADER_*`.
    pub headers: BTreeMap<String, String>,
}

/// Bounds of tunnels and of their pool.
#[derive(Clone, Copy, Debug)]
pub struct TunnelConfig {
    /// `POOL_MAX_STREAMS_PER_CONNECTION`.
    pub max_streams: u16,
    /// `POOL_UNUSED_RELEASE_TIMEOUT`.
    pub idle: Duration,
    /// `HTTP2_STREAM_WINDOW_SIZE`, bytes.
    pub stream_window: u32,
    /// `HTTP2_CONNECTION_WINDOW_SIZE`, bytes.
    pub connection_window: u32,
    /// `HTTP2_FRAME_SIZE`, bytes.
    pub frame: u32,
    /// `ENABLE_RESPONSE_BAGGAGE`.
    pub response_baggage: bool,
}

/// How this process introduces itself to the discovery server.
#[derive(Clone, Debug)]
pub struct NodeId {
    /// `<role>~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local`.
    pub id: String,
    /// `NAME`, `NAMESPACE`, `NODE_NAME` and every `ISTIO_META_*`.
    pub metadata: BTreeMap<String, String>,
}

/// A server of the control plane: `<which>_ADDRESS`, `<which>_ROOT_CA` and so on.
fn upstream(env: &Env, which: &str) -> Upstream {
    let roots = env.string(&format!("{which}_ROOT_CA"), "./var/run/secrets/istio/root-cert.pem");
    Upstream {
        address: env.string(&format!("{which}_ADDRESS"), "https://istiod.istio-system.svc:15012"),
        roots: RootSource::from(roots.as_str()),
        alternative_name: env.optional_string(&format!("ALT_{which}_HOSTNAME")),
        headers: env.with_prefix(&format!("{which}_HEADER_")),
    }
}

/// Bearer token: a file, or the token itself (`AUTH_TOKEN`).
fn token(env: &Env) -> Token {
    let token = env.string("AUTH_TOKEN", "./var/run/secrets/tokens/istio-token");
    // A path has a slash; a token (base64 of JSON, or an opaque word) that starts with one does not exist.
    if token.starts_with(['/', '.']) { Token::File(token.into()) } else { Token::Literal(token) }
}

/// Level and form of the log (`RUST_LOG`, `LOG_FORMAT`).
fn log(env: &mut Env) -> LogSettings {
    LogSettings {
        filter: env
            .optional("RUST_LOG", "levels such as info or info,access=off", |text| {
                text.parse::<Filter>().ok()
            })
            .unwrap_or_default(),
        format: env
            .optional("LOG_FORMAT", "plain or json", |text| text.parse::<Format>().ok())
            .unwrap_or_default(),
    }
}

/// How a proxy of a role (`ztunnel`, `waypoint`) introduces itself.
fn node_id(env: &Env, role: &str, cluster: &str) -> NodeId {
    let name = env.string("POD_NAME", role);
    let namespace = env.string("POD_NAMESPACE", "istio-system");
    let ip = env.string("INSTANCE_IP", "127.0.0.1");
    let mut metadata = env.with_prefix("ISTIO_META_");
    for (key, value) in [
        ("NAME", name.as_str()),
        ("NAMESPACE", namespace.as_str()),
        ("INSTANCE_IPS", ip.as_str()),
        ("NODE_NAME", env.string("NODE_NAME", "").as_str()),
        ("CLUSTER_ID", cluster),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    NodeId { id: format!("{role}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"), metadata }
}

/// Bounds of tunnels; `stream_window` is that of a stream unless something else is said.
fn tunnel(env: &mut Env, stream_window: u32) -> TunnelConfig {
    const LARGEST_WINDOW: u32 = (1 << 31) - 1;
    let config = TunnelConfig {
        max_streams: env.number("POOL_MAX_STREAMS_PER_CONNECTION", 100, 2..=u16::MAX),
        idle: env.duration("POOL_UNUSED_RELEASE_TIMEOUT", Duration::from_secs(300)),
        stream_window: env.number("HTTP2_STREAM_WINDOW_SIZE", stream_window, 65_535..=LARGEST_WINDOW),
        connection_window: env.number("HTTP2_CONNECTION_WINDOW_SIZE", 16 << 20, 65_535..=LARGEST_WINDOW),
        frame: env.number("HTTP2_FRAME_SIZE", 1 << 20, 16_384..=16_777_215),
        response_baggage: env.flag("ENABLE_RESPONSE_BAGGAGE", true),
    };
    // Streams that nobody reads hold credit of the connection; with less than four of them it would stand still.
    if config.connection_window / 4 < config.stream_window {
        env.reject("HTTP2_CONNECTION_WINDOW_SIZE", "at least four times HTTP2_STREAM_WINDOW_SIZE");
    }
    config
}

impl TunnelConfig {
    /// The settings of one end, with these bounds.
    pub fn bound(&self, base: Settings) -> Settings {
        Settings {
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            max_frame: self.frame,
            max_streams: self.max_streams.into(),
            ..base
        }
    }
}

/// Less than the grace period of the pod, so that the process ends by itself.
fn drain(env: &mut Env) -> Duration {
    let grace = env.number("TERMINATION_GRACE_PERIOD_SECONDS", 0_u64, 0..=86_400);
    let derived = match grace {
        0 => 5,
        1..=10 => (grace - 1).max(1),
        11.. => grace - 5,
    };
    env.duration("CONNECTION_TERMINATION_DEADLINE", Duration::from_secs(derived))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> ProxyConfig {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut env = Env::new(variables);
        let config = ProxyConfig::new(&mut env, "ztunnel", 1 << 20);
        env.finish().unwrap();
        config
    }

    #[test]
    fn the_drain_ends_before_the_grace_period() {
        for (grace, drain) in [("1", 1), ("2", 1), ("10", 9), ("11", 6), ("30", 25)] {
            let config = config(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]);
            assert_eq!(config.drain, Duration::from_secs(drain), "grace period {grace}");
        }
    }

    #[test]
    fn a_token_is_given_in_place_or_as_a_path() {
        let token = |value| config(&[("AUTH_TOKEN", value)]).token;
        assert_eq!(token("abc"), Token::Literal("abc".into()));
        assert_eq!(token("/run/token"), Token::File("/run/token".into()));
        assert_eq!(token("./token"), Token::File("./token".into()));
    }

    #[test]
    fn metrics_and_probes_are_answered_everywhere_and_admin_on_loopback_alone() {
        for (ipv6, any) in [("true", "[::]"), ("false", "0.0.0.0")] {
            let config = config(&[("IPV6_ENABLED", ipv6)]);
            let Addresses { admin, metrics, readiness } = config.addresses;
            assert_eq!(
                [metrics, readiness].map(|at| at.to_string()),
                [15020, 15021].map(|port| format!("{any}:{port}"))
            );
            assert_eq!(admin.to_string(), "127.0.0.1:15000");
        }
    }
}
