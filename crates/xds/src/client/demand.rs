// SPDX-License-Identifier: Apache-2.0
//! Asking for one workload or service and waiting for the answer.

use std::collections::HashMap;

use arcstr::ArcStr;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the client's task.
const QUEUE: usize = 256;

/// The client has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discovery has ended")]
pub struct Unanswered;

/// A handle to ask; cheap to clone.
#[derive(Clone, Debug)]
pub struct Demand {
    // `None`: everything is subscribed, so there is nothing to ask.
    questions: Option<mpsc::Sender<Question>>,
}

#[derive(Debug)]
struct Question {
    name: ArcStr,
    answered: oneshot::Sender<()>,
}

impl Demand {
    /// Asks for a workload or service by its name or by `<network>/<ip>`, and waits until the server has said what it is
    /// or that there is none; the Index has it by then. The caller sets the deadline; dropping this is safe. A client
    /// that has subscribed to everything answers at once.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn fetch(&self, name: ArcStr) -> Result<(), Unanswered> {
        let Some(questions) = &self.questions else { return Ok(()) };
        let (answered, answer) = oneshot::channel();
        questions.send(Question { name, answered }).await.map_err(|_ended| Unanswered)?;
        answer.await.map_err(|_ended| Unanswered)
    }
}

/// The client's end.
#[derive(Debug)]
pub(super) struct Requests {
    questions: mpsc::Receiver<Question>,
    waiting: HashMap<ArcStr, Vec<oneshot::Sender<()>>>,
}

/// Both ends. Where everything is subscribed, the handle asks nothing.
pub(super) fn channel(on_demand: bool) -> (Demand, Requests) {
    let (sender, questions) = mpsc::channel(QUEUE);
    (Demand { questions: on_demand.then_some(sender) }, Requests { questions, waiting: HashMap::new() })
}

impl Requests {
    /// The next name asked for; never ends. Cancel safe.
    pub(super) async fn next(&mut self) -> ArcStr {
        let Some(question) = self.questions.recv().await else { return std::future::pending().await };
        // Those who have given up are forgotten when somebody asks, so this is bounded by who is still waiting.
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
        self.waiting.entry(question.name.clone()).or_default().push(question.answered);
        question.name
    }

    /// The server has answered; those whose answer this is are told.
    pub(super) fn settle(&mut self, name: &ArcStr) {
        for waiting in self.waiting.remove(name).into_iter().flatten() {
            // Whoever gave up needs no answer.
            waiting.send(()).ok();
        }
    }
}
