// SPDX-License-Identifier: Apache-2.0
//! `AuthorizationPolicy` and `RequestAuthentication` with a target, as what a waypoint enforces.
//!
//! ```text
//!   targetRef(s) ─► attach: services, or where a waypoint is found
//!   rules ────────► rules:  what conditions look at, and the values
//!   jwtRules ─────► tokens: issuers, keys, where tokens are
//! ```
//! An invalid value never widens what is allowed: its ALLOW rule is dropped, its DENY rule keeps the rest and so denies more.

mod attach;
mod attribute;
mod rules;
mod tokens;

use mesh::{Authentication, Guard, l7::guard::GuardAction};

use self::attach::{Attached, Targets};
use super::{Translation, policy};
use crate::{
    objects::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, Kind, ObjectKey,
        RequestAuthentication, RequestAuthenticationSpec, TargetReference,
    },
    report::{Report, Reports, Severity, line},
    world::{Objects, Settings},
};

pub(crate) use self::attach::targets_of;

/// What an object with a target is told in its condition `WaypointAccepted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is wholly in force.
    pub is_accepted: bool,
    /// Istio's word for it.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// The guard that waypoints get.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &AuthorizationPolicy,
) -> Translation<Guard> {
    let mut reports = Reports::of(object.metadata.key(Kind::AuthorizationPolicy));
    let converted = convert(object, &mut reports);
    let targets = Targets { objects, settings, metadata: &object.metadata };
    let attached = targets.attach(references(&object.spec), &mut reports);
    let output = converted.filter(|_| !attached.to.is_empty()).map(|Converted { action, rules, dry_run }| {
        Guard { name: policy::name(object), attached: attached.to, action, rules, dry_run }
    });
    Translation { output, reports: reports.done() }
}

/// The part of it that comes from the object alone.
pub(crate) struct Converted {
    action: GuardAction,
    rules: Vec<mesh::l7::guard::GuardRule>,
    dry_run: bool,
}

/// Reads an object and says everything that is wrong with it.
pub(crate) fn convert(object: &AuthorizationPolicy, reports: &mut Reports) -> Option<Converted> {
    let spec = &object.spec;
    let dry_run = policy::dry_run(object, reports);
    alone(spec.selector.is_some(), reports);
    let action = match spec.action {
        AuthorizationAction::Allow => Some(GuardAction::Allow),
        AuthorizationAction::Deny => Some(GuardAction::Deny),
        AuthorizationAction::Audit => Some(GuardAction::Audit),
        AuthorizationAction::Custom => {
            reports.warning("spec.action", "waypoints ask no external authorizer: use ALLOW, DENY or AUDIT");
            None
        }
    };
    let rules = rules::read(spec, &object.metadata.namespace, action.unwrap_or(GuardAction::Deny), reports);
    if spec.rules.is_empty() && spec.action == AuthorizationAction::Deny {
        reports.warning("spec.rules", "a DENY policy without rules denies nothing: add a rule");
    }
    Some(Converted { action: action?, rules, dry_run })
}

/// The authentication that waypoints get.
pub(crate) fn authentication(
    objects: &Objects,
    settings: &Settings,
    object: &RequestAuthentication,
) -> Translation<Authentication> {
    let mut reports = Reports::of(object.metadata.key(Kind::RequestAuthentication));
    let rules = convert_tokens(object, &mut reports);
    let targets = Targets { objects, settings, metadata: &object.metadata };
    let attached = targets.attach(token_references(&object.spec), &mut reports);
    let name =
        mesh::PolicyName { namespace: object.metadata.namespace.clone(), name: object.metadata.name.clone() };
    let output = (!attached.to.is_empty()).then_some(Authentication { name, attached: attached.to, rules });
    Translation { output, reports: reports.done() }
}

/// Reads an object and says everything that is wrong with it.
pub(crate) fn convert_tokens(
    object: &RequestAuthentication,
    reports: &mut Reports,
) -> Vec<mesh::l7::authentication::JwtRule> {
    let spec = &object.spec;
    alone(spec.selector.is_some() && (spec.target_ref.is_some() || !spec.target_refs.is_empty()), reports);
    if spec.target_ref.is_none() && spec.target_refs.is_empty() {
        reports.warning(
            "spec.targetRefs",
            "is missing: tokens are only looked at in waypoints, so name a Service, ServiceEntry or Gateway",
        );
    }
    tokens::read(spec, reports)
}

fn alone(has_selector: bool, reports: &mut Reports) {
    if has_selector {
        reports.error("spec.selector", "cannot stand beside a target: remove one of them");
    }
}

/// What is said of an object with a target; nothing of others.
pub(crate) fn standing(
    objects: &Objects,
    settings: &Settings,
    key: &ObjectKey,
    reports: &[&Report],
) -> Option<Standing> {
    let name = (key.namespace.clone(), key.name.clone());
    let (metadata, references) = match key.kind {
        Kind::AuthorizationPolicy => {
            let object = objects.authorization(&name).filter(|object| object.spec.is_for_waypoints())?;
            (&object.metadata, references(&object.spec))
        }
        Kind::RequestAuthentication => {
            let object = objects.request_authentication(&name)?;
            (&object.metadata, token_references(&object.spec))
        }
        _ => return None,
    };
    let targets = Targets { objects, settings, metadata };
    let attached = targets.attach(references, &mut Reports::of(key.clone()));
    Some(stand(&attached, reports))
}

fn stand(attached: &Attached, reports: &[&Report]) -> Standing {
    let said = reports.iter().filter(|report| report.severity != Severity::Info);
    let said: Vec<String> = said.map(|report| line(&report.field, &report.message)).collect();
    let is_wrong =
        |report: &&&Report| report.severity != Severity::Info && !report.field.starts_with("spec.targetRef");
    let is_partial = reports.iter().any(|report| is_wrong(&report));
    let reason = match (attached.fault, attached.to.is_empty()) {
        (Some(fault), _) => fault,
        (None, true) => "Invalid",
        (None, false) if is_partial => "PartiallyInvalid",
        (None, false) => "Accepted",
    };
    let is_accepted = said.is_empty() && reason == "Accepted";
    let by = attached.waypoints.iter().map(|(namespace, name)| format!("{namespace}/{name}"));
    let by: Vec<String> = by.collect();
    let message =
        if is_accepted { format!("in force at waypoint {}", by.join(", ")) } else { said.join("; ") };
    Standing { is_accepted, reason, message }
}

type References<'a> = Vec<(String, &'a TargetReference)>;

fn references(spec: &AuthorizationPolicySpec) -> References<'_> {
    listed(spec.target_ref.as_ref(), &spec.target_refs)
}

fn token_references(spec: &RequestAuthenticationSpec) -> References<'_> {
    listed(spec.target_ref.as_ref(), &spec.target_refs)
}

fn listed<'a>(one: Option<&'a TargetReference>, several: &'a [TargetReference]) -> References<'a> {
    let several = several.iter().enumerate().map(|(at, target)| (format!("spec.targetRefs[{at}]"), target));
    one.map(|target| ("spec.targetRef".to_owned(), target)).into_iter().chain(several).collect()
}

#[cfg(test)]
mod tests;
