// SPDX-License-Identifier: Apache-2.0
//! SPIFFE identities: how a certificate is asked for, kept, renewed, shown to a peer, and how a peer's is believed.
//!
//! ```text
//!  Identities (cache, schedule) ── Authority ── CaClient ── Connector (gRPC over server-authenticated TLS)
//!      │ Current: what is valid now
//!      └── tls::Profile: mutual TLS of the mesh, client and server ── peer_identity
//! ```
//!
//! It knows no workload, tunnel or policy, reads no environment and spawns nothing: its futures are run by the caller.

pub mod authority;
pub mod ca;
pub mod certificate;
pub mod channel;
pub mod credentials;
pub mod identities;
pub mod key;
pub mod tls;

#[cfg(test)]
mod testing;

pub use authority::{Authority, AuthorityError, SigningRequest};
pub use ca::{CaClient, CaSettings};
pub use certificate::{Certificate, CertificateError, Roots};
pub use channel::{Connector, RootSource};
pub use credentials::{Credentials, Token};
pub use identities::{
    Clock, Current, Identities, IdentitiesSettings, Priority, Renewal, State, SystemClock, Unavailable,
};
pub use key::PrivateKey;
/// `istio.v1.auth`, for whoever serves it.
pub use proto::ca as certificate_service;
pub use tls::{Compliance, HandshakeError, Profile, Trust, peer_identity};
