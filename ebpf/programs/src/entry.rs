// SPDX-License-Identifier: Apache-2.0
//! A pod's own programs on its interfaces: they say which pod it is and hand over to the shared programs. Loaded per pod,
//! so they are as small as can be; the shared ones are verified once per node and exchanged for all pods at once.

use crate::ebpf_abi::Hook;
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    maps::{HOOKS, IDENTITY},
    skb::{DROP, Skb},
};

#[classifier]
pub fn enter_egress(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::Egress)
}

#[classifier]
pub fn enter_ingress(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::Ingress)
}

#[classifier]
pub fn enter_loopback(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::Loopback)
}

#[inline(always)]
fn enter(ctx: &TcContext, hook: Hook) -> i32 {
    let skb = Skb::of(ctx);
    let [slot, low, high] = IDENTITY.load();
    skb.set_word(0, slot);
    skb.set_word(1, low);
    skb.set_word(2, high);
    // SAFETY: nothing here needs to be dropped.
    unsafe { HOOKS.tail_call(ctx, hook as u32) };
    // Only reached when there is no such program.
    DROP
}
