// SPDX-License-Identifier: Apache-2.0
//! The load-balancer of a cluster, as a cloud would have one: it gives Services of type LoadBalancer an address in both
//! families, says so in their status, and has the fabric's router send packets to that address to a node.
//!
//! It runs in the router's namespace. What it decides is a pure function of the objects it watches.

mod decide;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};

use super::{addresses::Block, api::Api, network};
use decide::{Decision, Objects, decide};

/// How long changes are gathered before they are acted upon.
const GATHER: Duration = Duration::from_millis(50);
/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one watch lasts; then everything is listed again.
const WATCH_SECONDS: u32 = 300;
/// What is watched: name and path of the list.
const KINDS: [(Kind, &str); 3] = [
    (Kind::Services, "/api/v1/services"),
    (Kind::Slices, "/apis/discovery.k8s.io/v1/endpointslices"),
    (Kind::Nodes, "/api/v1/nodes"),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Services,
    Slices,
    Nodes,
}

/// A running load-balancer.
#[derive(Debug)]
pub struct Balancer {
    api: Api,
    block: Block,
    objects: Mutex<Objects>,
    changed: Notify,
}

impl Balancer {
    /// A load-balancer for the cluster whose API server is at `server`, with the certificates in `folder`.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn new(server: SocketAddr, folder: &Path, block: Block) -> Result<Self> {
        let api = Api::new(server, folder, "balancer")?;
        Ok(Self { api, block, objects: Mutex::default(), changed: Notify::new() })
    }

    /// Runs until netlink fails; a server that is away is asked again.
    ///
    /// # Errors
    /// When there is no netlink.
    pub async fn run(&self) -> Result<()> {
        let (connection, netlink, _) = rtnetlink::new_connection().context("a netlink socket")?;
        let [services, slices, nodes] = KINDS.map(|(kind, path)| self.follow(kind, path));
        tokio::select! {
            () = connection => Err(anyhow!("the netlink connection closed")),
            () = services => Ok(()),
            () = slices => Ok(()),
            () = nodes => Ok(()),
            () = self.act(&netlink) => Ok(()),
        }
    }

    async fn follow(&self, kind: Kind, path: &str) {
        loop {
            if let Err(error) = self.list_and_watch(kind, path).await {
                report(&error);
                sleep(PAUSE).await;
            }
        }
    }

    async fn list_and_watch(&self, kind: Kind, path: &str) -> Result<()> {
        let list = self.api.get(path).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let all = items.into_iter().map(|object| (key(&object), object)).collect();
        *self.objects.lock().of(kind) = all;
        self.changed.notify_one();
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0");
        let watch = format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}");
        self.api.watch(&watch, |event| self.take(kind, event)).await
    }

    fn take(&self, kind: Kind, mut event: Value) -> Result<()> {
        let object = event.get_mut("object").map(Value::take).unwrap_or_default();
        let mut objects = self.objects.lock();
        match event.get("type").and_then(Value::as_str) {
            Some("ADDED" | "MODIFIED") => objects.of(kind).insert(key(&object), object),
            Some("DELETED") => objects.of(kind).remove(&key(&object)),
            // For example 410: the version is too old, list again.
            other => return Err(anyhow!("the watch of {kind:?} says {other:?}: {object}")),
        };
        drop(objects);
        self.changed.notify_one();
        Ok(())
    }

    async fn act(&self, netlink: &rtnetlink::Handle) {
        let mut routes = BTreeMap::new();
        loop {
            self.changed.notified().await;
            sleep(GATHER).await;
            let decision = decide(&self.objects.lock(), self.block);
            if let Err(error) = self.carry_out(netlink, decision, &mut routes).await {
                report(&error);
                sleep(PAUSE).await;
                self.changed.notify_one();
            }
        }
    }

    async fn carry_out(
        &self,
        netlink: &rtnetlink::Handle,
        decision: Decision,
        routes: &mut BTreeMap<(IpAddr, u8), IpAddr>,
    ) -> Result<()> {
        let gone: Vec<(IpAddr, u8)> =
            routes.keys().filter(|to| !decision.routes.contains_key(*to)).copied().collect();
        for to in gone {
            network::remove_route(netlink, to).await?;
            routes.remove(&to);
        }
        for (to, gateway) in decision.routes {
            if routes.get(&to) != Some(&gateway) {
                network::route(netlink, to, gateway).await?;
                routes.insert(to, gateway);
            }
        }
        // The route comes first: an address that is published works.
        for (service, addresses) in decision.statuses {
            let (namespace, name) = service.split_once('/').unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
            let ingress: Vec<Value> =
                addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
            let change = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            // Who deletes a service at that moment makes this fail, and the next look forgets it.
            self.api.merge(&path, &change).await?;
        }
        Ok(())
    }
}

impl Objects {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<String, Value> {
        match kind {
            Kind::Services => &mut self.services,
            Kind::Slices => &mut self.slices,
            Kind::Nodes => &mut self.nodes,
        }
    }
}

fn key(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

#[expect(clippy::print_stderr, reason = "its standard error is its log")]
fn report(error: &anyhow::Error) {
    eprintln!("balancer: {error:#}");
}
