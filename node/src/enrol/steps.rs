// SPDX-License-Identifier: Apache-2.0
//! The hands of enrolment: each action of the ladder carried out on kernel, disk and ztunnel. No choices here.

use std::{path::Path, sync::Arc, time::Duration};

use super::ladder::{Action, Rung};
use crate::{
    capture::{Capture, CaptureError},
    netns::{EnterError, Netns, NetnsId, OpenError},
    pod::Pod,
    record::{Intent, Record, RecordError, Records},
    routes::{self, Families, RouteError},
    sysctl::{self, Previous, SysctlError},
    zds::{Announcements, Unserved, roster::Workload},
};

/// Longer than the deadline after which a silent ztunnel is cut off, so that waiting always ends by an answer.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(6);

/// What one step may fail with.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Its namespace cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A rule or route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The programs.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// ztunnel.
    #[error(transparent)]
    Unserved(#[from] Unserved),
}

/// A namespace as it was before capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) families: Families,
    pub(super) sysctls: Previous,
}

/// A pod that the agent has begun to work on.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) pod: Pod,
    pub(super) id: NetnsId,
    /// None where it cannot be opened although it may be there.
    pub(super) netns: Option<Netns>,
    /// None before the first look.
    pub(super) survey: Option<Survey>,
    pub(super) standing: Option<Rung>,
    /// It is out of the mesh and lives on; see [`Departure::LivesOn`](super::ladder::Departure::LivesOn).
    pub(super) left: bool,
    /// Why it is not as it should be.
    pub(super) trouble: Option<String>,
}

/// Everything the steps work with.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) records: Records,
    pub(super) capture: Capture,
    pub(super) announcements: Announcements,
    /// Where the kernel shows its settings; in a container `/proc/sys` itself cannot be written.
    pub(super) proc_sys: Arc<Path>,
}

impl Held {
    pub(super) fn new(pod: Pod, netns: Netns) -> Self {
        Self {
            pod,
            id: netns.id(),
            netns: Some(netns),
            survey: None,
            standing: None,
            left: false,
            trouble: None,
        }
    }

    pub(super) fn recorded(record: Record, netns: Option<Netns>, standing: Rung) -> Self {
        let survey = Some(Survey { families: record.families, sysctls: record.sysctls });
        Self {
            pod: record.pod,
            id: record.netns,
            netns,
            survey,
            standing: Some(standing),
            left: false,
            trouble: None,
        }
    }

    pub(super) fn workload(&self) -> Workload {
        Workload {
            uid: self.pod.uid.clone(),
            name: self.pod.name.clone(),
            namespace: self.pod.namespace.clone(),
            service_account: self.pod.service_account.clone(),
            netns: self.netns.clone(),
        }
    }

    fn opened(&self) -> Result<&Netns, OpenError> {
        self.netns.as_ref().ok_or_else(|| OpenError::Gone { path: self.pod.netns.clone() })
    }
}

impl Steps {
    /// Carries out one action; `patience` is for ztunnel.
    pub(super) async fn perform(
        &self,
        held: &mut Held,
        action: Action,
        patience: Duration,
    ) -> Result<(), StepError> {
        match action {
            Action::Record => self.record(held).await?,
            Action::Route => route(held, &self.proc_sys).await?,
            Action::Attach => self.capture.attach(&held.pod, held.opened()?).await?,
            Action::Announce => self.announcements.announce(held.workload(), patience).await?,
            Action::Withdraw => self.announcements.withdraw(&held.pod.uid, WITHDRAW_PATIENCE).await,
            Action::Release => self.capture.release(&held.pod.uid).await?,
            Action::Detach => self.capture.detach(&held.pod.uid).await?,
            Action::Unroute => unroute(held, &self.proc_sys).await?,
            Action::Forget => self.records.forget(&held.pod.uid)?,
        }
        Ok(())
    }

    /// Notes that a pod is on its way out, so that an agent that dies halfway is followed by one that goes on with it.
    pub(super) fn mark_leaving(&self, held: &Held) -> Result<(), RecordError> {
        match &held.survey {
            Some(survey) => self.records.save(&record(held, survey, Intent::Leave)),
            None => Ok(()),
        }
    }

    async fn record(&self, held: &mut Held) -> Result<(), StepError> {
        let survey = match &held.survey {
            // A look at a namespace that is captured already would take our settings for its own.
            Some(survey) => survey.clone(),
            None => {
                let root = Arc::clone(&self.proc_sys);
                held.opened()?.run(move || survey(&root)).await??
            }
        };
        self.records.save(&record(held, &survey, Intent::Stay))?;
        held.survey = Some(survey);
        Ok(())
    }
}

fn record(held: &Held, survey: &Survey, intent: Intent) -> Record {
    Record {
        pod: held.pod.clone(),
        netns: held.id,
        families: survey.families,
        sysctls: survey.sysctls.clone(),
        intent,
    }
}

fn survey(root: &Path) -> Result<Survey, SysctlError> {
    let families = if sysctl::has_ipv6(root) { Families::Dual } else { Families::V4 };
    Ok(Survey { families, sysctls: sysctl::survey(root)? })
}

async fn route(held: &Held, root: &Arc<Path>) -> Result<(), StepError> {
    let Some(families) = held.survey.as_ref().map(|survey| survey.families) else { return Ok(()) };
    let root = Arc::clone(root);
    let work = move || -> Result<(usize, usize), StepError> {
        // Settings first: a rule without them would already change what arrives.
        Ok((sysctl::apply(&root)?, routes::ensure(families)?))
    };
    let (settings, lines) = held.opened()?.run(work).await??;
    if held.standing >= Some(Rung::Attached) && settings + lines > 0 {
        tracing::warn!(pod = %held.pod, settings, lines, "repaired the pod's network namespace");
    }
    Ok(())
}

async fn unroute(held: &Held, root: &Arc<Path>) -> Result<(), StepError> {
    let Some(survey) = held.survey.clone() else { return Ok(()) };
    let root = Arc::clone(root);
    let work = move || -> Result<(), StepError> {
        routes::remove(survey.families)?;
        Ok(sysctl::restore(&root, &survey.sysctls)?)
    };
    held.opened()?.run(work).await?
}

/// The step's error for a ladder, which keeps and repeats it.
pub(super) type Shared = Arc<StepError>;
