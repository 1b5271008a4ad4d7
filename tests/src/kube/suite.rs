// SPDX-License-Identifier: Apache-2.0
//! Test programs whose checks share one cluster and run one after the other.

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Conclusion, Trial};

use super::Tools;
use crate::config::Settings;

/// One check.
pub struct Check<S> {
    /// A sentence.
    pub name: &'static str,
    /// What happens.
    pub play: fn(Arc<S>) -> BoxFuture<'static, Result<()>>,
}

/// Checks by the names of async functions that take a reference to what the checks share.
#[macro_export]
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::kube::suite::Check {
            name: stringify!($name),
            play: |shared| Box::pin(async move { $name(&shared).await }),
        }),*]
    };
}

/// Makes what the checks share, runs those that the command line names, and `others` that share nothing, and takes it
/// down again.
///
/// # Errors
/// When it cannot be made.
pub fn run<S, P>(checks: Vec<Check<S>>, others: Vec<Trial>, prepare: P) -> Result<Conclusion>
where
    S: Send + Sync + 'static,
    P: AsyncFnOnce(Settings, Tools) -> Result<S>,
{
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        let name = |check: &Check<S>| Trial::test(check.name, || Ok(()));
        return Ok(libtest_mimic::run(&arguments, checks.iter().map(name).chain(others).collect()));
    }
    let tools = Tools::ensure(&mut |line| say(line))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let runtime = Arc::new(runtime);
    let shared = Arc::new(runtime.block_on(prepare(Settings::from_environment()?, tools))?);
    let trial = |check: Check<S>| {
        let (runtime, shared) = (Arc::clone(&runtime), Arc::clone(&shared));
        Trial::test(check.name, move || {
            runtime.block_on((check.play)(shared)).map_err(|error| format!("{error:#}").into())
        })
    };
    Ok(libtest_mimic::run(&arguments, checks.into_iter().map(trial).chain(others).collect()))
}

/// What the program ends with.
#[must_use]
pub fn report(outcome: Result<Conclusion>) -> ExitCode {
    match outcome {
        Ok(conclusion) => conclusion.exit_code(),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What a test program has to say besides its results.
#[expect(clippy::print_stderr, reason = "standard output is the results'")]
pub fn say(line: &str) {
    eprintln!("{line}");
}
