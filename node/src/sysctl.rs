// SPDX-License-Identifier: Apache-2.0
//! The kernel settings of a pod's namespace that capture needs, and how they were before. Netlink has none of them:
//! they are files, and `/proc/sys/net` shows the namespace of the thread that opens it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ebpf_loader::abi::route::SYSCTLS;

/// Where the kernel shows them.
pub const PROC_SYS: &str = "/proc/sys";

/// Settings that a namespace without IPv6 lacks.
const IPV6: &str = "net/ipv6";

/// Values as they were, by name; what a record keeps.
pub type Previous = BTreeMap<String, String>;

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the kernel setting {}", path.display())]
pub struct SysctlError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads the values as they are now.
///
/// # Errors
/// When the kernel lacks one of them.
pub fn survey(root: &Path) -> Result<Previous, SysctlError> {
    present(root).map(|(name, _)| Ok((name.to_owned(), read(&root.join(name))?))).collect()
}

/// Sets every value that differs; answers how many did.
///
/// # Errors
/// When one cannot be written, as under a read-only `/proc/sys`.
pub fn apply(root: &Path) -> Result<usize, SysctlError> {
    let mut changed = 0;
    for (name, value) in present(root) {
        let path = root.join(name);
        if read(&path)? != value {
            write(&path, value)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// Puts the previous values back, but leaves a value alone that somebody else has changed since.
///
/// # Errors
/// When one cannot be written; the others have been tried then.
pub fn restore(root: &Path, previous: &Previous) -> Result<(), SysctlError> {
    let mut result = Ok(());
    for (name, value) in present(root) {
        let path = root.join(name);
        let Some(before) = previous.get(name) else { continue };
        let restored = match read(&path) {
            Ok(now) if now == value && now != *before => write(&path, before),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        result = result.and(restored);
    }
    result
}

/// Whether the namespace routes IPv6 on its loopback.
pub fn has_ipv6(root: &Path) -> bool {
    read(&root.join("net/ipv6/conf/lo/disable_ipv6")).is_ok_and(|value| value == "0")
}

fn present(root: &Path) -> impl Iterator<Item = (&'static str, &'static str)> {
    let ipv6 = root.join(IPV6).is_dir();
    SYSCTLS.into_iter().filter(move |(name, _)| ipv6 || !name.starts_with(IPV6))
}

fn read(path: &Path) -> Result<String, SysctlError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(SysctlError { verb: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path, value).map_err(|source| SysctlError { verb: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(values: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in values {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        root
    }

    /// A fresh namespace: everything off, but for one that the node's administrator has set for all.
    fn fresh() -> Vec<(&'static str, &'static str)> {
        let reflect = |name: &str| if name == "net/ipv4/fwmark_reflect" { "1" } else { "0" };
        SYSCTLS.into_iter().map(|(name, _)| (name, reflect(name))).collect()
    }

    #[test]
    fn what_was_before_comes_back() {
        let root = tree(&fresh());
        let before = survey(root.path()).unwrap();
        assert_eq!(apply(root.path()).unwrap(), SYSCTLS.len() - 1);
        assert_eq!(apply(root.path()).unwrap(), 0, "nothing is left to change");
        assert!(survey(root.path()).unwrap().values().all(|value| value == "1"));
        restore(root.path(), &before).unwrap();
        assert_eq!(survey(root.path()).unwrap(), before);
    }

    #[test]
    fn a_value_changed_by_somebody_else_stays() {
        let root = tree(&fresh());
        let before = survey(root.path()).unwrap();
        apply(root.path()).unwrap();
        std::fs::write(root.path().join("net/ipv4/tcp_fwmark_accept"), "2\n").unwrap();
        restore(root.path(), &before).unwrap();
        let after = survey(root.path()).unwrap();
        assert_eq!(after["net/ipv4/tcp_fwmark_accept"], "2");
        assert_eq!(after["net/ipv4/conf/lo/accept_local"], "0");
    }

    #[test]
    fn a_kernel_without_ipv6_needs_no_setting_of_it() {
        let settings: Vec<_> = fresh().into_iter().filter(|(name, _)| !name.starts_with(IPV6)).collect();
        let root = tree(&settings);
        assert_eq!(survey(root.path()).unwrap().len(), SYSCTLS.len() - 1);
        apply(root.path()).unwrap();
        assert!(!has_ipv6(root.path()));
    }

    #[test]
    fn a_missing_setting_is_named() {
        let (missing, _) = SYSCTLS[1];
        let root = tree(&fresh()[..1]);
        let error = apply(root.path()).unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
}
