// SPDX-License-Identifier: Apache-2.0
//! One stream of the server: what comes in goes to the session, what is due goes out.

use std::{net::SocketAddr, sync::Arc};

use arcstr::ArcStr;
use mesh::SpiffeId;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Status, Streaming};

use super::{
    Shared,
    admission::Admission,
    proxies::{Listed, Rejection},
};
use crate::{
    delta::{Event, Session, session::Limits},
    jitter,
    kind::{Kind, PerKind},
};

/// See the module.
pub(super) struct StreamState<A> {
    shared: Arc<Shared<A>>,
    requests: Streaming<DeltaDiscoveryRequest>,
    session: Session,
    changed: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    listed: Listed,
    caller: SpiffeId,
    admitted: bool,
    admission: Option<Admission>,
    node: ArcStr,
    pace: Pace,
    ends_at: Option<Instant>,
    answer_by: Option<Instant>,
    // How far the proxy was when it was last listed.
    listed_at: PerKind<u64>,
    over: bool,
}

/// When a change may be pushed.
#[derive(Debug, Default)]
struct Pace {
    // There is a change that was not looked at.
    changed: bool,
    // Responses are going out, one per type: the second must not wait for the first one's quiet time.
    pushing: bool,
    // Changes wait until then.
    quiet_until: Option<Instant>,
}

/// What happened.
enum News {
    Request(Box<DeltaDiscoveryRequest>),
    Changed,
    TurnOver,
    Due,
    Unanswered,
    Over,
}

impl<A> StreamState<A> {
    pub(super) fn new(
        shared: Arc<Shared<A>>,
        requests: Streaming<DeltaDiscoveryRequest>,
        caller: SpiffeId,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self {
            requests,
            session: Session::new(Limits::default()),
            changed: shared.catalogue.changed(),
            closing: shared.closing.subscribe(),
            listed: shared.proxies.list(caller.clone(), peer),
            caller,
            admitted: false,
            admission: None,
            node: ArcStr::new(),
            pace: Pace::default(),
            ends_at: shared.settings.longest_stream.map(|longest| Instant::now() + jitter::at_most(longest)),
            answer_by: None,
            listed_at: PerKind::default(),
            over: false,
            shared,
        }
    }

    /// The next response, when it is due; `None` ends the stream.
    pub(super) async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        if !self.admitted {
            self.admitted = true;
            self.admit().await;
        }
        while !self.over {
            if let Some(response) = self.due() {
                self.over = response.is_err();
                return Some(response);
            }
            match self.news().await {
                News::Request(request) => {
                    if let Err(status) = self.receive(*request) {
                        self.over = true;
                        return Some(Err(status));
                    }
                }
                News::Unanswered => {
                    self.over = true;
                    return Some(Err(Status::deadline_exceeded("a response was not answered in time")));
                }
                News::Changed => self.pace.changed = true,
                News::TurnOver => self.admission = None,
                News::Due => {}
                News::Over => self.over = true,
            }
        }
        None
    }

    /// Waits for its turn. Until then, what the proxy sends waits in the connection.
    async fn admit(&mut self) {
        tokio::select! {
            admission = self.shared.gate.admit(&self.shared.catalogue) => self.admission = Some(admission),
            _ = self.closing.wait_for(|closing| *closing) => self.over = true,
            () = at(self.ends_at) => self.over = true,
        }
    }

    /// What the session has to say now, if it may.
    fn due(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        let now = Instant::now();
        if !self.session.is_urgent() && !self.pace.allows(now) {
            return None;
        }
        self.narrow();
        match self.shared.catalogue.read(|publisher| self.session.poll(publisher)) {
            Ok(Some(response)) => {
                self.pace.pushing = true;
                self.answer_by = Some(now + self.shared.settings.answer_deadline);
                self.list();
                Some(Ok(response))
            }
            Ok(None) => {
                // With a response in flight the change stays due until it is answered.
                self.pace.changed &= self.session.in_flight();
                if std::mem::take(&mut self.pace.pushing) {
                    self.pace.quiet_until = Some(now + self.shared.settings.burst);
                }
                self.list_if_further();
                None
            }
            Err(behind) => Some(Err(Status::aborted(behind.to_string()))),
        }
    }

    /// Waits. Every arm is cancel safe.
    async fn news(&mut self) -> News {
        let wakes_at = self.pace.wakes_at(Instant::now());
        let turn_ends_at = self.admission.as_ref().map(|admission| admission.until);
        tokio::select! {
            request = self.requests.message() => match request {
                Ok(Some(request)) => News::Request(Box::new(request)),
                // The proxy ended it, or is gone.
                Ok(None) | Err(_) => News::Over,
            },
            // The catalogue outlives its streams: `shared` holds it.
            _ = self.changed.changed() => News::Changed,
            _ = self.closing.wait_for(|closing| *closing) => News::Over,
            () = at(wakes_at) => News::Due,
            () = at(turn_ends_at) => News::TurnOver,
            () = at(self.answer_by) => News::Unanswered,
            () = at(self.ends_at) => News::Over,
        }
    }

    fn receive(&mut self, mut request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = request.node.take().filter(|_| self.node.is_empty()) {
            self.node = node.id.into();
            let node = self.node.clone();
            self.listed.update(|proxy| proxy.node = node);
        }
        self.narrow();
        let event = self.shared.catalogue.read(|publisher| self.session.receive(request, publisher));
        let event = event.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !self.session.in_flight() {
            self.answer_by = None;
        }
        if self.session.is_settled() {
            self.admission = None;
        }
        let node = &self.node;
        match event {
            Event::Subscribed { kind, known } => tracing::info!(%node, %kind, known, "proxy subscribed"),
            Event::Acked { kind } => tracing::trace!(%node, %kind, "proxy acknowledged"),
            Event::Rejected { kind, names, message } => {
                tracing::warn!(%node, %kind, ?names, %message, "proxy refused resources");
                let rejection = Rejection { node: node.clone(), kind, names, message };
                // Without a reader nobody wants to know.
                self.shared.rejections.send(rejection).ok();
            }
            Event::Nothing => return Ok(()),
        }
        self.list();
        Ok(())
    }

    /// Looks up which part of the catalogue is for this proxy; before the catalogue is locked, as that is somebody else's.
    fn narrow(&mut self) {
        let scope = self.shared.scopes.of(&self.node, &self.caller);
        if let Some(scope) = scope.filter(|scope| self.session.scope().is_none_or(|known| **known != *scope))
        {
            self.session.narrow(&Arc::new(scope));
        }
    }

    /// A proxy for which nothing of a change was has moved on without a message.
    fn list_if_further(&mut self) {
        let now = PerKind::new(|kind: Kind| self.session.acked(kind));
        if now != self.listed_at {
            self.listed_at = now;
            self.list();
        }
    }

    fn list(&self) {
        let progress = PerKind::new(|kind: Kind| self.session.progress(kind));
        self.listed.update(|proxy| proxy.progress = progress);
    }
}

impl Pace {
    fn allows(&self, now: Instant) -> bool {
        self.pushing || self.changed && self.quiet_until.is_none_or(|until| until <= now)
    }

    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.quiet_until.filter(|until| self.changed && *until > now)
    }
}

/// Waits until then, or for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lone_change_goes_at_once_and_what_follows_waits_for_the_end_of_the_burst() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace { changed: true, ..Pace::default() };
        assert!(pace.allows(at(0)));
        assert_eq!(pace.wakes_at(at(0)), None);
        pace = Pace { pushing: true, ..pace };
        assert!(pace.allows(at(0)), "the second type of one change");
        pace = Pace { changed: false, pushing: false, quiet_until: Some(at(100)) };
        assert!(!pace.allows(at(1)));
        assert_eq!(pace.wakes_at(at(1)), None, "nothing to wake for");
        pace.changed = true;
        assert!(!pace.allows(at(1)));
        assert_eq!(pace.wakes_at(at(1)), Some(at(100)));
        assert!(pace.allows(at(100)));
    }
}
