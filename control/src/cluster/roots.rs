// SPDX-License-Identifier: Apache-2.0
//! The certificate authority in Secrets of our namespace: `cacerts`, which somebody has put there, or else `ambit-ca`,
//! which the first replica makes. Of two that make it at once one is refused, and takes what the other has made. When
//! `ambit-ca` is deleted the leader writes it again: whoever started without it would begin another mesh.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kubernetes::{Api, ApiError, Leadership, Resource, Secret, Watch, Within, json};
use mesh::TrustDomain;
use parking_lot::Mutex;
use runtime::Shutdown;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use crate::ca::{Material, Root, RootError, Signer};

/// The name that Istio has given to it.
const PLUGGED: &str = "cacerts";
pub(super) const OWN: &str = "ambit-ca";
pub(super) const CERTIFICATE: &str = "ca-cert.pem";
pub(super) const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
pub(super) const ROOTS: &str = "root-cert.pem";

/// What could not be read or written is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);

/// Where the authority is kept.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) api: Api,
    pub(crate) namespace: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) kept: Kept,
}

/// The texts of our own Secret while its root is in force, to write it again; never shown, for the key is among them.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Option<BTreeMap<String, String>>>>);

impl Kept {
    /// The root of this Secret comes into force. One that is plugged in is its owner's to restore.
    fn take(&self, secret: &Secret) {
        *self.0.lock() = (secret.name == OWN).then(|| secret.texts.clone());
    }

    fn texts(&self) -> Option<BTreeMap<String, String>> {
        self.0.lock().clone()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It cannot be read or written.
    #[error("cannot {what} Secret {name}")]
    Api {
        /// `read`, `make`.
        what: &'static str,
        /// Namespace and name.
        name: String,
        /// Why not.
        #[source]
        source: ApiError,
    },
    /// It is there and cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
}

impl LoadError {
    /// Whether the same may succeed later by itself.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Api { source, .. } => source.is_outage(),
            Self::Root(_) => false,
        }
    }
}

impl Roots {
    /// The root as it is now; made if there is none.
    pub(crate) async fn load(&self) -> Result<Root, LoadError> {
        if let Some(plugged) = self.find(PLUGGED).await? {
            return self.root(&plugged);
        }
        if let Some(own) = self.find(OWN).await? {
            return self.root(&own);
        }
        let made = Root::generate(&self.trust_domain, SystemTime::now())?;
        let texts = [(CERTIFICATE, made.certificate), (KEY, made.key), (ROOTS, made.roots)];
        let texts = texts.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
        let secret = Secret::new(&self.namespace, OWN, texts);
        match secret.create(&self.api).await {
            Ok(()) => {
                tracing::info!(?secret, "a new root was made");
                self.root(&secret)
            }
            Err(error) if error.is_conflict() => match self.find(OWN).await? {
                Some(own) => self.root(&own),
                None => Err(self.failed("make", OWN, error)),
            },
            Err(error) => Err(self.failed("make", OWN, error)),
        }
    }

    /// Takes over what is changed in the Secrets, until the process is asked to finish.
    pub(crate) async fn follow(self, signer: Signer, mut leadership: Leadership, shutdown: Shutdown) {
        let (events, mut changed) = mpsc::channel(1);
        let watch = |name: &'static str| {
            let watch = Watch {
                within: Within::Namespace(self.namespace.clone()),
                fields: Some(format!("metadata.name={name}")),
                ..Watch::new(name, [Resource::core("secrets")])
            };
            watch.run(self.api.clone(), json::<IgnoredAny>, events.clone())
        };
        let watching = async {
            tokio::join!(watch(PLUGGED), watch(OWN));
        };
        let loading = async {
            let mut is_done = true;
            loop {
                tokio::select! {
                    heard = changed.recv() => if heard.is_none() { return },
                    () = leadership.changed() => {}
                    () = tokio::time::sleep(RETRY), if !is_done => {}
                }
                is_done = self.reload(&signer, &leadership).await;
            }
        };
        tokio::select! {
            () = watching => {}
            () = loading => {}
            () = shutdown.requested() => {}
        }
    }

    /// Says whether nothing is left to be tried again.
    async fn reload(&self, signer: &Signer, leadership: &Leadership) -> bool {
        match self.current().await {
            Ok(Some(root)) if !root.is_same(&signer.root()) => {
                signer.replace(root);
                tracing::info!("another certificate authority is in force");
                true
            }
            Ok(Some(_)) => true,
            // A Secret that is gone while its root is in force is no reason to begin a new mesh.
            Ok(None) => self.restore(leadership).await,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                tracing::error!(%error, cause, "the authority cannot be read again, what was read before stays in force");
                !error.is_outage()
            }
        }
    }

    /// Writes our own Secret again as it was; says whether nothing is left to be tried again.
    async fn restore(&self, leadership: &Leadership) -> bool {
        let Some(texts) = self.kept.texts() else {
            tracing::error!("the Secret of the root is gone: restore it, its root stays in force");
            return true;
        };
        if !leadership.is_mine() {
            return false;
        }
        let secret = Secret::new(&self.namespace, OWN, texts);
        match secret.create(&self.api).await {
            Ok(()) => {
                tracing::warn!(?secret, "the Secret of the root was gone and has been written again");
                true
            }
            // Somebody else has made one, of which we shall hear; or nothing is made here any more.
            Err(error) if error.is_conflict() || error.is_terminating() => true,
            Err(error) => {
                tracing::error!(?secret, %error, retry = ?RETRY, "the Secret of the root is gone and cannot be written again");
                false
            }
        }
    }

    async fn current(&self) -> Result<Option<Root>, LoadError> {
        for name in [PLUGGED, OWN] {
            if let Some(secret) = self.find(name).await? {
                return self.root(&secret).map(Some);
            }
        }
        Ok(None)
    }

    async fn find(&self, name: &str) -> Result<Option<Secret>, LoadError> {
        let found = Secret::find(&self.api, &self.namespace, name).await;
        found.map_err(|error| self.failed("read", name, error))
    }

    /// The authority of a Secret that is about to be in force.
    fn root(&self, secret: &Secret) -> Result<Root, LoadError> {
        let text = |key: &str| secret.texts.get(key).cloned().unwrap_or_default();
        let material = Material {
            origin: format!("Secret {}/{}", secret.namespace, secret.name),
            certificate: text(CERTIFICATE),
            key: text(KEY),
            chain: text(CHAIN),
            roots: text(ROOTS),
        };
        let root = Root::of(&material, &self.trust_domain, SystemTime::now())?;
        self.kept.take(secret);
        Ok(root)
    }

    fn failed(&self, what: &'static str, name: &str, source: ApiError) -> LoadError {
        LoadError::Api { what, name: format!("{}/{name}", self.namespace), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_secret_is_kept_with_all_that_a_rotation_has_put_into_it_and_is_not_shown() {
        let texts: BTreeMap<String, String> = [(KEY, "the key"), ("next-ca-key.pem", "the next")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let kept = Kept::default();
        kept.take(&Secret::new("ambit-system", OWN, texts.clone()));
        assert_eq!(kept.texts(), Some(texts.clone()));
        assert!(!format!("{kept:?}").contains("the key"));
        kept.take(&Secret::new("ambit-system", PLUGGED, texts));
        assert_eq!(kept.texts(), None, "the other one is not in force any more");
    }
}
