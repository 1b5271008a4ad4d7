// SPDX-License-Identifier: Apache-2.0
//! A certificate authority in memory that really signs, and a clock that follows tokio's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use mesh::SpiffeId;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyPair, PublicKeyData, SanType,
};
use tokio::time::Instant;

use crate::{Authority, AuthorityError, Certificate, Clock, PrivateKey, Roots, SigningRequest, SystemClock};

pub(crate) fn id(text: &str) -> SpiffeId {
    format!("spiffe://{text}").parse().unwrap()
}

/// Time of day that passes as fast as tokio's time.
pub(crate) struct PausedClock {
    start: (SystemTime, Instant),
}

impl PausedClock {
    /// Call it inside the runtime whose time is paused.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: (SystemTime::now(), Instant::now()) })
    }
}

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        self.start.0 + self.start.1.elapsed()
    }
}

/// How the authority behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Signs,
    /// Signs after some time.
    Slow(Duration),
    Away,
    /// Takes the request and never answers.
    Silent,
}

pub(crate) struct TestAuthority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
    clock: Arc<dyn Clock>,
    life: Duration,
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) asked: Mutex<Vec<SpiffeId>>,
    running: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl TestAuthority {
    pub(crate) fn new(life: Duration, clock: Arc<dyn Clock>) -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        // Two authorities must not have the same name, or a chain of the one seems to be a broken one of the other.
        let name = format!("root {:?}", &key.public_key_raw()[1..9]);
        let root = CertifiedIssuer::self_signed(authority_params(&name), key).unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority_params("intermediate"), key, &root).unwrap();
        Arc::new(Self {
            root,
            intermediate,
            clock,
            life,
            behaviour: Mutex::new(Behaviour::Signs),
            asked: Mutex::new(Vec::new()),
            running: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    /// One for handshakes now.
    pub(crate) fn today() -> Arc<Self> {
        Self::new(Duration::from_secs(3600), Arc::new(SystemClock))
    }

    /// The root in PEM.
    pub(crate) fn root(&self) -> String {
        self.root.pem()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.root().as_bytes()).unwrap()
    }

    /// The leaf for a key, the intermediate, the root.
    pub(crate) fn chain(&self, identities: &[SpiffeId], key: &impl PublicKeyData) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let names = identities.iter().map(|identity| SanType::URI(identity.to_string().try_into().unwrap()));
        params.subject_alt_names = names.collect();
        let now = self.clock.now();
        // As Istio's does, for the sake of slow clocks.
        params.not_before = (now - Duration::from_secs(120)).into();
        params.not_after = (now + self.life).into();
        let leaf = params.signed_by(key, &self.intermediate).unwrap();
        vec![leaf.pem(), self.intermediate.pem(), self.root()]
    }

    /// A certificate with its key, as the cache would hold it.
    pub(crate) fn issue(&self, identity: &SpiffeId) -> Certificate {
        let key = PrivateKey::generate().unwrap();
        let csr = CertificateSigningRequestParams::from_pem(&key.csr(identity).unwrap()).unwrap();
        let chain = self.chain(std::slice::from_ref(identity), &csr.public_key);
        Certificate::issued(identity, &key, &chain, self.clock.now()).unwrap()
    }

    /// A serving certificate for some DNS names, addresses or URIs, its chain and its key in DER.
    pub(crate) fn serving(
        &self,
        names: &[&str],
    ) -> (Vec<rustls_pki_types::CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let (uris, names): (Vec<&str>, Vec<&str>) =
            names.iter().copied().partition(|name| name.contains("://"));
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
        let leaf = params.signed_by(&key, &self.intermediate).unwrap();
        let chain = vec![leaf.der().clone(), self.intermediate.der().clone()];
        (chain, rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    async fn answer(&self, request: SigningRequest) -> Result<Vec<String>, AuthorityError> {
        let behaviour = *self.behaviour.lock();
        match behaviour {
            Behaviour::Signs => {}
            Behaviour::Slow(time) => tokio::time::sleep(time).await,
            Behaviour::Away => {
                let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
                return Err(AuthorityError::Unreachable { source });
            }
            Behaviour::Silent => std::future::pending().await,
        }
        let csr = CertificateSigningRequestParams::from_pem(&request.csr).unwrap();
        Ok(self.chain(&[request.identity], &csr.public_key))
    }
}

impl Authority for TestAuthority {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, AuthorityError>> {
        Box::pin(async move {
            self.asked.lock().push(request.identity.clone());
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(running, Ordering::SeqCst);
            let answer = self.answer(request).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            answer
        })
    }
}
