// SPDX-License-Identifier: Apache-2.0
//! One object as the API server has it: read whole, or as far as that is safe, with what is wrong with it.
//!
//! A file with an error can be refused; an object that is there is there. What we do not know of a policy is taken for the
//! worst (`closed`), an unknown field of another Istio object is left out, and what else is wrong leaves the object as it
//! was when it was last good, if it ever was. All of it is said.

use kubernetes::Problem;
use serde::de::DeserializeOwned;

use super::{
    closed,
    stated::{Stated, has_conditions, stated},
};
use crate::{
    objects::{Fields, Kind, Object},
    tree::{FieldError, Node},
};

/// An object, and what of it is not as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) object: Object,
    pub(crate) notes: Vec<Problem>,
    /// Nothing of it is as written but whom it is for.
    pub(crate) is_beyond: bool,
    /// Of kinds that get conditions.
    pub(crate) stated: Option<Stated>,
}

/// Reads an object of a kind from JSON.
pub(crate) fn read(kind: Kind, text: &str) -> Result<Read, Vec<Problem>> {
    match Object::read(kind, Json(text)) {
        Ok(object) => Ok(Read { object, notes: Vec::new(), is_beyond: false, stated: of(kind, text) }),
        Err(error) => with_faults(kind, text, &error),
    }
}

fn of(kind: Kind, text: &str) -> Option<Stated> {
    has_conditions(kind).then(|| stated(text))
}

/// Slower, and tells where.
fn with_faults(kind: Kind, text: &str, error: &serde_json::Error) -> Result<Read, Vec<Problem>> {
    let problem = |message: String| vec![Problem { field: String::new(), message }];
    let json: serde_json::Value =
        serde_json::from_str(text).map_err(|error| problem(format!("is not JSON: {error}")))?;
    let (mut notes, mut is_beyond) = (Vec::new(), false);
    let mending = Mending { kind, node: Node::from(json), notes: &mut notes, is_beyond: &mut is_beyond };
    match Object::read(kind, mending) {
        Ok(object) => Ok(Read { object, notes, is_beyond, stated: of(kind, text) }),
        Err(()) if notes.is_empty() => Err(problem(error.to_string())),
        Err(()) => Err(notes),
    }
}

struct Json<'a>(&'a str);

impl Fields for Json<'_> {
    type Error = serde_json::Error;

    fn read<T: DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0)
    }
}

struct Mending<'a> {
    kind: Kind,
    node: Node,
    notes: &'a mut Vec<Problem>,
    is_beyond: &'a mut bool,
}

impl Fields for Mending<'_> {
    type Error = ();

    fn read<T: DeserializeOwned>(self) -> Result<T, ()> {
        let Self { kind, node, notes, is_beyond } = self;
        let last_resorts = closed::last_resorts(kind, &node);
        let mut effects = Vec::new();
        let (mut value, errors) = node.mended(|tree, error| {
            let effect = mend(kind, tree, error);
            effects.push(effect);
            effect.is_some()
        });
        if let (None, Some((effect, trees))) = (&value, last_resorts) {
            let mut read = |tree: Node| tree.mended(|tree, error| mend(kind, tree, error).is_some()).0;
            value = trees.into_iter().find_map(&mut read);
            *is_beyond = value.is_some();
            effects.clear();
            let message = format!("not everything that is wrong is listed: {effect}");
            notes.push(Problem { field: "spec".to_owned(), message });
        }
        let effects = effects.into_iter().chain(std::iter::repeat(None));
        notes.extend(errors.into_iter().zip(effects).map(|(error, effect)| {
            let message = match effect {
                Some(effect) => format!("{}: {effect}", error.message),
                None => error.message,
            };
            Problem { field: error.path.to_string(), message }
        }));
        value.ok_or(())
    }
}

/// Changes a tree so that reading can go on; says what that means for the user, or nothing if it cannot go on.
fn mend(kind: Kind, tree: &mut Node, error: &FieldError) -> Option<&'static str> {
    match kind {
        Kind::AuthorizationPolicy => closed::authorization(tree, &error.path),
        Kind::PeerAuthentication => closed::peer(tree, &error.path),
        Kind::BackendTLSPolicy => closed::backend_tls(tree, error),
        Kind::ServiceEntry | Kind::WorkloadEntry | Kind::WorkloadGroup | Kind::Telemetry => {
            (error.unknown && tree.remove(&error.path.0)).then_some("it is left out")
        }
        Kind::Namespace
        | Kind::Node
        | Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::GatewayClass => None,
        // A rule that is understood in part could believe what its author would not.
        Kind::RequestAuthentication => None,
        // A match without one of its conditions is for more requests than its author meant.
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute => None,
    }
}

#[cfg(test)]
mod tests;
