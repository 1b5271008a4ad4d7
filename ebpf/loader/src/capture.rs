// SPDX-License-Identifier: Apache-2.0
//! The programs of one node and the pods they capture: which slot a pod has, in which order its parts come and go.
//!
//! A *generation* is one object with one set of settings. A new one is made beside the old, whose pods go on being
//! captured; each is moved over when the agent attaches it again, new programs first, then the old ones go.

mod error;
mod exchange;
mod slots;
mod state;

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use ebpf_abi::map::CLAIMS;
use nix::fcntl::{Flock, FlockArg};

pub use self::error::{AttachError, DetachError, LoadError, UpdateError};
use self::{
    exchange::{Exchange, Job, Shared},
    slots::Slots,
    state::{State, Survey},
};
use crate::{
    Adopted, Attached, Counters, HookError, PinError, PodNetns, Rules,
    hooks::Method,
    kubelet,
    object::{self, Template},
    pins::Pins,
    programs::Programs,
    support,
    tables::Tables,
};

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Where the kernel has tcx (6.6): filters of a clsact qdisc at first, which takes a few milliseconds, and tcx links
    /// in their place soon after. Older kernels: as [`Self::Clsact`].
    #[default]
    Auto,
    /// tcx links at once: nothing inside the pod can detach them, but to attach one takes a grace period of RCU.
    Tcx,
    /// Filters of a clsact qdisc. A pod with CAP_NET_ADMIN can remove them.
    Clsact,
}

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder in a bpffs that holds everything pinned; made if absent, its bpffs mounted if absent. One agent a folder.
    pub bpf_dir: PathBuf,
    /// The compiled programs: [`Settings::embedded`] unless there is a reason.
    pub object: Cow<'static, [u8]>,
    /// How they are attached.
    pub mode: Mode,
    /// Whether a socket with the proxy's mark is believed to be the proxy's: only for Istio's ztunnel, which makes no
    /// claims. Any pod with CAP_NET_RAW or CAP_NET_ADMIN can then leave the mesh.
    pub trust_mark: bool,
}

/// The programs of this node. Everything it attaches stays when it is dropped. Every method blocks for milliseconds: call it where blocking is allowed.
#[derive(Debug)]
pub struct Capture {
    method: Method,
    claims: PathBuf,
    shared: Arc<Shared>,
    /// Only for [`Method::FiltersThenLinks`].
    exchange: Option<Exchange>,
    /// Held as long as this lives: two agents in one folder would take each other's slots.
    _lock: Flock<File>,
}

impl Settings {
    /// The programs that are compiled into this crate, attached the best way, trusting claims only.
    pub fn embedded(bpf_dir: PathBuf) -> Self {
        Self { bpf_dir, object: Cow::Borrowed(object::EMBEDDED), mode: Mode::Auto, trust_mark: false }
    }
}

impl Capture {
    /// Loads and verifies the programs, or takes over those that an earlier agent pinned when object and settings are
    /// the same. Pods of an earlier agent stay captured either way: see [`Self::adopt`].
    ///
    /// # Errors
    /// When the kernel cannot do it or refuses.
    pub fn load(settings: Settings) -> Result<Self, LoadError> {
        support::supported(settings.mode).map_err(|refusals| LoadError::Unsupported { refusals })?;
        let method = support::method(settings.mode);
        let template = Template::parse(settings.object)?;
        let fingerprint = template.fingerprint(&format!("{method:?} {}", settings.trust_mark));
        let pins = Pins::make(&settings.bpf_dir, &fingerprint)?;
        let lock = lock(pins.root())?;
        let mut programs = Programs::new(template, &pins, settings.trust_mark);
        if Programs::are_shared(&pins) {
            tracing::info!(generation = %fingerprint, "capture programs adopted");
        } else {
            programs.share(&pins)?;
            tracing::info!(generation = %fingerprint, method = ?method, "capture programs loaded");
        }
        let tables = Tables::open(&pins).map_err(|source| LoadError::Maps(Box::new(source)))?;
        let mut state = State { pins, programs, tables, slots: Slots::default(), pods: HashMap::new() };
        state.recall()?;
        let claims = state.pins.map(CLAIMS);
        let shared = Arc::new(Shared::new(state));
        let exchange = match method {
            Method::FiltersThenLinks => Some(Exchange::start(&shared).map_err(LoadError::Thread)?),
            Method::Links | Method::Filters => None,
        };
        Ok(Self { method, claims, shared, exchange, _lock: lock })
    }

    /// Captures a pod; routes, rules and settings of [`crate::abi::route`] are in place. Again for the same pod it
    /// repairs what is missing and applies the rules. An earlier agent's programs are replaced without a gap.
    ///
    /// # Errors
    /// When its namespace cannot be entered, has no interface to capture, or the kernel refuses.
    pub fn attach(&self, pod: &PodNetns) -> Result<Attached, AttachError> {
        let _attaching = self.shared.attaching();
        let survey = Survey::of(pod.netns.as_fd(), &pod.rules)?;
        let interfaces: Vec<String> =
            survey.interfaces.iter().map(|interface| interface.name.clone()).collect();
        if interfaces.is_empty() {
            return Err(AttachError::NoInterface);
        }
        let known = self.shared.state.lock().pods.contains_key(&pod.uid);
        // A new pod has no links that could come meanwhile, and need not wait for another's.
        let _pins = known.then(|| self.shared.hold_pins());
        let mut state = self.shared.state.lock();
        let attached = state.attach(pod, &survey, self.method);
        if let Err(error) = attached {
            // Half a capture of a new pod is worse than none: the agent is told, and tries again.
            if !known && let Err(left) = state.leave(&pod.uid) {
                tracing::warn!(uid = pod.uid, error = %left, "could not take back a capture that failed");
            }
            return Err(error);
        }
        drop(state);
        let netns_cookie = survey.cookie;
        if let Some(exchange) = &self.exchange {
            let netns = pod.netns.try_clone().map_err(AttachError::Descriptor)?;
            exchange.queue(Job {
                uid: pod.uid.clone(),
                cookie: netns_cookie,
                netns,
                interfaces: survey.interfaces,
            });
        }
        Ok(Attached { uid: pod.uid.clone(), netns_cookie, interfaces })
    }

    /// Changes a pod's rules while it is captured. Interfaces are not looked at again; [`Self::attach`] does that.
    ///
    /// # Errors
    /// When it is not attached or the kernel refuses.
    pub fn update(&self, uid: &str, rules: &Rules) -> Result<(), UpdateError> {
        let mut state = self.shared.state.lock();
        let slot = state.pods.get(uid).ok_or_else(|| UpdateError::Unknown { uid: uid.to_owned() })?.pins.slot;
        state.tables.change(slot, rules).map_err(|source| UpdateError::Maps(Box::new(source)))
    }

    /// Ends capture for a pod that lives on: nothing new is captured, and connections that were captured end, because
    /// their payload must not go on in the open. What stays to see to that is removed by [`Self::detach`], or used again
    /// by [`Self::attach`].
    ///
    /// # Errors
    /// When it is not attached, or something else stays attached.
    pub fn release(&self, uid: &str) -> Result<(), DetachError> {
        let _pins = self.shared.hold_pins();
        self.shared.state.lock().release(uid)
    }

    /// Removes everything of a pod, whatever generation it is of. Nothing happens when it is not captured.
    ///
    /// # Errors
    /// When something stays attached.
    pub fn detach(&self, uid: &str) -> Result<(), DetachError> {
        let _pins = self.shared.hold_pins();
        let mut state = self.shared.state.lock();
        state.leave(uid)?;
        state.supersede(uid)?;
        Ok(())
    }

    /// The pods that are captured now, by this agent or an earlier one.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn adopt(&self) -> Result<Vec<Adopted>, DetachError> {
        self.shared.state.lock().adopted()
    }

    /// Lets connections to pods of all processes in a control group (version 2), kubelet's, go straight to the
    /// application. The group of an earlier call no longer counts. Again for the same group is harmless, and needed when
    /// it was made anew.
    ///
    /// # Errors
    /// When it is no control group of version 2, or the kernel refuses.
    pub fn exempt_group(&self, group: BorrowedFd<'_>) -> Result<(), HookError> {
        let mut state = self.shared.state.lock();
        let mut ebpf = state.programs.of_node()?;
        kubelet::attach(&mut ebpf, group, &state.pins.kubelet())
    }

    /// No group counts any more.
    ///
    /// # Errors
    /// When its link stays.
    pub fn exempt_no_group(&self) -> Result<(), PinError> {
        kubelet::detach(&self.shared.state.lock().pins.kubelet())
    }

    /// Where the map of claims is pinned: the proxy's `AMBIT_CLAIM_MAP`.
    pub fn claim_map_path(&self) -> &Path {
        &self.claims
    }

    /// What happened to a pod's packets; `None` when it is not captured.
    pub fn counters(&self, uid: &str) -> Option<Counters> {
        let state = self.shared.state.lock();
        let slot = state.pods.get(uid)?.pins.slot;
        state.tables.counters(slot).ok()
    }
}

fn lock(root: &Path) -> Result<Flock<File>, LoadError> {
    let failed = |source| LoadError::Busy { path: root.to_owned(), source };
    let folder = File::open(root).map_err(failed)?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_folder, error)| failed(error.into()))
}
