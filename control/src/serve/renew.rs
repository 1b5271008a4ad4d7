// SPDX-License-Identifier: Apache-2.0
//! The certificate of this process's own server, renewed at half its life and when another root is in force.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use identity::{Compliance, Profile, Trust};
use parking_lot::RwLock;
use runtime::Shutdown;
use rustls::ServerConfig;

use crate::ca::{Root, ServingName, Signer};

/// After a failure; the old certificate has half its life left.
const RETRY: Duration = Duration::from_secs(60);

/// The TLS configuration for the next handshake; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    signer: Signer,
    names: Arc<[ServingName]>,
    profile: Profile,
    config: Arc<RwLock<Arc<ServerConfig>>>,
    renew_in: Duration,
}

impl Serving {
    /// With a first certificate.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) fn new(signer: Signer, names: &[ServingName]) -> anyhow::Result<Self> {
        let profile = Profile::new(Compliance::Preferred, Trust::default());
        let (config, renew_in) = make(&signer.root(), names, &profile)?;
        Ok(Self { signer, names: names.into(), profile, config: Arc::new(RwLock::new(config)), renew_in })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read())
    }

    /// For a port that speaks HTTP/1.1 as well: the API server asks webhooks in nothing else.
    pub(super) fn config_for_http(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// Renews until the process is asked to finish.
pub(crate) async fn renew(serving: Serving, shutdown: Shutdown) {
    let mut wait = serving.renew_in;
    let mut replaced = serving.signer.changes();
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
            // The sender lives in `serving`.
            _ = replaced.changed() => {}
        }
        wait = match make(&serving.signer.root(), &serving.names, &serving.profile) {
            Ok((config, half_life)) => {
                *serving.config.write() = config;
                tracing::info!("serving certificate renewed");
                half_life
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), retry = ?RETRY, "serving certificate not renewed");
                RETRY
            }
        };
    }
}

fn make(
    root: &Root,
    names: &[ServingName],
    profile: &Profile,
) -> anyhow::Result<(Arc<ServerConfig>, Duration)> {
    let made = root.serving(names, SystemTime::now()).context("cannot issue the serving certificate")?;
    let config =
        profile.serving_config(made.chain, made.key).context("cannot use the serving certificate")?;
    // Never at once again, or the end of the root's life would be a busy loop.
    Ok((config, made.half_life.max(Duration::from_secs(1))))
}
