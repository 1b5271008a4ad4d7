// SPDX-License-Identifier: Apache-2.0
//! The maps of a generation, typed: what the programs read about a pod, and what they count. It refuses to know links.

mod entries;

use std::{collections::HashMap as StdHashMap, fmt, net::IpAddr};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, SockMap, lpm_trie::Key};
use ebpf_abi::{
    EVENTS, Listener,
    map::{COUNTS, LISTENERS, NETWORKS, OWN, PODS, PORTS, Record, flag, listener_index},
};

use self::entries::Entries;
use crate::{Counters, Rules, pins::Pins};

/// The maps that the loader writes and reads.
pub(crate) struct Tables {
    pods: Array<MapData, Record>,
    own: HashMap<MapData, [u32; 5], u32>,
    networks: LpmTrie<MapData, [u32; 6], u32>,
    ports: HashMap<MapData, [u32; 2], u32>,
    listeners: SockMap<MapData>,
    counts: Array<MapData, u64>,
    /// What `own`, `networks` and `ports` hold: to read a map is a system call a key.
    present: StdHashMap<u32, Entries>,
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
        let mut tables = Self {
            pods: map(PODS)?.try_into()?,
            own: map(OWN)?.try_into()?,
            networks: map(NETWORKS)?.try_into()?,
            ports: map(PORTS)?.try_into()?,
            listeners: map(LISTENERS)?.try_into()?,
            counts: map(COUNTS)?.try_into()?,
            present: StdHashMap::new(),
        };
        tables.read()?;
        Ok(tables)
    }

    /// Reads what an earlier agent entered.
    fn read(&mut self) -> Result<(), MapError> {
        for entry in self.own.iter() {
            let (key, origin) = entry?;
            self.present.entry(key[0]).or_default().own.insert(key, origin);
        }
        for key in self.networks.keys() {
            let key = key?;
            self.present.entry(key.data()[0]).or_default().networks.insert((key.prefix_len(), key.data()));
        }
        for key in self.ports.keys() {
            let key = key?;
            self.present.entry(key[0]).or_default().ports.insert(key);
        }
        Ok(())
    }

    /// Cookie and flags of a slot, all zero when it is empty.
    pub(crate) fn record(&self, slot: u32) -> Result<(u64, u32), MapError> {
        let [low, high, flags, _reserved] = self.pods.get(&slot, 0)?;
        Ok((u64::from(high) << 32 | u64::from(low), flags))
    }

    /// Enters a pod. From then on its programs act.
    pub(crate) fn fill(
        &mut self,
        slot: u32,
        cookie: u64,
        rules: &Rules,
        found: &[IpAddr],
    ) -> Result<(), MapError> {
        let wanted = Entries::of(slot, rules, found);
        let flags = wanted.flags;
        self.replace(slot, wanted)?;
        self.set_record(slot, cookie, flags)
    }

    /// Replaces a pod's rules. Addresses that were found on its interfaces stay.
    pub(crate) fn change(&mut self, slot: u32, rules: &Rules) -> Result<(), MapError> {
        let (cookie, before) = self.record(slot)?;
        let mut wanted = Entries::of(slot, rules, &[]);
        if let Some(present) = self.present.get(&slot) {
            wanted.keep_found(present);
        }
        let flags = wanted.flags;
        self.replace(slot, wanted)?;
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
        self.replace(slot, Entries::default())?;
        for listener in Listener::ALL {
            for ipv6 in [false, true] {
                absent_is_fine(self.listeners.clear_index(&listener_index(slot, listener, ipv6)))?;
            }
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

    /// Makes a slot's entries be `wanted`: what is new comes before what is old goes, so that nothing that stays is ever
    /// missing.
    fn replace(&mut self, slot: u32, wanted: Entries) -> Result<(), MapError> {
        let present = self.present.remove(&slot).unwrap_or_default();
        for (key, origin) in &wanted.own {
            self.own.insert(key, origin, 0)?;
        }
        for &(prefix, key) in wanted.networks.difference(&present.networks) {
            self.networks.insert(&Key::new(prefix, key), 1, 0)?;
        }
        for key in wanted.ports.difference(&present.ports) {
            self.ports.insert(key, 1, 0)?;
        }
        for key in present.own.keys().filter(|key| !wanted.own.contains_key(*key)) {
            absent_is_fine(self.own.remove(key))?;
        }
        for &(prefix, key) in present.networks.difference(&wanted.networks) {
            absent_is_fine(self.networks.remove(&Key::new(prefix, key)))?;
        }
        for key in present.ports.difference(&wanted.ports) {
            absent_is_fine(self.ports.remove(key))?;
        }
        self.present.insert(slot, wanted);
        Ok(())
    }
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
