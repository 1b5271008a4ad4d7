// SPDX-License-Identifier: Apache-2.0
//! What is to be observed of the requests to a service: what the environment says, and what Telemetry objects say over it.
//! Made once per service and change.

use std::{collections::HashMap, sync::Arc};

use mesh::{
    Service, ServiceName,
    telemetry::{Provider, Tracing, View},
};
use parking_lot::RwLock;

use crate::waypoint::Waypoint;

/// Services whose view is kept.
const KEPT: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub struct Observed {
    /// What the environment says of traces.
    given: Tracing,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    views: HashMap<Option<ServiceName>, Arc<View>>,
    /// Changes so far.
    changes: u64,
}

impl Observed {
    /// On top of what the environment says.
    pub fn new(given: Tracing) -> Self {
        Self { given, known: RwLock::default() }
    }

    /// Of requests to a service.
    pub fn of(&self, waypoint: &Waypoint, service: Option<&Arc<Service>>) -> Arc<View> {
        let name = service.map(|service| service.key());
        let changes = {
            let known = self.known.read();
            if let Some(view) = known.views.get(&name) {
                return Arc::clone(view);
            }
            known.changes
        };
        let view = Arc::new(self.make(waypoint, name.as_ref()));
        let mut known = self.known.write();
        // What was read before a change must not outlive it.
        if known.changes == changes && known.views.len() < KEPT {
            known.views.insert(name, Arc::clone(&view));
        }
        view
    }

    fn make(&self, waypoint: &Waypoint, service: Option<&ServiceName>) -> View {
        let own = &waypoint.config.own;
        let mut view =
            waypoint.replica.read(|index| index.telemetry(&own.namespace, &own.service_account, service));
        let tracing = &mut view.tracing;
        tracing.provider = tracing.provider.take().or_else(|| self.given.provider.clone());
        tracing.share = tracing.share.or(self.given.share);
        view
    }

    /// Whether spans may still go there.
    pub fn is_named(&self, waypoint: &Waypoint, provider: &Provider) -> bool {
        let is_it = |tracing: &Tracing| tracing.provider.as_deref() == Some(provider);
        is_it(&self.given)
            || waypoint.replica.read(|index| index.telemetries().any(|telemetry| is_it(&telemetry.tracing)))
    }

    /// Something changed.
    pub fn forget(&self) {
        let mut known = self.known.write();
        known.views.clear();
        known.changes += 1;
    }
}
