// SPDX-License-Identifier: Apache-2.0
//! The control plane of a lab: standalone, over the folder of manifests.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Options, Parts,
    host::{Host, Program, environment},
};
use crate::{http, observe::Samples, process::Process};

/// Discovery and certificates.
const XDS_PORT: u16 = 15012;
/// Metrics and readiness.
const METRICS_PORT: u16 = 15014;
const TOKENS: &str = "tokens.yaml";
const START: Duration = Duration::from_secs(20);

/// The control plane.
#[derive(Clone, Debug)]
pub struct Control {
    host: Host,
    process: Arc<Process>,
    folder: PathBuf,
    tokens: Arc<Mutex<Vec<Token>>>,
}

/// The bearer token by which a proxy shows who it is.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) node: Option<String>,
    pub(super) secret: String,
}

impl Token {
    /// Of a node's ztunnel.
    pub(super) fn of_ztunnel(node: &str) -> Self {
        Self {
            namespace: "istio-system".to_owned(),
            service_account: "ztunnel".to_owned(),
            node: Some(node.to_owned()),
            secret: format!("{:032x}", rand::random::<u128>()),
        }
    }
}

impl Control {
    pub(super) async fn start(
        parts: &Parts,
        host: Host,
        tokens: &[Token],
        options: &Options,
    ) -> Result<Self> {
        let folder = parts.state.join("control");
        fs::create_dir_all(&folder).context("making control's folder")?;
        let tokens = Arc::new(Mutex::new(tokens.to_vec()));
        let token_file = folder.join(TOKENS);
        write_tokens(&folder, &tokens.lock())?;
        let names = format!("{},{},localhost", host.addresses.v4, host.addresses.v6);
        let mut variables = environment([
            ("AMBIT_MANIFESTS", parts.manifests.folder().display().to_string()),
            ("AMBIT_STATE_DIR", folder.display().to_string()),
            ("AMBIT_TOKENS", token_file.display().to_string()),
            ("AMBIT_TLS_NAMES", names),
            ("RUST_LOG", parts.settings.log.clone()),
        ]);
        if let Some(life) = options.certificate_life {
            variables.insert("AMBIT_CERT_TTL".to_owned(), format!("{}s", life.as_secs()));
        }
        let program =
            Program { path: parts.settings.binary("control")?, environment: variables, ..Program::default() };
        let process = host.start(parts, "control", program)?;
        let control = Self { host, process, folder, tokens };
        control.ready().await?;
        Ok(control)
    }

    /// Lets somebody in who shows this token.
    pub(super) fn admit(&self, token: Token) -> Result<()> {
        let mut tokens = self.tokens.lock();
        tokens.push(token);
        write_tokens(&self.folder, &tokens)
    }

    /// The running program.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it ends or is not ready within 20 s.
    pub async fn ready(&self) -> Result<()> {
        let root = self.root_certificate();
        self.process
            .ready(START, async || {
                fs::metadata(&root).context("no root certificate yet")?;
                self.read("/healthz/ready").await.map(drop)
            })
            .await
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When they cannot be scraped.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&self.read("/metrics").await?))
    }

    /// Where it keeps the certificate that everything trusts.
    #[must_use]
    pub fn root_certificate(&self) -> PathBuf {
        self.folder.join("root-cert.pem")
    }

    /// Where discovery and certificates are served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host.addresses.v4, XDS_PORT))
    }

    /// Its host on the fabric.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// That a proxy has acknowledged all that is there for it, by the beginning of its `node.id`.
    ///
    /// # Errors
    /// When it has not, or is not connected.
    pub(super) async fn has_told(&self, node: &str) -> Result<()> {
        let status: Value = serde_json::from_str(&self.read("/status").await?).context("reading /status")?;
        let proxies = status["proxies"].as_array().context("no list of proxies")?;
        let named = |proxy: &&Value| proxy["node"].as_str().is_some_and(|id| id.starts_with(node));
        let proxy = proxies.iter().rfind(named).with_context(|| format!("{node} is not connected"))?;
        let types = proxy["types"].as_object().context("no types")?;
        ensure!(!types.is_empty() && types.values().all(|kind| kind["synced"] == true), "{proxy}");
        Ok(())
    }

    async fn read(&self, path: &'static str) -> Result<String> {
        let address = SocketAddr::from((self.host.addresses.v4, METRICS_PORT));
        self.host.namespace.run(async move || http::get(address, path).await).await
    }
}

/// Puts the file in place as a whole: control reads it whenever it changes.
fn write_tokens(folder: &Path, tokens: &[Token]) -> Result<()> {
    let account = |token: &Token| -> Value {
        json!({
            "token": token.secret,
            "namespace": token.namespace,
            "serviceAccount": token.service_account,
            "node": token.node,
        })
    };
    let accounts: Vec<_> = tokens.iter().map(account).collect();
    let draft = folder.join("tokens.draft");
    fs::write(&draft, serde_saphyr::to_string(&accounts)?).context("writing the tokens")?;
    fs::rename(&draft, folder.join(TOKENS)).context("putting the tokens in place")
}
