// SPDX-License-Identifier: Apache-2.0
//! The `process_*` metrics, under the names that Prometheus' own clients give them, from /proc/self at each scrape.
//! What cannot be read is left out.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// What does not change while the process lives.
#[derive(Debug)]
pub(super) struct Process {
    ticks_per_second: f64,
    page_bytes: u64,
    /// Seconds since the epoch.
    booted: Option<f64>,
}

/// The fields of proc_pid_stat(5) that we need.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// User and system time in clock ticks.
    cpu_ticks: u64,
    threads: u64,
    /// In clock ticks after boot.
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Process {
    pub(super) fn new() -> Self {
        // POSIX gives neither a default; these are Linux's on every machine that we run on.
        let system = |variable, default: u16| {
            let value = sysconf(variable).ok().flatten().and_then(|value| u16::try_from(value).ok());
            value.unwrap_or(default)
        };
        let booted = fs::read_to_string("/proc/stat").ok();
        let booted =
            booted.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime ")));
        Self {
            ticks_per_second: f64::from(system(SysconfVar::CLK_TCK, 100)),
            page_bytes: u64::from(system(SysconfVar::PAGE_SIZE, 4096)),
            booted: booted.and_then(|seconds| seconds.trim().parse().ok()),
        }
    }

    pub(super) fn render(&self, text: &mut String) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
            let seconds = |ticks: u64| ticks as f64 / self.ticks_per_second;
            sample(text, ("process_cpu_seconds_total", "counter"), seconds(stat.cpu_ticks));
            sample(text, ("process_threads", "gauge"), stat.threads as f64);
            sample(text, ("process_virtual_memory_bytes", "gauge"), stat.virtual_bytes as f64);
            let resident = stat.resident_pages.saturating_mul(self.page_bytes);
            sample(text, ("process_resident_memory_bytes", "gauge"), resident as f64);
            if let Some(booted) = self.booted {
                sample(text, ("process_start_time_seconds", "gauge"), booted + seconds(stat.started_ticks));
            }
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            let open = descriptors.count().saturating_sub(1);
            sample(text, ("process_open_fds", "gauge"), open as f64);
        }
        if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            sample(text, ("process_max_fds", "gauge"), soft as f64);
        }
    }
}

fn sample(text: &mut String, (name, kind): (&str, &str), value: f64) {
    text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n\n"));
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The command name stands in parentheses and may itself hold spaces and parentheses.
    let (_, after_name) = line.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    // proc_pid_stat(5) counts from 1; the first one after the name is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        started_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) (b c) S 1 42 42 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 7 0 1234 4096000 300 18446744073709551615 1";
        let expected = Stat {
            cpu_ticks: 300,
            threads: 7,
            started_ticks: 1234,
            virtual_bytes: 4_096_000,
            resident_pages: 300,
        };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (a) S 1"), None);
    }

    #[test]
    fn the_basics_of_a_process_are_there() {
        let mut text = String::new();
        Process::new().render(&mut text);
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value.is_finite()), "{name} in {text}");
        }
    }
}
