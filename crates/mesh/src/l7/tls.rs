// SPDX-License-Identifier: Apache-2.0
//! TLS to servers outside the mesh: what a server is asked for, and what it must prove before anything is sent to it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arcstr::ArcStr;

use crate::name::Hostname;

/// How a server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The name that it is asked for (SNI), and that its certificate must have where no others are listed.
    pub hostname: Hostname,
    /// Names of which its certificate must have one.
    pub names: Vec<SubjectName>,
    /// Who must vouch for it.
    pub roots: Roots,
}

/// By the name alone: certificates are long, and settings that differ in nothing else are rare.
impl Hash for ServerTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hostname.hash(state);
    }
}

/// A name in a certificate (`subjectAltName`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// In DNS. What the certificate has may be a pattern that covers it.
    Dns(Hostname),
    /// Compared as text.
    Uri(ArcStr),
}

/// Who vouches for servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Whom the machine believes.
    System,
    /// These alone; without one, nobody: then no server is believed.
    Only(Vec<Root>),
}

/// A certificate of an authority, in DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Root(pub Arc<[u8]>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({} bytes)", self.0.len())
    }
}
