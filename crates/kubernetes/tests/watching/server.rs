// SPDX-License-Identifier: Apache-2.0
//! An HTTP server on loopback that answers as a test says: what a real API server does only when it is old, overloaded or
//! about to die.

use std::{collections::VecDeque, sync::Arc};

use kubernetes::{Access, Api};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The answer to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    lines: Vec<String>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The body is complete.
    Whole,
    /// The connection breaks in the middle of it.
    Broken,
    /// It goes on, silently.
    Open,
}

impl Answer {
    pub(crate) fn json(text: &str) -> Self {
        Self { status: 200, lines: vec![text.to_owned()], end: End::Whole }
    }

    pub(crate) fn refusal(status: u16, reason: &str) -> Self {
        let text = format!(
            r#"{{"kind":"Status","code":{status},"reason":"{reason}","message":"as the test says"}}"#
        );
        Self { status, lines: vec![text], end: End::Whole }
    }

    pub(crate) fn events<const N: usize>(lines: [String; N]) -> Self {
        Self { status: 200, lines: lines.to_vec(), end: End::Open }
    }

    pub(crate) fn broken(self) -> Self {
        Self { end: End::Broken, ..self }
    }

    pub(crate) fn whole(self) -> Self {
        Self { end: End::Whole, ..self }
    }
}

/// A request.
struct Question {
    path: String,
    body: Vec<u8>,
}

/// A server with its script.
pub(crate) struct Server {
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Question>>>,
    folder: tempfile::TempDir,
    _running: JoinSet<()>,
}

impl Server {
    /// Answers the requests in their order; what comes after the last one gets no answer.
    pub(crate) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script: Arc<Mutex<VecDeque<Answer>>> = Arc::new(Mutex::new(script.into_iter().collect()));
        let asked: Arc<Mutex<Vec<Question>>> = Arc::default();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], users: [{{name: u, user: {{}}}}]}}"
        );
        std::fs::write(folder.path().join("kubeconfig"), config).unwrap();
        let mut running = JoinSet::new();
        let (answers, questions) = (Arc::clone(&script), Arc::clone(&asked));
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&answers), Arc::clone(&questions)));
            }
        });
        Self { script, asked, folder, _running: running }
    }

    /// A client of it.
    pub(crate) async fn api(&self) -> Api {
        Access::Kubeconfig(self.folder.path().join("kubeconfig")).open().await.unwrap()
    }

    /// What was asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().iter().map(|question| question.path.clone()).collect()
    }

    /// The objects that came with questions.
    pub(crate) fn told(&self) -> Vec<Value> {
        let asked = self.asked.lock();
        let bodies = asked.iter().map(|question| &question.body).filter(|body| !body.is_empty());
        bodies.map(|body| serde_json::from_slice(body).unwrap()).collect()
    }

    /// Adds an answer.
    pub(crate) fn add(&self, answer: Answer) {
        self.script.lock().push_back(answer);
    }
}

async fn serve(stream: TcpStream, script: Arc<Mutex<VecDeque<Answer>>>, asked: Arc<Mutex<Vec<Question>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(question) = request(&mut stream).await {
        asked.lock().push(question);
        let Some(answer) = script.lock().pop_front() else { return std::future::pending().await };
        let head = format!("HTTP/1.1 {} As Told\r\ntransfer-encoding: chunked\r\n\r\n", answer.status);
        let mut text = head;
        for line in &answer.lines {
            text.push_str(&format!("{:x}\r\n{line}\n\r\n", line.len() + 1));
        }
        if answer.end == End::Whole {
            text.push_str("0\r\n\r\n");
        }
        if stream.write_all(text.as_bytes()).await.is_err() || answer.end == End::Broken {
            return;
        }
        if answer.end == End::Open {
            return std::future::pending().await;
        }
    }
}

/// The next request.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<Question> {
    let (mut path, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            return Some(Question { path: path?, body });
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
}
