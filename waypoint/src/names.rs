// SPDX-License-Identifier: Apache-2.0
//! Addresses of endpoints that have a name and no address. An answer is kept as long as its records live, within bounds: a
//! request must not cost a question each, and a name that moves must be followed.

use std::{fmt, net::IpAddr, path::Path, time::Duration};

use hickory_resolver::{
    TokioResolver, config::ResolverOpts, net::runtime::TokioRuntimeProvider, system_conf::parse_resolv_conf,
};
use mesh::Hostname;

/// Answers that are kept.
const KEPT: u64 = 4096;
/// Whatever a record says, it is asked for again after so long …
const LONGEST: Duration = Duration::from_secs(300);
/// … and not before.
const SHORTEST: Duration = Duration::from_secs(1);
/// That a name has no address is believed no longer.
const ABSENT: Duration = Duration::from_secs(10);
/// A server that does not answer by then is given up for the next one.
const ANSWER: Duration = Duration::from_secs(2);

/// See the module.
pub struct Names(Option<TokioResolver>);

impl Names {
    /// Asks the servers that a `resolv.conf` names; without a usable one no name has an address.
    pub fn new(path: &Path) -> Self {
        let parsed = std::fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|text| parse_resolv_conf(text).map_err(|error| error.to_string()));
        let built = parsed.and_then(|(config, options)| {
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(bounded(options)).build().map_err(|error| error.to_string())
        });
        if let Err(error) = &built {
            tracing::warn!(path = %path.display(), %error, "no DNS servers: endpoints that are names have no addresses");
        }
        Self(built.ok())
    }

    /// Addresses of a name; empty when there are none.
    pub async fn addresses(&self, name: &Hostname) -> Vec<IpAddr> {
        let Some(lookup) = &self.0 else { return Vec::new() };
        metrics::counter!("istio_on_demand_dns_total", "hostname" => name.as_str().to_owned()).increment(1);
        match lookup.lookup_ip(format!("{name}.")).await {
            Ok(found) => found.iter().map(|ip| ip.to_canonical()).collect(),
            Err(error) => {
                tracing::debug!(%error, host = %name, "a name has no address");
                Vec::new()
            }
        }
    }
}

fn bounded(mut options: ResolverOpts) -> ResolverOpts {
    options.cache_size = KEPT;
    options.timeout = ANSWER;
    options.positive_min_ttl = Some(SHORTEST);
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(ABSENT);
    options
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&self.0.is_some()).finish()
    }
}
