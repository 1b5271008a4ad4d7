// SPDX-License-Identifier: Apache-2.0
//! Work inside a pod's network namespace, on a thread that enters it and never comes back.
#![expect(unsafe_code, reason = "no safe crate wraps SO_NETNS_COOKIE")]

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    libc,
    net::if_::{InterfaceFlags, if_nametoindex},
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket},
};

/// `ARPHRD_ETHER`: devices whose frames have an Ethernet header.
const ETHERNET: u16 = 1;

/// A network interface that can be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Why nothing could be done inside a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It is none, or CAP_SYS_ADMIN is missing.
    #[error("cannot enter the network namespace")]
    Enter(#[source] nix::Error),
    /// No thread could be started, or it panicked.
    #[error("cannot work inside the network namespace")]
    Thread(#[source] io::Error),
    /// Its interfaces could not be listed.
    #[error("cannot list the interfaces")]
    Interfaces(#[source] nix::Error),
    /// It has no cookie: Linux is older than 5.14.
    #[error("cannot read the cookie of the network namespace")]
    Cookie(#[source] nix::Error),
}

/// Runs `work` inside a namespace.
pub(crate) fn inside<T: Send>(
    netns: impl AsFd + Send,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let entered = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(NetnsError::Enter)?;
            Ok(work())
        };
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, entered)
            .map_err(NetnsError::Thread)?;
        thread
            .join()
            .unwrap_or_else(|_panic| Err(NetnsError::Thread(io::Error::other("the thread panicked"))))
    })
}

/// The cookie of the calling thread's namespace: unique since the machine booted, unlike its inode number.
pub(crate) fn cookie() -> Result<u64, NetnsError> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(NetnsError::Cookie)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the socket is open; the kernel writes at most `length` bytes to `cookie`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::Error::result(result).map_err(NetnsError::Cookie)?;
    Ok(cookie)
}

/// The interfaces of the calling thread's namespace that have Ethernet frames; lo is none of them. What has no Ethernet
/// header (tun, WireGuard, IP in IP) sends its packets on through one that has.
pub(crate) fn interfaces() -> Result<Vec<Interface>, NetnsError> {
    let mut found: Vec<Interface> = Vec::new();
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    for entry in getifaddrs().map_err(NetnsError::Interfaces)? {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let Some(address) = entry.address else { continue };
        if let Some(ip) = ip(&address) {
            addresses.push((entry.interface_name, ip));
        } else if address.as_link_addr().is_some_and(|link| link.hatype() == ETHERNET) {
            let index = if_nametoindex(entry.interface_name.as_str()).map_err(NetnsError::Interfaces)?;
            found.push(Interface { name: entry.interface_name, index, addresses: Vec::new() });
        }
    }
    for (name, ip) in addresses {
        if let Some(interface) = found.iter_mut().find(|interface| interface.name == name) {
            interface.addresses.push(ip);
        }
    }
    Ok(found)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
