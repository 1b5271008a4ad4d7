// SPDX-License-Identifier: Apache-2.0
//! What Gateways become: `tests/golden-waypoints/<case>` has `gateway.yaml` and, where there are overlays, `defaults.yaml` and
//! `own.yaml`, and gives `out.yaml`. `UPDATE_GOLDEN=1` writes the files anew.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{objects::Object, testing::events, world::Event};

fn settings() -> Settings {
    Settings {
        classes: vec!["ambit-waypoint".to_owned()],
        image: "localhost/ambit/waypoint:1".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        pull_secrets: Vec::new(),
        control: "https://control.ambit-system.svc:15012".to_owned(),
        roots: "istio-ca-root-cert".to_owned(),
        audience: "istio-ca".to_owned(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        cluster: "Kubernetes".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        network: String::new(),
        normalisation: Normalisation::MergeSlashes,
    }
}

fn gateway(text: &str) -> Gateway {
    let [Event::Applied(object)] = &events(text)[..] else { panic!("one object") };
    let Object::Gateway(gateway) = object.as_ref() else { panic!("a Gateway") };
    gateway.clone()
}

fn source(name: &str, text: &str) -> Source {
    let data: BTreeMap<String, String> = serde_saphyr::from_str(text).unwrap();
    Source { name: name.to_owned(), data }
}

fn check(case: &str, scaling: Scaling) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-waypoints").join(case);
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let overlays = [("ambit-system/defaults", "defaults.yaml"), ("shop/own", "own.yaml")];
    let overlays = overlays.into_iter().filter_map(|(name, file)| Some(source(name, &read(file)?)));
    let gateway = gateway(&read("gateway.yaml").expect("every case has a Gateway"));
    let parts = deploy(&gateway, &Overlays(overlays.collect()), &settings(), scaling).expect("no fault");
    let texts = parts.iter().map(|part| serde_saphyr::to_string(&part.object).unwrap());
    let output = texts.collect::<Vec<_>>().join("---\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(folder.join("out.yaml"), &output).unwrap();
    }
    assert!(output == read("out.yaml").unwrap_or_default(), "{case} is not what came out:\n{output}");
}

#[test]
fn a_gateway_becomes_two_replicas_that_are_spread_and_never_all_away() {
    check("plain", Scaling::Fixed);
}

#[test]
fn where_load_is_measured_it_sets_the_number_of_replicas() {
    check("metered", Scaling::Metered);
}

#[test]
fn overlays_of_the_class_and_then_of_the_gateway_are_laid_over_it() {
    check("overlays", Scaling::Metered);
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop, uid: u-1, generation: 3}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

fn laid(overlay: &str) -> Result<Vec<Part>, Fault> {
    let overlays = Overlays(vec![source("shop/own", overlay)]);
    deploy(&gateway(GATEWAY), &overlays, &settings(), Scaling::Fixed)
}

#[test]
fn an_overlay_with_a_fault_is_refused_with_its_key_and_field() {
    for (overlay, place, message) in [
        ("deploymnt: ''", "key deploymnt", "is not one of serviceAccount"),
        ("deployment: '[1'", "key deployment", "is not YAML"),
        ("service: '7'", "key service", "is not a piece of a Service"),
        ("deployment: '{metadata: {name: other}}'", "field metadata.name", "cannot be another one"),
        ("deployment: '{kind: DaemonSet}'", "field kind", "cannot be another one"),
        ("service: '{spec: {selector: {app: other}}}'", "field spec.selector", "cannot be another one"),
        ("deployment: '{spec: 3}'", "field spec", "is an object"),
        ("deployment: '{spec: {template: {spec: {containers: {}}}}}'", "containers", "is a list"),
        (
            "deployment: '{spec: {template: {spec: {containers: [{image: a}]}}}}'",
            "containers[0]",
            "has no name",
        ),
    ] {
        let fault = laid(overlay).expect_err(overlay);
        assert!(fault.place.starts_with("ConfigMap shop/own "), "{fault}");
        assert!(fault.place.contains(place) && fault.message.contains(message), "{overlay}: {fault}");
    }
}

#[test]
fn lists_are_merged_by_name_and_what_is_null_goes() {
    let overlay = "
deployment: |
  spec:
    strategy: null
    template:
      spec:
        tolerations: [{key: a}]
        volumes: [{name: roots, $patch: delete}, {name: more, emptyDir: {}}]
        containers:
        - name: waypoint
          resources: {limits: {$patch: replace, cpu: 1}}
          env: [{name: NETWORK, value: north}, {name: RUST_LOG, value: debug}]
        - {name: beside, image: b}
";
    let parts = laid(overlay).unwrap();
    let deployment = parts.iter().find(|part| part.kind == PartKind::Deployment).unwrap();
    let pod = &deployment.object["spec"]["template"]["spec"];
    assert_eq!(deployment.object["spec"].get("strategy"), None);
    assert_eq!(pod["tolerations"], json!([{"key": "a"}]));
    let names =
        |list: &str| pod[list].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names("volumes"), ["token", "more"]);
    assert_eq!(names("containers"), ["waypoint", "beside"]);
    let container = &pod["containers"][0];
    assert_eq!(container["resources"]["limits"], json!({"cpu": 1}));
    assert_eq!(container["resources"]["requests"]["memory"], "128Mi");
    let env = container["env"].as_array().unwrap();
    let value = |name: &str| env.iter().find(|one| one["name"] == name).map(|one| one["value"].clone());
    assert_eq!((value("NETWORK"), value("RUST_LOG")), (Some(json!("north")), Some(json!("debug"))));
    assert_eq!(value("CLUSTER_ID"), Some(json!("Kubernetes")), "the others stay");
}

#[test]
fn who_fixes_the_number_of_replicas_gets_no_autoscaler() {
    let parts = |overlay: &str, scaling| {
        let overlays = Overlays(vec![source("shop/own", overlay)]);
        let parts = deploy(&gateway(GATEWAY), &overlays, &settings(), scaling).unwrap();
        let is_scaled = parts.iter().any(|part| part.kind == PartKind::HorizontalPodAutoscaler);
        let deployment = parts.iter().find(|part| part.kind == PartKind::Deployment).unwrap();
        (is_scaled, deployment.object["spec"].get("replicas").cloned())
    };
    assert_eq!(parts("{}", Scaling::Fixed), (false, Some(json!(2))));
    assert_eq!(parts("{}", Scaling::Metered), (true, None));
    assert_eq!(parts("deployment: '{spec: {replicas: 5}}'", Scaling::Metered), (false, Some(json!(5))));
    assert_eq!(parts("horizontalPodAutoscaler: '{spec: {maxReplicas: 3}}'", Scaling::Fixed), (true, None));
}

fn stated(gateway: &Gateway, standing: &Standing) -> Value {
    status(gateway, standing, &settings(), &Before::default(), Timestamp::UNIX_EPOCH)
}

fn condition<'a>(list: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = list["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == kind);
    let text = |name: &str| found.unwrap()[name].as_str().unwrap();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_gateway_has_an_address_from_its_first_ready_pod_on() {
    let mut gateway = gateway(GATEWAY);
    let mut standing = Standing { addresses: vec!["10.30.0.9".to_owned()], ..Standing::default() };
    let status = stated(&gateway, &standing);
    assert_eq!(status.get("addresses"), None);
    assert_eq!(condition(&status, "Programmed").1, "Pending");
    assert_eq!(condition(&status, "Accepted").0, "True");
    assert_eq!(status["conditions"][0]["observedGeneration"], 3);

    standing.ready = 1;
    let status = stated(&gateway, &standing);
    let name = json!({"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"});
    assert_eq!(status["addresses"], json!([name, {"type": "IPAddress", "value": "10.30.0.9"}]));
    assert_eq!(condition(&status, "Programmed").0, "True");
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("mesh"), &json!(0)));
    assert_eq!(listener["supportedKinds"].as_array().unwrap().len(), 4);
    assert_eq!(condition(listener, "Programmed").0, "True");

    gateway.status.addresses = vec![crate::objects::StatusAddress { kind: None, value: "10.30.0.9".into() }];
    standing.ready = 0;
    let status = stated(&gateway, &standing);
    assert_eq!(status["addresses"].as_array().unwrap().len(), 2, "it keeps it");
    assert_eq!(condition(&status, "Programmed"), ("False", "NoResources", "no pod of it is ready any more"));
}

#[test]
fn a_gateway_says_what_is_wrong_with_it() {
    let good = gateway(GATEWAY);
    let fault = Fault { place: "ConfigMap shop/own key service".to_owned(), message: "is odd".to_owned() };
    let status = stated(&good, &Standing { fault: Some(fault), ..Standing::default() });
    let (is_accepted, reason, message) = condition(&status, "Accepted");
    assert_eq!((is_accepted, reason), ("False", "InvalidParameters"));
    assert!(message.contains("shop/own key service: is odd"), "{message}");
    let refused = Standing { refused: Some("the name is taken".to_owned()), ..Standing::default() };
    assert_eq!(condition(&stated(&good, &refused), "Programmed"), ("False", "Invalid", "the name is taken"));

    let other = gateway(&GATEWAY.replace("HBONE", "HTTP"));
    let status = stated(&other, &Standing::default());
    assert_eq!(condition(&status, "Accepted").1, "ListenersNotValid");
    assert_eq!(condition(&status["listeners"][0], "Accepted").1, "UnsupportedProtocol");
    let kinds = "protocol: HBONE, allowedRoutes: {kinds: [{kind: UDPRoute}, {kind: GRPCRoute}]}";
    let status = stated(&gateway(&GATEWAY.replace("protocol: HBONE", kinds)), &Standing::default());
    let listener = &status["listeners"][0];
    assert_eq!(condition(listener, "ResolvedRefs").1, "InvalidRouteKinds");
    assert_eq!(listener["supportedKinds"].as_array().unwrap().len(), 1);
}

#[test]
fn a_condition_that_has_not_turned_keeps_its_time() {
    let gateway = gateway(GATEWAY);
    let first = stated(&gateway, &Standing::default());
    let conditions = first["conditions"].as_array().unwrap();
    let listeners = first["listeners"].as_array().unwrap();
    let before = Before { conditions, listeners };
    let now = Timestamp::from_second(1000).unwrap();
    let same = status(&gateway, &Standing::default(), &settings(), &before, now);
    assert_eq!(same, first);
    let ready = status(&gateway, &Standing { ready: 1, ..Standing::default() }, &settings(), &before, now);
    assert_eq!(ready["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    assert_eq!(ready["conditions"][1]["lastTransitionTime"], "1970-01-01T00:16:40Z");
}
