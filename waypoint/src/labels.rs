// SPDX-License-Identifier: Apache-2.0
//! What Telemetry objects change about metrics: labels that say what an expression comes to, labels that are not there, and
//! metrics that are not counted. Whoever sends requests must not make series without end: what expressions come to has a
//! bound for each metric, behind which they all say [`OTHER`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ::proxy::ends::IDLE;
use arcstr::ArcStr;
use mesh::{
    expression::{Facts, Formula},
    telemetry::{LabelRule, Metric, Override, View},
};
use metrics::{Label, counter};
use parking_lot::Mutex;

/// Metrics of requests.
pub const OF_REQUESTS: [Metric; 6] = [
    Metric::Requests,
    Metric::Duration,
    Metric::RequestBytes,
    Metric::ResponseBytes,
    Metric::RequestMessages,
    Metric::ResponseMessages,
];
/// Metrics of connections.
pub const OF_CONNECTIONS: [Metric; 4] = [Metric::Opened, Metric::Closed, Metric::Sent, Metric::Received];

/// What a label says of a request that lacks what it asks for.
const UNKNOWN: ArcStr = arcstr::literal!("unknown");
/// What labels say beyond the bound.
const OTHER: ArcStr = arcstr::literal!("other");
/// Sets of values of one metric.
const MOST: usize = 1000;
/// The longest value, in characters.
const LONGEST: usize = 128;
/// How often those are looked for that nobody counts any more.
const PURGE: Duration = Duration::from_secs(60);

/// What is different about the metrics of one request or connection: a part of what tells one series from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Made(Vec<(Metric, Change)>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Change {
    disabled: bool,
    /// Without a value, it is not there.
    labels: Vec<(ArcStr, Option<ArcStr>)>,
}

impl Made {
    fn change(&self, metric: Metric) -> Option<&Change> {
        self.0.iter().find(|(known, _)| *known == metric).map(|(_, change)| change)
    }

    /// Whether a metric is counted.
    pub fn counts(&self, metric: Metric) -> bool {
        self.change(metric).is_none_or(|change| !change.disabled)
    }

    /// Changes the labels of a metric.
    pub fn apply(&self, metric: Metric, labels: &mut Vec<Label>) {
        let Some(change) = self.change(metric) else { return };
        for (name, value) in &change.labels {
            let known = labels.iter().position(|label| label.key() == name.as_str());
            let made = value.as_ref().map(|value| Label::new(name.to_string(), value.to_string()));
            match (known.and_then(|at| labels.get_mut(at)), made) {
                (Some(label), Some(made)) => *label = made,
                (None, Some(made)) => labels.push(made),
                (Some(_), None) => labels.retain(|label| label.key() != name.as_str()),
                (None, None) => {}
            }
        }
    }
}

/// What expressions have come to so far.
#[derive(Debug, Default)]
pub struct Bounds {
    seen: Mutex<HashMap<Metric, Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    sets: HashMap<Vec<(ArcStr, ArcStr)>, Instant>,
    purged: Option<Instant>,
}

impl Bounds {
    /// What a view changes of some metrics; nothing if it changes none.
    pub fn make(
        &self,
        view: &View,
        metrics: &[Metric],
        facts: &dyn Facts,
        now: Instant,
    ) -> Option<Arc<Made>> {
        if view.metrics.is_empty() {
            return None;
        }
        // Most metrics have the same labels.
        let mut said = Vec::new();
        let mut made = Vec::new();
        for metric in metrics {
            if let Some(rule) = view.metrics.get(metric) {
                made.push((
                    *metric,
                    self.change(*metric, rule, &mut |formula| value(&mut said, formula, facts), now),
                ));
            }
        }
        (!made.is_empty()).then(|| Arc::new(Made(made)))
    }

    fn change(
        &self,
        metric: Metric,
        rule: &Override,
        say: &mut dyn FnMut(&Formula) -> ArcStr,
        now: Instant,
    ) -> Change {
        let disabled = rule.disabled == Some(true);
        if disabled {
            return Change { disabled, labels: Vec::new() };
        }
        // A label that says the same of every request makes no more series.
        let varies = |rule: &LabelRule| matches!(rule, LabelRule::Says(formula) if !formula.is_constant());
        let mut labels: Vec<_> = Vec::with_capacity(rule.labels.len());
        for (name, rule) in &rule.labels {
            labels.push((
                name.clone(),
                match rule {
                    LabelRule::Removed => None,
                    LabelRule::Says(formula) => Some(say(formula)),
                },
            ));
        }
        let varying = || labels.iter().filter(|(name, _)| rule.labels.get(name).is_some_and(varies));
        let set: Vec<_> =
            varying().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
        if !set.is_empty() && !self.admits(metric, set, now) {
            counter!("ambit_labels_overflowed_total", "metric" => metric.as_str()).increment(1);
            for (name, value) in &mut labels {
                if rule.labels.get(name).is_some_and(varies) {
                    *value = Some(OTHER);
                }
            }
        }
        Change { disabled, labels }
    }

    /// Whether a metric may have series with these values.
    fn admits(&self, metric: Metric, set: Vec<(ArcStr, ArcStr)>, now: Instant) -> bool {
        let mut all = self.seen.lock();
        let seen = all.entry(metric).or_default();
        if let Some(last) = seen.sets.get_mut(&set) {
            *last = now;
            return true;
        }
        let may_purge = seen.purged.is_none_or(|last| now.saturating_duration_since(last) >= PURGE);
        if seen.sets.len() >= MOST && may_purge {
            seen.purged = Some(now);
            // Their series have left the scrape.
            seen.sets.retain(|_, last| now.saturating_duration_since(*last) < IDLE);
        }
        let room = seen.sets.len() < MOST;
        if room {
            seen.sets.insert(set, now);
        }
        room
    }
}

/// What a formula says of a request, made once.
fn value(said: &mut Vec<(Formula, ArcStr)>, formula: &Formula, facts: &dyn Facts) -> ArcStr {
    if let Some((_, value)) = said.iter().find(|(known, _)| known == formula) {
        return value.clone();
    }
    let text = formula.text(facts);
    let value = text.map_or(UNKNOWN, |text| text.chars().take(LONGEST).collect::<String>().into());
    said.push((formula.clone(), value.clone()));
    value
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, collections::BTreeMap};

    use http::HeaderName;
    use mesh::expression::{Attribute, Side, Value};

    use super::*;

    /// A request with one header.
    struct Sent(String);

    impl Facts for Sent {
        fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
            (attribute == Attribute::Method).then_some(Value::Text("GET".into()))
        }

        fn header(&self, _side: Side, name: &HeaderName) -> Option<Cow<'_, str>> {
            (name == "x").then_some(Cow::Borrowed(self.0.as_str()))
        }
    }

    fn view(metric: Metric, labels: &[(&str, Option<&str>)], disabled: Option<bool>) -> View {
        let rule = |text: Option<&str>| match text {
            Some(text) => LabelRule::Says(Formula::parse(text).unwrap()),
            None => LabelRule::Removed,
        };
        let labels = labels.iter().map(|(name, text)| ((*name).into(), rule(*text))).collect();
        let metrics = BTreeMap::from([(metric, Override { disabled, labels })]);
        View { metrics, ..View::default() }
    }

    fn rendered(made: &Made, metric: Metric) -> Vec<(String, String)> {
        let mut labels = vec![Label::new("a", "1"), Label::new("b", "2"), Label::new("c", "3")];
        made.apply(metric, &mut labels);
        labels.iter().map(|label| (label.key().to_owned(), label.value().to_owned())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_added_replaced_and_left_out_in_the_metrics_that_are_named() {
        let labels = [
            ("a", Some("request.headers.x")),
            ("b", None),
            ("d", Some("request.host")),
            ("e", Some("'e'")),
            ("f", None),
        ];
        let view = view(Metric::Requests, &labels, None);
        let bounds = Bounds::default();
        let sent = Sent("y".repeat(200));
        let made = bounds.make(&view, &OF_REQUESTS, &sent, Instant::now()).unwrap();
        let long = "y".repeat(LONGEST);
        let expected = [("a", long.as_str()), ("c", "3"), ("d", "unknown"), ("e", "e")];
        assert_eq!(rendered(&made, Metric::Requests), pairs(&expected));
        assert_eq!(rendered(&made, Metric::Duration), pairs(&[("a", "1"), ("b", "2"), ("c", "3")]));
        assert_eq!(bounds.make(&view, &OF_CONNECTIONS, &sent, Instant::now()), None);
        assert_eq!(bounds.make(&View::default(), &OF_REQUESTS, &sent, Instant::now()), None);
    }

    #[test]
    fn what_is_disabled_is_not_counted_and_comes_back() {
        let bounds = Bounds::default();
        let sent = Sent(String::new());
        for (disabled, counted) in [(Some(true), false), (Some(false), true), (None, true)] {
            let view = view(Metric::RequestBytes, &[], disabled);
            let made = bounds.make(&view, &OF_REQUESTS, &sent, Instant::now()).unwrap();
            assert_eq!((made.counts(Metric::RequestBytes), made.counts(Metric::Requests)), (counted, true));
        }
    }

    #[test]
    fn a_client_makes_no_series_without_end_and_room_comes_back() {
        let bounds = Bounds::default();
        let labels = [("a", Some("request.headers.x")), ("b", Some("'fixed'"))];
        let view = view(Metric::Requests, &labels, None);
        let begin = Instant::now();
        let said = |text: String, at| {
            let made = bounds.make(&view, &OF_REQUESTS, &Sent(text), at).unwrap();
            rendered(&made, Metric::Requests)
        };
        for number in 0..MOST {
            let value = number.to_string();
            assert_eq!(said(value.clone(), begin), pairs(&[("a", &value), ("b", "fixed"), ("c", "3")]));
        }
        let other = pairs(&[("a", "other"), ("b", "fixed"), ("c", "3")]);
        assert_eq!(said("more".to_owned(), begin), other);
        assert_eq!(said("7".to_owned(), begin + IDLE / 2)[0].1, "7", "what is known stays");
        assert_eq!(said("more".to_owned(), begin + IDLE / 2), other);
        let later = begin + IDLE + PURGE;
        assert_eq!(said("more".to_owned(), later)[0].1, "more");
        let seen = bounds.seen.lock();
        assert_eq!(seen[&Metric::Requests].sets.len(), 2, "7 was counted since");
    }
}
