// SPDX-License-Identifier: Apache-2.0
//! Where the API server is and who we are to it: from a kubeconfig, or from what every pod finds in its file system.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder};

use crate::api::Api;

/// A peer that is gone without a word is noticed after time + retries * interval.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
const CONNECT: Duration = Duration::from_secs(10);

/// How to reach the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a pod: service account, token and root where the kubelet puts them.
    Pod,
    /// As a kubeconfig says, in its current context.
    Kubeconfig(PathBuf),
    /// As kubectl would: the file given, or those of `KUBECONFIG`, or `~/.kube/config`.
    User {
        /// The file.
        kubeconfig: Option<PathBuf>,
        /// A context other than the current one.
        context: Option<String>,
    },
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Not in a pod, or without a service account.
    #[error("this is no pod with a service account: give a kubeconfig, or run it in a cluster")]
    Pod(#[source] BoxError),
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// Its keys or certificates cannot be used.
    #[error("cannot make a client of what {access} says")]
    Client {
        /// Where it comes from.
        access: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
}

impl Access {
    /// A client. It connects when it is asked something.
    ///
    /// # Errors
    /// When what describes the API server cannot be read or used.
    pub async fn open(&self) -> Result<Api, AccessError> {
        // The one provider of this tree; whoever was here first has installed the same.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = match self {
            Self::Pod => Config::incluster().map_err(|error| AccessError::Pod(error.into()))?,
            Self::Kubeconfig(path) => from_file(path).await?,
            Self::User { kubeconfig, context } => of_user(kubeconfig.as_deref(), context.as_deref()).await?,
        };
        let namespace = config.default_namespace.clone();
        let client = client(&config)
            .map_err(|error| AccessError::Client { access: self.to_string(), source: error.into() })?;
        Ok(Api::new(client, namespace))
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod => f.write_str("the pod's service account"),
            Self::Kubeconfig(path) | Self::User { kubeconfig: Some(path), .. } => {
                write!(f, "{}", path.display())
            }
            Self::User { kubeconfig: None, .. } => f.write_str("KUBECONFIG or ~/.kube/config"),
        }
    }
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let failed = |source: BoxError| AccessError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(error.into()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|error| failed(error.into()))
}

async fn of_user(path: Option<&Path>, context: Option<&str>) -> Result<Config, AccessError> {
    let shown = path.map_or_else(|| PathBuf::from("KUBECONFIG or ~/.kube/config"), Path::to_owned);
    let failed = |source: BoxError| AccessError::Kubeconfig { path: shown.clone(), source };
    let kubeconfig = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let kubeconfig = kubeconfig.map_err(|error| failed(error.into()))?;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(|error| failed(error.into()))
}

/// The stack of `kube`, with connections of which we notice that they are dead and without its log lines: who asks says
/// what an error means.
fn client(config: &Config) -> Result<kube::Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE.0));
    connector.set_keepalive_interval(Some(KEEPALIVE.1));
    connector.set_keepalive_retries(Some(KEEPALIVE.2));
    connector.set_tcp_user_timeout(Some(KEEPALIVE.0 + KEEPALIVE.1 * KEEPALIVE.2));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: Client<_, Body> = Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}
