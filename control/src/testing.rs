// SPDX-License-Identifier: Apache-2.0
//! What several tests of this crate need.

use std::collections::BTreeMap;

use mesh::{Network, TrustDomain};

use crate::{
    live::Live,
    manifests::{self, Content},
    world::{Event, Settings},
};

/// A certificate of an authority.
pub(crate) const ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUMJhEoni15O3ZGZZsQwgFWFdXvmAwCgYIKoZIzj0EAwIw
IzENMAsGA1UECgwEc2hvcDESMBAGA1UEAwwJc2hvcCByb290MCAXDTI2MTEyMjEx
MTgyOFoYDzIxMjYxMDI5MTExODI4WjAjMQ0wCwYDVQQKDARzaG9wMRIwEAYDVQQD
DAlzaG9wIHJvb3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQrmQp669j9+b1r
+WmpVIqJgT98EtwMGHiRyLhN+BuC7a3Bq+pZiSAmetSJGEWAUEg15p3JYM9dggJU
MxOw+9mpo1MwUTAdBgNVHQ4EFgQUFiHIlZhQ60xnne9XjVzKW0d+C50wHwYDVR0j
BBgwFoAUFiHIlZhQ60xnne9XjVzKW0d+C50wDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNHADBEAiAsIBKX/6UvZkEOpGMSEfu6hAlshPC19vYlls/OHLA0sgIg
WUr9on0cp0WUmDwtYn5fhlIKpfYNlYrRJAw+DxbqFC0=
-----END CERTIFICATE-----
";

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
