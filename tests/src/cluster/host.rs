// SPDX-License-Identifier: Apache-2.0
//! A host on the fabric: a namespace with an address there, and programs that run in it. Nodes, control and whatever
//! stands outside the mesh are hosts.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Result;

use super::Parts;
use crate::{
    net::{
        Namespace,
        addresses::{self, Pair},
        link,
    },
    process::{Launch, Process},
};

/// A host on the fabric.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its addresses on the fabric.
    pub addresses: Pair,
}

impl Host {
    /// Makes host number `number` and plugs it into the fabric.
    pub(super) async fn join(
        lab: &str,
        name: &str,
        fabric: &Namespace,
        number: u8,
        nodes: &[u8],
    ) -> Result<Self> {
        let namespace = link::host(&format!("{}{name}", crate::clean::prefix(lab))).await?;
        link::join_fabric(fabric, &namespace, number, nodes).await?;
        Ok(Self { namespace, addresses: addresses::fabric(number) })
    }

    /// Starts a program here, named `name` in the lab.
    pub(super) fn start(&self, parts: &Parts, name: &str, program: Program) -> Result<Arc<Process>> {
        let launch = Launch {
            name: name.to_owned(),
            program: program.path,
            arguments: program.arguments,
            environment: program.environment.into_iter().collect(),
            namespace: Some(self.namespace.clone()),
            resolv_conf: program.resolv_conf,
            log: parts.log(name),
        };
        Ok(Arc::new(Process::start(launch, &parts.records)?))
    }
}

/// A program and how to call it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// What it sees as `/etc/resolv.conf`; `None`: the machine's.
    pub resolv_conf: Option<PathBuf>,
}

/// An environment from pairs.
pub(super) fn environment<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
