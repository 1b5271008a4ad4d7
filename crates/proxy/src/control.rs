// SPDX-License-Identifier: Apache-2.0
//! The way to the control plane: discovery and certificates, over the same kind of connection.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use identity::{
    CaClient, CaSettings, Connector, Credentials, Identities, IdentitiesSettings, Profile, Renewal,
    SystemClock, Token, ca::Subject,
};
use xds::{Client, ClientConfig, Kind, Writer};

use crate::settings::{NodeId, Upstream};

/// Where the control plane is and who we are to it.
#[derive(Clone, Debug)]
pub struct Plane {
    /// Discovery.
    pub xds: Upstream,
    /// Certificates.
    pub ca: Upstream,
    /// Bearer token.
    pub token: Token,
    /// Name of the cluster.
    pub cluster: String,
    /// What the discovery server is told about this process.
    pub node_id: NodeId,
    /// What is asked of discovery.
    pub kinds: &'static [Kind],
    /// Life of the certificates that are asked for.
    pub certificate_life: Duration,
    /// How TLS is done.
    pub profile: Profile,
}

impl Plane {
    fn connector(&self, upstream: &Upstream) -> anyhow::Result<Connector> {
        let alternative = upstream.alternative_name.as_deref();
        let profile = self.profile.clone();
        Ok(Connector::new(&upstream.address, upstream.roots.clone(), alternative, profile)?)
    }

    /// A client of discovery that has not connected yet.
    ///
    /// # Errors
    /// When the address or a header cannot be used.
    pub fn discovery(&self, writer: Writer) -> anyhow::Result<Client> {
        let connector = self.connector(&self.xds).context("XDS_ADDRESS")?;
        let token = self.token.clone();
        let mut headers = vec![("clusterid".to_owned(), self.cluster.clone())];
        headers.extend(self.xds.headers.clone());
        let metadata = self.node_id.metadata.iter();
        let client = ClientConfig {
            channel: Arc::new(move || {
                let connector = connector.clone();
                Box::pin(async move { Ok(connector.open().await?) })
            }),
            token: Some(Arc::new(move || Ok(token.read()?))),
            headers,
            node_id: self.node_id.id.clone(),
            node_metadata: metadata.map(|(name, value)| (name.clone(), value.as_str().into())).collect(),
            kinds: self.kinds,
            on_demand: false,
        };
        Client::new(client, writer).context("setting up discovery")
    }

    /// Certificates, and what renews them.
    ///
    /// # Errors
    /// When the address or a header cannot be used.
    pub fn identities(&self, subject: Subject) -> anyhow::Result<(Identities, Renewal)> {
        let headers = self.ca.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let authority = CaClient::new(CaSettings {
            connector: self.connector(&self.ca).context("CA_ADDRESS")?,
            credentials: Credentials::new(Some(self.token.clone()), &self.cluster, headers)?,
            subject,
        });
        let settings =
            IdentitiesSettings { validity: self.certificate_life, ..IdentitiesSettings::default() };
        Ok(Identities::new(Arc::new(authority), settings, Arc::new(SystemClock)))
    }
}
