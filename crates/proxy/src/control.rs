// SPDX-License-Identifier: Apache-2.0
//! The way to the control plane: discovery and certificates, over the same kind of connection.

use std::sync::Arc;

use anyhow::Context as _;
use identity::{
    CaClient, CaSettings, Connector, Credentials, Identities, IdentitiesSettings, Profile, Renewal,
    SystemClock, ca::Subject,
};
use runtime::Tasks;
use xds::{Client, ClientConfig, Kind, Replica, Writer, client::Stats};

use crate::settings::{ProxyConfig, Upstream};

/// What comes from the control plane.
#[derive(Debug)]
pub struct Followed {
    /// The mesh.
    pub replica: Replica,
    /// Counters of discovery.
    pub stats: Arc<Stats>,
    /// Certificates.
    pub identities: Identities,
    /// How TLS is done.
    pub profile: Profile,
}

/// Keeps the mesh, as far as these kinds say it, and certificates current until the group is asked to finish.
///
/// # Errors
/// When an address or a header cannot be used.
pub fn follow(
    config: &ProxyConfig,
    kinds: &'static [Kind],
    subject: Subject,
    tasks: &Tasks,
) -> anyhow::Result<Followed> {
    let profile = config.profile();
    let plane = Plane { config, profile: &profile };
    let writer = Writer::new();
    let replica = writer.replica();
    let discovery = plane.discovery(kinds, writer)?;
    let stats = discovery.stats();
    let (identities, renewal) = plane.identities(subject)?;
    drop(tasks.spawn_vital("discovery", discovery.run(requested(tasks))));
    drop(tasks.spawn_vital("certificates", renewal.run(requested(tasks))));
    Ok(Followed { replica, stats, identities, profile })
}

fn requested(tasks: &Tasks) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = tasks.shutdown();
    async move { shutdown.requested().await }
}

/// Where the control plane is and who we are to it.
struct Plane<'a> {
    config: &'a ProxyConfig,
    profile: &'a Profile,
}

impl Plane<'_> {
    fn connector(&self, upstream: &Upstream) -> anyhow::Result<Connector> {
        let alternative = upstream.alternative_name.as_deref();
        let profile = self.profile.clone();
        Ok(Connector::new(&upstream.address, upstream.roots.clone(), alternative, profile)?)
    }

    /// A client of discovery that has not connected yet.
    fn discovery(&self, kinds: &'static [Kind], writer: Writer) -> anyhow::Result<Client> {
        let ProxyConfig { xds, token, cluster, node_id, .. } = self.config;
        let connector = self.connector(xds).context("XDS_ADDRESS")?;
        let token = token.clone();
        let mut headers = vec![("clusterid".to_owned(), cluster.clone())];
        headers.extend(xds.headers.clone());
        let metadata = node_id.metadata.iter();
        let client = ClientConfig {
            channel: Arc::new(move || {
                let connector = connector.clone();
                Box::pin(async move { Ok(connector.open().await?) })
            }),
            token: Some(Arc::new(move || Ok(token.read()?))),
            headers,
            node_id: node_id.id.clone(),
            node_metadata: metadata.map(|(name, value)| (name.clone(), value.as_str().into())).collect(),
            kinds,
            on_demand: false,
        };
        Client::new(client, writer).context("setting up discovery")
    }

    /// Certificates, and what renews them.
    fn identities(&self, subject: Subject) -> anyhow::Result<(Identities, Renewal)> {
        let ProxyConfig { ca, token, cluster, certificate_life, .. } = self.config;
        let headers = ca.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let authority = CaClient::new(CaSettings {
            connector: self.connector(ca).context("CA_ADDRESS")?,
            credentials: Credentials::new(Some(token.clone()), cluster, headers)?,
            subject,
        });
        let settings = IdentitiesSettings { validity: *certificate_life, ..IdentitiesSettings::default() };
        Ok(Identities::new(Arc::new(authority), settings, Arc::new(SystemClock)))
    }
}
