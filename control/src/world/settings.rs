// SPDX-License-Identifier: Apache-2.0
//! What translation knows of the mesh besides its objects.

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use mesh::{Network, TrustDomain, telemetry::Provider};

/// Constants of one mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Name of the cluster that the objects describe.
    pub cluster: ArcStr,
    /// DNS suffix of services.
    pub cluster_domain: ArcStr,
    /// Network of all addresses.
    pub network: Network,
    /// Namespace whose policies without a selector hold for the whole mesh.
    pub root_namespace: ArcStr,
    /// Where spans may go, by the names that Telemetries have for it.
    pub providers: BTreeMap<ArcStr, Arc<Provider>>,
}
