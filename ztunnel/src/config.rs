// SPDX-License-Identifier: Apache-2.0
//! The environment, read once, under Istio's names and with Istio's defaults; what is Ambit's own starts with `AMBIT_`.

use std::{path::PathBuf, time::Duration};

use proxy::settings::ProxyConfig;
use runtime::env::{Env, InvalidEnvironment};

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
    /// What every proxy is told.
    pub proxy: ProxyConfig,
    /// `CLUSTER_DOMAIN`.
    pub cluster_domain: String,
    /// `NODE_NAME`: certificates of its workloads are fetched ahead.
    pub node: String,
    /// `ZTUNNEL_WORKER_THREADS`.
    pub workers: usize,
    /// `KEEPALIVE_*`, `USER_TIMEOUT_ENABLED`.
    pub keepalive: Option<Keepalive>,
    /// `PACKET_MARK`.
    pub mark: Option<u32>,
    /// Whether the application sees the client's address (`ENABLE_ORIG_SRC`).
    pub preserve_source: bool,
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
    /// How often this process was started again by its parent (`AMBIT_RESTARTS`, which the parent sets).
    pub restarts: u32,
}

impl Config {
    /// Reads variables given as name and value.
    ///
    /// # Errors
    /// Names every variable that cannot be used, what it holds and what it should.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, InvalidEnvironment> {
        let mut env = Env::new(variables);
        let proxy = ProxyConfig::new(&mut env, "ztunnel", STREAM_WINDOW);
        let config = Self {
            cluster_domain: env.string("CLUSTER_DOMAIN", "cluster.local"),
            node: env.string("NODE_NAME", ""),
            workers: workers(&mut env),
            keepalive: keepalive(&mut env),
            mark: env.optional("PACKET_MARK", "a number", |text| text.parse().ok()).or(Some(1337)),
            preserve_source: env.flag("ENABLE_ORIG_SRC", true),
            zds: env.path("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
            port_reuse: env.flag("INPOD_PORT_REUSE", true),
            claim_map: env.optional_path("AMBIT_CLAIM_MAP"),
            resolv_conf: env.path("AMBIT_RESOLV_CONF", "/etc/resolv.conf"),
            dns: env.flag("ISTIO_META_DNS_CAPTURE", true),
            preferred_namespace: env.optional_string("PREFERED_SERVICE_NAMESPACE"),
            restarts: env.number(RESTARTS, 0, 0..=u32::MAX),
            proxy,
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
        assert_eq!(config.proxy.xds.address, "https://istiod.istio-system.svc:15012");
        assert_eq!(config.proxy.cluster, "Kubernetes");
        assert_eq!(config.mark, Some(1337));
        assert_eq!(config.proxy.tunnel.max_streams, 100);
        assert_eq!(config.proxy.drain, Duration::from_secs(5));
        assert!(config.workers >= 2);
        assert_eq!(config.proxy.addresses.readiness.port(), 15021);
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
    fn metadata_reaches_the_discovery_server() {
        let config =
            config(&[("ISTIO_META_DNS_CAPTURE", "false"), ("POD_NAME", "z"), ("INSTANCE_IP", "10.0.0.1")]);
        let config = config.unwrap();
        assert!(!config.dns);
        assert_eq!(config.proxy.node_id.metadata["DNS_CAPTURE"], "false");
        assert_eq!(config.proxy.node_id.id, "ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local");
    }
}
