// SPDX-License-Identifier: Apache-2.0
//! `istio.v1.auth.IstioCertificateService`: authenticate, authorize, issue, and write down who got what.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::certificate_service::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use mesh::SpiffeId;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};

use super::{Leaf, NodeAccounts, Signer, authorize::authorize};
use crate::{
    authenticate::{Authenticate, Caller, caller},
    live::Live,
    metrics,
};

/// The field in which a node proxy names the identity that it asks for.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// Largest request: a signing request and a name.
const LARGEST_REQUEST: usize = 64 * 1024;

/// Says why nobody can be vouched for now, if so.
#[derive(Clone)]
pub struct Vouch(pub Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl fmt::Debug for Vouch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vouch").field(&(self.0)()).finish()
    }
}

/// The service.
#[derive(Debug)]
pub struct CertificateService<A> {
    /// Says who calls.
    pub authenticator: Arc<A>,
    /// Says who runs where.
    pub live: Arc<Live>,
    /// Signs.
    pub signer: Signer,
    /// Whether what is known of who runs where is what is so.
    pub vouch: Vouch,
    /// Who may ask for others.
    pub node_accounts: NodeAccounts,
    /// Longest validity.
    pub longest: Duration,
}

impl<A: Authenticate> CertificateService<A> {
    /// The service, to be added to a router.
    pub fn service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(LARGEST_REQUEST)
    }

    async fn create(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        metrics::certificate_asked();
        let caller = caller(&*self.authenticator, request.metadata()).await?;
        let message = request.into_inner();
        let identity = self.identity(&message, &caller)?;
        if let Some(reason) = (self.vouch.0)() {
            metrics::certificate_refused("stale");
            tracing::warn!(target: "audit", %caller, %identity, reason, "certificate not issued");
            return Err(Status::unavailable(reason));
        }
        let trust_domain = self.live.trust_domain();
        let allowed = self
            .live
            .read(|world| authorize(world.objects(), trust_domain, &self.node_accounts, &caller, &identity));
        if let Err(denied) = allowed {
            metrics::certificate_refused(denied.reason());
            tracing::warn!(target: "audit", %caller, %identity, reason = %denied, "certificate refused");
            return Err(Status::unauthenticated(format!(
                "request impersonation authentication failure: {denied}"
            )));
        }
        let validity = u64::try_from(message.validity_duration).ok().map(Duration::from_secs);
        let leaf = Leaf { csr: &message.csr, identity: &identity, validity };
        match self.signer.root().issue(&leaf, self.longest, SystemTime::now()) {
            Ok(issued) => {
                metrics::certificate_issued();
                let expires = jiff::Timestamp::try_from(issued.not_after).unwrap_or_default();
                let serial = issued.serial;
                tracing::info!(target: "audit", %caller, %identity, %serial, %expires, "certificate issued");
                Ok(IstioCertificateResponse { cert_chain: issued.chain })
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                tracing::warn!(target: "audit", %caller, %identity, %error, cause, "certificate not issued");
                metrics::certificate_refused("request");
                let text = error.to_string();
                Err(if error.is_callers() { Status::invalid_argument(text) } else { Status::internal(text) })
            }
        }
    }

    /// Who the certificate is for: named by a node proxy, or the caller itself.
    fn identity(&self, message: &IstioCertificateRequest, caller: &Caller) -> Result<SpiffeId, Status> {
        let Some(value) = message.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED))
        else {
            return Ok(caller.identity(self.live.trust_domain()));
        };
        let Some(Kind::StringValue(text)) = &value.kind else {
            return Err(Status::invalid_argument(format!("{IMPERSONATED} is not a string")));
        };
        text.parse().map_err(|error: mesh::InvalidName| Status::invalid_argument(error.to_string()))
    }
}

#[tonic::async_trait]
impl<A: Authenticate> IstioCertificateService for CertificateService<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.create(request).await.map(Response::new)
    }
}
