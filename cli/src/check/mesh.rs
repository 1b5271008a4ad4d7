// SPDX-License-Identifier: Apache-2.0
//! The mesh that is installed: its parts, what they say of themselves, and whether they agree with the labels.

use std::collections::{BTreeMap, BTreeSet};

use finding::{Finding, Grade};
use jiff::{SignedDuration, Timestamp, Unit};
use membership::objects::Phase;

use crate::{
    control::{ControlStatus, Lack},
    dump::Identity,
    facts::{Captured, Facts, Role},
    kinds,
    output::{count, some},
};

/// Who makes nodes may set it; the agent removes it.
const TAINT: &str = "cni.istio.io/not-ready";
/// The root has ten years, and is replaced when a fifth of them is left.
const ROOT_LEFT: SignedDuration = SignedDuration::from_hours(24 * 90);

pub(super) fn definitions(facts: &Facts) -> Vec<Finding> {
    let names = kinds::ISTIO.iter().map(kinds::definition);
    let lacking: Vec<String> = names.filter(|name| !facts.crds.contains_key(name)).collect();
    if lacking.is_empty() || facts.crds.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        "definitions",
        format!("kinds that are not defined, so nobody can use them: {}", some(&lacking)),
        "install with base.crds.install=true (the default)",
    )]
}

pub(super) fn parts(facts: &Facts) -> Vec<Finding> {
    Role::ALL.iter().map(|role| part(facts, *role)).collect()
}

fn part(facts: &Facts, role: Role) -> Finding {
    let home = &facts.home;
    let Some(part) = facts.part(role) else {
        let found = format!("there is no {} in {home}", role.text());
        return Finding::failure(role.text(), found, "ambit install");
    };
    let found = format!("{} of {} ready", part.ready, part.wanted);
    if part.ready >= part.wanted && part.updated < part.wanted {
        return Finding::warning(
            role.text(),
            format!("{found}, {} of them as the chart says now", part.updated),
            format!("kubectl -n {home} rollout status {}/{}", part.kind.text(), part.name),
        );
    }
    if part.ready >= part.wanted && part.wanted > 0 {
        return Finding::ok(role.text(), format!("{found}, version {}", part.version()));
    }
    if part.wanted == 0 {
        return Finding::warning(
            role.text(),
            format!("{home}/{} wants no pod", part.name),
            "see its nodeSelector, affinity and replicas",
        );
    }
    let bad = facts.pods_of(role).into_iter().filter(|pod| !pod.ready);
    let place = |pod: &crate::facts::Pod| match pod.node.as_str() {
        "" => format!("{} on no node yet", pod.object.name),
        node => format!("{} on {node}", pod.object.name),
    };
    let bad: Vec<String> = bad.map(place).collect();
    let names = if bad.is_empty() { String::new() } else { format!(": {}", some(&bad)) };
    Finding::failure(
        role.text(),
        format!("{found}{names}"),
        format!("kubectl -n {home} describe pod NAME; kubectl -n {home} logs NAME"),
    )
}

pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let mut by_version: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for role in Role::ALL {
        let versions: BTreeSet<String> = facts.pods_of(role).iter().map(|pod| pod.version()).collect();
        for version in versions {
            by_version.entry(version).or_default().push(role.text());
        }
    }
    if by_version.len() < 2 {
        return Vec::new();
    }
    let shown = by_version.iter().map(|(version, roles)| format!("{version} ({})", roles.join(", ")));
    vec![Finding::warning(
        "versions",
        format!("mixed: {}", shown.collect::<Vec<_>>().join(", ")),
        "let the roll-out end (kubectl rollout status), or finish the upgrade: ambit install",
    )]
}

pub(super) fn taints(facts: &Facts) -> Vec<Finding> {
    let tainted = facts.nodes.iter().filter(|node| node.taints.iter().any(|key| key == TAINT));
    let tainted: Vec<String> = tainted.map(|node| node.name.clone()).collect();
    if tainted.is_empty() {
        return Vec::new();
    }
    vec![Finding::failure(
        "taint",
        format!("no pod is placed on {}: {TAINT} is still there", some(&tainted)),
        "the node agent takes it away when it is ready: see its log on that node",
    )]
}

pub(super) fn control(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, answer) in &facts.controls {
        match answer {
            Ok(status) => findings.extend(replica(pod, status)),
            Err(why) => findings.push(Finding::warning(
                "discovery",
                format!("{pod} does not answer: {why}"),
                "let this user create pods/portforward, or see the log of the pod",
            )),
        }
    }
    findings.extend(lacks(facts));
    let answers: Vec<&ControlStatus> =
        facts.controls.values().filter_map(|answer| answer.as_ref().ok()).collect();
    if !answers.is_empty() && !answers.iter().any(|status| status.cluster.leads) {
        findings.push(Finding::warning(
            "discovery",
            "no replica of control leads, so nobody writes conditions and roots",
            format!("kubectl -n {} get lease ambit-control; it moves within 15 s", facts.home),
        ));
    }
    if findings.is_empty() && !answers.is_empty() {
        let proxies = answers.iter().map(|status| status.proxies.len()).sum();
        findings.push(Finding::ok(
            "discovery",
            format!("{} connected", count(proxies, "node proxy").replace("proxys", "proxies")),
        ));
    }
    findings
}

/// What control's roles do not allow, which is the same for all replicas.
fn lacks(facts: &Facts) -> Vec<Finding> {
    let answers = facts.controls.values().filter_map(|answer| answer.as_ref().ok());
    let lacks: BTreeSet<&Lack> = answers.flat_map(|status| &status.cluster.lacks).collect();
    let finding = |Lack { role, resource, verbs, breaks }: &Lack| {
        Finding::failure(
            "permissions",
            format!("control: {role} does not let it {} {resource}: {breaks}", verbs.join(", ")),
            "the chart's roles were changed: `ambit install` or `helm upgrade` with the values in use makes them anew",
        )
    };
    lacks.into_iter().map(finding).collect()
}

fn replica(pod: &str, status: &ControlStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !status.ready {
        let found = format!("{pod} is not ready: {}", status.pending.join(", "));
        findings.push(Finding::failure("discovery", found, "see the log of the pod"));
    }
    if !status.cluster.stale.is_empty() {
        findings.push(Finding::failure(
            "discovery",
            format!("{pod} does not hear from the API server: {} are old", status.cluster.stale.join(", ")),
            "see whether its node reaches the API server and its role lets it watch",
        ));
    }
    let late = status
        .proxies
        .iter()
        .filter(|proxy| proxy.types.values().any(|progress| !progress.refused.is_empty()));
    let late: Vec<String> = late.map(|proxy| proxy.node.clone()).collect();
    if !late.is_empty() {
        findings.push(Finding::failure(
            "discovery",
            format!("refused by {}", some(&late)),
            "ambit status names the objects; a proxy of another version may not know them",
        ));
    }
    findings
}

/// Labels against what the ztunnels serve.
pub(super) fn capture(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, answer) in &facts.ztunnels {
        if let Err(why) = answer {
            findings.push(Finding::warning(
                "capture",
                format!("{pod} does not answer: {why}"),
                "let this user create pods/portforward, or see the log of the pod",
            ));
        }
    }
    let (mut missing, mut left, mut captured) = (Vec::new(), Vec::new(), 0);
    for judged in facts.judged(now) {
        let runs = judged.pod.object.phase == Phase::Running;
        match (&judged.out, judged.captured) {
            (None, Captured::Yes) => captured += 1,
            (None, Captured::No) if runs => missing.push(judged.pod.full_name()),
            (Some(reason), Captured::Yes) => left.push(format!("{} ({reason})", judged.pod.full_name())),
            (None, Captured::No | Captured::Unknown) | (Some(_), Captured::No | Captured::Unknown) => {}
        }
    }
    if !missing.is_empty() {
        findings.push(Finding::failure(
            "capture",
            format!("in the mesh by their labels, and not captured: {}", some(&missing)),
            "kubectl describe pod says why (event NotEnrolled), the log of the node agent on its node says more",
        ));
    }
    if !left.is_empty() {
        findings.push(Finding::warning(
            "capture",
            format!("captured, and not in the mesh by their labels: {}", some(&left)),
            "the node agent lets them go within seconds: see its log if they stay",
        ));
    }
    if findings.is_empty() && !facts.ztunnels.is_empty() {
        findings
            .push(Finding::ok("capture", format!("{} captured, none is missing", count(captured, "pod"))));
    }
    findings
}

/// What the agents say of their nodes, each thing once; what is well on all of them is one line.
pub(super) fn reports(facts: &Facts) -> Vec<Finding> {
    let mut bad: BTreeMap<(&str, Grade, &str, &str), BTreeSet<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut good = 0;
    for (pod, answer) in &facts.reports {
        let report = match answer {
            Ok(report) => report,
            Err(why) => {
                findings.push(Finding::warning(
                    "node report",
                    format!("{pod} does not answer: {why}"),
                    "let this user create pods/portforward, or see the log of the pod",
                ));
                continue;
            }
        };
        let node = facts.pods_of(Role::Node).into_iter().find(|found| found.object.name == *pod);
        let node = node.map_or_else(|| pod.clone(), |found| found.node.clone());
        let wrong: Vec<&Finding> = report.iter().filter(|finding| finding.grade != Grade::Ok).collect();
        good += usize::from(wrong.is_empty());
        for Finding { check, grade, found, fix } in wrong {
            bad.entry((check, *grade, found, fix)).or_default().insert(node.clone());
        }
    }
    for ((check, grade, found, fix), nodes) in bad {
        let nodes: Vec<String> = nodes.into_iter().collect();
        let found = format!("{}: {found}", some(&nodes));
        findings.push(Finding { check: check.to_owned().into(), grade, found, fix: fix.to_owned() });
    }
    if findings.is_empty() && good > 0 {
        let found =
            format!("{}: kernel, capabilities, control groups, CNI order and sockets", count(good, "node"));
        findings.push(Finding::ok("node report", found));
    }
    findings
}

pub(super) fn bypasses(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let found = facts.namespaces.iter().filter_map(|(name, namespace)| {
        if let Some(bypass) = namespace.object.bypass(now) {
            let fix = format!("it ends by itself; earlier: ambit bypass {name} --end");
            return Some(Finding::warning("bypass", format!("{name} is {bypass}"), fix));
        }
        let fault = namespace.object.fault(now)?;
        let fix =
            format!("ambit bypass {name} --for 30m --reason ... writes a valid one, --end takes it away");
        Some(Finding::warning("bypass", format!("that of {name} is ignored: {fault}"), fix))
    });
    found.collect()
}

pub(super) fn certificates(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut good = 0;
    for (pod, dump) in &facts.ztunnels {
        let Ok(dump) = dump else { continue };
        let mut bad = Vec::new();
        for identity in &dump.certificates {
            match trouble(identity, now) {
                None => good += 1,
                Some(trouble) => bad.push(format!("{} ({trouble})", identity.identity)),
            }
        }
        if !bad.is_empty() {
            findings.push(Finding::failure(
                "certificates",
                format!("{pod}: {}", some(&bad)),
                "they are renewed at half of their life: see the logs of this ztunnel and of control (target audit)",
            ));
        }
    }
    let roots = facts.controls.values().filter_map(|answer| answer.as_ref().ok());
    let first = roots.filter_map(|status| status.root_expires.parse::<Timestamp>().ok()).min();
    if let Some(end) = first.filter(|end| end.duration_since(now) < ROOT_LEFT) {
        findings.push(Finding::warning(
            "certificates",
            format!("the root expires at {end}"),
            "replace it: docs/kubernetes.md, certificate authority",
        ));
    }
    if findings.is_empty() && good > 0 {
        findings.push(Finding::ok("certificates", format!("{good} in use, none near its end")));
    }
    findings
}

/// Why an identity's certificate is not as it should be: there is none, or less than a quarter of its life is left.
fn trouble(identity: &Identity, now: Timestamp) -> Option<String> {
    let Some(leaf) = identity.cert_chain.first() else {
        return (!identity.state.starts_with("Initializing")).then(|| identity.state.clone());
    };
    let (begins, expires) = (leaf.begins()?, leaf.expires()?);
    let left = expires.duration_since(now);
    if left.is_negative() {
        return Some(format!("expired at {expires}"));
    }
    let shown = left.round(Unit::Second).map_or_else(|_| expires.to_string(), |left| format!("{left:#}"));
    (left * 4 < expires.duration_since(begins)).then(|| format!("{shown} left"))
}
