// SPDX-License-Identifier: Apache-2.0
//! The certificate authority in Secrets of our namespace: `cacerts`, which somebody has put there, or else `ambit-ca`,
//! which the first replica makes. Of two that make it at once one is refused, and takes what the other has made.

use std::time::SystemTime;

use kubernetes::{Api, ApiError, Resource, Secret, Watch, Within, json};
use mesh::TrustDomain;
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

/// Where the authority is kept.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) api: Api,
    pub(crate) namespace: String,
    pub(crate) trust_domain: TrustDomain,
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
    pub(crate) async fn follow(self, signer: Signer, shutdown: Shutdown) {
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
            while changed.recv().await.is_some() {
                self.reload(&signer).await;
            }
        };
        tokio::select! {
            () = watching => {}
            () = loading => {}
            () = shutdown.requested() => {}
        }
    }

    async fn reload(&self, signer: &Signer) {
        // A Secret that is gone while its root is in force is no reason to begin a new mesh.
        match self.current().await {
            Ok(Some(root)) if !root.is_same(&signer.root()) => {
                signer.replace(root);
                tracing::info!("another certificate authority is in force");
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::error!("the Secret of the root is gone: restore it, its root stays in force")
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                tracing::error!(%error, cause, "the authority cannot be read again, what was read before stays in force");
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

    fn root(&self, secret: &Secret) -> Result<Root, LoadError> {
        let text = |key: &str| secret.texts.get(key).cloned().unwrap_or_default();
        let material = Material {
            origin: format!("Secret {}/{}", secret.namespace, secret.name),
            certificate: text(CERTIFICATE),
            key: text(KEY),
            chain: text(CHAIN),
            roots: text(ROOTS),
        };
        Ok(Root::of(&material, &self.trust_domain, SystemTime::now())?)
    }

    fn failed(&self, what: &'static str, name: &str, source: ApiError) -> LoadError {
        LoadError::Api { what, name: format!("{}/{name}", self.namespace), source }
    }
}
