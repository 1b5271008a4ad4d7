// SPDX-License-Identifier: Apache-2.0
//! The maps of a generation, typed: what the programs read about a pod, and what they count. It refuses to know links.

mod entries;

use std::{collections::BTreeSet, fmt, net::IpAddr};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, SockMap, lpm_trie::Key},
};
use ebpf_abi::{
    EVENTS,
    map::{COUNTS, LISTENERS, LISTENERS_PER_POD, NETWORKS, OWN, PODS, PORTS, Record, flag, own_key},
};

use self::entries::{Entries, words};
use crate::{Counters, Rules, pins::Pins};

/// Who said that an address is the pod's.
const GIVEN: u32 = 1;
const FOUND: u32 = 2;

/// The maps that the loader writes and reads.
pub(crate) struct Tables {
    pods: Array<MapData, Record>,
    own: HashMap<MapData, [u32; 5], u32>,
    networks: LpmTrie<MapData, [u32; 6], u32>,
    ports: HashMap<MapData, [u32; 2], u32>,
    listeners: SockMap<MapData>,
    counts: Array<MapData, u64>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not all types of the library can say more of themselves.
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Tables {
    pub(crate) fn open(pins: &Pins) -> Result<Self, MapError> {
        let map = |name: &str| MapData::from_pin(pins.map(name)).and_then(Map::from_map_data);
        Ok(Self {
            pods: map(PODS)?.try_into()?,
            own: map(OWN)?.try_into()?,
            networks: map(NETWORKS)?.try_into()?,
            ports: map(PORTS)?.try_into()?,
            listeners: map(LISTENERS)?.try_into()?,
            counts: map(COUNTS)?.try_into()?,
        })
    }

    /// Cookie and flags of a slot, all zero when it is empty.
    pub(crate) fn record(&self, slot: u32) -> Result<(u64, u32), MapError> {
        let [low, high, flags, _reserved] = self.pods.get(&slot, 0)?;
        Ok((u64::from(high) << 32 | u64::from(low), flags))
    }

    /// Puts a pod into an empty slot. From then on its programs act.
    pub(crate) fn fill(
        &mut self,
        slot: u32,
        cookie: u64,
        rules: &Rules,
        found: &[IpAddr],
    ) -> Result<(), MapError> {
        self.refind(slot, found)?;
        let flags = self.apply(slot, rules)?;
        self.set_record(slot, cookie, flags)
    }

    /// Replaces a pod's rules.
    pub(crate) fn change(&mut self, slot: u32, rules: &Rules) -> Result<(), MapError> {
        let (cookie, before) = self.record(slot)?;
        let flags = self.apply(slot, rules)?;
        self.set_record(slot, cookie, flags | before & flag::RELEASED)
    }

    /// Marks a pod as having left.
    pub(crate) fn release(&mut self, slot: u32) -> Result<(), MapError> {
        let (cookie, flags) = self.record(slot)?;
        self.set_record(slot, cookie, flags | flag::RELEASED)
    }

    /// Empties a slot.
    pub(crate) fn clear(&mut self, slot: u32) -> Result<(), MapError> {
        self.set_record(slot, 0, 0)?;
        self.refind(slot, &[])?;
        self.apply(slot, &Rules::default())?;
        for index in slot * LISTENERS_PER_POD..(slot + 1) * LISTENERS_PER_POD {
            absent_is_fine(self.listeners.clear_index(&index))?;
        }
        for index in slot * EVENTS..(slot + 1) * EVENTS {
            self.counts.set(index, 0, 0)?;
        }
        Ok(())
    }

    /// What happened to a pod's packets.
    pub(crate) fn counters(&self, slot: u32) -> Result<Counters, MapError> {
        let mut counts = [0; EVENTS as usize];
        for (event, count) in (slot * EVENTS..).zip(&mut counts) {
            *count = self.counts.get(&event, 0)?;
        }
        Ok(Counters::new(counts))
    }

    fn set_record(&mut self, slot: u32, cookie: u64, flags: u32) -> Result<(), MapError> {
        let (low, high) = (cookie as u32, (cookie >> 32) as u32);
        self.pods.set(slot, [low, high, flags, 0], 0)
    }

    /// Replaces the addresses that were found on interfaces.
    fn refind(&mut self, slot: u32, found: &[IpAddr]) -> Result<(), MapError> {
        let wanted = found.iter().map(|&ip| own_key(slot, words(ip))).collect();
        self.replace_own(slot, &wanted, FOUND)
    }

    /// Replaces everything that rules say; answers the flags that go with it.
    fn apply(&mut self, slot: u32, rules: &Rules) -> Result<u32, MapError> {
        let wanted = Entries::of(slot, rules);
        self.replace_own(slot, &wanted.own, GIVEN)?;
        for &(prefix, key) in &wanted.networks {
            self.networks.insert(&Key::new(prefix, key), 1, 0)?;
        }
        for key in present(self.networks.keys())? {
            let entry = (key.prefix_len(), key.data());
            if entry.1[0] == slot && !wanted.networks.contains(&entry) {
                absent_is_fine(self.networks.remove(&key))?;
            }
        }
        for key in &wanted.ports {
            self.ports.insert(key, 1, 0)?;
        }
        for key in present(self.ports.keys())? {
            if key[0] == slot && !wanted.ports.contains(&key) {
                absent_is_fine(self.ports.remove(&key))?;
            }
        }
        Ok(wanted.flags)
    }

    /// Makes the addresses of one origin be `wanted`. New ones come before old ones go, so that an address that both
    /// origins know never disappears in between.
    fn replace_own(&mut self, slot: u32, wanted: &BTreeSet<[u32; 5]>, origin: u32) -> Result<(), MapError> {
        for key in wanted {
            let known = self.own.get(key, 0).unwrap_or_default();
            self.own.insert(key, known | origin, 0)?;
        }
        for key in present(self.own.keys())? {
            if key[0] != slot || wanted.contains(&key) {
                continue;
            }
            match self.own.get(&key, 0)? & !origin {
                0 => absent_is_fine(self.own.remove(&key))?,
                rest => self.own.insert(key, rest, 0)?,
            }
        }
        Ok(())
    }
}

/// All keys, read before anything is removed: a removal would move the reading back to the start.
fn present<K: Pod>(keys: impl Iterator<Item = Result<K, MapError>>) -> Result<Vec<K>, MapError> {
    keys.collect()
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        // A SOCKMAP answers EINVAL for an index without a socket.
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::EINVAL) => {
            Ok(())
        }
        other => other,
    }
}
