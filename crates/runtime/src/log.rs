// SPDX-License-Identifier: Apache-2.0
//! The process's log: lines on standard output, plain or JSON, written by a thread of its own so that a slow reader
//! never stops a connection; what to log can be changed while the process runs.

mod queue;

use std::{collections::BTreeMap, fmt, io, str::FromStr, sync::Arc};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::queue::{Guard, Queue};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Plain,
    /// One JSON object per line.
    Json,
}

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// What to log at first, and after a reset.
    pub filter: Filter,
    /// How a line looks.
    pub format: Format,
}

/// What to log: a level for everything, and others for targets (a target covers the targets below it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

/// A filter that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid log level {directive:?}: must be error, warn, info, debug, trace or off, or <target>=<level>"
)]
pub struct InvalidFilter {
    /// The part that is wrong.
    pub directive: String,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It was started before.
    #[error("this process logs already")]
    Started(#[from] tracing_subscriber::util::TryInitError),
    /// Nobody would write the lines.
    #[error("no thread to write the log")]
    Thread(#[source] io::Error),
}

/// Changes what is logged. The last one to be dropped writes what is still queued.
#[derive(Clone)]
pub struct LogControl {
    first: Filter,
    current: Arc<Mutex<Filter>>,
    reload: reload::Handle<Targets, Registry>,
    _writer: Arc<Guard>,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When it was started before, or there is no thread for it.
pub fn init(settings: LogSettings) -> Result<LogControl, LogError> {
    let (queue, guard) = Queue::start(io::stdout()).map_err(LogError::Thread)?;
    let (filter, reload) = reload::Layer::new(settings.filter.targets());
    let lines = tracing_subscriber::fmt::layer().with_writer(queue).with_ansi(false);
    let lines = match settings.format {
        Format::Plain => lines.boxed(),
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogControl {
        current: Arc::new(Mutex::new(settings.filter.clone())),
        first: settings.filter,
        reload,
        _writer: Arc::new(guard),
    })
}

impl LogControl {
    /// What is logged now.
    pub fn current(&self) -> Filter {
        self.current.lock().clone()
    }

    /// Changes what the directives name and leaves the rest: `debug`, `access=off`, `info,dns=debug`.
    ///
    /// # Errors
    /// When a directive cannot be read; then nothing changes.
    pub fn set(&self, directives: &str) -> Result<(), InvalidFilter> {
        let mut current = self.current.lock();
        let mut next = current.clone();
        next.merge(directives)?;
        self.apply(&next);
        *current = next;
        Ok(())
    }

    /// Goes back to what was logged at first.
    pub fn reset(&self) {
        let mut current = self.current.lock();
        self.apply(&self.first);
        *current = self.first.clone();
    }

    fn apply(&self, filter: &Filter) {
        if let Err(error) = self.reload.reload(filter.targets()) {
            tracing::error!(%error, "the log filter is gone");
        }
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl Filter {
    fn merge(&mut self, directives: &str) -> Result<(), InvalidFilter> {
        for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let invalid = || InvalidFilter { directive: directive.to_owned() };
            match directive.split_once('=') {
                Some((target, level)) if !target.trim().is_empty() => {
                    let level = parse_level(level.trim()).ok_or_else(invalid)?;
                    self.targets.insert(target.trim().to_owned(), level);
                }
                Some(_) => return Err(invalid()),
                None => self.default = parse_level(directive).ok_or_else(invalid)?,
            }
        }
        Ok(())
    }

    fn targets(&self) -> Targets {
        let targets = self.targets.iter().map(|(target, level)| (target.as_str(), *level));
        Targets::new().with_default(self.default).with_targets(targets)
    }
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    let levels = [
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    levels.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, level)| level)
}

impl Default for Filter {
    /// `info`.
    fn default() -> Self {
        Self { default: LevelFilter::INFO, targets: BTreeMap::new() }
    }
}

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(directives: &str) -> Result<Self, InvalidFilter> {
        let mut filter = Self::default();
        filter.merge(directives)?;
        Ok(filter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

impl FromStr for Format {
    type Err = InvalidFormat;

    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err(InvalidFormat { format: text.to_owned() }),
        }
    }
}

/// Not a format that we write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid log format {format:?}: must be plain or json")]
pub struct InvalidFormat {
    /// What was given.
    pub format: String,
}

#[cfg(test)]
mod tests;
