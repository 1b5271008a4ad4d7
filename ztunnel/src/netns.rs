// SPDX-License-Identifier: Apache-2.0
//! A pod's network namespace, entered for the moment in which a socket is made.
//!
//! A socket belongs to the namespace of the thread that makes it, whoever uses it later. So a worker thread steps into
//! the pod's namespace, calls `socket(2)` and steps back, with no await in between.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::stat::fstat,
};

/// What tells one namespace from another: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// Inode number, as `ls -L -i /proc/PID/ns/net` shows it.
    pub fn inode(self) -> u64 {
        self.inode
    }
}

/// An open network namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    id: NetnsId,
}

impl Netns {
    /// Takes over a descriptor of a namespace.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = fstat(fd.as_fd())?;
        Ok(Self { fd: Arc::new(fd), id: NetnsId { device: stat.st_dev, inode: stat.st_ino } })
    }

    /// The namespace of this process.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        Self::new(std::fs::File::open("/proc/self/ns/net")?.into())
    }

    /// Which one it is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside, then returns to `home`. A thread that cannot return would make the next pod's sockets in
    /// the wrong namespace, so then the process ends.
    ///
    /// # Errors
    /// When the namespace cannot be entered (`CAP_SYS_ADMIN` is missing).
    pub fn run<T>(&self, home: &Self, work: impl FnOnce() -> T) -> io::Result<T> {
        if self.id == home.id {
            return Ok(work());
        }
        setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let _return = Return { home };
        Ok(work())
    }
}

/// Goes home when dropped, also when the work panics.
struct Return<'a> {
    home: &'a Netns,
}

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.home.fd.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the own network namespace");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_itself_and_needs_no_privilege_to_stay_in() {
        let own = Netns::own().unwrap();
        assert_eq!(own.id(), Netns::own().unwrap().id());
        assert_eq!(own.run(&own, || 7).unwrap(), 7);
    }
}
