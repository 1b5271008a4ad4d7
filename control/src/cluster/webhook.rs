// SPDX-License-Identifier: Apache-2.0
//! Whom the API server is to believe when it asks us: the roots, in the webhook configuration that the chart has made. The
//! leader writes them, and again when another root is in force or somebody has changed them.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kubernetes::{Api, Event, Leadership, Resource, Watch, json};
use runtime::Shutdown;
use serde::Deserialize;
use serde_json::{Value, json as object};
use tokio::sync::mpsc;

use super::FIELD_MANAGER;
use crate::ca::Signer;

const CONFIGURATIONS: Resource =
    Resource::new("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations");
/// What was refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps the roots in the configuration of a name.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) api: Api,
    pub(crate) name: String,
    pub(crate) signer: Signer,
    pub(crate) leadership: Leadership,
}

/// A configuration, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Configuration {
    #[serde(default)]
    webhooks: Vec<Hook>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Hook {
    name: String,
    #[serde(default, rename = "clientConfig")]
    client: Client,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Client {
    #[serde(default, rename = "caBundle")]
    roots: String,
}

impl Webhook {
    /// Writes when they are missing or old, until the process is asked to finish.
    pub(crate) async fn publish(self, shutdown: Shutdown) {
        let (events, mut heard) = mpsc::channel(16);
        let fields = Some(format!("metadata.name={}", self.name));
        let watch = Watch { fields, ..Watch::new((), [CONFIGURATIONS]) };
        let watching = watch.run(self.api.clone(), json::<Configuration>, events);
        let follow = async {
            let mut found: Option<Configuration> = None;
            let (mut leadership, mut roots) = (self.leadership.clone(), self.signer.changes());
            loop {
                let all_written = match &found {
                    Some(configuration) if leadership.is_mine() => self.write(configuration).await,
                    Some(_) | None => true,
                };
                tokio::select! {
                    happened = heard.recv() => match happened.map(|happened| happened.event) {
                        Some(Event::Applied(now)) => found = Some(now),
                        Some(Event::Deleted(_) | Event::Broken { .. }) => found = None,
                        Some(Event::Synced | Event::Absent) => {}
                        None => return,
                    },
                    _ = roots.changed() => {}
                    () = leadership.changed() => {}
                    () = tokio::time::sleep(RETRY), if !all_written => {}
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = follow => {}
            () = shutdown.requested() => {}
        }
    }

    /// Writes what is wrong; says whether nothing is left to be tried again.
    async fn write(&self, found: &Configuration) -> bool {
        let roots = STANDARD.encode(self.signer.root().bundle());
        if found.webhooks.iter().all(|hook| hook.client.roots == roots) {
            return true;
        }
        let path = CONFIGURATIONS.object("", &self.name);
        match self.api.apply(&path, FIELD_MANAGER, &found.with(&self.name, &roots)).await {
            Ok(_) => {
                tracing::info!(configuration = self.name, "the API server may ask about objects");
                true
            }
            Err(error) if error.is_absent() => true,
            Err(error) => {
                tracing::warn!(configuration = self.name, %error, retry = ?RETRY, "roots of the webhook not written");
                false
            }
        }
    }
}

impl Configuration {
    /// Only the roots: everything else is the chart's.
    fn with(&self, name: &str, roots: &str) -> Value {
        let hook = |hook: &Hook| object!({"name": hook.name, "clientConfig": {"caBundle": roots}});
        object!({
            "apiVersion": CONFIGURATIONS.api_version(),
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": self.webhooks.iter().map(hook).collect::<Vec<_>>(),
        })
    }
}
