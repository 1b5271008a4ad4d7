// SPDX-License-Identifier: Apache-2.0
//! Tests: the client against a real certificate service on loopback, with TLS.

use std::{fs, net::Ipv4Addr, sync::Arc};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use proto::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use rcgen::CertificateSigningRequestParams;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Response, service::Routes};

use super::*;
use crate::{
    Compliance, Identities, IdentitiesSettings, Profile, RootSource, SystemClock, Token, Trust,
    testing::{TestAuthority, id},
};

const IDENTITY: &str = "cluster.local/ns/a/sa/b";

/// What one call said.
#[derive(Clone, Debug, Default, PartialEq)]
struct Call {
    authorization: Option<String>,
    cluster: Option<String>,
    extra: Option<String>,
    validity: i64,
    impersonated: Option<String>,
}

struct Service {
    authority: Arc<TestAuthority>,
    calls: Arc<Mutex<Vec<Call>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header =
            |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let message = request.get_ref();
        let field =
            message.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
        let impersonated = field.and_then(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        });
        self.calls.lock().push(Call {
            authorization: header("authorization"),
            cluster: header("clusterid"),
            extra: header("x-extra"),
            validity: message.validity_duration,
            impersonated: impersonated.clone(),
        });
        let Some(identity) = impersonated.and_then(|text| text.parse().ok()) else {
            return Err(Status::unauthenticated("request impersonation authentication failure"));
        };
        let csr = CertificateSigningRequestParams::from_pem(&message.csr).unwrap();
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: self.authority.chain(&[identity], &csr.public_key),
        }))
    }
}

/// A service with a certificate of this authority, and the calls that it gets.
async fn serve(authority: &Arc<TestAuthority>, tasks: &mut JoinSet<()>) -> (String, Arc<Mutex<Vec<Call>>>) {
    let (chain, key) = authority.serving(&["127.0.0.1"]);
    let acceptor = TlsAcceptor::from(profile().serving_config(chain, key).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let service = Service { authority: Arc::clone(authority), calls: Arc::clone(&calls) };
    let routes = Routes::new(IstioCertificateServiceServer::new(service));
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = TowerToHyperService::new(routes.clone());
            connections.spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (address, calls)
}

fn profile() -> Profile {
    Profile::new(Compliance::Preferred, Trust::default())
}

fn client(address: &str, roots: RootSource, token: Token, subject: Subject) -> CaClient {
    CaClient::new(CaSettings {
        connector: Connector::new(address, roots, None, profile()).unwrap(),
        credentials: Credentials::new(Some(token), "Kubernetes", [("x-extra", "1")]).unwrap(),
        subject,
    })
}

fn request() -> SigningRequest {
    let identity = id(IDENTITY);
    let csr = crate::PrivateKey::generate().unwrap().csr(&identity).unwrap();
    SigningRequest { csr, identity, validity: Duration::from_secs(86_400) }
}

#[tokio::test]
async fn a_request_carries_token_cluster_validity_and_the_identity_asked_for() {
    let mut tasks = JoinSet::new();
    let authority = TestAuthority::today();
    let (address, calls) = serve(&authority, &mut tasks).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let roots = RootSource::Pem(authority.root());
    let client = client(&address, roots, Token::File(token.clone()), Subject::Impersonated);
    assert!(matches!(client.sign(request()).await, Err(AuthorityError::Unusable { .. })), "no token yet");
    let mut expected = Vec::new();
    for value in ["first", "second"] {
        fs::write(&token, value).unwrap();
        assert_eq!(client.sign(request()).await.unwrap().len(), 3);
        expected.push(Call {
            authorization: Some(format!("Bearer {value}")),
            cluster: Some("Kubernetes".to_owned()),
            extra: Some("1".to_owned()),
            validity: 86_400,
            impersonated: Some(format!("spiffe://{IDENTITY}")),
        });
    }
    assert_eq!(*calls.lock(), expected);
}

#[tokio::test]
async fn identities_come_from_the_service_into_the_cache() {
    let mut tasks = JoinSet::new();
    let authority = TestAuthority::today();
    let (address, _) = serve(&authority, &mut tasks).await;
    let roots = RootSource::Pem(authority.root());
    let client = client(&address, roots, Token::Literal("token".to_owned()), Subject::Impersonated);
    let (identities, renewal) =
        Identities::new(Arc::new(client), IdentitiesSettings::default(), Arc::new(SystemClock));
    tasks.spawn(renewal.run(std::future::pending()));
    let certificate = identities.certificate(&id(IDENTITY)).await.unwrap();
    assert_eq!(certificate.identity(), &id(IDENTITY));
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_silence() {
    let mut tasks = JoinSet::new();
    let authority = TestAuthority::today();
    let (address, calls) = serve(&authority, &mut tasks).await;
    let token = || Token::Literal("token".to_owned());
    let refused = client(&address, RootSource::Pem(authority.root()), token(), Subject::Caller);
    let error = refused.sign(request()).await.unwrap_err();
    let AuthorityError::Refused { reason } = error else { panic!("{error}") };
    assert!(reason.ends_with("request impersonation authentication failure"), "{reason}");
    assert_eq!(calls.lock()[0].impersonated, None);

    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let away =
        client(&format!("https://{gone}"), RootSource::Pem(authority.root()), token(), Subject::Caller);
    assert!(matches!(away.sign(request()).await, Err(AuthorityError::Unreachable { .. })));

    let stranger = RootSource::Pem(TestAuthority::today().root());
    let calls_before = calls.lock().len();
    let wary = client(&address, stranger, token(), Subject::Impersonated);
    assert!(matches!(wary.sign(request()).await, Err(AuthorityError::Unreachable { .. })));
    assert_eq!(calls.lock().len(), calls_before, "a server that is not believed gets no token");
}

#[tokio::test]
async fn changed_roots_close_the_connection_that_stood_on_the_old_ones() {
    let mut tasks = JoinSet::new();
    let (authority, stranger) = (TestAuthority::today(), TestAuthority::today());
    let (address, _) = serve(&authority, &mut tasks).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root-cert.pem");
    let roots = RootSource::File(path.clone());
    let client = client(&address, roots, Token::Literal("token".to_owned()), Subject::Impersonated);
    for (roots, believed) in [(&authority, true), (&stranger, false), (&authority, true)] {
        fs::write(&path, roots.root()).unwrap();
        assert_eq!(client.sign(request()).await.is_ok(), believed);
    }
}
