// SPDX-License-Identifier: Apache-2.0
//! `ambit ztunnel`: what ztunnels know, from their `config_dump`.

mod tables;

use anyhow::bail;
use clap::{Args, ValueEnum};

use self::tables::Shown;
use crate::{
    arguments::To,
    dump::Dump,
    exit::Outcome,
    facts::{Facts, Role},
    gather,
    output::show,
    reach, say,
};

/// `ambit ztunnel`.
#[derive(Debug, Args)]
pub(crate) struct ZtunnelCommand {
    /// What to show
    #[arg(value_enum)]
    subject: Subject,
    /// Of one ztunnel, by its pod; else of all of them, each thing once
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// Of the ztunnel of one node
    #[arg(long, value_name = "NAME", conflicts_with = "pod")]
    node: Option<String>,
    /// Only what belongs to this namespace
    #[arg(long = "of", value_name = "NAMESPACE")]
    of: Option<String>,
}

/// What a dump has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Who there is: addresses, node, protocol, health
    Workloads,
    /// Services: addresses, ports, endpoints
    Services,
    /// Policies that proxies enforce
    Policies,
    /// Certificates in use, and until when
    Certificates,
    /// Connections open now
    Connections,
}

impl ZtunnelCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let facts = gather::cluster(&api, to.home()).await?;
        let pods = self.pods(&facts)?;
        say::progress(&format!("asking {} ...", crate::output::count(pods.len(), "ztunnel")));
        let question = (gather::ZTUNNEL, "/config_dump");
        let answers = gather::ask_all::<Dump>(&api, to.home(), pods, question).await;
        let mut dumps = Vec::new();
        let mut outcome = Outcome::Well;
        for (pod, answer) in answers {
            match answer {
                Ok(dump) => dumps.push((pod, dump)),
                Err(why) => {
                    say::note(&format!("{pod}: {why}"));
                    outcome = Outcome::Wrong;
                }
            }
        }
        dumps.sort_by(|(left, _), (right, _)| left.cmp(right));
        let shown = Shown::new(self.subject, dumps, self.of.as_deref());
        show(to.output, &shown, Shown::table)?;
        Ok(outcome)
    }

    fn pods(&self, facts: &Facts) -> anyhow::Result<Vec<String>> {
        let all = facts.pods_of(Role::Ztunnel);
        if all.is_empty() {
            bail!("there is no ztunnel in {}: ambit check", facts.home);
        }
        let wanted = all.iter().filter(|pod| {
            self.pod.as_ref().is_none_or(|name| *name == pod.object.name)
                && self.node.as_ref().is_none_or(|node| *node == pod.node)
        });
        let names: Vec<String> = wanted.map(|pod| pod.object.name.clone()).collect();
        if names.is_empty() {
            let there: Vec<_> =
                all.iter().map(|pod| format!("{} on {}", pod.object.name, pod.node)).collect();
            bail!("no such ztunnel; there are {}", there.join(", "));
        }
        Ok(names)
    }
}
