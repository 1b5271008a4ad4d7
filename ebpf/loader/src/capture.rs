// SPDX-License-Identifier: Apache-2.0
//! The programs of one node and the pods they capture: which slot a pod has, in which order its parts come and go.
//!
//! A *generation* is one object with one set of settings. A new one is made beside the old, whose pods go on being
//! captured; each is moved over when the agent attaches it again, new programs first, then the old ones go.

mod error;
mod slots;

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use ebpf_abi::map::{CLAIMS, flag};
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;

pub use self::error::{AttachError, DetachError, LoadError, UpdateError};
use self::slots::Slots;
use crate::{
    Adopted, Attached, Counters, PodNetns, Rules, Standing,
    hooks::{self, HookError, Method, Point, STEER},
    netns::{self, Interface},
    object::{self, Template},
    pins::{Pins, PodPins},
    programs::Programs,
    support,
    tables::Tables,
};

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// tcx: nothing inside the pod can detach it.
    Tcx,
    /// A clsact qdisc with filters, for older kernels. A pod with CAP_NET_ADMIN can remove them.
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

/// The programs of this node. Every method blocks for milliseconds: call it where blocking is allowed.
#[derive(Debug)]
pub struct Capture {
    method: Method,
    claims: PathBuf,
    state: Mutex<State>,
    /// Held as long as this lives: two agents in one folder would take each other's slots.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct State {
    pins: Pins,
    programs: Programs,
    tables: Tables,
    slots: Slots,
    pods: HashMap<String, Held>,
}

/// A pod of this generation.
#[derive(Debug)]
struct Held {
    cookie: u64,
    pins: PodPins,
    /// For clsact, whose filters can only be removed from inside. None when an earlier agent attached it.
    netns: Option<OwnedFd>,
}

/// What is found inside a namespace.
struct Survey {
    cookie: u64,
    interfaces: Vec<Interface>,
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
        for balancer in support::socket_balancers() {
            tracing::warn!(
                balancer,
                "service addresses are rewritten at the socket, where capture cannot see them"
            );
        }
        let tables = Tables::open(&pins).map_err(|source| LoadError::Maps(Box::new(source)))?;
        let mut state = State { pins, programs, tables, slots: Slots::default(), pods: HashMap::new() };
        state.recall()?;
        let claims = state.pins.map(CLAIMS);
        Ok(Self { method, claims, state: Mutex::new(state), _lock: lock })
    }

    /// Captures a pod; routes, rules and settings of [`crate::abi::route`] are in place. Again for the same pod it
    /// repairs what is missing and applies the rules. An earlier agent's programs are replaced without a gap.
    ///
    /// # Errors
    /// When its namespace cannot be entered, has no interface to capture, or the kernel refuses.
    pub fn attach(&self, pod: &PodNetns) -> Result<Attached, AttachError> {
        let survey = survey(pod.netns.as_fd(), &pod.rules)?;
        let interfaces: Vec<String> =
            survey.interfaces.iter().map(|interface| interface.name.clone()).collect();
        if interfaces.is_empty() {
            return Err(AttachError::NoInterface);
        }
        let netns_cookie = survey.cookie;
        let mut state = self.state.lock();
        state.seat(pod, &survey)?;
        let hooked = state.hook(pod, &survey.interfaces, self.method);
        if let Err(error) = hooked {
            // Half a capture is worse than none: the agent is told, and tries again.
            if let Err(left) = state.leave(&pod.uid, self.method) {
                tracing::warn!(uid = pod.uid, error = %left, "could not take back a capture that failed");
            }
            return Err(error);
        }
        state.supersede(&pod.uid).map_err(Box::new)?;
        Ok(Attached { uid: pod.uid.clone(), netns_cookie, interfaces })
    }

    /// Changes a pod's rules while it is captured. Interfaces are not looked at again; [`Self::attach`] does that.
    ///
    /// # Errors
    /// When it is not attached or the kernel refuses.
    pub fn update(&self, uid: &str, rules: &Rules) -> Result<(), UpdateError> {
        let mut state = self.state.lock();
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
        self.state.lock().release(uid)
    }

    /// Removes everything of a pod, whatever generation it is of. Nothing happens when it is not captured.
    ///
    /// # Errors
    /// When something stays attached.
    pub fn detach(&self, uid: &str) -> Result<(), DetachError> {
        let mut state = self.state.lock();
        state.leave(uid, self.method)?;
        state.supersede(uid)?;
        Ok(())
    }

    /// The pods that are captured now, by this agent or an earlier one.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn adopt(&self) -> Result<Vec<Adopted>, DetachError> {
        let state = self.state.lock();
        let mut adopted = Vec::new();
        for (uid, held) in &state.pods {
            let released =
                state.tables.record(held.pins.slot).is_ok_and(|(_cookie, flags)| flags & flag::RELEASED != 0);
            let standing = if released { Standing::Released } else { Standing::Current };
            adopted.push(Adopted { uid: uid.clone(), standing });
        }
        for other in state.pins.others()? {
            for pod in other.pods()? {
                if !state.pods.contains_key(&pod.uid) {
                    adopted.push(Adopted { uid: pod.uid, standing: Standing::Outdated });
                }
            }
        }
        adopted.sort_by(|one, two| one.uid.cmp(&two.uid));
        adopted.dedup_by(|one, two| one.uid == two.uid);
        Ok(adopted)
    }

    /// Where the map of claims is pinned: the proxy's `AMBIT_CLAIM_MAP`.
    pub fn claim_map_path(&self) -> &Path {
        &self.claims
    }

    /// What happened to a pod's packets; `None` when it is not captured.
    pub fn counters(&self, uid: &str) -> Option<Counters> {
        let state = self.state.lock();
        let slot = state.pods.get(uid)?.pins.slot;
        state.tables.counters(slot).ok()
    }
}

impl State {
    /// Finds the pods that an earlier agent attached.
    fn recall(&mut self) -> Result<(), LoadError> {
        for pins in self.pins.pods()? {
            let (cookie, _flags) =
                self.tables.record(pins.slot).map_err(|source| LoadError::Maps(Box::new(source)))?;
            if cookie == 0 || !self.slots.take(pins.slot) {
                // The agent died while it attached or detached this one. Without a record its programs do nothing.
                pins.remove()?;
                continue;
            }
            self.pods.insert(pins.uid.clone(), Held { cookie, pins, netns: None });
        }
        Ok(())
    }

    /// Gives a pod its slot and writes what its programs are to know.
    fn seat(&mut self, pod: &PodNetns, survey: &Survey) -> Result<(), AttachError> {
        let failed = |source| AttachError::Maps(Box::new(source));
        let found: Vec<IpAddr> =
            survey.interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
        if self.pods.get(&pod.uid).is_some_and(|held| held.cookie != survey.cookie) {
            // The same pod in a new sandbox. What was attached in the old one went with it.
            self.forget(&pod.uid).map_err(Box::new)?;
        }
        let slot = match self.pods.get(&pod.uid) {
            Some(held) => held.pins.slot,
            None => {
                let slot = self.slots.next().ok_or(AttachError::Full)?;
                self.tables.clear(slot).map_err(failed)?;
                let pins = self.pins.make_pod(slot, &pod.uid)?;
                self.pods.insert(pod.uid.clone(), Held { cookie: survey.cookie, pins, netns: None });
                slot
            }
        };
        self.tables.fill(slot, survey.cookie, &pod.rules, &found).map_err(failed)
    }

    /// Attaches what is not attached yet.
    fn hook(&mut self, pod: &PodNetns, interfaces: &[Interface], method: Method) -> Result<(), AttachError> {
        let Some(held) = self.pods.get_mut(&pod.uid) else { return Ok(()) };
        let present = held.pins.links()?;
        let points = hooks::points(interfaces);
        let absent: Vec<Point> = points.into_iter().filter(|point| !present.contains(&point.link)).collect();
        let steered = present.iter().any(|link| link == STEER);
        if absent.is_empty() && steered {
            return Ok(());
        }
        let identity = [held.pins.slot, held.cookie as u32, (held.cookie >> 32) as u32];
        let mut ebpf = self.programs.of_pod(identity).map_err(HookError::from)?;
        let (netns, pins) = (pod.netns.as_fd(), &held.pins);
        netns::inside(netns, move || {
            if !steered {
                hooks::attach_steer(&mut ebpf, netns, pins)?;
            }
            absent.iter().try_for_each(|point| hooks::attach(&mut ebpf, point, method, pins))
        })??;
        if method == Method::Clsact {
            held.netns = Some(pod.netns.try_clone().map_err(AttachError::Descriptor)?);
        }
        Ok(())
    }

    fn release(&mut self, uid: &str) -> Result<(), DetachError> {
        let Some(held) = self.pods.get(uid) else { return Err(DetachError::Unknown { uid: uid.to_owned() }) };
        self.tables.release(held.pins.slot).map_err(|source| DetachError::Maps(Box::new(source)))?;
        for link in held.pins.links()? {
            // What leaves the pod is still looked at; the rest passes without its programs as it would with them.
            if !link.starts_with("egress") {
                held.pins.unlink(&link)?;
            }
        }
        Ok(())
    }

    /// Removes a pod of this generation.
    fn leave(&mut self, uid: &str, method: Method) -> Result<(), DetachError> {
        let Some(held) = self.pods.get(uid) else { return Ok(()) };
        if let (Method::Clsact, Some(netns)) = (method, &held.netns) {
            netns::inside(netns.as_fd(), || {
                let interfaces = netns::interfaces()?;
                Ok::<_, DetachError>(hooks::detach_clsact(&hooks::points(&interfaces))?)
            })??;
        }
        self.forget(uid)
    }

    /// Removes pins and record of a pod of this generation.
    fn forget(&mut self, uid: &str) -> Result<(), DetachError> {
        let Some(held) = self.pods.get(uid) else { return Ok(()) };
        let slot = held.pins.slot;
        held.pins.remove()?;
        self.tables.clear(slot).map_err(|source| DetachError::Maps(Box::new(source)))?;
        self.pods.remove(uid);
        self.slots.give_back(slot);
        Ok(())
    }

    /// Removes what earlier generations have of a pod, and those generations that have no pod left.
    fn supersede(&self, uid: &str) -> Result<(), DetachError> {
        for other in self.pins.others()? {
            let (of_pod, rest): (Vec<PodPins>, Vec<PodPins>) =
                other.pods()?.into_iter().partition(|pod| pod.uid == uid);
            for pod in of_pod {
                pod.remove()?;
            }
            if rest.is_empty() {
                other.remove()?;
            }
        }
        Ok(())
    }
}

fn lock(root: &Path) -> Result<Flock<File>, LoadError> {
    let failed = |source| LoadError::Busy { path: root.to_owned(), source };
    let folder = File::open(root).map_err(failed)?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_folder, error)| failed(error.into()))
}

fn survey(netns: BorrowedFd<'_>, rules: &Rules) -> Result<Survey, AttachError> {
    let excluded = &rules.exclusions.interfaces;
    let found = netns::inside(netns, || {
        let cookie = netns::cookie()?;
        let mut interfaces = netns::interfaces()?;
        interfaces.retain(|interface| !excluded.contains(&interface.name));
        Ok::<_, netns::NetnsError>(Survey { cookie, interfaces })
    })??;
    Ok(found)
}
