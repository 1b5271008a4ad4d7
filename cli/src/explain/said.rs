// SPDX-License-Identifier: Apache-2.0
//! What proxies have answered, put into one story for people and programs.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::tree;

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    source: String,
    destination: String,
    /// Whether nothing stands in the way, as far as anybody knows.
    pub(super) arrives: bool,
    steps: Vec<Step>,
    /// Endpoints whose nodes were asked.
    #[serde(skip)]
    pub(super) asked: usize,
}

/// What one proxy says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    /// Who says it.
    at: String,
    /// Whether the request goes on from there.
    passes: bool,
    says: Vec<String>,
    /// In its own words.
    #[serde(skip_serializing_if = "Value::is_null")]
    answer: Value,
}

impl Story {
    pub(super) fn new(source: &str, destination: &str) -> Self {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        Self { source, destination, arrives: true, steps: Vec::new(), asked: 0 }
    }

    fn step(&mut self, at: String, passes: bool, says: Vec<String>, answer: Value) {
        self.arrives &= passes;
        self.steps.push(Step { at, passes, says, answer });
    }

    /// Whether the source is in the mesh.
    pub(super) fn capture(&mut self, node: &str, out: Option<&str>) {
        let says = match out {
            None => format!("{} is in the mesh: what it sends is captured", self.source),
            Some(why) => format!(
                "{} is not in the mesh ({why}): what it sends goes as if there were no mesh, and is nobody's to whoever gets it",
                self.source
            ),
        };
        self.step(format!("node {node}"), true, vec![says], Value::Null);
    }

    /// What the ztunnel of the source does.
    pub(super) fn outbound(&mut self, at: String, answer: &Value) {
        let mut says = Vec::new();
        if let Some(identity) = answer.pointer("/source/identity").and_then(Value::as_str) {
            says.push(format!("identity: {identity}"));
        }
        if let Some(service) = answer.get("service").and_then(Value::as_str) {
            says.push(format!("service: {service}{}", candidates(answer)));
        }
        let passes = way(&answer["hop"], &mut says);
        self.step(format!("ztunnel {at}"), passes, says, answer.clone());
    }

    /// What a waypoint does.
    pub(super) fn waypoint(&mut self, at: &str, answer: &Value) {
        let mut says = Vec::new();
        let mut passes = true;
        if let Some(why) = failure(&answer["addressed"]) {
            says.push(format!("refused: {why}"));
            passes = false;
        } else {
            let (kind, name) = (tree::text(answer, "/addressed/kind"), tree::text(answer, "/addressed/name"));
            let protocol = tree::text(answer, "/addressed/protocol");
            says.push(format!("{kind}: {name}, {protocol}"));
            passes &= verdict(&answer["policies"], &mut says);
            passes &= route(&answer["route"], &mut says);
        }
        self.step(format!("waypoint {at}"), passes, says, answer.clone());
    }

    /// Whether the ztunnel of an endpoint lets it in.
    pub(super) fn inbound(&mut self, at: String, pod: &str, answer: &Value) {
        let mut says = vec![format!("to {pod} at {}", tree::text(answer, "/address"))];
        let passes = verdict(&answer["policies"], &mut says);
        self.step(format!("ztunnel {at}"), passes, says, answer.clone());
    }

    /// An endpoint that no ztunnel stands in front of.
    pub(super) fn unenrolled(&mut self, pod: &str, address: &str) {
        let says = format!("{pod} at {address} takes plain TCP: it is not in the mesh");
        self.step(format!("pod {pod}"), true, vec![says], Value::Null);
    }

    /// Nobody has answered.
    pub(super) fn silent(&mut self, who: &str, why: &str) {
        self.step(who.to_owned(), false, vec![format!("cannot be asked: {why}")], Value::Null);
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = format!("{} -> {}\n", self.source, self.destination);
        for (number, step) in self.steps.iter().enumerate() {
            let mark = if step.passes { "" } else { "  STOPS HERE" };
            // To a text, so it cannot fail.
            writeln!(out, "\n{}. {}{mark}", number + 1, step.at).unwrap_or_default();
            for line in &step.says {
                writeln!(out, "   {line}").unwrap_or_default();
            }
        }
        let end = if self.arrives { "nothing stands in the way" } else { "it does not arrive" };
        writeln!(out, "\n{end}").unwrap_or_default();
        out
    }
}

/// The hops to the endpoints that a waypoint would choose now, one for each backend that gets a share.
pub(super) fn hops(answer: &Value) -> Vec<Value> {
    let backends = tree::list(answer, "/route/backends").iter();
    let chosen = backends.filter(|backend| backend.get("weight").is_none_or(|weight| *weight != 0));
    chosen
        .filter_map(|backend| backend.get("hop").filter(|hop| hop.get("failure").is_none()).cloned())
        .collect()
}

fn failure(value: &Value) -> Option<String> {
    let reason = value.pointer("/failure/reason")?.as_str()?;
    let waits = value.get("waitsFor").is_some();
    Some(if waits { format!("{reason} (it waits for discovery)") } else { reason.to_owned() })
}

/// `, 3 endpoints`.
fn candidates(value: &Value) -> String {
    let Some(count) = value.pointer("/endpoints/count").and_then(Value::as_u64) else { return String::new() };
    let all = tree::list(value, "/endpoints/first");
    let aside = all.iter().filter(|endpoint| endpoint["setAside"] == true).count();
    let aside = if aside == 0 { String::new() } else { format!(", {aside} set aside after failures") };
    format!(", {}{aside}", crate::output::count(usize::try_from(count).unwrap_or(usize::MAX), "endpoint"))
}

fn way(hop: &Value, says: &mut Vec<String>) -> bool {
    if let Some(why) = failure(hop) {
        says.push(format!("refused: {why}"));
        return false;
    }
    let next = match hop.pointer("/next/name").and_then(Value::as_str) {
        Some(name) => format!("{} {}/{name}", tree::text(hop, "/to"), tree::text(hop, "/next/namespace")),
        None => "outside of the mesh".to_owned(),
    };
    let authority = match hop.get("authority").and_then(Value::as_str) {
        Some(authority) => format!(", asking for {authority}"),
        None => String::new(),
    };
    let (transport, address) = (tree::text(hop, "/transport"), tree::text(hop, "/address"));
    says.push(format!("next: {next} by {transport} at {address}{authority}"));
    let expected: Vec<_> = tree::list(hop, "/expected").iter().filter_map(Value::as_str).collect();
    if !expected.is_empty() {
        says.push(format!("which must be {}", expected.join(" or ")));
    }
    true
}

/// Of policies, of a waypoint or a ztunnel: of the same form.
fn verdict(policies: &Value, says: &mut Vec<String>) -> bool {
    if let Some(why) = failure(policies) {
        says.push(format!("policies: refused: {why}"));
        return false;
    }
    let one = |verdict: &Value| {
        let policy = verdict["policy"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
        let word = if verdict["allowed"] == true { "allowed" } else { "refused" };
        format!("{word}: {}{policy}", verdict["reason"].as_str().unwrap_or_default())
    };
    says.push(format!("policies: {}", one(&policies["verdict"])));
    if let Some(trial) = policies.get("dryRun").filter(|trial| !trial.is_null()) {
        says.push(format!("policies under trial: {}", one(trial)));
    }
    policies["verdict"]["allowed"] == true
}

fn route(route: &Value, says: &mut Vec<String>) -> bool {
    match route["found"].as_str() {
        Some("nowhere") => {
            let answer = tree::text(route, "/answer");
            says.push(format!("route: routes are attached and no rule fits: {answer}"));
            return false;
        }
        Some("rule") => {
            let rule = route["rule"].as_str().map(|rule| format!(", rule {rule}")).unwrap_or_default();
            says.push(format!("route: {}{rule}", tree::text(route, "/name")));
        }
        Some(_) | None => says.push("route: none; it goes to the service itself".to_owned()),
    }
    let filters: Vec<_> = tree::list(route, "/filters").iter().filter_map(Value::as_str).collect();
    if !filters.is_empty() {
        says.push(format!("filters: {}", filters.join(", ")));
    }
    let limits =
        [("timeout", "timeout"), ("attemptTimeout", "timeout of each sending"), ("retries", "retries")];
    for (field, name) in limits {
        match &route[field] {
            Value::Null => {}
            Value::String(text) => says.push(format!("{name}: {text}")),
            other => says.push(format!("{name}: {other}")),
        }
    }
    if let Some(status) = route.pointer("/answer/status") {
        let location = route.pointer("/answer/location").and_then(Value::as_str);
        let location = location.map(|to| format!(" to {to}")).unwrap_or_default();
        says.push(format!("answered by the waypoint itself: {status}{location}"));
        return true;
    }
    if let Some(why) = failure(route) {
        says.push(format!("refused: {why}"));
        return false;
    }
    backends(route, says)
}

/// One of them is enough: which is drawn for each request.
fn backends(route: &Value, says: &mut Vec<String>) -> bool {
    let mut any = false;
    for backend in tree::list(route, "/backends") {
        let share = backend["share"].as_f64().map(|share| format!("{share:.0}% ")).unwrap_or_default();
        let name = tree::text(backend, "/name");
        if let Some(why) = failure(backend) {
            says.push(format!("backend: {share}{name}: refused: {why}"));
            continue;
        }
        says.push(format!("backend: {share}{name}:{}{}", backend["port"], candidates(backend)));
        any |= way(&backend["hop"], says);
    }
    if tree::list(route, "/backends").is_empty() {
        says.push("the rule has no backend: 500".to_owned());
    }
    any
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_has_every_hop_and_says_where_it_stops() {
        let mut story = Story::new("shop/cart", "shop/web:80");
        story.capture("n1", None);
        let hop = json!({"transport": "hbone", "address": "10.0.0.2:15008", "to": "waypoint",
            "authority": "10.1.0.2:80", "expected": ["spiffe://a/ns/shop/sa/gate"],
            "source": {"identity": "spiffe://a/ns/shop/sa/cart"}, "next": {"namespace": "shop", "name": "gate-1"}});
        let said = json!({"source": {"identity": "spiffe://a/ns/shop/sa/cart"}, "service": "shop/web", "hop": hop,
            "endpoints": {"count": 2, "first": [{"setAside": true}, {"setAside": false}]}});
        story.outbound("z-1 on n1".to_owned(), &said);
        let backend = |share: u64, hop: Value| json!({"name": "shop/web", "port": 80, "weight": share, "share": share, "hop": hop});
        let end = json!({"transport": "hbone", "address": "10.0.0.3:15008", "to": "workload",
            "authority": "10.0.0.3:8080", "next": {"namespace": "shop", "name": "web-1", "node": "n2"}});
        let none = json!({"failure": {"reason": "no healthy upstream"}});
        let answer = json!({
            "addressed": {"kind": "service", "name": "shop/web", "protocol": "Http11"},
            "policies": {"verdict": {"allowed": true, "reason": "no policy stands against it"}},
            "route": {"found": "rule", "name": "HTTPRoute/shop/web", "rule": "canary", "retries": 2,
                "backends": [backend(90, end), backend(10, none)]},
        });
        story.waypoint("shop/gate-1", &answer);
        assert!(story.arrives);
        assert_eq!(hops(&answer).len(), 1);
        let denied = json!({"address": "10.0.0.3:8080", "policies":
            {"failure": {"reason": "denied by shop/no"}}});
        story.inbound("z-2 on n2".to_owned(), "shop/web-1", &denied);
        assert!(!story.arrives);
        let text = story.text();
        for part in [
            "shop/cart -> shop/web:80",
            "1. node n1",
            "next: waypoint shop/gate-1 by hbone at 10.0.0.2:15008, asking for 10.1.0.2:80",
            "service: shop/web, 2 endpoints, 1 set aside after failures",
            "route: HTTPRoute/shop/web, rule canary",
            "retries: 2",
            "backend: 90% shop/web:80",
            "refused: no healthy upstream",
            "4. ztunnel z-2 on n2  STOPS HERE",
            "policies: refused: denied by shop/no",
            "it does not arrive",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_a_waypoint_answers_itself_needs_no_backend() {
        let mut says = Vec::new();
        let redirect =
            json!({"found": "rule", "name": "r", "answer": {"status": 302, "location": "http://b/"}});
        assert!(route(&redirect, &mut says));
        assert!(says.contains(&"answered by the waypoint itself: 302 to http://b/".to_owned()), "{says:?}");
        assert!(!route(&json!({"found": "nowhere", "answer": "404"}), &mut says));
        assert!(!route(&json!({"found": "rule", "name": "r", "backends": []}), &mut says));
    }
}
