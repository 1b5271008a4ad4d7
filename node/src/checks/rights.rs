// SPDX-License-Identifier: Apache-2.0
//! What the kernel can do, and what it lets this process do.

use std::{fs, path::Path};

use ebpf_loader::{Mode, Refusal, has_tcx, supported};
use finding::Finding;
use nix::sys::utsname::uname;

const KERNEL: &str = "kernel";
const CAPABILITIES: &str = "capabilities";
pub(super) const CHECKS: [&str; 2] = [KERNEL, CAPABILITIES];

/// What the agent needs, by the number of the bit and what for.
const NEEDED: [(u32, &str, &str); 3] = [
    (12, "NET_ADMIN", "programs on interfaces, routes and settings of pods"),
    (19, "SYS_PTRACE", "finding pods and kubelet by their processes"),
    (21, "SYS_ADMIN", "entering the namespaces of pods, loading programs"),
];

/// Whether this kernel can capture, and how well.
pub(super) fn kernel(mode: Mode) -> Vec<Finding> {
    let release = uname()
        .map_or_else(|_| "Linux".to_owned(), |name| format!("Linux {}", name.release().to_string_lossy()));
    match supported(mode) {
        Err(refusals) => refusals.iter().map(refusal).collect(),
        Ok(()) if mode == Mode::Clsact || !has_tcx() => vec![Finding::warning(
            KERNEL,
            format!("{release} captures by clsact, which a pod with NET_ADMIN can take off"),
            "upgrade the node to Linux 6.6 or later, and leave AMBIT_CAPTURE_MODE at auto",
        )],
        Ok(()) => vec![Finding::ok(KERNEL, format!("{release} has tcx, sk_lookup and socket storage"))],
    }
}

fn refusal(refusal: &Refusal) -> Finding {
    let fix = match refusal {
        Refusal::Kernel { .. } => {
            "upgrade the node to Linux 6.6 or later, or keep the mesh off it (nodeSelector)"
        }
        Refusal::Missing { .. } => "run a kernel that is built with it, as those of distributions are",
        Refusal::Permission { .. } => "give the agent's container the capabilities that charts/node has",
    };
    Finding::failure(KERNEL, refusal.to_string(), fix)
}

/// Whether this process may do what capture takes.
pub(super) fn capabilities(proc: &Path) -> Finding {
    let status = fs::read_to_string(proc.join("self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        let found = "what the agent may do cannot be read from /proc/self/status";
        return Finding::warning(CAPABILITIES, found, "mount /proc in the agent's container");
    };
    let lacking = NEEDED.iter().filter(|(bit, ..)| effective >> bit & 1 == 0);
    let lacking: Vec<String> = lacking.map(|(_, name, purpose)| format!("{name} ({purpose})")).collect();
    if lacking.is_empty() {
        let names: Vec<_> = NEEDED.iter().map(|(_, name, _)| *name).collect();
        return Finding::ok(CAPABILITIES, format!("the agent has {}", names.join(", ")));
    }
    Finding::failure(
        CAPABILITIES,
        format!("the agent lacks {}", lacking.join(", ")),
        "install with the securityContext of charts/node, and let a policy engine of the cluster admit it",
    )
}

#[cfg(test)]
mod tests {
    use finding::Grade;

    use super::*;

    #[test]
    fn a_capability_that_is_missing_is_named_with_what_it_is_for() {
        for (effective, expected, word) in [
            ("000001ffffffffff", Grade::Ok, "SYS_ADMIN"),
            ("0000000000281000", Grade::Ok, "NET_ADMIN"),
            ("0000000000280000", Grade::Failure, "NET_ADMIN (programs"),
            ("nothing", Grade::Warning, "cannot be read"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("self")).unwrap();
            let status = format!("Name:\tnode-agent\nCapEff:\t{effective}\n");
            fs::write(folder.path().join("self/status"), status).unwrap();
            let finding = capabilities(folder.path());
            assert!(finding.grade == expected && finding.found.contains(word), "{finding:?}");
        }
    }
}
