// SPDX-License-Identifier: Apache-2.0
//! Marks a socket as the proxy's own: one system call that writes into the socket's storage. An application cannot do
//! it, because it cannot open the map. It refuses to know which sockets deserve it.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    maps::{Map, MapData, MapError, SkStorage},
    sys::SyscallError,
};
use ebpf_abi::map::CLAIMED;
use parking_lot::Mutex;

/// The map of claims, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Claims {
    map: Arc<Mutex<SkStorage<MapData, u32>>>,
}

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// There is no such map: the agent has not loaded its programs, or the path is another's.
    #[error("cannot open the claim map {}", path.display())]
    Open {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// The file is a map of another kind.
    #[error("{} is not a claim map", path.display())]
    NotClaims {
        /// The path asked for.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MapError,
    },
    /// The kernel refused the claim.
    #[error("cannot claim a socket")]
    Refused(#[source] io::Error),
}

impl Claims {
    /// Opens the map that the node agent pinned at `path`.
    ///
    /// # Errors
    /// When there is none, or it is no claim map.
    pub fn open(path: &Path) -> Result<Self, ClaimError> {
        let data =
            MapData::from_pin(path).map_err(|source| ClaimError::Open { path: path.to_owned(), source })?;
        let map = Map::from_map_data(data)
            .and_then(SkStorage::try_from)
            .map_err(|source| ClaimError::NotClaims { path: path.to_owned(), source })?;
        Ok(Self { map: Arc::new(Mutex::new(map)) })
    }

    /// Claims a socket; before it is bound or connected, so that no packet of it goes unclaimed. Sockets that a claimed
    /// listener accepts are claimed too.
    ///
    /// # Errors
    /// When it is not a socket, or memory is short.
    pub fn claim(&self, socket: &impl AsFd) -> Result<(), ClaimError> {
        let outcome = self.map.lock().insert(&socket.as_fd(), CLAIMED, 0);
        outcome.map_err(|error| ClaimError::Refused(reason(error)))
    }
}

/// The kernel's own words, where they are what failed.
fn reason(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}
