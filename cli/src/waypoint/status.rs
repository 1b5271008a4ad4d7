// SPDX-License-Identifier: Apache-2.0
//! `ambit waypoint status`: whether waypoints run, what is bound to them, and what enforcing them would stop, by the count
//! of every ztunnel since it started.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::Args;
use jiff::SignedDuration;
use kubernetes::{Api, PodPort, Resource, Within};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{USE, seen::Waypoint};
use crate::{
    arguments::{HOME, To},
    exit::Outcome,
    facts::Role,
    gather,
    output::{Table, count, show},
    reach, say, tree,
};

const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const BOUND: &str = "istio.io/WaypointBound";
/// `:15020` of ztunnel: metrics.
const METRICS: u16 = 15020;
const TRIALS: &str = "ambit_dry_run_total";
/// Begins the names of the policies that guard workloads behind a waypoint.
const GUARD: &str = "ambit_waypoint_";

/// Kinds that name waypoints.
const BINDERS: [(&str, Resource); 6] = [
    ("Namespace", Resource::core("namespaces")),
    ("ServiceAccount", Resource::core("serviceaccounts")),
    ("Service", Resource::core("services")),
    ("Pod", Resource::core("pods")),
    ("ServiceEntry", Resource::new("networking.istio.io", "v1", "serviceentries")),
    ("WorkloadEntry", Resource::new("networking.istio.io", "v1", "workloadentries")),
];

/// `ambit waypoint status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Of one waypoint; else of all of the namespace
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Wait until they run
    #[arg(long, short)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "3m", value_name = "TIME")]
    waypoint_timeout: SignedDuration,
    /// The namespace that the mesh runs in
    #[arg(long, default_value = HOME, value_name = "NAMESPACE")]
    mesh_namespace: String,
}

/// A waypoint with all that is known of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    #[serde(flatten)]
    waypoint: Waypoint,
    bound: Vec<Binding>,
    /// Connections that came past it and would be refused if it were enforced; nothing where that could not be counted.
    would_stop: Option<u64>,
}

/// What is bound to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    kind: String,
    namespace: String,
    name: String,
    /// As its canary.
    is_canary: bool,
    /// `True`, `False`, or nothing where the kind has no such condition.
    status: String,
    message: String,
}

impl Status {
    pub(super) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let namespace = super::namespace(to, &api);
        let deadline = Instant::now() + self.waypoint_timeout.unsigned_abs();
        let mut found = super::waypoints(&api, &Within::Namespace(namespace.clone())).await?;
        found.retain(|gateway| {
            self.name.as_ref().is_none_or(|name| tree::text(gateway, "/metadata/name") == *name)
        });
        if let (Some(name), true) = (&self.name, found.is_empty()) {
            bail!("there is no waypoint {namespace}/{name}");
        }
        let (bindings, passed) = futures_util::join!(bindings(&api), passed(&api, &self.mesh_namespace));
        let mut known = Vec::new();
        for gateway in found {
            let mut waypoint = Waypoint::of(&gateway);
            if self.wait && !waypoint.is_programmed() {
                waypoint = Waypoint::of(&super::wait(&api, &namespace, &waypoint.name, deadline).await?.0);
            }
            let own = (waypoint.namespace.clone(), waypoint.name.clone());
            let bound = bindings.get(&own).cloned().unwrap_or_default();
            let would_stop = passed.as_ref().map(|passed| passed.get(&own).copied().unwrap_or_default());
            known.push(Known { waypoint, bound, would_stop });
        }
        show(to.output, &known, |known| table(known))?;
        let is_well = known.iter().all(|known| known.waypoint.is_programmed());
        Ok(if is_well { Outcome::Well } else { Outcome::Wrong })
    }
}

/// What names waypoints, by waypoint.
async fn bindings(api: &Api) -> BTreeMap<(String, String), Vec<Binding>> {
    let mut all: BTreeMap<(String, String), Vec<Binding>> = BTreeMap::new();
    for (kind, resource) in BINDERS {
        let found = match gather::all(api, resource).await {
            Ok(found) => found,
            Err(error) if error.is_absent() => continue,
            Err(error) => {
                say::note(&format!("not seen: {kind}s: {error}"));
                continue;
            }
        };
        for object in found {
            for (gateway, binding) in binding(kind, &object) {
                all.entry(gateway).or_default().push(binding);
            }
        }
    }
    all
}

fn binding(kind: &str, object: &Value) -> Vec<((String, String), Binding)> {
    let labels = tree::map(object, "/metadata/labels");
    let (mut namespace, name) =
        (tree::text(object, "/metadata/namespace"), tree::text(object, "/metadata/name"));
    let own = if kind == "Namespace" { name.clone() } else { namespace.clone() };
    if kind == "Namespace" {
        namespace.clear();
    }
    let conditions = tree::list(object, "/status/conditions");
    let said = conditions.iter().find(|condition| condition["type"] == BOUND);
    let text = |name: &str| said.map(|said| tree::text(said, name)).unwrap_or_default();
    [(USE, USE_NAMESPACE, false), (CANARY, CANARY_NAMESPACE, true)]
        .into_iter()
        .filter_map(|(key, place, is_canary)| {
            let gateway = labels.get(key).filter(|gateway| *gateway != "none")?.clone();
            let home = labels.get(place).cloned().unwrap_or_else(|| own.clone());
            let binding = Binding {
                kind: kind.to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
                is_canary,
                status: text("/status"),
                message: text("/message"),
            };
            Some(((home, gateway), binding))
        })
        .collect()
}

/// Connections that came past waypoints, by waypoint, as ztunnels have counted them; nothing if none of them answers.
async fn passed(api: &Api, home: &str) -> Option<BTreeMap<(String, String), u64>> {
    let facts = match gather::cluster(api, home).await {
        Ok(facts) => facts,
        Err(error) => {
            say::note(&format!("not counted: {error}"));
            return None;
        }
    };
    let asking = gather::running(&facts, Role::Ztunnel).into_iter().map(|pod| async move {
        let at = PodPort { namespace: home.to_owned(), pod: pod.clone(), port: METRICS };
        (pod, gather::text(api, &at, "/metrics").await)
    });
    let mut all = None;
    for (pod, answer) in gather::at_once(asking).await {
        match answer {
            Ok(metrics) => {
                let all: &mut BTreeMap<_, u64> = all.get_or_insert_default();
                for (waypoints, refused) in metrics.lines().filter_map(refused) {
                    for waypoint in waypoints {
                        *all.entry(waypoint).or_default() += refused;
                    }
                }
            }
            Err(why) => say::note(&format!("not counted: {pod}: {why}")),
        }
    }
    all
}

/// A line of the metrics that counts what a guard would have refused: the gateways of the guard, and how often.
fn refused(line: &str) -> Option<(Vec<(String, String)>, u64)> {
    let (labels, value) = line.strip_prefix(TRIALS)?.strip_prefix('{')?.split_once('}')?;
    let label = |name: &str| {
        let at = labels.split(',').find_map(|label| label.trim().strip_prefix(name)?.strip_prefix('='));
        Some(at?.trim_matches('"').to_owned())
    };
    if label("verdict")? != "denied" {
        return None;
    }
    let policy = label("policy")?;
    let (namespace, name) = policy.split_once('/')?;
    // The first gateway is of the policy's namespace, others say theirs; no name has an underscore.
    let mut words = name.strip_prefix(GUARD)?.split('_');
    let mut gateways = vec![(namespace.to_owned(), words.next()?.to_owned())];
    while words.next()? == "with" {
        gateways.push((words.next()?.to_owned(), words.next()?.to_owned()));
    }
    // A counter of Prometheus is a floating-point number.
    let value = value.trim().split('.').next()?.parse().ok()?;
    Some((gateways, value))
}

fn table(known: &[Known]) -> String {
    let mut text = String::new();
    for Known { waypoint, bound, would_stop } in known {
        let Waypoint { namespace, name, class, covers, enforcement, .. } = waypoint;
        let state = if waypoint.is_programmed() {
            "runs".to_owned()
        } else {
            format!("does not run: {}", waypoint.why())
        };
        text.push_str(&format!("{namespace}/{name} (class {class}, for {covers}, {enforcement}) {state}\n"));
        match would_stop {
            Some(stopped) => text.push_str(&format!(
                "  {} came past it; enforce would refuse what comes so\n",
                count(usize::try_from(*stopped).unwrap_or(usize::MAX), "connection")
            )),
            None => text.push_str("  what came past it is not known: no ztunnel answers\n"),
        }
        let mut table = Table::new(&["  KIND", "NAMESPACE", "NAME", "AS", "BOUND", "MESSAGE"]);
        for binding in bound {
            table.row([
                format!("  {}", binding.kind),
                binding.namespace.clone(),
                binding.name.clone(),
                if binding.is_canary { "canary" } else { "primary" }.to_owned(),
                binding.status.clone(),
                binding.message.clone(),
            ]);
        }
        text.push_str(&table.text("  nothing is bound to it"));
    }
    if known.is_empty() { "no waypoints\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_guard_on_trial_would_refuse_is_counted_for_its_gateway() {
        let named = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let own = |count| Some((vec![named("shop", "web")], count));
        let both = Some((vec![named("bank", "old"), named("shop", "web")], 3));
        for (line, expected) in [
            (
                r#"ambit_dry_run_total{policy="shop/ambit_waypoint_web_port_8080_audit",verdict="denied"} 7"#,
                own(7),
            ),
            (
                r#"ambit_dry_run_total{verdict="denied",policy="shop/ambit_waypoint_web_all_audit"} 12.0"#,
                own(12),
            ),
            (
                r#"ambit_dry_run_total{policy="bank/ambit_waypoint_old_with_shop_web_port_80_audit",verdict="denied"} 3"#,
                both,
            ),
            (r#"ambit_dry_run_total{policy="-",verdict="open"} 9"#, None),
            (r#"ambit_dry_run_total{policy="shop/mine",verdict="denied"} 9"#, None),
            ("# HELP ambit_dry_run_total what it is", None),
            ("other_total 3", None),
        ] {
            assert_eq!(refused(line), expected, "{line}");
        }
    }

    #[test]
    fn an_object_is_bound_to_what_its_labels_name() {
        let service = json!({
            "metadata": {"name": "cart", "namespace": "shop", "labels": {
                "istio.io/use-waypoint": "web", "istio.io/use-waypoint-canary": "next",
                "istio.io/use-waypoint-canary-namespace": "infra",
            }},
            "status": {"conditions": [{"type": BOUND, "status": "True", "message": "so it is"}]},
        });
        let found = binding("Service", &service);
        let gateways: Vec<_> = found
            .iter()
            .map(|(gateway, binding)| (gateway.0.as_str(), gateway.1.as_str(), binding.is_canary))
            .collect();
        assert_eq!(gateways, [("shop", "web", false), ("infra", "next", true)]);
        assert_eq!(found[0].1.status, "True");
        let namespace = json!({"metadata": {"name": "shop", "labels": {"istio.io/use-waypoint": "web"}}});
        assert_eq!(binding("Namespace", &namespace)[0].0, ("shop".to_owned(), "web".to_owned()));
        let none = json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"istio.io/use-waypoint": "none"}}});
        assert_eq!(binding("Pod", &none), []);
    }
}
