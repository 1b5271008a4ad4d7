// SPDX-License-Identifier: Apache-2.0
//! What users write: manifests, from text to what proxies are told, and the file of tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use control::{
    authenticate::StaticTokens,
    manifests::{self, Content},
    world::{Event, Settings, World},
};
use mesh::{Change, Network, TrustDomain};
use tempfile::NamedTempFile;
use xds::Resource;

use crate::{discovery, text};

pub(crate) fn manifest(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let content = manifests::read(text);
    check(text, &content);
    let mut whole = World::new(settings());
    whole.apply(events(&content));
    for change in whole.outputs() {
        discovery::survives(&resource(change));
    }
    // One object after the other comes to the same, and when all are gone nothing is left.
    let mut stepwise = World::new(settings());
    for event in events(&content) {
        stepwise.apply([event]);
    }
    assert!(whole.outputs().eq(stepwise.outputs()));
    stepwise.apply(content.objects.iter().map(|(object, _)| Event::Deleted(object.key())));
    assert_eq!(stepwise.outputs().count(), 0);
}

/// Every complaint can be found in the file, and what is in force is not ambiguous.
fn check(text: &str, content: &Content) {
    let lines = u64::try_from(text.lines().count()).expect("it fits") + 1;
    for problem in content.problems.iter().chain(&content.ignored) {
        assert!(problem.line <= lines, "{problem:?} of {lines} lines");
        assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem:?}");
    }
    let keys: BTreeSet<_> = content.objects.iter().map(|(object, _)| object.key()).collect();
    assert!(keys.len() == content.objects.len() || !content.problems.is_empty(), "twins in {keys:?}");
}

fn resource(change: Change) -> Resource {
    match change {
        Change::Workload(workload) => workload.into(),
        Change::Service(service) => service.into(),
        Change::Policy(policy) => policy.into(),
        Change::Route(route) => route.into(),
        Change::Telemetry(telemetry) => telemetry.into(),
        Change::Traffic(traffic) => traffic.into(),
        Change::Guard(guard) => guard.into(),
        Change::Authentication(authentication) => authentication.into(),
        gone @ (Change::WorkloadGone(_)
        | Change::ServiceGone(_)
        | Change::PolicyGone(_)
        | Change::RouteGone(_)
        | Change::GuardGone(_)
        | Change::AuthenticationGone(_)
        | Change::TelemetryGone(_)
        | Change::TrafficGone(_)) => {
            panic!("{gone:?} is told to somebody who knows nothing")
        }
    }
}

fn events(content: &Content) -> Vec<Event> {
    content.objects.iter().map(|(object, _)| Event::Applied(Box::new(object.clone()))).collect()
}

fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::parse("cluster.local").expect("it is a domain"),
        cluster: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        network: Network::default(),
        root_namespace: "istio-system".into(),
        providers: BTreeMap::new(),
    }
}

/// What proxies are told because of the objects of a good manifest.
pub(crate) fn told(text: &str) -> Vec<Resource> {
    let content = manifests::read(text);
    assert_eq!(content.problems, []);
    let mut world = World::new(settings());
    world.apply(events(&content));
    world.outputs().map(resource).collect()
}

pub(crate) fn tokens(bytes: &[u8]) {
    let file = NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("room for a temporary file");
    let Err(error) = StaticTokens::open(Some(file.path())) else { return };
    // A token may stand anywhere in a broken file, so an error quotes nothing of it.
    let told = format!("{error} {error:?}").replace(&file.path().display().to_string(), "");
    for word in text(bytes).unwrap_or_default().split(|c: char| !c.is_ascii_alphanumeric()) {
        let ours = ["token", "namespace", "serviceAccount", "node", "entry"];
        assert!(word.len() < 16 || ours.contains(&word) || !told.contains(word), "{told} quotes {word}");
    }
}
