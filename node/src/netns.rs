// SPDX-License-Identifier: Apache-2.0
//! A pod's network namespace: opened from its file, told apart by device and inode, entered by a thread that lives
//! only for the work done there. So no thread of the agent can ever be left behind in a pod.

pub mod running;

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// What tells one namespace from another while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev` of the namespace's file.
    pub device: u64,
    /// `st_ino` of the namespace's file, as `ls -L -i` shows it.
    pub inode: u64,
}

/// An open network namespace. A clone is the same descriptor.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
}

/// Why a namespace cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file: the pod ended.
    #[error("{} does not exist", path.display())]
    Gone {
        /// The file asked for.
        path: PathBuf,
    },
    /// A file, but not of a namespace; what is left of an unmounted one.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The file asked for.
        path: PathBuf,
    },
    /// The agent's own: capturing it would capture the node.
    #[error("{} is the network namespace of the node itself", path.display())]
    Node {
        /// The file asked for.
        path: PathBuf,
    },
    /// It may well be there.
    #[error("cannot open {}", path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why work inside a namespace did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// `setns` refused: CAP_SYS_ADMIN is missing, or it is a namespace of another kind.
    #[error("cannot enter the network namespace")]
    Refused(#[source] nix::Error),
    /// No thread could be made.
    #[error("cannot start a thread for the network namespace")]
    Thread(#[source] io::Error),
    /// The thread ended without a result.
    #[error("the thread in the network namespace died")]
    Died,
}

impl Netns {
    /// Opens the namespace whose file is `path`.
    ///
    /// # Errors
    /// When it is gone, is no namespace, or is the agent's own.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let unreadable = |source| OpenError::Unreadable { path: path.to_owned(), source };
        // O_NONBLOCK: a FIFO put in the place of the file must not hang the agent.
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Gone { path: path.to_owned() });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let kind = fstatfs(&file).map_err(|error| unreadable(error.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(OpenError::NotANamespace { path: path.to_owned() });
        }
        let opened = Self::adopt(file).map_err(unreadable)?;
        let own = File::open("/proc/self/ns/net").and_then(Self::adopt).map_err(unreadable)?;
        if opened.id == own.id {
            return Err(OpenError::Node { path: path.to_owned() });
        }
        Ok(opened)
    }

    /// Takes over the open file of a namespace.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn adopt(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let id = NetnsId { device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { file: Arc::new(file), id })
    }

    /// Which one it is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` on a thread of its own inside the namespace. Dropping the future does not stop the work.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EnterError> {
        let (reply, result) = oneshot::channel();
        let file = Arc::clone(&self.file);
        let inside = move || {
            let entered = setns(&*file, CloneFlags::CLONE_NEWNET).map_err(EnterError::Refused);
            // Whoever asked may have gone; then nobody needs the result.
            drop(reply.send(entered.map(|()| work())));
        };
        std::thread::Builder::new().name("netns".to_owned()).spawn(inside).map_err(EnterError::Thread)?;
        result.await.unwrap_or(Err(EnterError::Died))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> OpenError {
        Netns::open(Path::new(path)).unwrap_err()
    }

    #[test]
    fn only_the_namespace_of_a_pod_is_opened() {
        assert!(matches!(refusal("/run/netns/there-is-no-such-pod"), OpenError::Gone { .. }));
        assert!(matches!(refusal("/etc/passwd"), OpenError::NotANamespace { .. }));
        assert!(matches!(refusal("/proc/self/ns/net"), OpenError::Node { .. }));
        assert!(matches!(refusal("/etc/passwd/x"), OpenError::Unreadable { .. }));
    }
}
