// SPDX-License-Identifier: Apache-2.0
//! The delta protocol of both ends as state machines: messages in, messages out. No IO, no clock, no randomness, so a
//! test can lose, repeat and reorder what it likes.
//!
//! Server: a [`Publisher`] holds what exists, a [`Session`] what one stream has been told. Client: a [`Subscriber`] holds
//! what it accepted, over any number of streams.

mod draft;
mod places;
pub mod publisher;
pub mod scope;
pub mod session;
pub mod subscriber;
mod wanted;

pub use publisher::{Publisher, Update};
pub use scope::Scope;
pub use session::{Event, Session};
pub use subscriber::{Delivery, Subscriber};
pub use wanted::Behind;

/// A wildcard among resource names: everything of a type.
pub(crate) const WILDCARD: &str = "*";

/// The other end does not keep to the protocol; the stream must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A type that this end does not know.
    #[error("unknown resource type {url:?}")]
    UnknownType {
        /// Its URL.
        url: String,
    },
    /// A subscription without bounds.
    #[error("subscription to more than {limit} names")]
    TooManyNames {
        /// Most that is allowed.
        limit: usize,
    },
}

#[cfg(test)]
mod tests;
