// SPDX-License-Identifier: Apache-2.0
//! Gives back resident pages of code and constants that a process has read from its files and may not need again: what only
//! its start has run. The kernel maps them again, sixteen at a time, from its cache when they are used.
//!
//! A package of its own for the one `unsafe` call: no safe interface has `madvise(2)`, because on memory that was written to
//! it loses what was written. So only mappings are named that cannot be written to and of which no page was ever copied.

use std::{fs, io, ops::Range};

use rustix::mm::{Advice, madvise};

/// Gives back what can be; says how many bytes of mappings that concerned.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read, or the kernel refuses.
pub fn give_back() -> io::Result<usize> {
    let mut bytes = 0;
    for range in unchanged(&fs::read_to_string("/proc/self/smaps")?) {
        let length = range.len();
        // SAFETY: the range is a private mapping of a file without write permission and without pages of its own, so what
        // is dropped is read again from the same file as it was. Nothing here makes code writable, so it stays that way.
        #[allow(unsafe_code, reason = "see the package's header")]
        unsafe {
            madvise(std::ptr::with_exposed_provenance_mut(range.start), length, Advice::LinuxDontNeed)?;
        }
        bytes += length;
    }
    Ok(bytes)
}

/// Mappings in proc_pid_smaps(5) whose pages are all as in their file.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            at = mapping;
        } else if let Some(rest) = line.strip_prefix("Anonymous:")
            && let Some(range) = at.take()
            && rest.split_whitespace().next() == Some("0")
        {
            found.push(range);
        }
    }
    found
}

/// The first line of a mapping, as `start-end permissions offset device inode path`; its range where it may qualify.
fn mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    let permissions = words.next()?;
    let of_file = words.nth(2)? != "0";
    let fixed = permissions.starts_with("r-") && permissions.ends_with('p');
    Some((fixed && of_file).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r-xp 00000000 fe:00 42 /bin/daemon (deleted)
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00002000 fe:00 42 /bin/daemon
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 42 /bin/daemon
Anonymous:             0 kB
5000-6000 r--s 00000000 fe:00 43 /cache
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
8000-9000 r--p 00001000 fe:00 44 /lib/libc.so
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_as_in_its_file_and_cannot_be_written_to_is_given_back() {
        assert_eq!(unchanged(SMAPS), [0x1000..0x3000, 0x8000..0x9000]);
    }

    #[test]
    fn a_process_goes_on_with_fewer_pages_of_its_files() {
        let resident = || -> u64 {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let before = resident();
        assert!(give_back().unwrap() > 0);
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
