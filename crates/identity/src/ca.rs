// SPDX-License-Identifier: Apache-2.0
//! The certificate service of Istio's control plane, or ours, as an [`Authority`].

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost_types::{Struct, Value, value::Kind};
use proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_client::IstioCertificateServiceClient,
};
use tonic::{Code, Request, Status, metadata::MetadataMap, transport::Channel};

use crate::{Authority, AuthorityError, Connector, Credentials, SigningRequest};

/// One call, with a connection if there is none.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The field that names the identity when a node proxy asks on behalf of a pod.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// How to ask.
#[derive(Clone, Debug)]
pub struct CaSettings {
    /// Where.
    pub connector: Connector,
    /// As whom.
    pub credentials: Credentials,
    /// For whom.
    pub subject: Subject,
}

/// For whom certificates are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// For the pods of a node: the request names the identity.
    Impersonated,
    /// For the caller itself, whose identity is in its token.
    Caller,
}

/// A client of the certificate service.
#[derive(Debug)]
pub struct CaClient {
    settings: CaSettings,
    channel: Mutex<Option<Opened>>,
}

/// A channel, and the roots that it was opened under.
#[derive(Debug)]
struct Opened {
    roots: Vec<u8>,
    channel: Channel,
}

impl CaClient {
    /// Connects at the first request.
    pub fn new(settings: CaSettings) -> Self {
        Self { settings, channel: Mutex::new(None) }
    }

    async fn create(&self, request: SigningRequest) -> Result<Vec<String>, AuthorityError> {
        let headers = self.settings.credentials.headers().map_err(unusable)?;
        let message = self.message(request);
        let mut call = Request::new(message);
        *call.metadata_mut() = MetadataMap::from_headers(headers);
        let mut client = IstioCertificateServiceClient::new(self.channel()?);
        match tokio::time::timeout(CALL_DEADLINE, client.create_certificate(call)).await {
            Ok(Ok(response)) => {
                let IstioCertificateResponse { cert_chain } = response.into_inner();
                Ok(cert_chain)
            }
            Ok(Err(status)) => Err(failure(status)),
            Err(elapsed) => Err(AuthorityError::Unreachable { source: elapsed.into() }),
        }
    }

    fn message(&self, request: SigningRequest) -> IstioCertificateRequest {
        let metadata = match self.settings.subject {
            Subject::Caller => None,
            Subject::Impersonated => {
                let identity = Value { kind: Some(Kind::StringValue(request.identity.to_string())) };
                Some(Struct { fields: BTreeMap::from([(IMPERSONATED.to_owned(), identity)]) })
            }
        };
        let validity_duration = i64::try_from(request.validity.as_secs()).unwrap_or(i64::MAX);
        IstioCertificateRequest { csr: request.csr, validity_duration, metadata }
    }

    /// The open channel, or a new one when the roots have changed: the old connection stands on roots that may have
    /// been withdrawn.
    fn channel(&self) -> Result<Channel, AuthorityError> {
        let connector = &self.settings.connector;
        let roots =
            if connector.is_encrypted() { connector.read_roots().map_err(unusable)? } else { Vec::new() };
        let mut opened = self.channel.lock();
        if let Some(Opened { channel, .. }) = opened.as_ref().filter(|opened| opened.roots == roots) {
            return Ok(channel.clone());
        }
        let channel = connector.channel();
        *opened = Some(Opened { roots, channel: channel.clone() });
        Ok(channel)
    }
}

impl Authority for CaClient {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, AuthorityError>> {
        Box::pin(self.create(request))
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> AuthorityError {
    AuthorityError::Unusable { source: error.into() }
}

fn failure(status: Status) -> AuthorityError {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            AuthorityError::Unreachable { source: status.into() }
        }
        code => AuthorityError::Refused { reason: format!("{}: {}", code.description(), status.message()) },
    }
}

#[cfg(test)]
mod tests;
