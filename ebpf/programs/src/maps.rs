// SPDX-License-Identifier: Apache-2.0
//! The maps. Their layout is in the abi crate, whose constants repeat the names used here.

use crate::ebpf_abi::{
    EVENTS, MAX_PODS,
    map::{Address, Identity, LISTENERS_PER_POD, Record},
};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, ProgramArray, SockMap},
};

/// Addresses per pod, on average, that fit.
const ADDRESSES_PER_POD: u32 = 16;
/// Networks and ports with a meaning of their own, per pod on average.
const RULES_PER_POD: u32 = 32;
/// DNS questions that wait for their answer. Used only for answers that the proxy sends from its own port.
const OPEN_QUESTIONS: u32 = 16 * 1024;
/// Probes that kubelet sends at about the same time. One that is forgotten too early is treated as any other connection.
const OPEN_PROBES: u32 = 4 * 1024;

#[map]
pub(crate) static PODS: Array<Record> = Array::with_max_entries(MAX_PODS, 0);

#[map]
pub(crate) static OWN: HashMap<[u32; 5], u32> =
    HashMap::with_max_entries(MAX_PODS * ADDRESSES_PER_POD, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static NETWORKS: LpmTrie<[u32; 6], u32> =
    LpmTrie::with_max_entries(MAX_PODS * RULES_PER_POD, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static PORTS: HashMap<[u32; 2], u32> =
    HashMap::with_max_entries(MAX_PODS * RULES_PER_POD, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static LISTENERS: SockMap = SockMap::with_max_entries(MAX_PODS * LISTENERS_PER_POD, 0);

#[map]
pub(crate) static COUNTS: Array<u64> = Array::with_max_entries(MAX_PODS * EVENTS, 0);

#[map]
pub(crate) static QUESTIONS: LruHashMap<[u32; 6], Address> = LruHashMap::with_max_entries(OPEN_QUESTIONS, 0);

#[map]
pub(crate) static PROBES: LruHashMap<[u32; 9], u32> = LruHashMap::with_max_entries(OPEN_PROBES, 0);

#[map]
pub(crate) static HOOKS: ProgramArray = ProgramArray::with_max_entries(4, 0);

#[btf_map]
pub(crate) static CLAIMS: SocketStorage<{ (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SocketStorage::new();

#[btf_map]
pub(crate) static CAPTURED: SocketStorage<{ BPF_F_NO_PREALLOC as usize }> = SocketStorage::new();

#[unsafe(no_mangle)]
pub(crate) static IDENTITY: Global<Identity> = Global::new([0; 3]);

#[unsafe(no_mangle)]
pub(crate) static TRUST_MARK: Global<u32> = Global::new(0);

/// An accepted socket gets a copy of its listener's value.
const BPF_F_CLONE: u32 = 1 << 9;

/// Socket storage of one word, described to the kernel by BTF: the length of each array type is the value. The library's
/// own type knows neither `BPF_F_CLONE` nor sockets of packets.
#[repr(C)]
pub(crate) struct SocketStorage<const FLAGS: usize> {
    r#type: *const [i32; 24],
    key: *const i32,
    value: *const u32,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are a description for the loader and are never followed.
unsafe impl<const FLAGS: usize> Sync for SocketStorage<FLAGS> {}

impl<const FLAGS: usize> SocketStorage<FLAGS> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}
