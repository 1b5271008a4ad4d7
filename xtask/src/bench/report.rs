// SPDX-License-Identifier: Apache-2.0
//! What was measured: medians, noise, ratios; a table for people and JSON for programs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub(crate) use super::figure::Figure;
use crate::step::say;

/// A configuration, and the one of Ambit's that is told as a ratio to it.
#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    own: Option<&'static str>,
}

/// All samples of a run.
pub(crate) struct Report {
    columns: Vec<Column>,
    samples: BTreeMap<Figure, BTreeMap<&'static str, Vec<f64>>>,
}

impl Report {
    /// Nothing measured yet; there is one configuration of Ambit's.
    pub(crate) fn new(configurations: Vec<&'static str>) -> Self {
        let own = |name| (name, (name != "ambit").then_some("ambit"));
        Self::beside(configurations.into_iter().map(own).collect())
    }

    /// The same, where each configuration names the one of Ambit's that does what it does.
    pub(crate) fn beside(columns: Vec<(&'static str, Option<&'static str>)>) -> Self {
        let columns = columns.into_iter().map(|(name, own)| Column { name, own }).collect();
        Self { columns, samples: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, configuration: &'static str, figure: Figure, value: f64) {
        self.samples.entry(figure).or_default().entry(configuration).or_default().push(value);
    }

    pub(crate) fn add_all(&mut self, configuration: &'static str, figures: Vec<(Figure, f64)>) {
        for (figure, value) in figures {
            self.add(configuration, figure, value);
        }
    }

    /// The least sample of any configuration.
    pub(crate) fn least(&self, figure: Figure) -> f64 {
        let all = self.samples.get(&figure).into_iter().flat_map(BTreeMap::values).flatten();
        all.copied().reduce(f64::min).unwrap_or_default()
    }

    /// The greatest sample of a configuration.
    pub(crate) fn most(&self, configuration: &str, figure: Figure) -> Option<f64> {
        self.samples.get(&figure)?.get(configuration)?.iter().copied().reduce(f64::max)
    }

    /// The median of a configuration.
    pub(crate) fn middle(&self, configuration: &str, figure: Figure) -> Option<f64> {
        self.samples.get(&figure)?.get(configuration).map(|samples| median(samples))
    }

    /// The ratio of Ambit's median to that of another configuration.
    pub(crate) fn ratio(&self, other: &str, figure: Figure) -> Option<f64> {
        let column = self.columns.iter().find(|column| column.name == other)?;
        ratio(self.samples.get(&figure)?, column)
    }

    /// Prints medians, the spread of the samples in percent of the median, and ratios to what comes first.
    pub(crate) fn show(&self, conditions: &str) {
        let all: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        self.show_some(conditions, &all, |_figure| true);
    }

    /// The same of some configurations and figures, as far as anything was measured of them.
    pub(crate) fn show_some(&self, conditions: &str, names: &[&str], wanted: impl Fn(Figure) -> bool) {
        say(format!("\n{conditions}; median ±spread%; ×: ratio of Ambit's median"));
        let columns: Vec<_> = self.columns.iter().filter(|column| names.contains(&column.name)).collect();
        let told = |column: &&&Column| column.own.is_some_and(|own| names.contains(&own));
        let others: Vec<_> = columns.iter().filter(told).collect();
        let mut head = format!("{:<34}", "");
        for column in &columns {
            head.push_str(&format!("{:>20}", column.name));
        }
        for column in &others {
            head.push_str(&format!("{:>14}", format!("×{}", column.name)));
        }
        say(head);
        for (figure, by) in &self.samples {
            if !wanted(*figure) || !columns.iter().any(|column| by.contains_key(column.name)) {
                continue;
            }
            let mut line = format!("{:<34}", figure.names().1);
            for column in &columns {
                let cell = by.get(column.name).map_or_else(|| "–".to_owned(), |samples| cell(samples));
                line.push_str(&format!("{cell:>20}"));
            }
            for column in &others {
                let ratio = ratio(by, column).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
                line.push_str(&format!("{ratio:>14}"));
            }
            say(line);
        }
    }

    /// Writes everything as JSON into `folder`, named by the time; returns the file.
    pub(crate) fn write(&self, folder: &Path, conditions: &Value) -> Result<PathBuf> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let figures: serde_json::Map<String, Value> = self
            .samples
            .iter()
            .map(|(figure, by)| {
                let told = |column: &Column| Some((column.name, ratio(by, column)?));
                let ratios: BTreeMap<_, _> = self.columns.iter().filter_map(told).collect();
                let medians: BTreeMap<_, _> = by.iter().map(|(name, all)| (name, median(all))).collect();
                let value = json!({"median": medians, "ratio_of_ambit_to": ratios, "samples": by});
                (figure.names().0.to_owned(), value)
            })
            .collect();
        let whole = json!({
            "time": time.as_secs(),
            "conditions": conditions,
            "figures": figures,
        });
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join(format!("{}.json", time.as_secs()));
        fs::write(&file, format!("{whole:#}\n")).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }
}

fn ratio(by: &BTreeMap<&'static str, Vec<f64>>, column: &Column) -> Option<f64> {
    let (own, other) = (median(by.get(column.own?)?), median(by.get(column.name)?));
    (other > 0.0).then(|| own / other)
}

fn cell(samples: &[f64]) -> String {
    let middle = median(samples);
    let digits = if middle.abs() < 100.0 { 2 } else { 0 };
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if samples.len() < 2 || middle <= 0.0 {
        return format!("{middle:.digits$}");
    }
    format!("{middle:.digits$} ±{:.0}%", (most - least) * 50.0 / middle)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), half.checked_sub(1).and_then(|below| sorted.get(below))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (Some(middle), _) => *middle,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_the_two_in_the_middle() {
        for (samples, middle) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)]
        {
            assert!((median(&samples) - middle).abs() < 1e-9, "{samples:?}");
        }
    }

    #[test]
    fn ratios_are_of_medians_and_only_where_both_were_measured() {
        let by = BTreeMap::from([("ambit", vec![1.0, 2.0, 30.0]), ("direct", vec![4.0])]);
        let column = |name, own| Column { name, own };
        assert_eq!(ratio(&by, &column("direct", Some("ambit"))), Some(0.5));
        assert_eq!(ratio(&by, &column("peer", Some("ambit"))), None);
        assert_eq!(ratio(&by, &column("direct", Some("peer"))), None);
        assert_eq!(ratio(&by, &column("ambit", None)), None);
    }

    #[test]
    fn a_spread_is_half_the_range_in_percent_of_the_median() {
        assert_eq!(cell(&[90.0, 100.0, 110.0]), "100 ±10%");
        assert_eq!(cell(&[1.5]), "1.50");
    }
}
