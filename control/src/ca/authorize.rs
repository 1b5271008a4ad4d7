// SPDX-License-Identifier: Apache-2.0
//! Who may have a certificate for whom. Pure: the objects and the question in, the answer out.

use std::{collections::BTreeSet, fmt, str::FromStr};

use arcstr::ArcStr;
use mesh::{SpiffeId, TrustDomain};

use crate::{authenticate::Caller, world::Objects};

/// A service account with its namespace, `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceAccountName {
    /// Namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

impl FromStr for ServiceAccountName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            Some(_) | None => Err(()),
        }
    }
}

impl fmt::Display for ServiceAccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Service accounts of node proxies: they may ask for the identities of the pods on their node.
pub type NodeAccounts = BTreeSet<ServiceAccountName>;

/// Why somebody may not have a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// We do not vouch for that trust domain.
    #[error("{identity} is not of the trust domain {ours}")]
    TrustDomain {
        /// Who was asked for.
        identity: SpiffeId,
        /// What we vouch for.
        ours: TrustDomain,
    },
    /// Not a node proxy.
    #[error("{caller} may not ask for other identities: it is not the service account of a node proxy")]
    NotTrusted {
        /// Who asked.
        caller: Caller,
    },
    /// A node proxy whose token names no node.
    #[error("the token of {caller} is bound to no node")]
    NoNode {
        /// Who asked.
        caller: Caller,
    },
    /// None of its pods runs there.
    #[error("no pod of service account {namespace}/{service_account} runs on node {node}")]
    NotOnNode {
        /// Namespace that was asked for.
        namespace: ArcStr,
        /// Service account that was asked for.
        service_account: ArcStr,
        /// The caller's node.
        node: ArcStr,
    },
}

impl Denied {
    /// For a metric label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TrustDomain { .. } => "trust_domain",
            Self::NotTrusted { .. } => "not_trusted",
            Self::NoNode { .. } => "no_node",
            Self::NotOnNode { .. } => "not_on_node",
        }
    }
}

/// Whether a caller may have a certificate of an identity: its own, or, for a node proxy, that of a pod on its node.
pub(super) fn authorize(
    objects: &Objects,
    trust_domain: &TrustDomain,
    node_accounts: &NodeAccounts,
    caller: &Caller,
    identity: &SpiffeId,
) -> Result<(), Denied> {
    if identity.trust_domain() != trust_domain {
        return Err(Denied::TrustDomain { identity: identity.clone(), ours: trust_domain.clone() });
    }
    if *identity == caller.identity(trust_domain) {
        return Ok(());
    }
    let account =
        ServiceAccountName { namespace: caller.namespace.clone(), name: caller.service_account.clone() };
    if !node_accounts.contains(&account) {
        return Err(Denied::NotTrusted { caller: caller.clone() });
    }
    let Some(node) = caller.node.clone() else {
        return Err(Denied::NoNode { caller: caller.clone() });
    };
    let (namespace, service_account) = (identity.namespace().clone(), identity.service_account().clone());
    if objects.runs_on(&namespace, &service_account, &node) {
        Ok(())
    } else {
        Err(Denied::NotOnNode { namespace, service_account, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifests,
        testing::{applied, settings},
        world::World,
    };

    const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: one, serviceAccountName: cart}
---
apiVersion: v1
kind: Pod
metadata: {name: report, namespace: shop}
spec: {nodeName: one, serviceAccountName: report}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: shop}
spec: {serviceAccountName: waiting}
";

    fn caller(account: &str, node: Option<&str>) -> Caller {
        let account: ServiceAccountName = account.parse().unwrap();
        Caller { namespace: account.namespace, service_account: account.name, node: node.map(Into::into) }
    }

    #[test]
    fn a_node_proxy_speaks_for_the_pods_of_its_node_and_nobody_else() {
        let mut world = World::new(settings());
        world.apply(applied(&manifests::read(CLUSTER)));
        let trusted: NodeAccounts = ["istio-system/ztunnel".parse().unwrap()].into();
        let ztunnel = |node| caller("istio-system/ztunnel", node);
        for (caller, identity, expected) in [
            (ztunnel(Some("one")), "spiffe://cluster.local/ns/shop/sa/cart", None),
            (ztunnel(Some("one")), "spiffe://cluster.local/ns/istio-system/sa/ztunnel", None),
            (caller("shop/cart", None), "spiffe://cluster.local/ns/shop/sa/cart", None),
            (ztunnel(Some("two")), "spiffe://cluster.local/ns/shop/sa/cart", Some("not_on_node")),
            (ztunnel(Some("one")), "spiffe://cluster.local/ns/shop/sa/report", Some("not_on_node")),
            (ztunnel(Some("one")), "spiffe://cluster.local/ns/shop/sa/waiting", Some("not_on_node")),
            (ztunnel(Some("")), "spiffe://cluster.local/ns/shop/sa/waiting", Some("not_on_node")),
            (ztunnel(Some("one")), "spiffe://cluster.local/ns/bank/sa/cart", Some("not_on_node")),
            (ztunnel(None), "spiffe://cluster.local/ns/shop/sa/cart", Some("no_node")),
            (
                caller("shop/ztunnel", Some("one")),
                "spiffe://cluster.local/ns/shop/sa/cart",
                Some("not_trusted"),
            ),
            (ztunnel(Some("one")), "spiffe://other.example/ns/shop/sa/cart", Some("trust_domain")),
        ] {
            let settings = settings();
            let answer = authorize(
                world.objects(),
                &settings.trust_domain,
                &trusted,
                &caller,
                &identity.parse().unwrap(),
            );
            assert_eq!(answer.err().map(|denied| denied.reason()), expected, "{caller} for {identity}");
        }
    }

    #[test]
    fn an_identity_is_refused_as_soon_as_its_last_pod_has_left_the_node() {
        let trusted: NodeAccounts = ["istio-system/ztunnel".parse().unwrap()].into();
        let mut world = World::new(settings());
        let objects = manifests::read(CLUSTER);
        world.apply(applied(&objects));
        let key = objects.objects[0].0.key();
        world.apply([crate::world::Event::Deleted(key)]);
        let ztunnel = caller("istio-system/ztunnel", Some("one"));
        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let answer = authorize(world.objects(), &settings().trust_domain, &trusted, &ztunnel, &identity);
        assert!(matches!(answer, Err(Denied::NotOnNode { .. })));
    }
}
