// SPDX-License-Identifier: Apache-2.0
//! Whether this kernel can capture, and if not why, before anything is changed.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
    util::KernelVersion,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::utsname::uname,
};

use crate::{Mode, hooks::Method};

/// `tcp_migrate_req` and the cookie of a namespace are of 5.14; the next that is maintained.
const OLDEST: (KernelVersion, &str) = (KernelVersion::new(5, 15, 0), "5.15");
const TCX: (KernelVersion, &str) = (KernelVersion::new(6, 6, 0), "6.6");

/// Why this kernel cannot capture.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Linux is too old.
    #[error("Linux {found} is older than {needed}, which {feature} needs")]
    Kernel {
        /// What runs here.
        found: String,
        /// What must run here.
        needed: &'static str,
        /// What for.
        feature: &'static str,
    },
    /// A program type or map type is compiled out.
    #[error("the kernel lacks {feature}; it must be built with {option}")]
    Missing {
        /// What is missing.
        feature: &'static str,
        /// The option of the kernel's configuration.
        option: &'static str,
    },
    /// The process may not.
    #[error("no permission to {what}: CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN are needed")]
    Permission {
        /// What was refused.
        what: &'static str,
    },
}

/// Asks the kernel for everything that capture in `mode` needs.
///
/// # Errors
/// Every reason why it cannot.
pub fn supported(mode: Mode) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if older(OLDEST.0) {
        refusals.push(too_old(OLDEST.1, "capture"));
    }
    if mode == Mode::Tcx && older(TCX.0) {
        refusals.push(too_old(TCX.1, "tcx"));
    }
    let programs = [
        (ProgramType::SchedClassifier, "tc programs", "CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT"),
        (ProgramType::SkLookup, "sk_lookup programs", "CONFIG_BPF_SYSCALL and CONFIG_INET"),
    ];
    for (kind, feature, option) in programs {
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => refusals.push(Refusal::Missing { feature, option }),
            Err(_denied) => refusals.push(Refusal::Permission { what: "load programs" }),
        }
    }
    let maps = [
        (MapType::SockMap, "SOCKMAP", "CONFIG_BPF_STREAM_PARSER"),
        (MapType::SkStorage, "socket storage", "CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF"),
        (MapType::LpmTrie, "LPM tries", "CONFIG_BPF_SYSCALL"),
    ];
    for (kind, feature, option) in maps {
        match is_map_supported(kind) {
            Ok(true) => {}
            Ok(false) => refusals.push(Refusal::Missing { feature, option }),
            Err(_denied) => refusals.push(Refusal::Permission { what: "make maps" }),
        }
    }
    if refusals.is_empty() && method(mode) == Method::Filters && !has_clsact() {
        let option = "CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF";
        refusals.push(Refusal::Missing { feature: "clsact", option });
    }
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// What a mode means on this kernel.
pub(crate) fn method(mode: Mode) -> Method {
    match mode {
        Mode::Tcx => Method::Links,
        Mode::Clsact => Method::Filters,
        Mode::Auto if older(TCX.0) => Method::Filters,
        Mode::Auto if has_clsact() => Method::FiltersThenLinks,
        Mode::Auto => Method::Links,
    }
}

/// Whether the kernel has tcx, which nothing inside a pod can take off.
#[must_use]
pub fn has_tcx() -> bool {
    !older(TCX.0)
}

/// Whether this kernel is older; one that does not say is taken for new, and asked.
fn older(version: KernelVersion) -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel < version)
}

fn too_old(needed: &'static str, feature: &'static str) -> Refusal {
    let found = uname().map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned());
    Refusal::Kernel { found, needed, feature }
}

/// Tries it on the loopback device of a namespace that is made for it and goes with its thread.
fn has_clsact() -> bool {
    let attempt =
        || unshare(CloneFlags::CLONE_NEWNET).is_ok() && aya::programs::tc::qdisc_add_clsact("lo").is_ok();
    std::thread::spawn(attempt).join().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_change() {
        let refusal = Refusal::Missing { feature: "SOCKMAP", option: "CONFIG_BPF_STREAM_PARSER" };
        assert_eq!(
            refusal.to_string(),
            "the kernel lacks SOCKMAP; it must be built with CONFIG_BPF_STREAM_PARSER"
        );
    }
}
