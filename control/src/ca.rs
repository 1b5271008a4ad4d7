// SPDX-License-Identifier: Apache-2.0
//! The certificate authority: a root of our own, and leaf certificates for workloads that really run where they are asked
//! for. Nothing but the public key is taken from a request.

mod authorize;
mod issue;
mod root;
mod service;
mod signer;

pub use self::{
    authorize::{Denied, NodeAccounts, ServiceAccountName},
    issue::{IssueError, Issued, Leaf},
    root::{Material, Root, RootError, Serving, ServingName},
    service::{CertificateService, Vouch},
    signer::Signer,
};
