// SPDX-License-Identifier: Apache-2.0
//! The agent's part on a node of Kubernetes: the plugin's questions, the watches, the CNI folders, the taint.

use std::sync::Arc;

use anyhow::Context;
use kubernetes::Api;
use parking_lot::Mutex;
use runtime::{Tasks, http::Router};
use tokio::sync::watch;

use crate::{
    admission::Admission,
    api,
    config::ClusterConfig,
    enrol::Enrolment,
    ledger::Ledger,
    probes,
    standing::{self, Existence, Presence},
    watcher::{Cluster, Watcher},
};

/// Opened, and started when the API is served.
pub(super) struct ClusterPart {
    config: ClusterConfig,
    api: Api,
    enrolment: Enrolment,
    ledger: Arc<Mutex<Ledger>>,
    existence: Option<Existence>,
    tasks: Tasks,
}

impl ClusterPart {
    pub(super) async fn open(
        config: &ClusterConfig,
        enrolment: &Enrolment,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let api = config.access.open().await.context("cannot make a client of the API server")?;
        let existence = config.daemon_set.clone().map(|name| {
            Existence::watch(api.clone(), config.namespace.clone(), name, config.node.clone(), tasks)
        });
        Ok(Self {
            config: config.clone(),
            api,
            enrolment: enrolment.clone(),
            ledger: Arc::default(),
            existence,
            tasks: tasks.clone(),
        })
    }

    pub(super) fn api(&self) -> Api {
        self.api.clone()
    }

    /// The routes of the plugin besides those that are there.
    pub(super) fn routes(&self, router: Router) -> Router {
        let directory = Cluster::new(self.api.clone(), Arc::clone(&self.ledger));
        api::cni::router(router, Admission::new(self.enrolment.clone(), self.config.rules.clone(), directory))
    }

    /// Starts everything that goes on by itself; what is answered tells which part of it is ready.
    pub(super) fn start(&self) -> Vec<watch::Receiver<bool>> {
        let mut ready = Vec::new();
        let watcher = Watcher {
            api: self.api.clone(),
            node: self.config.node.clone(),
            rules: self.config.rules.clone(),
            enrolment: self.enrolment.clone(),
            ledger: Arc::clone(&self.ledger),
            tasks: self.tasks.clone(),
        };
        let (tell, looked) = watch::channel(false);
        drop(self.tasks.spawn_vital("watcher", watcher.run(tell)));
        ready.push(looked);
        if let Some(installation) = self.config.installation.clone() {
            let (tell, installed) = watch::channel(false);
            let keep = installation.keep(tell, self.tasks.shutdown());
            drop(self.tasks.spawn_vital("CNI folders", keep));
            ready.push(installed);
        }
        let (capture, root) = (self.enrolment.capture().clone(), self.config.cgroup_root.clone());
        drop(self.tasks.spawn_vital("probes", probes::keep(capture, root, self.tasks.shutdown())));
        let untaint =
            standing::untaint(self.api.clone(), self.config.node.clone(), ready.clone(), self.tasks.clone());
        drop(self.tasks.spawn_vital("taint", untaint));
        ready
    }

    /// Whether the agent is only being replaced.
    pub(super) async fn presence(&self) -> Presence {
        match &self.existence {
            Some(existence) => existence.now().await,
            None => Presence::There,
        }
    }
}
