// SPDX-License-Identifier: Apache-2.0
//! What is decided per request: routes as data, and the tables in which the rule of a request is found.
//!
//! `plan::route` decides with them; control fills them from Gateway API objects. They know no connection and no body.

mod pattern;
pub mod route;
pub mod view;

pub use self::{
    pattern::{InvalidPattern, Pattern, TextMatch},
    route::{Route, RouteKind, RouteName},
    view::View,
};
