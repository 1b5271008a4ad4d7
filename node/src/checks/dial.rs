// SPDX-License-Identifier: Apache-2.0
//! A connection to a service address, begun where it can go nowhere: in a network namespace made for it, so that to
//! programs on control groups it looks like one of a pod. What the kernel's list of sockets then has for destination is
//! what those programs have left of it; `getpeername` is no proof, because balancers change its answer back.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::routes;

/// Nothing of it waits for a peer; the kernel's lock for interfaces may be busy.
const DEADLINE: Duration = Duration::from_secs(5);

/// What became of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// It is as it was.
    Kept(SocketAddr),
    /// It is another.
    Rewritten(SocketAddr, SocketAddr),
    /// It could not be tried.
    Unknown,
}

/// Tries it.
pub(super) fn dial(service: SocketAddr) -> Dialled {
    let (tell, told) = sync_channel(1);
    // Whoever asked may have gone by then; the thread and its namespace end with what it does.
    let trying = move || drop(tell.send(attempt(service)));
    let started = thread::Builder::new().name("dial".to_owned()).spawn(trying);
    let found = started.and_then(|_thread| told.recv_timeout(DEADLINE).map_err(io::Error::other)).flatten();
    match found {
        Ok(met) if met == service => Dialled::Kept(service),
        Ok(met) => Dialled::Rewritten(service, met),
        Err(error) => {
            tracing::debug!(%error, "no service address could be tried");
            Dialled::Unknown
        }
    }
}

/// The destination that the kernel has in the end.
fn attempt(service: SocketAddr) -> io::Result<SocketAddr> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    routes::to_nowhere().map_err(io::Error::other)?;
    let (family, list) = match service {
        SocketAddr::V4(_) => (AddressFamily::INET, "/proc/thread-self/net/tcp"),
        SocketAddr::V6(_) => (AddressFamily::INET6, "/proc/thread-self/net/tcp6"),
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &service) {
        Err(error) if error != rustix::io::Errno::INPROGRESS => return Err(error.into()),
        _ => {}
    }
    let text = fs::read_to_string(list)?;
    // The namespace has this one socket.
    let met = text.lines().skip(1).find_map(|line| destination(line.split_ascii_whitespace().nth(2)?));
    met.ok_or_else(|| io::Error::other("the socket is not listed"))
}

/// `0100600A:01BB`: words as they are in memory, and a number.
fn destination(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernel_s_list_of_sockets_is_read() {
        for (text, expected) in [
            ("0100600A:01BB", Some("10.96.0.1:443")),
            ("100000FD000000000000000001000000:01BB", Some("[fd00:10::1]:443")),
            ("0100:01BB", None),
            ("0100600A", None),
            ("0100600é:01BB", None),
        ] {
            assert_eq!(destination(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }
}
