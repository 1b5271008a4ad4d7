// SPDX-License-Identifier: Apache-2.0
//! What is decided per request: routes as data with the tables in which the rule of a request is found; who may send it, and
//! which tokens are believed.
//!
//! `plan::route` and `plan::guard` decide with them; control fills them from objects. They know no connection and no body.

pub mod authentication;
pub mod claims;
pub mod guard;
mod pattern;
pub mod route;
pub mod tls;
pub mod traffic;
pub mod view;

pub use self::{
    authentication::Authentication,
    claims::Claims,
    guard::Guard,
    pattern::{InvalidPattern, Pattern, TextMatch},
    route::{Route, RouteKind, RouteName},
    tls::ServerTls,
    traffic::Traffic,
    view::View,
};
