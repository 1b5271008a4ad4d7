// SPDX-License-Identifier: Apache-2.0
//! What the mesh is told about a pod: the annotation by which a control plane, ours or Istio's, knows that it takes
//! HBONE. It goes through the pod's status, as the agent may not change pods otherwise.

use kubernetes::{Api, ApiError, Resource};
use serde_json::{Value, json};

use crate::{
    objects::{ENABLED, MANAGER, REDIRECTION},
    pod::Uid,
};

const PODS: Resource = Resource::core("pods");
/// HTTP's "unprocessable": the uid of an object cannot be changed.
const ANOTHER: u16 = 422;

/// Which pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub(crate) uid: &'a Uid,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Marks a pod, or takes the mark away. A pod that is gone needs none.
pub(crate) async fn mark(api: &Api, pod: Of<'_>, marked: bool) -> Result<(), ApiError> {
    let path = format!("{}/status", PODS.object(pod.namespace, pod.name));
    match api.merge(&path, MANAGER, &change(pod.uid, marked)).await {
        Err(error) if error.is_absent() || error.code() == Some(ANOTHER) => Ok(()),
        other => other.map(drop),
    }
}

/// With the uid in it: a pod that was made anew under the name is another one, and refused.
fn change(uid: &Uid, marked: bool) -> Value {
    json!({"metadata": {"uid": uid.as_str(), "annotations": {REDIRECTION: marked.then_some(ENABLED)}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_value_and_its_removal_a_null() {
        let uid = Uid::parse("u-1").unwrap();
        let expected = |value: Value| json!({"metadata": {"uid": "u-1", "annotations": {"ambient.istio.io/redirection": value}}});
        assert_eq!(change(&uid, true), expected(json!("enabled")));
        assert_eq!(change(&uid, false), expected(Value::Null));
    }
}
