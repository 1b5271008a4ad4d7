// SPDX-License-Identifier: Apache-2.0
//! Keeps the numbers that the `metrics` macros record and renders them for Prometheus, with those of the process itself.
//! It serves nothing: the text goes out through whatever HTTP server the daemon has.

mod process;

use std::{fmt, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::Tasks;

/// Samples of histograms are moved into their buckets this often, or they would pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// How to keep the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSettings {
    /// Upper bounds of the buckets of each histogram, by its full name. A histogram that is not named here becomes a
    /// summary.
    pub buckets: Vec<(&'static str, Vec<f64>)>,
    /// Series that did not change for so long disappear; unset: they stay. A handle (`Counter`, `Gauge`, `Histogram`)
    /// that is kept longer than this without being used counts into nothing afterwards, so either resolve handles per
    /// connection, keep them for less than this, or leave it unset.
    pub idle: Option<Duration>,
}

/// Why metrics cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A histogram has no buckets.
    #[error("the histogram {name} has no buckets")]
    Buckets {
        /// Its name.
        name: &'static str,
        /// What the recorder said.
        #[source]
        source: BuildError,
    },
    /// There is a recorder already.
    #[error("this process has metrics already")]
    Installed,
}

/// Lines of the log that were lost.
pub(crate) const LINES_LOST: &str = "ambit_log_lines_lost_total";

/// The numbers of this process; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: Arc<process::Process>,
}

/// Starts to keep metrics for the whole process; the upkeep runs as a task of the group.
///
/// # Errors
/// When it was started before, or a histogram has no buckets.
pub fn install(settings: MetricsSettings, tasks: &Tasks) -> Result<Metrics, MetricsError> {
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, settings.idle);
    for (name, buckets) in settings.buckets {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), &buckets)
            .map_err(|source| MetricsError::Buckets { name, source })?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        return Err(MetricsError::Installed);
    }
    metrics::describe_counter!(LINES_LOST, "Lines of the log that were lost because nobody read them");
    let upkeep = handle.clone();
    let shutdown = tasks.shutdown();
    drop(tasks.spawn("metrics", async move {
        while tokio::time::timeout(UPKEEP, shutdown.requested()).await.is_err() {
            upkeep.run_upkeep();
        }
    }));
    Ok(Metrics { handle, process: Arc::new(process::Process::new()) })
}

impl Metrics {
    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        self.process.render(&mut text);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_is_rendered_with_the_process_itself() {
        let tasks = Tasks::new();
        let buckets = vec![("request_seconds", vec![0.1, 1.0])];
        let settings = MetricsSettings { buckets, idle: None };
        let metrics = install(settings.clone(), &tasks).unwrap();
        metrics::counter!("opened_total", "reporter" => "source").increment(3);
        metrics::histogram!("request_seconds").record(0.5);
        // Upkeep moves the sample, a scrape afterwards still shows it.
        tokio::time::sleep(UPKEEP * 2).await;
        let text = metrics.render();
        for line in [
            "opened_total{reporter=\"source\"} 3",
            "request_seconds_bucket{le=\"0.1\"} 0",
            "request_seconds_bucket{le=\"1\"} 1",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|present| present == line), "{line} in {text}");
        }
        assert!(matches!(install(settings, &tasks), Err(MetricsError::Installed)));
        let none = MetricsSettings { buckets: vec![("empty", Vec::new())], idle: None };
        assert!(matches!(install(none, &tasks), Err(MetricsError::Buckets { name: "empty", .. })));
        assert_eq!(tasks.drain(UPKEEP).await.forced, [] as [(&str, usize); 0]);
    }
}
