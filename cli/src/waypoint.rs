// SPDX-License-Identifier: Apache-2.0
//! `ambit waypoint`: makes, shows and deletes the Gateways that stand for waypoints, and says whom they serve. control runs
//! what they stand for.

mod manifest;
mod seen;
mod status;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::SignedDuration;
use kubernetes::{Api, Resource, Within};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::{
    manifest::{For, Wish},
    seen::Waypoint,
};
use crate::{
    arguments::{Format, To},
    exit::Outcome,
    kinds::GATEWAYS,
    output::show,
    reach, say, tree,
};

const NAMESPACES: Resource = Resource::core("namespaces");
const ACCOUNTS: Resource = Resource::core("serviceaccounts");
const SERVICES: Resource = Resource::core("services");
const PODS: Resource = Resource::core("pods");
const COMPONENT: &str = "ambit-cli";
const USE: &str = "istio.io/use-waypoint";
/// Between two looks at a Gateway that is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// `ambit waypoint`.
#[derive(Debug, Subcommand)]
pub(crate) enum WaypointCommand {
    /// Make a waypoint, or change it, and bind what it is for
    Apply(Apply),
    /// Print the Gateway that `apply` would make
    Generate(Shape),
    /// The waypoints of a namespace, or of all
    List(List),
    /// Whether waypoints run, whom they serve, and what enforcing them would stop
    Status(status::Status),
    /// Delete waypoints; what runs them goes with them
    Delete(Delete),
}

/// What a waypoint is to be.
#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// Its name
    #[arg(long, default_value = "waypoint", value_name = "NAME")]
    name: String,
    /// For which traffic it is: service, workload, all or none; service if not said
    #[arg(long = "for", value_enum, value_name = "TRAFFIC")]
    covers: Option<For>,
    /// Label istio.io/rev of it
    #[arg(long, short, value_name = "REVISION")]
    revision: Option<String>,
    /// Class of the Gateway
    #[arg(long, default_value = "ambit-waypoint", value_name = "CLASS")]
    class: String,
    /// Refuse what does not come through it, and everything while it is not ready
    #[arg(long)]
    enforce: bool,
    /// Namespaces that may use it: same, or all
    #[arg(long, value_enum, default_value_t = manifest::Admits::Same)]
    admits: manifest::Admits,
}

/// `ambit waypoint apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    shape: Shape,
    /// Bind the namespace to it
    #[arg(long)]
    enroll_namespace: bool,
    /// Bind the workloads of a service account to it; it is then for workloads
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Bind a service to it
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Bind a pod to it, for as long as that lives; it is then for workloads
    #[arg(long, value_name = "POD")]
    workload: Option<String>,
    /// Bind also what is bound to another waypoint
    #[arg(long)]
    overwrite: bool,
    /// Wait until it runs
    #[arg(long, short)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "3m", value_name = "TIME")]
    waypoint_timeout: SignedDuration,
}

/// `ambit waypoint list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

/// `ambit waypoint delete`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["names", "all"])))]
pub(crate) struct Delete {
    /// Their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// All of the namespace
    #[arg(long)]
    all: bool,
}

impl WaypointCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        match self {
            Self::Generate(shape) => {
                let gateway = shape.wish(to.namespace.as_deref(), &[])?.gateway();
                // For kubectl, whoever reads it.
                let format = if to.output == Format::Json { Format::Json } else { Format::Yaml };
                show(format, &gateway, Value::to_string)?;
                Ok(Outcome::Well)
            }
            Self::Apply(apply) => apply.run(to).await,
            Self::List(list) => list.run(to).await,
            Self::Status(status) => status.run(to).await,
            Self::Delete(delete) => delete.run(to).await,
        }
    }
}

/// The namespace of the waypoint: the one given, else that of the kubeconfig.
fn namespace(to: &To, api: &Api) -> String {
    to.namespace.clone().unwrap_or_else(|| api.namespace().to_owned())
}

impl Shape {
    fn wish(&self, namespace: Option<&str>, bound: &[Bound]) -> anyhow::Result<Wish<'_>> {
        let covers = covers(self.covers, bound)?;
        Ok(Wish {
            name: &self.name,
            namespace: namespace.map(str::to_owned),
            class: &self.class,
            covers,
            revision: self.revision.as_deref(),
            enforce: self.enforce,
            admits: self.admits,
        })
    }
}

impl Apply {
    async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let namespace = namespace(to, &api);
        let name = &self.shape.name;
        let targets = self.targets(&namespace);
        let wish = self.shape.wish(Some(&namespace), &targets)?;
        for target in &targets {
            self.check(&api, target).await?;
        }
        let applied = api.apply(&GATEWAYS.object(&namespace, name), COMPONENT, &wish.gateway()).await;
        let mut gateway = applied.with_context(|| absent(&namespace, name))?;
        for Bound { path, what, .. } in &targets {
            let change = json!({"metadata": {"labels": {USE: name}}});
            api.merge(path, COMPONENT, &change).await.with_context(|| format!("cannot label {what}"))?;
            say::note(&format!("{what} is bound to waypoint {namespace}/{name}"));
        }
        let mut outcome = Outcome::Well;
        if self.wait {
            let deadline = Instant::now() + self.waypoint_timeout.unsigned_abs();
            (gateway, outcome) = wait(&api, &namespace, name, deadline).await?;
        }
        let waypoint = Waypoint::of(&gateway);
        show(to.output, &waypoint, |waypoint| {
            format!("waypoint {}/{} applied\n", waypoint.namespace, waypoint.name)
        })?;
        Ok(outcome)
    }

    /// What is to be bound.
    fn targets(&self, namespace: &str) -> Vec<Bound> {
        let named = |named: &Option<String>, resource: Resource, what: &str, kind| {
            named.as_ref().map(|name| Bound {
                path: resource.object(namespace, name),
                what: format!("{what} {namespace}/{name}"),
                kind,
            })
        };
        let whole = self.enroll_namespace.then(|| Bound {
            path: NAMESPACES.object("", namespace),
            what: format!("namespace {namespace}"),
            kind: Kind::Namespace,
        });
        let account = named(&self.service_account, ACCOUNTS, "service account", Kind::Workload);
        let service = named(&self.service, SERVICES, "service", Kind::Service);
        let pod = named(&self.workload, PODS, "pod", Kind::Workload);
        [whole, account, service, pod].into_iter().flatten().collect()
    }

    /// Whether something may be bound.
    async fn check(&self, api: &Api, Bound { path, what, kind }: &Bound) -> anyhow::Result<()> {
        let found: Value = api.get(path).await.with_context(|| format!("cannot read {what}"))?;
        let labels = tree::map(&found, "/metadata/labels");
        if let Some(other) = labels.get(USE).filter(|other| **other != self.shape.name)
            && !self.overwrite
        {
            bail!("{what} is bound to waypoint {other:?}: --overwrite binds it to this one");
        }
        if *kind != Kind::Namespace
            || labels.get("istio.io/dataplane-mode").is_some_and(|mode| mode == "ambient")
        {
            return Ok(());
        }
        say::note(&format!(
            "{what} has no label istio.io/dataplane-mode=ambient: traffic of pods outside of the mesh does not go through a waypoint"
        ));
        Ok(())
    }
}

/// What is bound to a waypoint.
#[derive(Debug)]
struct Bound {
    path: String,
    /// For people.
    what: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Namespace,
    Service,
    /// A workload, or those of a service account.
    Workload,
}

/// For which traffic a waypoint is that has this bound to it, if that has to be said.
fn covers(asked: Option<For>, bound: &[Bound]) -> anyhow::Result<Option<For>> {
    let of = |kind: Kind| bound.iter().find(|bound| bound.kind == kind);
    match (asked, of(Kind::Service), of(Kind::Workload)) {
        (Some(For::Service | For::None), _, Some(bound)) => {
            bail!("a waypoint for {} is for workloads: --for workload or --for all", bound.what)
        }
        (Some(For::Workload | For::None), Some(bound), _) => {
            bail!("a waypoint for {} is for services: --for service or --for all", bound.what)
        }
        (None, Some(_), Some(_)) => Ok(Some(For::All)),
        (None, None, Some(_)) => Ok(Some(For::Workload)),
        (asked, _, _) => Ok(asked),
    }
}

fn absent(namespace: &str, name: &str) -> String {
    format!(
        "cannot apply Gateway {namespace}/{name}; without the Gateway API's definitions there are no waypoints"
    )
}

/// Waits until a waypoint runs.
async fn wait(api: &Api, namespace: &str, name: &str, deadline: Instant) -> anyhow::Result<(Value, Outcome)> {
    say::progress(&format!("waiting for waypoint {namespace}/{name} ..."));
    loop {
        let gateway: Value = api.get(&GATEWAYS.object(namespace, name)).await?;
        let waypoint = Waypoint::of(&gateway);
        if waypoint.is_programmed() {
            return Ok((gateway, Outcome::Well));
        }
        if Instant::now() >= deadline {
            say::note(&format!("waypoint {namespace}/{name} does not run yet: {}", waypoint.why()));
            return Ok((gateway, Outcome::Wrong));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The Gateways of a namespace, or of all, that stand for waypoints.
async fn waypoints(api: &Api, within: &Within) -> anyhow::Result<Vec<Value>> {
    let found = api.list::<Value>(&GATEWAYS.path(within)).await;
    let mut gateways =
        found.context("cannot list Gateways; without the Gateway API's definitions there are none")?;
    gateways.retain(seen::is_waypoint);
    Ok(gateways)
}

impl List {
    async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let within =
            if self.all_namespaces { Within::Cluster } else { Within::Namespace(namespace(to, &api)) };
        let found: Vec<Waypoint> = waypoints(&api, &within).await?.iter().map(Waypoint::of).collect();
        show(to.output, &found, |found| seen::table(found))?;
        Ok(Outcome::Well)
    }
}

impl Delete {
    async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let namespace = namespace(to, &api);
        let found = waypoints(&api, &Within::Namespace(namespace.clone())).await?;
        let names: Vec<String> = found.iter().map(|gateway| tree::text(gateway, "/metadata/name")).collect();
        if let Some(other) = self.names.iter().find(|name| !names.contains(name)) {
            bail!("there is no waypoint {namespace}/{other}");
        }
        let gone = if self.all { &names } else { &self.names };
        for name in gone {
            api.delete(&GATEWAYS.object(&namespace, name)).await?;
        }
        let labels: Value = api.get(&NAMESPACES.object("", &namespace)).await?;
        if let Some(bound) =
            tree::map(&labels, "/metadata/labels").get(USE).filter(|name| gone.contains(name))
        {
            say::note(&format!(
                "namespace {namespace} still names waypoint {bound}: kubectl label namespace {namespace} {USE}-"
            ));
        }
        let words = |gone: &Vec<String>| {
            gone.iter().map(|name| format!("waypoint {namespace}/{name} deleted\n")).collect::<String>()
        };
        show(to.output, gone, words)?;
        Ok(Outcome::Well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_says_for_which_traffic_a_waypoint_is() {
        let bound = |kinds: &[Kind]| -> Vec<Bound> {
            let one = |kind: &Kind| Bound { path: String::new(), what: "it".to_owned(), kind: *kind };
            kinds.iter().map(one).collect()
        };
        for (asked, kinds, expected) in [
            (None, &[][..], Some(None)),
            (None, &[Kind::Namespace], Some(None)),
            (None, &[Kind::Service], Some(None)),
            (None, &[Kind::Workload], Some(Some(For::Workload))),
            (None, &[Kind::Service, Kind::Workload], Some(Some(For::All))),
            (Some(For::All), &[Kind::Service, Kind::Workload], Some(Some(For::All))),
            (Some(For::Service), &[Kind::Workload], None),
            (Some(For::Workload), &[Kind::Service], None),
            (Some(For::None), &[Kind::Namespace], Some(Some(For::None))),
        ] {
            assert_eq!(covers(asked, &bound(kinds)).ok(), expected, "{asked:?} with {kinds:?}");
        }
    }
}
