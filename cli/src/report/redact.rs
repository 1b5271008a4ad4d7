// SPDX-License-Identifier: Apache-2.0
//! Takes out of texts and objects what must stay secret. Pure.

use serde_json::{Map, Value};

const GONE: &str = "[removed]";
/// Bookkeeping of the API server, long and of no use.
const NOISE: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];
/// Words in the name of a variable whose literal value may be a secret.
const SECRET_WORDS: [&str; 5] = ["TOKEN", "PASSWORD", "SECRET", "KEY", "CREDENTIAL"];

/// A text without private keys and tokens.
pub(super) fn text(text: &str) -> String {
    tokens(&keys(text))
}

/// PEM blocks with private keys, and their rest if the end is missing.
fn keys(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let (before, block) = rest.split_at(begin);
        clean.push_str(before);
        let label_ends =
            block.get(11..).and_then(|label| label.find("-----")).map_or(block.len(), |at| at + 16);
        let is_key = block.get(..label_ends).is_some_and(|label| label.contains("PRIVATE KEY"));
        let ends = if is_key {
            clean.push_str(GONE);
            let end = block.find("-----END ").and_then(|end| {
                let label = end + 9;
                Some(label + block.get(label..)?.find("-----")? + 5)
            });
            end.unwrap_or(block.len())
        } else {
            clean.push_str(block.get(..label_ends).unwrap_or(block));
            label_ends
        };
        rest = block.get(ends..).unwrap_or_default();
    }
    clean + rest
}

/// JSON web tokens: three parts in base64url between dots, the first beginning with `{"`.
fn tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("eyJ") {
        let (before, from) = rest.split_at(begin);
        let ends = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(ends);
        clean.push_str(before);
        clean.push_str(if word.split('.').count() == 3 { GONE } else { word });
        rest = after;
    }
    clean + rest
}

/// An object of the mesh's own namespace: everything, without values of secrets.
pub(super) fn own(mut object: Value) -> Value {
    let is_secret = object.get("kind").is_some_and(|kind| kind == "Secret");
    if let Some(fields) = object.as_object_mut().filter(|_| is_secret) {
        for field in ["data", "stringData"] {
            if let Some(Value::Object(values)) = fields.get_mut(field) {
                values.values_mut().for_each(|value| *value = GONE.into());
            }
        }
    }
    clean(&mut object);
    object
}

/// An object of somebody else's: what the mesh looks at, and its status. What its containers are told may be a secret.
pub(super) fn foreign(object: &Value) -> Value {
    let mut kept = Map::new();
    for (field, names) in [
        (
            "metadata",
            [
                "name",
                "namespace",
                "uid",
                "labels",
                "ownerReferences",
                "creationTimestamp",
                "deletionTimestamp",
            ]
            .as_slice(),
        ),
        ("spec", ["nodeName", "serviceAccountName", "hostNetwork", "taints", "unschedulable"].as_slice()),
        (
            "status",
            ["phase", "podIPs", "conditions", "nodeInfo", "addresses", "reason", "message"].as_slice(),
        ),
    ] {
        let Some(Value::Object(found)) = object.get(field) else { continue };
        let some = found.iter().filter(|(name, _)| names.contains(&name.as_str()));
        kept.insert(
            field.to_owned(),
            Value::Object(some.map(|(name, value)| (name.clone(), value.clone())).collect()),
        );
    }
    if let Some(Value::Object(annotations)) = object.pointer("/metadata/annotations") {
        let ours = |name: &str| ["istio.io/", "ambit.mesh/"].iter().any(|domain| name.contains(domain));
        let some = annotations.iter().filter(|(name, _)| ours(name));
        let some: Map<_, _> = some.map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(Value::Object(metadata)) = kept.get_mut("metadata") {
            metadata.insert("annotations".to_owned(), Value::Object(some));
        }
    }
    let mut kept = Value::Object(kept);
    clean(&mut kept);
    kept
}

/// Noise, literal secrets in variables, and secrets in any text.
fn clean(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for noise in NOISE {
                fields.remove(noise);
            }
            let named = fields.get("name").and_then(Value::as_str).unwrap_or_default().to_uppercase();
            // Of a file or reference the name is no secret, and it is not under `value`.
            let secret = SECRET_WORDS.iter().any(|word| named.contains(word));
            if let Some(value) = fields.get_mut("value").filter(|value| secret && value.is_string()) {
                *value = GONE.into();
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::String(found) => *found = text(found),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn private_keys_and_tokens_are_taken_out_and_all_else_stays() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----";
        for (before, after) in [
            (format!("a {certificate}b"), format!("a {certificate}b")),
            (format!("{certificate}{key}\n{certificate}"), format!("{certificate}[removed]\n{certificate}")),
            (format!("{key} {key}"), "[removed] [removed]".to_owned()),
            ("-----BEGIN PRIVATE KEY-----\nc2Vj".to_owned(), "[removed]".to_owned()),
            ("-----BEGIN ".to_owned(), "-----BEGIN ".to_owned()),
            ("Bearer eyJhbGciOi.eyJzdWIi.c2ln-_x, and".to_owned(), "Bearer [removed], and".to_owned()),
            ("eyJ is no token, nor eyJa.b".to_owned(), "eyJ is no token, nor eyJa.b".to_owned()),
            ("ä-----BEGIN ö".to_owned(), "ä-----BEGIN ö".to_owned()),
        ] {
            assert_eq!(text(&before), after);
        }
    }

    #[test]
    fn of_a_secret_only_the_names_of_its_values_stay() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "ambit-ca", "managedFields": [1]},
                            "data": {"ca-key.pem": "c2VjcmV0"}, "stringData": {"x": "secret"}});
        let text = own(secret).to_string();
        assert!(
            text.contains("ca-key.pem") && !text.contains("c2VjcmV0") && !text.contains("\"secret\""),
            "{text}"
        );
        assert!(!text.contains("managedFields"));
    }

    #[test]
    fn what_a_container_is_told_leaves_the_cluster_only_if_it_is_no_secret_of_ours() {
        let environment = json!([{"name": "CA_ADDRESS", "value": "https://control"}, {"name": "DB_PASSWORD", "value": "hunter2"}]);
        let pod = json!({"kind": "Pod", "metadata": {"name": "web", "annotations": {"ambit.mesh/bypass-by": "eva", "note": "x"}},
                         "spec": {"nodeName": "a", "containers": [{"env": environment, "args": ["--password=hunter2"]}]}});
        let ours = own(pod.clone()).to_string();
        assert!(ours.contains("https://control") && !ours.contains("\"hunter2\""), "{ours}");
        let theirs = foreign(&pod).to_string();
        assert!(theirs.contains("nodeName") && theirs.contains("eva"), "{theirs}");
        assert!(
            !theirs.contains("hunter2") && !theirs.contains("note") && !theirs.contains("CA_ADDRESS"),
            "{theirs}"
        );
    }
}
