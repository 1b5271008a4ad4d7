// SPDX-License-Identifier: Apache-2.0
//! What a process has used so far, as the kernel counts it in `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// One tick of `/proc/<pid>/stat`: USER_HZ is 100 on every architecture that Linux runs Ambit on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of all `pids` together, in user space and in the kernel.
pub(crate) fn processor(pids: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        ticks += ticks_of(&text).with_context(|| format!("{path} has no processor times"))?;
    }
    Ok(TICK * ticks)
}

/// Resident memory of each of `pids`, in MiB.
pub(crate) fn resident(pids: &[u32]) -> Result<Vec<f64>> {
    pids.iter().map(|pid| memory(*pid, "VmRSS:")).collect()
}

/// The most resident memory that a process ever had, in MiB.
pub(crate) fn peak(pid: u32) -> Result<f64> {
    memory(pid, "VmHWM:")
}

/// Resident memory in MiB of processes that share pages, as a parent and its children do: all of the largest one's, and of
/// the others what nobody else has.
pub(crate) fn together(pids: &[u32]) -> Result<f64> {
    let mut shares = Vec::new();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name| kib_of(&text, name).with_context(|| format!("{path} has no {name}"));
        shares.push((field("Rss:")?, field("Private_Clean:")? + field("Private_Dirty:")?));
    }
    Ok(union(shares) / 1024.0)
}

/// All of the largest whole, and the own parts of the others.
fn union(mut shares: Vec<(f64, f64)>) -> f64 {
    shares.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let largest = shares.first().map_or(0.0, |(whole, _)| *whole);
    largest + shares.iter().skip(1).map(|(_, own)| own).sum::<f64>()
}

/// The processes that `pid` has started, and those that these have, parents first.
pub(crate) fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile is nobody's child any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{number}/stat")) else { continue };
        parents.extend(parent_of(&stat).map(|parent| (number, parent)));
    }
    Ok(below(pid, &parents))
}

fn below(pid: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
    }
    found.split_off(1)
}

/// Field 4 of proc_pid_stat(5).
fn parent_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn memory(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib = kib_of(&text, field).with_context(|| format!("{path} has no {field}"))?;
    Ok(kib / 1024.0)
}

/// Fields 14 and 15 of proc_pid_stat(5). The name, field 2, may itself have blanks and brackets.
fn ticks_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11);
    let user: u32 = times.next()?.parse().ok()?;
    let kernel: u32 = times.next()?.parse().ok()?;
    Some(user + kernel)
}

fn kib_of(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_user_and_kernel_together_whatever_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 9 9 20 0 3 0 55 1 2";
        assert_eq!(ticks_of(stat), Some(400));
        assert_eq!(ticks_of("7 (short) S 1"), None);
    }

    #[test]
    fn pages_that_processes_share_count_once() {
        assert!((union(vec![(30.0, 2.0), (100.0, 80.0), (40.0, 5.0)]) - 107.0).abs() < 1e-9);
        assert!(union(Vec::new()).abs() < 1e-9);
    }

    #[test]
    fn descendants_are_children_and_theirs_and_nobody_elses() {
        let parents = [(3, 2), (2, 1), (9, 8), (4, 2), (5, 4)];
        assert_eq!(below(2, &parents), [3, 4, 5]);
        assert_eq!(below(7, &parents), [0; 0]);
        assert_eq!(parent_of("7 (a) b (c)) S 12 7 7 0"), Some(12));
    }

    #[test]
    fn resident_memory_is_told_apart_from_its_peak() {
        let status = "VmHWM:\t  900 kB\nVmRSS:\t  512 kB\n";
        assert_eq!(kib_of(status, "VmRSS:"), Some(512.0));
        assert_eq!(kib_of(status, "VmHWM:"), Some(900.0));
    }
}
