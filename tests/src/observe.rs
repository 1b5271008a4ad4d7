// SPDX-License-Identifier: Apache-2.0
//! Reads what the running parts say about themselves: Prometheus text and ztunnel's access log.

use std::collections::BTreeMap;

/// One sample of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads the Prometheus text format; lines that are none are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// All samples of `name` that carry every one of `labels`.
    pub fn with<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        })
    }

    /// The sum of those samples; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|sample| sample.value).sum()
    }
}

/// One line of a proxy's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `request complete`, `connection complete`, `connection opened`, `connection failed`, or what a policy on trial would have done.
    pub message: String,
    /// Its fields.
    pub fields: BTreeMap<String, String>,
    /// The line as it stands in the log.
    pub line: String,
}

impl Access {
    /// All lines of a log that are of the access log, in order.
    #[must_use]
    pub fn parse(log: &str) -> Vec<Self> {
        log.lines().filter_map(Self::line).collect()
    }

    /// A field; empty when the line has none of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn line(line: &str) -> Option<Self> {
        const MESSAGES: [&str; 6] = [
            "request complete",
            "connection complete",
            "connection opened",
            "connection failed",
            "dry-run: deny policy match",
            "dry-run: no allow policies match",
        ];
        let (message, at) = MESSAGES.iter().find_map(|message| Some((*message, line.find(message)?)))?;
        let rest = line.get(at + message.len()..)?;
        Some(Self { message: message.to_owned(), fields: fields(rest), line: line.to_owned() })
    }
}

/// `key=value` and `key="quoted value"`, separated by spaces.
fn fields(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            // Free text, always the last field.
            None if key.trim() == "error" => (after.trim_end().to_owned(), ""),
            None => {
                let (value, next) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
                (value.to_owned(), next)
            }
        };
        fields.insert(key.trim().to_owned(), value);
        rest = next.trim_start();
    }
    fields
}

/// Reads up to the closing quote; a backslash makes the next character ordinary.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn sample(line: &str) -> Option<Sample> {
    let (series, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = labels(rest);
            ((name, labels), rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            ((name, BTreeMap::new()), rest)
        }
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: series.0.trim().to_owned(), labels: series.1, value })
}

fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return (labels, after);
        }
        let Some((key, quoted)) = rest.split_once("=\"") else { return (labels, "") };
        let (value, next) = unquoted(quoted);
        labels.insert(key.trim().to_owned(), value);
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_that_were_not_asked_for() {
        let samples = Samples::parse(
            "# TYPE opened counter\n\
             opened{reporter=\"source\",app=\"a, b\"} 2\n\
             opened{reporter=\"source\",app=\"c\"} 3.5\n\
             opened{reporter=\"destination\",app=\"}\\\"\"} 7\n\
             plain 1e3\n",
        );
        for (name, labels, expected) in [
            ("opened", vec![("reporter", "source")], 5.5),
            ("opened", vec![("app", "a, b")], 2.0),
            ("opened", vec![("app", "}\"")], 7.0),
            ("opened", vec![], 12.5),
            ("plain", vec![], 1000.0),
            ("absent", vec![], 0.0),
        ] {
            let sum = samples.sum(name, &labels);
            assert!((sum - expected).abs() < 1e-9, "{name} {labels:?}: {sum}");
        }
    }

    #[test]
    fn an_access_line_is_read_with_its_quoted_error() {
        let log = "2026-11-21T10:00:00Z info state synced\n\
                   2026-11-21T10:00:01Z error access connection complete src.addr=10.20.1.1:4000 direction=\"inbound\" \
                   duration=\"3ms\" error=\"connection closed due to policy rejection: explicitly denied by: shop/only\"\n";
        let lines = Access::parse(log);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].message, "connection complete");
        assert_eq!(lines[0].field("src.addr"), "10.20.1.1:4000");
        assert_eq!(lines[0].field("direction"), "inbound");
        assert_eq!(
            lines[0].field("error"),
            "connection closed due to policy rejection: explicitly denied by: shop/only"
        );
        assert_eq!(lines[0].field("dst.addr"), "");
    }

    #[test]
    fn an_error_without_quotes_is_the_rest_of_its_line() {
        let lines =
            Access::parse("warn access connection failed dst.addr=[::1]:80 error=no healthy upstream: a=b\n");
        assert_eq!(lines[0].field("dst.addr"), "[::1]:80");
        assert_eq!(lines[0].field("error"), "no healthy upstream: a=b");
    }
}
