// SPDX-License-Identifier: Apache-2.0
//! The two ends of a connection as labels and log lines name them.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use arcstr::ArcStr;
use mesh::{Service, SpiffeId, Workload};
use metrics::{Label, SharedString};

use crate::hearsay::Hearsay;

/// A series that did not change for so long leaves the scrape.
pub const IDLE: Duration = Duration::from_secs(3600);
static NOTHING: ArcStr = ArcStr::new();
/// What a label says where nothing is known.
pub const UNKNOWN: SharedString = SharedString::const_str("unknown");

/// One end of a connection as labels see it.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// What is known of it.
    pub workload: Option<Arc<Workload>>,
    /// What it says of itself, where nothing is known.
    pub hearsay: Option<Arc<Hearsay>>,
    /// The identity it proved or is to prove.
    pub principal: Option<SpiffeId>,
}

impl End {
    /// Name of the pod, or of what owns it.
    pub fn name(&self) -> Option<&str> {
        self.text(|workload| &workload.name, |hearsay| &hearsay.workload)
    }

    /// Its namespace.
    pub fn namespace(&self) -> Option<&str> {
        self.text(|workload| &workload.namespace, |hearsay| &hearsay.namespace)
    }

    /// Its cluster.
    pub fn cluster(&self) -> Option<&str> {
        self.text(|workload| &workload.cluster, |hearsay| &hearsay.cluster)
    }

    fn text(&self, known: impl Fn(&Workload) -> &ArcStr, told: impl Fn(&Hearsay) -> &ArcStr) -> Option<&str> {
        let known = self.workload.as_deref().map(known);
        let told = || self.hearsay.as_deref().map(told).filter(|text| !text.is_empty());
        known.or_else(told).map(ArcStr::as_str)
    }

    fn key(&self) -> (usize, usize, Option<&SpiffeId>) {
        (address(self.workload.as_ref()), address(self.hearsay.as_ref()), self.principal.as_ref())
    }
}

/// Tells one shared value from another.
pub fn address<T>(value: Option<&Arc<T>>) -> usize {
    value.map_or(0, |value| Arc::as_ptr(value) as usize)
}

/// By address: a workload that changed is another value behind another address, and the cache holds on to both.
impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for End {}

impl Hash for End {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

fn known(value: &str) -> SharedString {
    if value.is_empty() { UNKNOWN } else { SharedString::from_owned(value.to_owned()) }
}

/// Label names of one end.
struct EndNames {
    workload: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
    workload_namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
    region: &'static str,
    zone: &'static str,
}

const SOURCE: EndNames = EndNames {
    workload: "source_workload",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
    workload_namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
    region: "source_region",
    zone: "source_zone",
};

const DESTINATION: EndNames = EndNames {
    workload: "destination_workload",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
    workload_namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
    region: "destination_region",
    zone: "destination_zone",
};

/// Labels of the client.
pub fn source(out: &mut Vec<Label>, end: &End) {
    push(out, &SOURCE, end);
}

/// Labels of the server.
pub fn destination(out: &mut Vec<Label>, end: &End) {
    push(out, &DESTINATION, end);
}

/// Labels of the service that was asked for.
pub fn service(out: &mut Vec<Label>, service: Option<&Service>) {
    let mut push =
        |name: &'static str, value: Option<&str>| out.push(Label::new(name, value.map_or(UNKNOWN, known)));
    push("destination_service", service.map(|service| service.hostname.as_str()));
    push("destination_service_namespace", service.map(|service| service.namespace.as_str()));
    push("destination_service_name", service.map(|service| service.name.as_str()));
}

fn push(out: &mut Vec<Label>, names: &EndNames, end: &End) {
    let principal = end.principal.as_ref().map(SpiffeId::to_string);
    let [workload, service, revision, namespace, cluster, region, zone] =
        match (end.workload.as_deref(), end.hearsay.as_deref()) {
            (Some(known), _) => [
                &known.workload_name,
                &known.canonical_name,
                &known.canonical_revision,
                &known.namespace,
                &known.cluster,
                &known.locality.region,
                &known.locality.zone,
            ],
            (None, Some(told)) => [
                &told.workload,
                &told.service,
                &told.version,
                &told.namespace,
                &told.cluster,
                &told.region,
                &told.zone,
            ],
            (None, None) => [&NOTHING; 7],
        };
    let mut push = |name: &'static str, value: &str| out.push(Label::new(name, known(value)));
    push(names.workload, workload);
    push(names.canonical_service, service);
    push(names.canonical_revision, revision);
    push(names.workload_namespace, namespace);
    push(names.principal, principal.as_deref().unwrap_or_default());
    push(names.app, service);
    push(names.version, revision);
    push(names.cluster, cluster);
    push(names.region, region);
    push(names.zone, zone);
}
