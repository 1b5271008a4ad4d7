// SPDX-License-Identifier: Apache-2.0
//! What is kept of a request so that it can be found again: its number, its trace, and, where it is sampled, the spans of
//! it and of every sending. The trace goes on to the server in the forms in which it came.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arcstr::ArcStr;
use http::{HeaderMap, HeaderName, HeaderValue, header::USER_AGENT};
use mesh::telemetry::{Provider, SpanWire, Tag, Tracing, View};
use plan::{
    outbound::Hop,
    trace::{
        self,
        carried::{self, Carried, Ids},
    },
};

use crate::{
    exchange::{Exchange, Spoken},
    metrics::Labels,
    spans::{Attribute, Kind, Span},
    waypoint::Waypoint,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest text that a span says of one thing.
const LONGEST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub struct Trail {
    /// `x-request-id`.
    pub number: Option<HeaderValue>,
    /// The trace, if there is one.
    pub trace: Option<u128>,
    /// What it came with, while somebody looks at requests.
    pub headers: Option<Box<HeaderMap>>,
    /// What its answer came with, where an expression needs it.
    pub answer: Option<Box<HeaderMap>>,
    /// What is to be observed of it.
    pub view: Option<Arc<View>>,
    /// What this proxy adds to the trace, if it takes part.
    own: Option<Box<Own>>,
}

#[derive(Debug)]
struct Own {
    span: Ids,
    parent: Option<u64>,
    carried: Carried,
    sampled: bool,
    /// Where to; nothing of what is not sampled.
    provider: Option<Arc<Provider>>,
    tags: Vec<Attribute>,
    began: SystemTime,
    tries: Vec<Try>,
}

/// One sending.
#[derive(Debug)]
struct Try {
    span: u64,
    began: Instant,
    ended: Option<Instant>,
    address: SocketAddr,
    workload: Option<(ArcStr, ArcStr)>,
    status: Option<u16>,
    fault: Option<(String, &'static str)>,
}

impl Trail {
    /// Of a request that begins; what servers are to know is written into its head.
    pub fn begin(waypoint: &Waypoint, exchange: &Exchange, headers: &mut HeaderMap) -> Self {
        let number = match headers.get(REQUEST_ID) {
            Some(number) if !number.is_empty() => Some(number.clone()),
            Some(_) | None => HeaderValue::from_str(&uuid(rand::random())).ok(),
        };
        if let Some(number) = &number {
            headers.insert(REQUEST_ID, number.clone());
        }
        let view = waypoint.observed.of(waypoint, exchange.service());
        let is_looked_at = waypoint.taps.is_open() || view.uses.request_headers;
        let seen = is_looked_at.then(|| Box::new(headers.clone()));
        let carried = carried::read(headers);
        let begun = Self { number, headers: seen, ..Self::default() };
        let Some(provider) = &view.tracing.provider else {
            let trace = carried.parent.map(|parent| parent.trace);
            return Self { trace, view: Some(view), ..begun };
        };
        let own = Own::new(&view.tracing, provider, carried, (exchange.seed, headers));
        let (span, forms) = (own.span, own.carried.forms);
        carried::write(headers, span, own.parent, own.sampled, forms);
        Self { trace: Some(span.trace), view: Some(view), own: Some(Box::new(own)), ..begun }
    }

    /// The client is told this: kept where an expression is going to ask for it.
    pub fn keep(&mut self, answer: &HeaderMap) {
        if self.view.as_ref().is_some_and(|view| view.uses.response_headers) {
            self.answer = Some(Box::new(answer.clone()));
        }
    }

    /// It is sent to an endpoint: the server is told that this sending is its caller.
    pub fn sent(&mut self, hop: &Hop, headers: &mut HeaderMap) {
        let Some(own) = self.own.as_deref_mut() else { return };
        own.close(Instant::now());
        let span = rand::random::<u64>().max(1);
        let ids = Ids { span, ..own.span };
        carried::write(headers, ids, Some(own.span.span), own.sampled, own.carried.forms);
        if own.provider.is_some() {
            own.tries.push(Try {
                span,
                began: Instant::now(),
                ended: None,
                address: hop.address(),
                workload: hop.destination.as_deref().map(|to| (to.name.clone(), to.namespace.clone())),
                status: None,
                fault: None,
            });
        }
    }

    /// The head of the answer is there.
    pub fn answered(&mut self, status: u16) {
        if let Some(last) = self.last() {
            last.status = Some(status);
        }
    }

    /// It was sent in vain.
    pub fn failed(&mut self, fault: &plan::Fault) {
        if let Some(last) = self.last() {
            last.fault = Some((cut(&fault.to_string()), fault.meaning().flag));
            last.ended = Some(Instant::now());
        }
    }

    fn last(&mut self) -> Option<&mut Try> {
        self.own.as_mut()?.tries.last_mut()
    }

    /// Whether anybody wants its spans.
    pub fn is_recorded(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.provider.is_some())
    }
}

impl Own {
    fn new(
        tracing: &Tracing,
        provider: &Arc<Provider>,
        carried: Carried,
        (seed, headers): (u64, &HeaderMap),
    ) -> Self {
        let sampled = trace::is_sampled(&carried, tracing.share.unwrap_or_default(), seed);
        let recorded = sampled && tracing.report.unwrap_or(true);
        let mut carried = carried;
        // Whoever sends spans to Zipkin has clients that know its headers.
        carried.forms.multi |= provider.wire == SpanWire::Zipkin && !carried.forms.single;
        let trace = carried.parent.map_or_else(|| rand::random::<u128>().max(1), |parent| parent.trace);
        Self {
            span: Ids { trace, span: rand::random::<u64>().max(1) },
            parent: carried.parent.map(|parent| parent.span),
            sampled,
            provider: recorded.then(|| Arc::clone(provider)),
            tags: if recorded { tags(tracing, headers) } else { Vec::new() },
            began: SystemTime::now(),
            tries: Vec::new(),
            carried,
        }
    }

    fn close(&mut self, now: Instant) {
        for open in self.tries.iter_mut().filter(|one| one.ended.is_none()) {
            open.ended = Some(now);
        }
    }
}

fn tags(tracing: &Tracing, headers: &HeaderMap) -> Vec<Attribute> {
    let said = |tag: &Tag| match tag {
        Tag::Literal(text) => Some(text.to_string()),
        Tag::Header { name, otherwise } => {
            let value = headers.get(name).map(|value| cut(&String::from_utf8_lossy(value.as_bytes())));
            value.or_else(|| (!otherwise.is_empty()).then(|| otherwise.to_string()))
        }
    };
    let own = tracing.tags.iter().filter_map(|(name, tag)| Some((name.clone(), said(tag)?)));
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    own.chain(agent.map(|agent| (arcstr::literal!("user_agent"), cut(agent)))).collect()
}

/// Gives the spans of a request that has ended to whoever takes them.
pub fn finish(waypoint: &Waypoint, exchange: &mut Exchange, labels: &Labels) {
    let now = Instant::now();
    let Some(own) = exchange.trail.own.as_deref_mut() else { return };
    let Some(provider) = own.provider.take() else { return };
    own.close(now);
    let own = std::mem::take(&mut exchange.trail.own);
    let Some(own) = own else { return };
    let at = |instant: Instant| own.began + instant.saturating_duration_since(exchange.started);
    let mut spans = Vec::with_capacity(1 + own.tries.len());
    spans.push(server(waypoint, exchange, labels, &own, at(now)));
    for (number, one) in own.tries.iter().enumerate() {
        spans.push(client(exchange, &own, one, (number, at(one.began), at(one.ended.unwrap_or(now)))));
    }
    waypoint.exporters.offer(&provider, spans);
}

fn server(waypoint: &Waypoint, exchange: &Exchange, labels: &Labels, own: &Own, end: SystemTime) -> Span {
    let link = &exchange.link;
    let status = labels.status.unwrap_or_default();
    let fault = exchange.fault.as_ref();
    let mut attributes = Attributes(own.tags.clone());
    let url = format!("http://{}{}", exchange.host, exchange.path);
    attributes.say("component", "proxy");
    attributes.say("node_id", &waypoint.config.proxy.node_id.id);
    attributes.say("http.url", &url);
    attributes.say("http.method", exchange.method.as_str());
    attributes.say("http.protocol", &format!("{:?}", exchange.version));
    attributes.say("http.status_code", &status.to_string());
    attributes.say("request_size", &exchange.request.bytes().to_string());
    attributes.say("response_size", &exchange.response.bytes().to_string());
    attributes.say("response_flags", labels.flag);
    attributes.say("peer.address", &link.peer.ip().to_string());
    attributes.say("istio.source_principal", &link.identity.to_string());
    attributes.maybe("guid:x-request-id", exchange.trail.number.as_ref().and_then(|id| id.to_str().ok()));
    attributes.maybe("istio.source_workload", link.source.name());
    attributes.maybe("istio.source_namespace", link.source.namespace());
    attributes.maybe("istio.destination_workload", exchange.destination.name());
    attributes.maybe("istio.destination_namespace", exchange.destination.namespace());
    attributes.maybe("grpc.status_code", labels.grpc.as_deref());
    attributes.maybe("ambit.route", exchange.route.as_deref());
    attributes.maybe("ambit.policy", exchange.policy.as_deref());
    let failed = fault.is_some() || status >= 500;
    let broken_call =
        exchange.spoken == Spoken::Grpc && labels.grpc.as_deref().is_some_and(|code| code != "0");
    if failed || broken_call {
        attributes.say("error", "true");
    }
    Span {
        ids: own.span,
        parent: own.parent,
        kind: Kind::Server,
        name: operation(exchange),
        begin: own.began,
        took: took(own.began, end),
        remote: Some(link.peer),
        attributes: attributes.0,
        error: failed.then(|| fault.map(|fault| cut(&fault.to_string())).unwrap_or_default()),
    }
}

fn client(
    exchange: &Exchange,
    own: &Own,
    one: &Try,
    (number, begin, end): (usize, SystemTime, SystemTime),
) -> Span {
    let mut attributes = Attributes(Vec::with_capacity(8));
    attributes.say("component", "proxy");
    attributes.say("upstream_address", &one.address.to_string());
    attributes.say("peer.address", &one.address.to_string());
    attributes.say("http.method", exchange.method.as_str());
    if number > 0 {
        attributes.say("http.request.resend_count", &number.to_string());
    }
    if let Some((name, namespace)) = &one.workload {
        attributes.say("istio.destination_workload", name);
        attributes.say("istio.destination_namespace", namespace);
    }
    if let Some(status) = one.status {
        attributes.say("http.status_code", &status.to_string());
    }
    if let Some((_text, flag)) = &one.fault {
        attributes.say("response_flags", flag);
    }
    let failed = one.fault.is_some() || one.status.is_none_or(|status| status >= 500);
    if failed {
        attributes.say("error", "true");
    }
    Span {
        ids: Ids { span: one.span, ..own.span },
        parent: Some(own.span.span),
        kind: Kind::Client,
        name: arcstr::format!("router {} egress", host(exchange)),
        begin,
        took: took(begin, end),
        remote: Some(one.address),
        attributes: attributes.0,
        error: failed.then(|| one.fault.as_ref().map(|(text, _flag)| text.clone()).unwrap_or_default()),
    }
}

struct Attributes(Vec<Attribute>);

impl Attributes {
    fn say(&mut self, name: &'static str, value: &str) {
        self.0.push((name.into(), cut(value)));
    }

    fn maybe(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.say(name, value);
        }
    }
}

fn host(exchange: &Exchange) -> &str {
    exchange.service().map_or(exchange.host.as_str(), |service| service.hostname.as_str())
}

/// As Istio's proxies call what a request is for.
fn operation(exchange: &Exchange) -> ArcStr {
    arcstr::format!("{}:{}/*", host(exchange), exchange.asked.port())
}

fn took(begin: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(begin).unwrap_or_default()
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// A UUID of version 4.
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{bits:032x}");
    let piece = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    [piece(0, 8), piece(8, 12), piece(12, 16), piece(16, 20), piece(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_uuid_of_version_4() {
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
    }
}
