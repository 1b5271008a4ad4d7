// SPDX-License-Identifier: Apache-2.0
//! The classes whose Gateways control deploys: made where the API server has the kind, and accepted.

use jiff::Timestamp;
use kubernetes::{Api, ApiError};
use serde_json::{Value, json};

use super::MANAGER;
use crate::{cluster::kinds::resources, deploy::MADE_BY, objects::Kind, translate::waypoint::CONTROLLER};

/// Makes those that are missing. One that somebody else runs is left to them.
pub(super) async fn make(api: &Api, classes: &[String]) {
    for class in classes {
        match one(api, class).await {
            Ok(()) => {}
            // The Gateway API is not installed.
            Err(error) if error.is_absent() => {}
            Err(error) => tracing::warn!(class, %error, "class of Gateways not made"),
        }
    }
}

/// Removes those that are ours.
pub(in crate::cluster) async fn remove(api: &Api, classes: &[String]) -> Result<(), ApiError> {
    let Some(resource) = resources(Kind::GatewayClass).into_iter().next() else { return Ok(()) };
    for class in classes {
        let path = resource.object("", class);
        let found: Option<Value> = api.find(&path).await?;
        let controller = found.as_ref().and_then(|found| found.pointer("/spec/controllerName"));
        if controller.is_some_and(|controller| controller == CONTROLLER) {
            api.delete(&path).await?;
            tracing::info!(class, "class of Gateways removed");
        }
    }
    Ok(())
}

async fn one(api: &Api, class: &str) -> Result<(), ApiError> {
    let Some(resource) = resources(Kind::GatewayClass).into_iter().next() else { return Ok(()) };
    let path = resource.object("", class);
    let found = match api.find::<Value>(&path).await? {
        Some(found) => found,
        None => {
            let object = json!({
                "apiVersion": resource.api_version(),
                "kind": Kind::GatewayClass.as_str(),
                "metadata": {"name": class, "labels": {MADE_BY.0: MADE_BY.1}},
                "spec": {"controllerName": CONTROLLER, "description": "Waypoints that Ambit runs"},
            });
            let made = api.apply(&path, MANAGER, &object).await?;
            tracing::info!(class, "class of Gateways made");
            made
        }
    };
    let controller = found.pointer("/spec/controllerName").and_then(Value::as_str).unwrap_or_default();
    if controller != CONTROLLER {
        tracing::warn!(class, controller, "the class is somebody else's, its Gateways are not deployed here");
        return Ok(());
    }
    let generation = found.pointer("/metadata/generation").cloned().unwrap_or_default();
    let conditions = found.pointer("/status/conditions").and_then(Value::as_array);
    let is_said = |condition: &Value| {
        condition["type"] == "Accepted"
            && condition["status"] == "True"
            && condition["observedGeneration"] == generation
    };
    if conditions.is_some_and(|conditions| conditions.iter().any(is_said)) {
        return Ok(());
    }
    let now = Timestamp::now();
    let status = json!({"conditions": [{
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "control runs a waypoint for each Gateway of it",
        "observedGeneration": generation,
        "lastTransitionTime": Timestamp::from_second(now.as_second()).unwrap_or(now).to_string(),
    }]});
    let object = json!({
        "apiVersion": resource.api_version(),
        "kind": Kind::GatewayClass.as_str(),
        "metadata": {"name": class},
        "status": status,
    });
    api.apply(&format!("{path}/status"), MANAGER, &object).await.map(drop)
}
