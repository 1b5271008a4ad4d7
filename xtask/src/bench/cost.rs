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
    fn resident_memory_is_told_apart_from_its_peak() {
        let status = "VmHWM:\t  900 kB\nVmRSS:\t  512 kB\n";
        assert_eq!(kib_of(status, "VmRSS:"), Some(512.0));
        assert_eq!(kib_of(status, "VmHWM:"), Some(900.0));
    }
}
