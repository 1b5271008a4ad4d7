// SPDX-License-Identifier: Apache-2.0
//! One generation and its pods: slot, record and pins of each, and what is attached for it.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::Ebpf;
use ebpf_abi::map::{Identity, flag};

use super::{AttachError, DetachError, LoadError, slots::Slots};
use crate::{
    Adopted, PodNetns, Rules, Standing,
    hooks::{self, HookError, Method, Point, STEER},
    netns::{self, Interface, NetnsError},
    pins::{Pins, PodPins},
    programs::Programs,
    tables::Tables,
};

/// A generation that is loaded.
#[derive(Debug)]
pub(super) struct State {
    pub(super) pins: Pins,
    pub(super) programs: Programs,
    pub(super) tables: Tables,
    pub(super) slots: Slots,
    pub(super) pods: HashMap<String, Held>,
}

/// A pod of this generation.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) cookie: u64,
    pub(super) pins: PodPins,
    /// For filters, which can only be removed from inside. None when an earlier agent attached them.
    pub(super) netns: Option<OwnedFd>,
}

/// What is found inside a namespace.
pub(super) struct Survey {
    pub(super) cookie: u64,
    pub(super) interfaces: Vec<Interface>,
}

impl Survey {
    /// Looks into a namespace.
    pub(super) fn of(netns: BorrowedFd<'_>, rules: &Rules) -> Result<Self, NetnsError> {
        let excluded = &rules.exclusions.interfaces;
        netns::inside(netns, || {
            let cookie = netns::cookie()?;
            let mut interfaces = netns::interfaces()?;
            interfaces.retain(|interface| !excluded.contains(&interface.name));
            Ok(Self { cookie, interfaces })
        })?
    }
}

impl Held {
    pub(super) fn identity(&self) -> Identity {
        [self.pins.slot, self.cookie as u32, (self.cookie >> 32) as u32]
    }

    /// The points that have no link.
    pub(super) fn unlinked(&self, interfaces: &[Interface]) -> Result<Vec<Point>, crate::PinError> {
        let present = self.pins.links()?;
        Ok(hooks::points(interfaces).into_iter().filter(|point| !present.contains(&point.link)).collect())
    }
}

impl State {
    /// Finds the pods that an earlier agent attached.
    pub(super) fn recall(&mut self) -> Result<(), LoadError> {
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

    /// Every pod that is captured, by this generation or an earlier one.
    pub(super) fn adopted(&self) -> Result<Vec<Adopted>, DetachError> {
        let mut adopted = Vec::new();
        for (uid, held) in &self.pods {
            let released =
                self.tables.record(held.pins.slot).is_ok_and(|(_cookie, flags)| flags & flag::RELEASED != 0);
            let standing = if released { Standing::Released } else { Standing::Current };
            adopted.push(Adopted { uid: uid.clone(), standing });
        }
        for other in self.pins.others()? {
            for pod in other.pods()? {
                if !self.pods.contains_key(&pod.uid) {
                    adopted.push(Adopted { uid: pod.uid, standing: Standing::Outdated });
                }
            }
        }
        adopted.sort_by(|one, two| one.uid.cmp(&two.uid));
        adopted.dedup_by(|one, two| one.uid == two.uid);
        Ok(adopted)
    }

    /// Captures a pod.
    pub(super) fn attach(
        &mut self,
        pod: &PodNetns,
        survey: &Survey,
        method: Method,
    ) -> Result<(), AttachError> {
        self.seat(pod, survey)?;
        self.hook(pod, &survey.interfaces, method)?;
        self.replace_earlier(pod, &survey.interfaces, method)
    }

    /// A pod if it is still the same, and the programs for it.
    pub(super) fn same(&mut self, uid: &str, cookie: u64) -> Option<(&Held, &mut Programs)> {
        let held = self.pods.get(uid).filter(|held| held.cookie == cookie)?;
        Some((held, &mut self.programs))
    }

    /// Whether a namespace is captured, whoever's it is.
    pub(super) fn is_captured(&self, cookie: u64) -> bool {
        self.pods.values().any(|held| held.cookie == cookie)
    }

    /// Whether a pod is still the same and has not been released.
    pub(super) fn is_enrolled(&self, uid: &str, cookie: u64) -> bool {
        let Some(held) = self.pods.get(uid).filter(|held| held.cookie == cookie) else { return false };
        self.tables.record(held.pins.slot).is_ok_and(|(_cookie, flags)| flags & flag::RELEASED == 0)
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
        let absent = held.unlinked(interfaces)?;
        let steered = held.pins.links()?.iter().any(|link| link == STEER);
        if absent.is_empty() && steered {
            return Ok(());
        }
        let mut ebpf = self.programs.of_pod(held.identity()).map_err(HookError::from)?;
        let (netns, pins) = (pod.netns.as_fd(), &held.pins);
        let (leaving, arriving): (Vec<Point>, Vec<Point>) = absent.into_iter().partition(Point::captures);
        netns::inside(netns, move || {
            let attach = |ebpf: &mut Ebpf, points: &[Point]| {
                points.iter().try_for_each(|point| match method {
                    Method::Links => hooks::link(ebpf, point, pins),
                    Method::Filters | Method::FiltersThenLinks => hooks::filter(ebpf, point),
                })
            };
            // A connection that arrives halfway is dropped and tried again, not refused; one that leaves is captured
            // when all that follows is in place.
            attach(&mut ebpf, &arriving)?;
            if !steered {
                hooks::attach_steer(&mut ebpf, netns, pins)?;
            }
            attach(&mut ebpf, &leaving)
        })??;
        if method == Method::Filters {
            held.netns = Some(pod.netns.try_clone().map_err(AttachError::Descriptor)?);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, uid: &str) -> Result<(), DetachError> {
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
    pub(super) fn leave(&mut self, uid: &str) -> Result<(), DetachError> {
        let Some(held) = self.pods.get(uid) else { return Ok(()) };
        if let Some(netns) = &held.netns {
            netns::inside(netns.as_fd(), || {
                let interfaces = netns::interfaces()?;
                Ok::<_, DetachError>(hooks::unfilter(&hooks::points(&interfaces))?)
            })??;
        }
        self.forget(uid)
    }

    /// Removes pins and record of a pod of this generation.
    fn forget(&mut self, uid: &str) -> Result<(), DetachError> {
        let Some(held) = self.pods.get(uid) else { return Ok(()) };
        let slot = held.pins.slot;
        // Whatever goes first, the rest then lets everything pass.
        self.tables.release(slot).map_err(|source| DetachError::Maps(Box::new(source)))?;
        held.pins.remove()?;
        self.tables.clear(slot).map_err(|source| DetachError::Maps(Box::new(source)))?;
        self.pods.remove(uid);
        self.slots.give_back(slot);
        Ok(())
    }

    /// Removes what earlier generations have of a pod that is captured by this one.
    fn replace_earlier(
        &self,
        pod: &PodNetns,
        interfaces: &[Interface],
        method: Method,
    ) -> Result<(), AttachError> {
        let known = self.supersede(&pod.uid).map_err(Box::new)?;
        if known && method == Method::Links {
            // Filters, unlike links, do not go with a pin.
            netns::inside(pod.netns.as_fd(), || hooks::unfilter(&hooks::points(interfaces)))??;
        }
        Ok(())
    }

    /// Removes what earlier generations have of a pod, and those generations that have no pod left; whether one had it.
    pub(super) fn supersede(&self, uid: &str) -> Result<bool, DetachError> {
        let mut known = false;
        for other in self.pins.others()? {
            let (of_pod, rest): (Vec<PodPins>, Vec<PodPins>) =
                other.pods()?.into_iter().partition(|pod| pod.uid == uid);
            for pod in of_pod {
                pod.remove()?;
                known = true;
            }
            if rest.is_empty() {
                other.remove()?;
            }
        }
        Ok(known)
    }
}
