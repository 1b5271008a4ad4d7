// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin: the last of a chain, it asks the agent to capture the pod whose network the others have made, and
//! passes their result on. The runtime waits for it, so a pod does not start before ztunnel serves it. It changes nothing
//! itself, and has no runtime and few dependencies: it is started for every pod.
//!
//! ```text
//!  runtime ──environment, stdin──► call ──► verdict ──► stdout
//!                                    └─► agent (unix socket)
//! ```

mod agent;
mod call;
mod refusal;
mod result;
mod verdict;

use std::{
    collections::BTreeMap,
    io::Read,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use serde_json::json;

use self::{
    agent::Agent,
    call::{Call, Command, Network},
    refusal::{Code, Refusal},
};

/// Versions of the specification that are spoken, the newest last.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";
/// Longer than the agent takes for an answer, shorter than a runtime's patience.
const PATIENCE: Duration = Duration::from_secs(45);

/// What the runtime gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For stdout.
    pub output: Vec<u8>,
    /// For stderr: what went wrong where that is no failure.
    pub note: Option<String>,
    /// Whether to exit with zero.
    pub success: bool,
}

/// Runs, and gives up in time whatever hangs: a runtime that does not close stdin, an agent that does not answer.
pub fn run_in_time(environment: BTreeMap<String, String>, stdin: impl Read + Send + 'static) -> Outcome {
    let (finished, outcome) = sync_channel(1);
    let work = move || finished.send(run(&environment, stdin));
    // The thread is not waited for: this process is about to end.
    match thread::Builder::new().spawn(work) {
        Ok(_thread) => match outcome.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => failure(NEWEST, &Refusal::late(PATIENCE)),
            Err(RecvTimeoutError::Disconnected) => failure(NEWEST, &Refusal::crashed()),
        },
        Err(error) => failure(NEWEST, &Refusal::new(Code::Io, "cannot start a thread", error.to_string())),
    }
}

/// Does what the environment and stdin ask for.
pub fn run(environment: &BTreeMap<String, String>, stdin: impl Read) -> Outcome {
    let network = match call::read(environment, stdin) {
        Ok(network) => network,
        Err((version, refusal)) => return failure(&version, &refusal),
    };
    let answered = Call::parse(environment, &network).and_then(|call| answer(&call, &network));
    answered.unwrap_or_else(|refusal| failure(network.version(), &refusal))
}

fn answer(call: &Call, network: &Network) -> Result<Outcome, Refusal> {
    let agent = Agent::at(&network.socket);
    match &call.command {
        Command::Version => {
            let versions = json!({"cniVersion": network.version(), "supportedVersions": VERSIONS});
            Ok(success(versions.to_string().into_bytes()))
        }
        Command::Add(attachment) => {
            let passed = result::passed_on(network)?;
            if let Some(body) = attachment.body(result::addresses(network, &attachment.netns)?) {
                verdict::of_add(&agent.post("/cni/add", &body), attachment, network)?;
            }
            Ok(success(passed))
        }
        Command::Check(attachment) => {
            if let Some(body) = attachment.body(result::addresses(network, &attachment.netns)?) {
                verdict::of_check(&agent.post("/cni/check", &body), attachment, network)?;
            }
            Ok(success(Vec::new()))
        }
        Command::Delete(attachment) => {
            // The pod's addresses may be gone, and are not needed.
            let body = attachment.body(Vec::new());
            let note = body.and_then(|body| verdict::of_delete(&agent.post("/cni/del", &body)));
            Ok(Outcome { note, ..success(Vec::new()) })
        }
        Command::Collect(valid) => {
            verdict::of_collect(&agent.post("/cni/gc", &json!({"valid": valid})))?;
            Ok(success(Vec::new()))
        }
        Command::Status => {
            verdict::of_status(&agent.post("/cni/status", &json!({})), network)?;
            Ok(success(Vec::new()))
        }
    }
}

fn success(output: Vec<u8>) -> Outcome {
    Outcome { output, note: None, success: true }
}

fn failure(version: &str, refusal: &Refusal) -> Outcome {
    Outcome { output: refusal.json(version), note: None, success: false }
}

#[cfg(test)]
mod tests;
