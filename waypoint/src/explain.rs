// SPDX-License-Identifier: Apache-2.0
//! What would become of a request: addressed, routed, edited and sent where, by the decisions that requests get. Nothing is
//! sent.

use std::net::SocketAddr;

use ::proxy::explain as shown;
use http::{HeaderName, HeaderValue, Method, Request as Head, StatusCode, header::HOST, request};
use mesh::{
    Index, SpiffeId,
    l7::{
        RouteKind,
        guard::{self as guards, Http},
        route::{Backend, Filter, HttpRule, Target as Reference},
        view::Request as Asked,
    },
};
use plan::{
    Answer, Authority, Flow, Protocol, Resolved, guard as decided,
    outbound::Hop,
    route::{
        self, Found,
        filter::{self, Arrived},
    },
    waypoint::{self, Addressed, Target, addressed},
};
use runtime::http::{Request, Response, respond};
use serde_json::{Value, json};

use crate::{guard, headers, pick, waypoint::Waypoint};

/// How to ask.
pub const USAGE: &str = "\
/explain?destination=ADDRESS_OR_NAME:PORT&identity=spiffe://...[&source=IP][&method=GET][&path=/][&host=H][&header.NAME=VALUE]
";

/// Answers `/explain`.
pub fn answer(waypoint: &Waypoint, request: &Request) -> Response {
    match Question::read(request) {
        Ok(mut question) => {
            let value = match guard::normalise(waypoint, &mut question.head) {
                Ok(()) => waypoint.replica.read(|index| explain(waypoint, index, &question)),
                Err(fault) => json!({ "addressed": { "failure": { "reason": fault.to_string() } } }),
            };
            respond::json(StatusCode::OK, format!("{value:#}\n"))
        }
        Err(why) => respond::text(StatusCode::BAD_REQUEST, format!("{why}\n{USAGE}")),
    }
}

/// A request that nobody has sent.
struct Question {
    destination: Authority,
    identity: SpiffeId,
    source: SocketAddr,
    head: request::Parts,
}

impl Question {
    fn read(request: &Request) -> Result<Self, String> {
        let said = |name: &str| request.query.get(name).map(String::as_str);
        let need = |name: &str| said(name).ok_or_else(|| format!("{name} is missing"));
        let destination = need("destination")?
            .parse()
            .map_err(|_not| "destination is no address with a port".to_owned())?;
        let identity = need("identity")?.parse::<SpiffeId>().map_err(|error| error.to_string())?;
        let source = said("source").unwrap_or("0.0.0.0").parse();
        let source = SocketAddr::new(source.map_err(|_not| "source is no address".to_owned())?, 0);
        let method: Method =
            said("method").unwrap_or("GET").parse().map_err(|_not| "no such method".to_owned())?;
        let mut head = Head::builder().method(method).uri(said("path").unwrap_or("/"));
        let host = said("host")
            .map_or_else(|| need("destination").map(str::to_owned), |host| Ok(host.to_owned()))?;
        head = head.header(HOST, host);
        for (name, value) in &request.query {
            let Some(name) = name.strip_prefix("header.") else { continue };
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name}: {error}"))?;
            let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
            head = head.header(name, value);
        }
        let head = head.body(()).map_err(|error| error.to_string())?.into_parts().0;
        Ok(Self { destination, identity, source, head })
    }
}

fn explain(waypoint: &Waypoint, index: &Index, question: &Question) -> Value {
    let own = &waypoint.config.own;
    let client = question.identity.namespace();
    let found = addressed(index, waypoint.local(), client, &question.destination);
    let mut out = json!({
        "waypoint": format!("{}/{}", own.namespace, own.name),
        "identity": question.identity.to_string(),
        "request": { "method": question.head.method.as_str(), "path": question.head.uri.to_string() },
    });
    let said = shown::answer(found.clone(), |addressed| {
        json!({
            "kind": match &addressed.target { Target::Service(_) => "service", Target::Workload(_) => "workload" },
            "name": name(&addressed.target),
            "port": addressed.port,
            "protocol": format!("{:?}", addressed.protocol),
        })
    });
    out["addressed"] = said;
    let Answer::Ready(Ok(addressed)) = found else { return out };
    let policies = verdict(waypoint, index, question, &addressed);
    out["policies"] = policies;
    out["route"] = routed(waypoint, index, question, &addressed);
    out
}

fn name(target: &Target) -> String {
    match target {
        Target::Service(service) => service.key().to_string(),
        Target::Workload(workload) => workload.uid.to_string(),
    }
}

/// What the policies of this waypoint say of it; what a workload's own say, its ztunnel says. A token is not looked at: what
/// asks for claims finds none.
fn verdict(waypoint: &Waypoint, index: &Index, question: &Question, addressed: &Addressed) -> Value {
    let head = &question.head;
    let http = Http {
        method: &head.method,
        host: headers::host(&head.uri, &head.headers),
        path: head.uri.path(),
        headers: &head.headers,
        claims: None,
    };
    let asked = guards::Asked {
        identity: &question.identity,
        source: question.source.ip(),
        remote: decided::remote(&head.headers, question.source.ip()),
        destination: addressed.asked,
        server_name: None,
        http: Some(http),
    };
    let service = addressed.target.service().map(|service| service.key());
    match decided::guard(index, waypoint.local(), service.as_ref(), &asked) {
        Answer::Ready(judgement) => json!({
            "verdict": shown::verdict(&judgement.verdict),
            "dryRun": judgement.dry_run.as_ref().map(shown::verdict),
            "audited": judgement.audited.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "tokens": "not looked at",
        }),
        Answer::Needs(missing) => shown::failure(&missing.failure().into()),
    }
}

fn routed(waypoint: &Waypoint, index: &Index, question: &Question, addressed: &Addressed) -> Value {
    let direct = || json!({ "found": "unrouted", "backends": [to(waypoint, index, question, addressed, &addressed.target)] });
    let Some(service) = addressed.target.service() else { return direct() };
    let head = &question.head;
    let asked = Asked {
        method: &head.method,
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
    };
    let client = question.identity.namespace();
    match route::find(index, &service.key(), addressed.port, client, &asked) {
        Found::Unrouted => direct(),
        Found::Nowhere(kind) => {
            let kind = match kind {
                RouteKind::Grpc => "UNIMPLEMENTED",
                RouteKind::Http | RouteKind::Tls | RouteKind::Tcp => "404",
            };
            json!({ "found": "nowhere", "answer": kind })
        }
        Found::Rule(matched) => {
            let mut head = head.clone();
            let arrived = Arrived { port: addressed.port, scheme: "http", prefix: &matched.prefix };
            let rule = &matched.rule;
            let mut out = json!({
                "found": "rule",
                "name": matched.route.to_string(),
                "rule": rule.name.as_deref(),
                "prefix": matched.prefix.as_str(),
                "filters": filters(&rule.filters),
                "timeout": rule.timeouts.request.map(|limit| format!("{limit:?}")),
                "attemptTimeout": rule.timeouts.attempt.map(|limit| format!("{limit:?}")),
                "retries": rule.retry.as_ref().map(|retry| retry.attempts),
            });
            match filter::before(&rule.filters, arrived, &mut head) {
                Ok(Some(answer)) => {
                    let location =
                        answer.headers.get("location").map(|to| String::from_utf8_lossy(to.as_bytes()));
                    out["answer"] = json!({ "status": answer.status.as_u16(), "location": location });
                    return out;
                }
                Ok(None) => out["sent"] = sent(&head),
                Err(error) => out["failure"] = json!({ "reason": error.to_string() }),
            }
            out["backends"] = backends(waypoint, index, question, addressed, rule);
            out
        }
    }
}

/// The head as a server would get it.
fn sent(head: &request::Parts) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), json!(text(value))));
    json!({ "path": head.uri.to_string(), "headers": Value::Object(fields.collect()) })
}

fn filters(filters: &[Filter]) -> Vec<&'static str> {
    let name = |filter: &Filter| match filter {
        Filter::RequestHeaders(_) => "requestHeaders",
        Filter::ResponseHeaders(_) => "responseHeaders",
        Filter::Redirect(_) => "redirect",
        Filter::Rewrite(_) => "rewrite",
        Filter::Mirror(_) => "mirror",
        Filter::Cors(_) => "cors",
    };
    filters.iter().map(name).collect()
}

fn backends(
    waypoint: &Waypoint,
    index: &Index,
    question: &Question,
    addressed: &Addressed,
    rule: &HttpRule,
) -> Value {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let one = |backend: &Backend| {
        let mut out = match crate::route::at(waypoint, index, &backend.target) {
            Ok((target, asked)) => {
                let addressed = Addressed { asked, port: asked.port(), ..addressed.clone() };
                to(waypoint, index, question, &addressed, &target)
            }
            Err(fault) => {
                let name = match &backend.target {
                    Reference::Service { name, port } => format!("{name}:{port}"),
                    Reference::Refused(reason) => reason.to_string(),
                };
                json!({ "name": name, "failure": { "reason": fault.to_string() } })
            }
        };
        out["weight"] = json!(backend.weight);
        out["share"] = json!(percent(backend.weight, total));
        out
    };
    rule.backends.iter().map(one).collect()
}

fn percent(weight: u32, total: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = if total == 0 { 0.0 } else { f64::from(weight) * 100.0 / total as f64 };
    share
}

/// Where it would go for a backend: who may be chosen, and who would be now.
fn to(
    waypoint: &Waypoint,
    index: &Index,
    question: &Question,
    addressed: &Addressed,
    target: &Target,
) -> Value {
    let aside = pick::left_out(waypoint, index, target);
    let flow = Flow {
        protocol: Protocol::TCP,
        source: question.source,
        destination: addressed.asked,
        seed: rand::random(),
        resolved: Resolved::default(),
    };
    let hop: Answer<Result<Hop, _>> = waypoint::hop(index, waypoint.local(), &flow, target, &aside);
    json!({
        "name": name(target),
        "port": addressed.asked.port(),
        "endpoints": target.service().map(|service| shown::endpoints(index, service, &aside)),
        "hop": shown::answer(hop, shown::hop),
    })
}
