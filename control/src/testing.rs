// SPDX-License-Identifier: Apache-2.0
//! What several tests of this crate need.

use std::collections::BTreeMap;

use mesh::{Network, TrustDomain};

use crate::{
    live::Live,
    manifests::{self, Content},
    world::{Event, Settings},
};

/// A mesh with the defaults.
pub(crate) fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        cluster: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
        root_namespace: "istio-system".into(),
        providers: BTreeMap::new(),
    }
}

/// A World without objects.
pub(crate) fn live() -> Live {
    Live::new(settings())
}

/// The objects of a good file as events.
pub(crate) fn applied(content: &Content) -> Vec<Event> {
    assert_eq!(content.problems, [], "the manifests of a test are good");
    content.objects.iter().map(|(object, _)| Event::Applied(Box::new(object.clone()))).collect()
}

/// The same from text.
pub(crate) fn events(text: &str) -> Vec<Event> {
    applied(&manifests::read(text))
}
