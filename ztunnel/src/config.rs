// SPDX-License-Identifier: Apache-2.0
//! The environment, read once, under Istio's names and with Istio's defaults; what is Ambit's own starts with `AMBIT_`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use identity::Token;
use mesh::{Network, TrustDomain};
use proxy::settings::{self, NodeId, TunnelConfig, Upstream};
use runtime::{
    env::{Env, InvalidEnvironment},
    log::LogSettings,
};

use crate::socket::Keepalive;

/// Whether a parent starts this process again when it was killed.
pub const RESTART: &str = "AMBIT_RESTART";
/// Set by the parent: how often it did.
pub const RESTARTS: &str = "AMBIT_RESTARTS";

/// What a stream of a tunnel may carry before it is read, as Istio's ends have it.
const STREAM_WINDOW: u32 = 4 << 20;

/// Everything that can be set from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// Discovery (`XDS_ADDRESS`).
    pub xds: Upstream,
    /// Certificates (`CA_ADDRESS`).
    pub ca: Upstream,
    /// Bearer token: a file, or the token itself (`AUTH_TOKEN`).
    pub token: Token,
    /// `CLUSTER_ID`.
    pub cluster: String,
    /// `CLUSTER_DOMAIN`.
    pub cluster_domain: String,
    /// Network of this node (`NETWORK`).
    pub network: Network,
    /// `NODE_NAME`: certificates of its workloads are fetched ahead.
    pub node: String,
    /// Life of the certificates that are asked for (`SECRET_TTL`).
    pub certificate_life: Duration,
    /// What the discovery server is told about this process.
    pub node_id: NodeId,
    /// `ZTUNNEL_WORKER_THREADS`.
    pub workers: usize,
    /// Tunnels.
    pub tunnel: TunnelConfig,
    /// `KEEPALIVE_*`, `USER_TIMEOUT_ENABLED`.
    pub keepalive: Option<Keepalive>,
    /// `PACKET_MARK`.
    pub mark: Option<u32>,
    /// Whether the application sees the client's address (`ENABLE_ORIG_SRC`).
    pub preserve_source: bool,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// `INPOD_UDS`: where the node agent serves ZDS.
    pub zds: PathBuf,
    /// `INPOD_PORT_REUSE`.
    pub port_reuse: bool,
    /// `AMBIT_CLAIM_MAP`: the node agent's claim map; unset under istio-cni.
    pub claim_map: Option<PathBuf>,
    /// `AMBIT_RESOLV_CONF`: servers that DNS questions are passed on to.
    pub resolv_conf: PathBuf,
    /// Whether DNS is served (`ISTIO_META_DNS_CAPTURE`).
    pub dns: bool,
    /// `PREFERED_SERVICE_NAMESPACE` (Istio's spelling).
    pub preferred_namespace: Option<String>,
    /// Only the post-quantum key exchange (`COMPLIANCE_POLICY=pqc`).
    pub post_quantum_only: bool,
    /// Trust domains that are accepted besides the own one (`AMBIT_TRUST_DOMAIN_ALIASES`).
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Time that running connections get at the end.
    pub drain: Duration,
    /// `RUST_LOG`, `LOG_FORMAT`.
    pub log: LogSettings,
    /// How often this process was started again by its parent (`AMBIT_RESTARTS`, which the parent sets).
    pub restarts: u32,
    /// `15000`, on loopback.
    pub admin: SocketAddr,
    /// `15020`.
    pub metrics: SocketAddr,
    /// `15021`.
    pub readiness: SocketAddr,
}

impl Config {
    /// Reads variables given as name and value.
    ///
    /// # Errors
    /// Names every variable that cannot be used, what it holds and what it should.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, InvalidEnvironment> {
        let mut env = Env::new(variables);
        let cluster = env.string("ISTIO_META_CLUSTER_ID", "Kubernetes");
        let cluster = env.string("CLUSTER_ID", &cluster);
        let ipv6 = env.flag("IPV6_ENABLED", true);
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let at = |port| SocketAddr::new(any, port);
        let config = Self {
            xds: settings::upstream(&env, "XDS"),
            ca: settings::upstream(&env, "CA"),
            token: settings::token(&env),
            cluster_domain: env.string("CLUSTER_DOMAIN", "cluster.local"),
            network: Network(env.string("NETWORK", "").into()),
            node: env.string("NODE_NAME", ""),
            certificate_life: env.duration("SECRET_TTL", Duration::from_secs(24 * 3600)),
            node_id: settings::node_id(&env, "ztunnel", &cluster),
            workers: workers(&mut env),
            tunnel: settings::tunnel(&mut env, STREAM_WINDOW),
            keepalive: keepalive(&mut env),
            mark: env.optional("PACKET_MARK", "a number", |text| text.parse().ok()).or(Some(1337)),
            preserve_source: env.flag("ENABLE_ORIG_SRC", true),
            ipv6,
            zds: env.path("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
            port_reuse: env.flag("INPOD_PORT_REUSE", true),
            claim_map: env.optional_path("AMBIT_CLAIM_MAP"),
            resolv_conf: env.path("AMBIT_RESOLV_CONF", "/etc/resolv.conf"),
            dns: env.flag("ISTIO_META_DNS_CAPTURE", true),
            preferred_namespace: env.optional_string("PREFERED_SERVICE_NAMESPACE"),
            post_quantum_only: env
                .optional("COMPLIANCE_POLICY", "pqc", |text| (text == "pqc").then_some(()))
                .is_some(),
            trust_domain_aliases: env
                .list("AMBIT_TRUST_DOMAIN_ALIASES", "trust domains", |text| TrustDomain::parse(text).ok()),
            drain: settings::drain(&mut env),
            log: settings::log(&mut env),
            restarts: env.number(RESTARTS, 0, 0..=u32::MAX),
            admin: env.address("AMBIT_ADMIN_ADDR", SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000)),
            metrics: env.address("AMBIT_METRICS_ADDR", at(15020)),
            readiness: env.address("AMBIT_READINESS_ADDR", at(15021)),
            cluster,
        };
        env.finish()?;
        Ok(config)
    }
}

/// A number, a share of the cores (`25%`, rounded up), or 0 for all of them; a quarter and at least two by default.
fn workers(env: &mut Env) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = |percent: usize| (cores * percent).div_ceil(100).max(1);
    env.optional("ZTUNNEL_WORKER_THREADS", "a number of threads or a share such as 50%", |text| {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(share),
            None => text.parse().ok().map(|threads| if threads == 0 { cores } else { threads }),
        }
    })
    .unwrap_or_else(|| share(25).max(2))
}

fn keepalive(env: &mut Env) -> Option<Keepalive> {
    let keepalive = Keepalive {
        time: env.duration("KEEPALIVE_TIME", Duration::from_secs(180)),
        interval: env.duration("KEEPALIVE_INTERVAL", Duration::from_secs(180)),
        retries: env.number("KEEPALIVE_RETRIES", 9, 1..=127),
        user_timeout: env.flag("USER_TIMEOUT_ENABLED", false),
    };
    env.flag("KEEPALIVE_ENABLED", true).then_some(keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, InvalidEnvironment> {
        Config::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults_of_istio() {
        let config = config(&[]).unwrap();
        assert_eq!(config.xds.address, "https://istiod.istio-system.svc:15012");
        assert_eq!(config.cluster, "Kubernetes");
        assert_eq!(config.mark, Some(1337));
        assert_eq!(config.tunnel.max_streams, 100);
        assert_eq!(config.drain, Duration::from_secs(5));
        assert!(config.workers >= 2);
        assert_eq!(config.readiness.port(), 15021);
    }

    #[test]
    fn the_drain_ends_before_the_grace_period() {
        for (grace, drain) in [("1", 1), ("2", 1), ("10", 9), ("11", 6), ("30", 25)] {
            let config = config(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]).unwrap();
            assert_eq!(config.drain, Duration::from_secs(drain), "grace period {grace}");
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let error = config(&[
            ("KEEPALIVE_RETRIES", "many"),
            ("ZTUNNEL_WORKER_THREADS", "half"),
            ("HTTP2_CONNECTION_WINDOW_SIZE", "65535"),
        ])
        .unwrap_err()
        .to_string();
        for name in ["KEEPALIVE_RETRIES", "ZTUNNEL_WORKER_THREADS", "HTTP2_CONNECTION_WINDOW_SIZE"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_token_is_given_in_place_or_as_a_path() {
        let token = |value| config(&[("AUTH_TOKEN", value)]).unwrap().token;
        assert_eq!(token("abc"), Token::Literal("abc".into()));
        assert_eq!(token("/run/token"), Token::File("/run/token".into()));
        assert_eq!(token("./token"), Token::File("./token".into()));
    }

    #[test]
    fn metadata_reaches_the_discovery_server() {
        let config =
            config(&[("ISTIO_META_DNS_CAPTURE", "false"), ("POD_NAME", "z"), ("INSTANCE_IP", "10.0.0.1")]);
        let config = config.unwrap();
        assert!(!config.dns);
        assert_eq!(config.node_id.metadata["DNS_CAPTURE"], "false");
        assert_eq!(config.node_id.id, "ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local");
    }
}
