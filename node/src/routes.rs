// SPDX-License-Identifier: Apache-2.0
//! The two lines of policy routing that return captured packets to the pod itself, per address family:
//! `rule pref 60 fwmark 0x111/0xfff lookup 100` and `local default dev lo table 100` (`ebpf_abi::route` says why).
//! Everything here acts on the namespace of the calling thread, because that is where its netlink socket is made.

use std::{future::Future, io};

use ebpf_loader::abi::{
    LOOP_MARK, LOOPBACK_INDEX, MARK_MASK,
    route::{RULE_PREFERENCE, TABLE},
};
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use serde::{Deserialize, Serialize};

/// Which families a namespace routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv6 is absent or disabled.
    V4,
    /// Both.
    Dual,
}

/// Why routing could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// `lo` is down and stays down.
    #[error("cannot bring lo up")]
    Loopback(#[source] io::Error),
    /// The kernel refused one line.
    #[error("cannot {verb} the {family} {line}")]
    Refused {
        /// `add` or `remove`.
        verb: &'static str,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Which line.
        line: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Adds what is missing in the calling thread's namespace, whose `lo` is up afterwards; answers how many lines were.
///
/// # Errors
/// When the kernel refuses one (CAP_NET_ADMIN is missing).
pub fn ensure(families: Families) -> Result<usize, RouteError> {
    with_netlink(|handle| async move {
        // The CNI may not have come to it yet; packets on a lo that is down are lost.
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        handle.link().change(up).execute().await.map_err(|error| RouteError::Loopback(cause(error)))?;
        let mut added = 0;
        for family in families.list() {
            let mut rule = handle.rule().add();
            *rule.message_mut() = rule_message(family);
            added += family.outcome(("add", RULE), rule.execute().await, nix::libc::EEXIST)?;
            let route = handle.route().add(route_message(family));
            added += family.outcome(("add", ROUTE), route.execute().await, nix::libc::EEXIST)?;
        }
        Ok(added)
    })
}

/// Removes exactly these lines from the calling thread's namespace; answers how many were there.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(families: Families) -> Result<usize, RouteError> {
    with_netlink(|handle| async move {
        let mut removed = 0;
        for family in families.list() {
            let rule = handle.rule().del(rule_message(family)).execute().await;
            removed += family.outcome(("remove", RULE), rule, nix::libc::ENOENT)?;
            let route = handle.route().del(route_message(family)).execute().await;
            removed += family.outcome(("remove", ROUTE), route, nix::libc::ESRCH)?;
        }
        Ok(removed)
    })
}

/// Sends everything that leaves the calling thread's namespace, which is nobody's, to nowhere by way of its `lo`.
///
/// # Errors
/// When the kernel refuses.
pub fn to_nowhere() -> Result<(), RouteError> {
    with_netlink(|handle| async move {
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        handle.link().change(up).execute().await.map_err(|error| RouteError::Loopback(cause(error)))?;
        for family in Families::Dual.list() {
            let mut message = route_message(family);
            // Not local: what comes out of `lo` is for somebody else, and nobody forwards it.
            message.header.kind = RouteType::Unicast;
            message.header.scope = RouteScope::Universe;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes = vec![RouteAttribute::Oif(LOOPBACK_INDEX)];
            let added = handle.route().add(message).execute().await;
            // A kernel without IPv6 has nothing to send by it.
            match (family, family.outcome(("add", ROUTE), added, nix::libc::EEXIST)) {
                (Family::V4, Err(error)) => return Err(error),
                (Family::V4 | Family::V6, _) => {}
            }
        }
        Ok(())
    })
}

const RULE: &str = "rule for captured packets";
const ROUTE: &str = "local route for captured packets";

/// A netlink socket served by a runtime on this very thread: tasks on another would still use the right namespace,
/// but a socket made by another would not.
fn with_netlink<T, F>(work: impl FnOnce(Handle) -> F) -> Result<T, RouteError>
where
    F: Future<Output = Result<T, RouteError>>,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(RouteError::Socket)?;
    runtime.block_on(async {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(RouteError::Socket)?;
        tokio::select! {
            result = work(handle) => result,
            () = connection => Err(RouteError::Socket(io::ErrorKind::ConnectionAborted.into())),
        }
    })
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Families {
    fn list(self) -> impl Iterator<Item = Family> {
        match self {
            Self::V4 => [Some(Family::V4), None],
            Self::Dual => [Some(Family::V4), Some(Family::V6)],
        }
        .into_iter()
        .flatten()
    }
}

impl Family {
    fn number(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    /// One when the line changed, none when it already was as wanted, which the kernel says with `expected`.
    fn outcome(
        self,
        (verb, line): (&'static str, &'static str),
        result: Result<(), rtnetlink::Error>,
        expected: i32,
    ) -> Result<usize, RouteError> {
        let source = match result {
            Ok(()) => return Ok(1),
            Err(error) => cause(error),
        };
        if source.raw_os_error() == Some(expected) {
            return Ok(0);
        }
        let family = match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        };
        Err(RouteError::Refused { verb, family, line, source })
    }
}

fn cause(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn rule_message(family: Family) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family.number();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(TABLE),
        RuleAttribute::Priority(RULE_PREFERENCE),
        RuleAttribute::FwMark(LOOP_MARK),
        RuleAttribute::FwMask(MARK_MASK),
    ];
    message
}

fn route_message(family: Family) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family.number(),
        protocol: RouteProtocol::Static,
        kind: RouteType::Local,
        scope: match family {
            Family::V4 => RouteScope::Host,
            Family::V6 => RouteScope::Universe,
        },
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(LOOPBACK_INDEX)];
    message
}
