// SPDX-License-Identifier: Apache-2.0
//! What the agent's reply, or its silence, means for a pod. Silence lets only pods of the listed namespaces pass: the
//! agent itself, and what it needs to start, must be able to run on a node where it does not run yet.

use serde_json::Value;

use super::{
    agent::Reply,
    call::{Attachment, Network},
    refusal::{Code, Refusal},
};

/// Whether the pod may start.
pub(super) fn of_add(reply: &Reply, attachment: &Attachment, network: &Network) -> Result<(), Refusal> {
    judge(reply, attachment, network, "start")
}

/// Whether the pod is as it should be.
pub(super) fn of_check(reply: &Reply, attachment: &Attachment, network: &Network) -> Result<(), Refusal> {
    judge(reply, attachment, network, "be checked")
}

/// A pod ends whatever the agent says: what is left of it goes when its namespace has gone. The answer is a note.
pub(super) fn of_delete(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Answer { status: 200, .. } => None,
        Reply::Answer { body, .. } => Some(format!("the agent cleans up later: {}", words(body))),
        Reply::Away { error, socket } => {
            Some(format!("the agent cleans up later: no answer at {}: {error}", socket.display()))
        }
    }
}

/// Whether what is gone was cleaned up.
pub(super) fn of_collect(reply: &Reply) -> Result<(), Refusal> {
    match reply {
        Reply::Answer { status: 200, .. } => Ok(()),
        Reply::Answer { body, .. } => {
            Err(Refusal::new(Code::TryAgain, "the agent could not clean up", words(body)))
        }
        Reply::Away { error, socket } => {
            let message = format!("the node agent does not answer at {}", socket.display());
            Err(Refusal::new(
                Code::TryAgain,
                message,
                format!("{error}; it cleans up by itself when it starts"),
            ))
        }
    }
}

/// Whether any pod can start. A runtime keeps all pods of a node that is not ready from starting, so silence is no
/// trouble here as long as the pods of some namespace pass without an agent.
pub(super) fn of_status(reply: &Reply, network: &Network) -> Result<(), Refusal> {
    match reply {
        Reply::Answer { .. } => Ok(()),
        Reply::Away { .. } if !network.pass_without_agent.is_empty() => Ok(()),
        Reply::Away { error, socket } => {
            let message = format!("the node agent does not answer at {}", socket.display());
            let details =
                format!("{error}; pods of namespaces in passWithoutAgent would start, but none is listed");
            Err(Refusal::new(Code::Unavailable, message, details))
        }
    }
}

fn judge(reply: &Reply, attachment: &Attachment, network: &Network, verb: &str) -> Result<(), Refusal> {
    let Some(pod) = &attachment.pod else { return Ok(()) };
    let passes = network.pass_without_agent.contains(&pod.namespace);
    let name = format!("{}/{}", pod.namespace, pod.name);
    match reply {
        Reply::Answer { status: 200, .. } => Ok(()),
        // It cannot say yet: as good as away.
        Reply::Answer { status: 503, body } if passes && body.get("state").is_none() => Ok(()),
        Reply::Answer { status, body } => {
            let code = if *status == 503 { Code::TryAgain } else { Code::Refused };
            let message =
                format!("pod {name} cannot {verb}: {}", text(body, "error").unwrap_or_else(|| words(body)));
            Err(Refusal::new(code, message, text(body, "fix").unwrap_or_default()))
        }
        Reply::Away { .. } if passes => Ok(()),
        Reply::Away { error, socket } => {
            let message =
                format!("pod {name} cannot {verb}: the node agent does not answer at {}", socket.display());
            let without = &network.pass_without_agent;
            let listed = if without.is_empty() { "none".to_owned() } else { without.join(", ") };
            let details = format!(
                "{error}; a pod that may have to be captured waits for the agent, and kubelet tries again: see the agent's \
                 DaemonSet on this node; namespaces that start without it (passWithoutAgent): {listed}"
            );
            Err(Refusal::new(Code::TryAgain, message, details))
        }
    }
}

fn words(body: &Value) -> String {
    text(body, "error").unwrap_or_else(|| match body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

fn text(body: &Value, key: &str) -> Option<String> {
    body.get(key).and_then(Value::as_str).map(str::to_owned)
}
