// SPDX-License-Identifier: Apache-2.0
//! Kinds of resources that one ADS stream carries, each with a type URL and a state of its own.

use std::fmt;

/// A type of discovery resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `istio.security.Authorization`: policies.
    Authorization,
    /// `istio.workload.Address`: workloads and services.
    Address,
}

impl Kind {
    /// All of them. Policies come first: a workload must not arrive before the policy that guards it when both are due.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    /// Its type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Authorization => proto::AUTHORIZATION,
            Self::Address => proto::ADDRESS,
        }
    }

    /// The kind with this type URL.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorization => "Authorization",
            Self::Address => "Address",
        })
    }
}

/// One value per kind.
#[derive(Clone, Debug, Default)]
pub struct PerKind<T> {
    authorization: T,
    address: T,
}

impl<T> PerKind<T> {
    /// With a value for each.
    pub fn new(mut of: impl FnMut(Kind) -> T) -> Self {
        Self { authorization: of(Kind::Authorization), address: of(Kind::Address) }
    }

    /// The value of a kind.
    pub fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Authorization => &self.authorization,
            Kind::Address => &self.address,
        }
    }

    /// The value of a kind.
    pub fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Authorization => &mut self.authorization,
            Kind::Address => &mut self.address,
        }
    }
}
