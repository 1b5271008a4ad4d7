// SPDX-License-Identifier: Apache-2.0
//! Arbitrary telemetries.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;
use mesh::{
    Telemetry, TelemetryName,
    expression::{Filter, Formula},
    telemetry::{LabelRule, Logging, Metric, Override, Provider, Scope, Share, SpanWire, Tag, Tracing},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

use super::{any_text, port, service_name, text};

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Mesh),
        Just(Scope::Namespace),
        vec(any_text(), 0..3).prop_map(Scope::Waypoints),
        vec(service_name(), 0..3).prop_map(Scope::Services),
    ]
}

fn tag() -> impl Strategy<Value = Tag> {
    let header = select(vec![HeaderName::from_static("x"), HeaderName::from_static("x-y")]);
    prop_oneof![
        any_text().prop_map(Tag::Literal),
        (header, any_text()).prop_map(|(name, otherwise)| Tag::Header { name, otherwise }),
    ]
}

prop_compose! {
    fn provider()(
        name in any_text(), zipkin in any::<bool>(), host in any_text(), port in port(), path in any_text(),
    ) -> Provider {
        Provider { name, wire: if zipkin { SpanWire::Zipkin } else { SpanWire::Otlp }, host, port, path }
    }
}

prop_compose! {
    fn tracing()(
        provider in option::of(provider().prop_map(Arc::new)),
        share in option::of((0..=Share::WHOLE).prop_map(|parts| Share::of_parts(parts).unwrap())),
        report in any::<Option<bool>>(),
        tags in btree_map(any_text(), tag(), 0..3),
    ) -> Tracing {
        Tracing { provider, share, report, tags }
    }
}

prop_compose! {
    fn logging()(
        enabled in any::<Option<bool>>(),
        filter in option::of(select(vec!["response.code >= 500", "has(request.headers.x)", "true // all"])),
    ) -> Logging {
        Logging { enabled, filter: filter.map(|text| Filter::parse(text).unwrap()) }
    }
}

fn label() -> impl Strategy<Value = LabelRule> {
    let texts = vec!["'a'", "request.host", " response.code", "has(upstream.address) ? 'b' : 'c'"];
    prop_oneof![
        Just(LabelRule::Removed),
        select(texts).prop_map(|text| LabelRule::Says(Formula::parse(text).unwrap())),
    ]
}

fn metrics() -> impl Strategy<Value = BTreeMap<Metric, Override>> {
    let rule = (any::<Option<bool>>(), btree_map(any_text(), label(), 0..3));
    let rule = rule.prop_map(|(disabled, labels)| Override { disabled, labels });
    btree_map(select(Metric::ALL.to_vec()), rule, 0..4)
}

prop_compose! {
    /// Any telemetry.
    pub(super) fn telemetry()(
        namespace in text("[a-z]{1,6}"), name in text("[a-z]{1,6}"), created in any::<u64>(),
        scope in scope(), tracing in tracing(), logging in logging(), metrics in metrics(),
    ) -> Telemetry {
        let name = TelemetryName { namespace, name };
        Telemetry { name, created, scope, tracing, logging, metrics }
    }
}
