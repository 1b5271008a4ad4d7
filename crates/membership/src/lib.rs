// SPDX-License-Identifier: Apache-2.0
//! Who is in the mesh: pods and namespaces of Kubernetes as far as that depends on them, and the rules over both. The
//! node agent acts on the decision and the command line explains it; so there is one.
//!
//! Pure: objects come as JSON and the time as an argument.

pub mod bypass;
pub mod exclusions;
pub mod objects;
pub mod pod;
pub mod rules;
