// SPDX-License-Identifier: Apache-2.0
//! Pods of this node and namespaces, watched: whoever should be in the mesh and is not is brought in, also a pod that was
//! there before, and whoever should not be is let out. What to do is the ledger's answer; here it is done, one step per
//! pod at a time, again and again until it works, and a pod that cannot be brought in says so in an event.

mod directory;
mod events;
mod told;
mod trouble;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use kubernetes::{Api, ApiError, Event, Happened, Resource, Watch};
use parking_lot::Mutex;
use runtime::Tasks;
use tokio::{sync::mpsc, sync::watch, time::Instant};

pub use self::directory::Cluster;
use self::{
    events::{About, Events, Ignored},
    told::{Matter, Told},
    trouble::Troubles,
};
use crate::{
    chain::Chain,
    enrol::{AddError, Enrolment, RemoveError},
    ledger::{Ledger, Step},
    mark,
    netns::running::{self, Marks},
    objects::{Labels, NamespaceJson, NamespaceObject, PodJson, PodObject},
    pod::{Exclusions, Pod, PodError, Treatment, Uid},
    rules::Rules,
};

/// Events on their way; a slow agent slows the watches.
const QUEUE: usize = 256;
/// Pods that are worked on at one time.
const AT_ONCE: usize = 16;
/// The longest time between two looks at everything, in case that something changed that no watch tells of.
const LOOK: Duration = Duration::from_secs(30);
/// How long after the end of a bypass its pods are looked at.
const PAST_END: Duration = Duration::from_millis(50);
const PROC: &str = "/proc";

/// Objects of both watches.
#[derive(Debug)]
enum Object {
    Pod(Box<PodObject>),
    Namespace(String, Box<NamespaceObject>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pods,
    Namespaces,
}

/// Everything that the watcher works with.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// The API server.
    pub api: Api,
    /// Which node this is.
    pub node: String,
    /// Who is in the mesh.
    pub rules: Rules,
    /// What is captured.
    pub enrolment: Enrolment,
    /// Shared with the directory.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Where it runs.
    pub tasks: Tasks,
}

/// Why a pod that runs already could not be brought in.
#[derive(Debug, thiserror::Error)]
enum EnrolError {
    #[error("the processes of this node cannot be listed")]
    Processes(#[source] std::io::Error),
    #[error(
        "no process of the pod was found on this node, by its uid or its containers' ids in /proc/*/cgroup; the agent needs hostPID"
    )]
    NotFound,
    #[error(transparent)]
    Invalid(#[from] PodError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(transparent)]
    Remove(#[from] RemoveError),
    #[error("looking for the pod died")]
    Died(#[source] tokio::task::JoinError),
    #[error("the mesh cannot be told whether the pod takes HBONE (patch on pods/status)")]
    Mark(#[source] ApiError),
}

/// How a step ended.
type Ended = (Step, Result<(), EnrolError>);

impl Watcher {
    /// Watches until the group is asked to finish; says when everything that was there has been looked at once.
    pub async fn run(self, ready: watch::Sender<bool>) {
        let (tell, mut happened) = mpsc::channel(QUEUE);
        self.watch_pods(tell.clone());
        self.watch_namespaces(tell);
        let (end, mut ended) = mpsc::channel(AT_ONCE);
        let mut round = Round {
            watcher: self,
            end,
            synced: [false; 2],
            busy: BTreeSet::new(),
            troubles: Troubles::default(),
            told: Told::default(),
        };
        let shutdown = round.watcher.tasks.shutdown();
        // The CNI plugin brings pods in too, and what is captured waits for a ztunnel: the mesh is told as soon as it is
        // served, which is before the first of its containers runs.
        let mut changes = round.watcher.enrolment.changes();
        loop {
            let wake = round.wake();
            tokio::select! {
                () = shutdown.requested() => return,
                Some(event) = happened.recv() => {
                    round.note(event);
                    while let Ok(event) = happened.try_recv() {
                        round.note(event);
                    }
                }
                Some(outcome) = ended.recv() => round.settle(outcome),
                () = changes.next() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            if round.synced == [true; 2] {
                let idle = round.start();
                if idle && !*ready.borrow() {
                    tracing::info!(node = round.watcher.node, "every pod of this node has been looked at");
                    ready.send_replace(true);
                }
            }
        }
    }

    fn watch_pods(&self, tell: mpsc::Sender<Happened<Kind, Object>>) {
        let mut watch = Watch::new(Kind::Pods, [Resource::core("pods")]);
        watch.fields = Some(format!("spec.nodeName={}", self.node));
        let parse = |text: &str| {
            let pod = PodObject::try_from(kubernetes::json::<PodJson>(text)?).map_err(|error| {
                vec![kubernetes::Problem { field: error.field.to_owned(), message: error.problem }]
            })?;
            Ok(Object::Pod(Box::new(pod)))
        };
        self.spawn("watch pods", watch.run(self.api.clone(), parse, tell));
    }

    fn watch_namespaces(&self, tell: mpsc::Sender<Happened<Kind, Object>>) {
        let watch = Watch::new(Kind::Namespaces, [Resource::core("namespaces")]);
        let parse = |text: &str| {
            let (name, namespace) = kubernetes::json::<NamespaceJson>(text)?.parse();
            Ok(Object::Namespace(name, Box::new(namespace)))
        };
        self.spawn("watch namespaces", watch.run(self.api.clone(), parse, tell));
    }

    /// A watch ends by being dropped.
    fn spawn(&self, name: &'static str, watch: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.tasks.shutdown();
        drop(self.tasks.spawn_vital(name, async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = watch => {}
            }
        }));
    }

    fn events(&self) -> Events {
        Events { api: self.api.clone(), node: self.node.clone() }
    }

    /// Says on an object that something it asks for has no effect.
    fn say(&self, news: Option<Ignored>) {
        let Some(ignored) = news else { return };
        tracing::warn!(about = %ignored.about, reason = ignored.reason, message = ignored.message, "ignored");
        drop(self.tasks.spawn("event", self.events().ignored(ignored)));
    }

    /// Says on a pod why it is not in the mesh.
    fn complain(&self, pod: &PodObject, why: String) {
        drop(self.tasks.spawn("event", self.events().not_enrolled(pod.clone(), why)));
    }

    async fn perform(self, step: Step) -> Result<(), EnrolError> {
        match step {
            Step::Enrol(pod, treatment) => self.enrol(&pod, treatment).await,
            Step::Release(uid, reason) => {
                tracing::info!(%uid, %reason, "the pod leaves the mesh");
                self.unmark(&uid).await;
                match self.enrolment.remove(&uid).await {
                    Ok(()) | Err(RemoveError::Unknown) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Step::Absent(uid) => Ok(self.absent(&uid).await?),
            Step::Mark(pod, marked) => self.mark(&pod, marked).await.map_err(EnrolError::Mark),
        }
    }

    async fn mark(&self, pod: &PodObject, marked: bool) -> Result<(), ApiError> {
        let of = mark::Of { uid: &pod.uid, namespace: &pod.namespace, name: &pod.name };
        mark::mark(&self.api, of, marked).await?;
        self.ledger.lock().pod_is_marked(&pod.uid, marked);
        tracing::debug!(uid = %pod.uid, marked, "the mesh is told of the pod");
        Ok(())
    }

    /// Before it is released, so that nobody is sent to a port that nobody serves. A bypass does not wait for the API
    /// server: what fails here is a step of its own once the pod is out.
    async fn unmark(&self, uid: &Uid) {
        let pod = self.ledger.lock().pod(uid).filter(|pod| pod.is_marked()).cloned();
        let Some(pod) = pod else { return };
        if let Err(error) = self.mark(&pod, false).await {
            tracing::warn!(%uid, error = %Chain(&error), "the pod leaves, and the mesh cannot be told");
        }
    }

    async fn enrol(&self, object: &PodObject, treatment: Treatment) -> Result<(), EnrolError> {
        let known = self.enrolment.list().into_iter().find(|status| status.pod.uid == object.uid);
        let sandbox = known.as_ref().and_then(|status| status.pod.sandbox.clone());
        let netns = match known.map(|status| status.pod.netns).filter(|path| path.exists()) {
            Some(netns) => netns,
            None => find(object.clone()).await?.ok_or(EnrolError::NotFound)?,
        };
        let pod = Pod {
            uid: object.uid.clone(),
            name: object.name.clone(),
            namespace: object.namespace.clone(),
            service_account: object.service_account.clone(),
            netns,
            ips: object.ips.clone(),
            treatment,
            sandbox,
        };
        match self.enrolment.add(pod).await {
            Ok(()) => Ok(()),
            // Captured: nothing of it goes in the open, and ztunnel is asked again without us. Until then it has no traffic.
            Err(error @ AddError::Pending(_)) => {
                self.complain(object, Chain(&error).to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Found by a process, it has no file that tells when it has ended: then that process decides.
    async fn absent(&self, uid: &Uid) -> Result<(), RemoveError> {
        let status = self.enrolment.list().into_iter().find(|status| status.pod.uid == *uid);
        match status {
            Some(status) if status.pod.netns.starts_with(PROC) && !status.pod.netns.exists() => {
                self.enrolment.end(uid).await
            }
            _ => self.enrolment.end_if_gone(uid).await,
        }
    }
}

/// Looks for a pod's namespace. Reads a file per process of the node.
async fn find(pod: PodObject) -> Result<Option<std::path::PathBuf>, EnrolError> {
    let look = move || {
        let uids: Vec<_> = pod.uids().collect();
        let marks = Marks { uids: &uids, containers: &pod.containers };
        running::find(Path::new(PROC), &running::MOUNTS.map(Into::into), marks)
    };
    tokio::task::spawn_blocking(look).await.map_err(EnrolError::Died)?.map_err(EnrolError::Processes)
}

/// The watcher's state between two events.
struct Round {
    watcher: Watcher,
    end: mpsc::Sender<Ended>,
    /// Whether each watch has told everything once.
    synced: [bool; 2],
    /// Pods that are being worked on.
    busy: BTreeSet<Uid>,
    troubles: Troubles,
    told: Told,
}

impl Round {
    /// When to look although nothing has happened: a step may be tried again, a bypass ends, or it was long ago.
    fn wake(&self) -> Instant {
        let (instant, now) = (Instant::now(), Timestamp::now());
        let end = self.watcher.ledger.lock().next_end(now);
        // A little later than the end, or the look would still be before it.
        let ends = end.and_then(|end| Duration::try_from(end.duration_since(now)).ok());
        let ends = ends.map(|left| instant + left + PAST_END);
        [self.troubles.next(), ends].into_iter().flatten().fold(instant + LOOK, Instant::min)
    }

    fn note(&mut self, Happened { of, event }: Happened<Kind, Object>) {
        let mut ledger = self.watcher.ledger.lock();
        match (of, event) {
            (_, Event::Applied(Object::Pod(pod))) => {
                let (_, faults) = Exclusions::of(&pod.annotations, &Labels::new());
                let news = self.told.news(About::pod(&pod), Matter::Exclusions, &faults);
                self.watcher.say(news);
                let rerouting = told::rerouting(&pod.annotations);
                let news = self.told.news(About::pod(&pod), Matter::Rerouting, rerouting.as_slice());
                self.watcher.say(news);
                ledger.pod_is(*pod);
            }
            (_, Event::Applied(Object::Namespace(name, namespace))) => {
                let (_, faults) = Exclusions::of(&Labels::new(), &namespace.exclusions);
                let about = About::Namespace(name.clone());
                self.watcher.say(self.told.news(about.clone(), Matter::Exclusions, &faults));
                let fault = namespace.fault(Timestamp::now());
                self.watcher.say(self.told.news(about, Matter::Bypass, fault.as_slice()));
                ledger.namespace_is(name, *namespace);
            }
            (Kind::Pods, Event::Deleted(name)) => {
                self.told.forget(|about| about.is_pod(&name.namespace, &name.name));
                ledger.pod_left(&name.namespace, &name.name);
            }
            (Kind::Namespaces, Event::Deleted(name)) => {
                self.told.forget(|about| *about == About::Namespace(name.name.clone()));
                ledger.namespace_left(&name.name);
            }
            (_, broken @ Event::Broken { .. }) => {
                tracing::error!(?broken, "an object cannot be read, its last good state stays in force");
            }
            (Kind::Pods, Event::Synced) => self.synced[0] = true,
            (Kind::Namespaces, Event::Synced) => self.synced[1] = true,
            (_, Event::Absent) => {}
        }
    }

    fn settle(&mut self, (step, result): Ended) {
        self.busy.remove(step.uid());
        let error = match result {
            Ok(()) => return self.troubles.over(step.uid()),
            Err(error) => error,
        };
        let text = Chain(&error).to_string();
        let news = self.troubles.again(step.uid(), &text, Instant::now());
        tracing::warn!(uid = %step.uid(), error = text, "a step for a pod failed, it is tried again");
        if let (Step::Enrol(pod, _), true) = (&step, news) {
            self.watcher.complain(pod, text);
        }
    }

    /// Starts what is to be done and is not under way; whether there was nothing left to do.
    fn start(&mut self) -> bool {
        let captured = self.watcher.enrolment.list();
        let steps = self.watcher.ledger.lock().steps(&self.watcher.rules, &captured, Timestamp::now());
        self.troubles.keep(&steps);
        let now = Instant::now();
        let mut idle = self.busy.is_empty();
        for step in steps {
            // A pod that is gone from the API server and still runs is looked at again later.
            let waits = matches!(step, Step::Absent(_)) || self.troubles.is_waiting(step.uid(), now);
            idle &= waits;
            if self.busy.len() >= AT_ONCE
                || self.busy.contains(step.uid())
                || self.troubles.is_waiting(step.uid(), now)
            {
                continue;
            }
            self.busy.insert(step.uid().clone());
            let (watcher, end) = (self.watcher.clone(), self.end.clone());
            drop(self.watcher.tasks.spawn("pod step", async move {
                let result = watcher.perform(step.clone()).await;
                // The watcher has ended first: nobody needs to know.
                drop(end.send((step, result)).await);
            }));
        }
        idle
    }
}
