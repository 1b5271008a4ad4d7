// SPDX-License-Identifier: Apache-2.0
//! Every error of a file, with its line, field and object.

use proptest::prelude::*;

use super::*;

/// `line field [object] message` of everything that is wrong with a text.
fn problems(text: &str) -> Vec<String> {
    let problems = read(text).problems.into_iter();
    problems.map(|one| format!("{} {} [{}] {}", one.line, one.field, one.object, one.message)).collect()
}

fn keys(text: &str) -> Vec<String> {
    let content = read(text);
    assert_eq!(content.problems, [], "the text is meant to be good");
    content.objects.iter().map(|(object, line)| format!("{line} {}", object.key())).collect()
}

#[test]
fn several_documents_and_lists_are_read_and_foreign_kinds_are_named() {
    let text = "\
# a comment
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: cart, namespace: shop}
- apiVersion: v1
  kind: Pod
  metadata: {name: lonely}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: cart, namespace: shop}
";
    assert_eq!(keys(text), ["2 Namespace shop", "10 ServiceAccount shop/cart", "13 Pod default/lonely"]);
    let ignored: Vec<String> =
        read(text).ignored.iter().map(|one| format!("{} {}", one.line, one.message)).collect();
    assert_eq!(
        ignored,
        ["18 apps/v1 Deployment is not read", "22 serving.knative.dev/v1 Service is not read"]
    );
}

#[test]
fn a_real_pod_with_a_hundred_other_fields_is_read() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata:
  annotations: {ambient.istio.io/redirection: enabled, prometheus.io/port: "15020"}
  creationTimestamp: "2026-01-02T03:04:05Z"
  generateName: cart-7d4b-
  labels:
  name: cart-7d4b-x2
  namespace: shop
  ownerReferences: [{apiVersion: apps/v1, blockOwnerDeletion: true, controller: true, kind: ReplicaSet, name: cart-7d4b, uid: 0a}]
  resourceVersion: "12"
spec:
  containers:
  - {image: cart:1, name: cart, ports: [{containerPort: 8080, name: http, protocol: TCP}], resources: {}, tty: false}
  dnsPolicy: ClusterFirst
  nodeName: node-1
  priority: 0
  serviceAccountName: cart
  tolerations: [{effect: NoExecute, tolerationSeconds: 300}]
status:
  conditions: [{lastProbeTime: null, status: "True", type: Ready}]
  hostIP: 10.20.0.1
  phase: Running
  podIP: 10.20.1.5
  podIPs: [{ip: 10.20.1.5}, {ip: "fd00:20:1::5"}]
  qosClass: BestEffort
"#;
    let content = read(text);
    assert_eq!(content.problems, []);
    let Some((Object::Pod(pod), 2)) = content.objects.first() else {
        panic!("one pod at line 2: {content:?}")
    };
    assert_eq!(pod.addresses().len(), 2);
    assert!(pod.is_ready());
    assert_eq!(pod.named_port("http"), Some(8080));
}

#[test]
fn every_error_is_told_with_line_and_field() {
    let text = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: cart
  namespace: shop
spec:
  acton: DENY
  rules:
  - from:
    - source:
        principal: [a]
        ipBlocks: [10.0.0.0/33]
    to:
    - operation:
        ports: [8080, \"80\"]
";
    let known = "\"principals\", \"notPrincipals\", \"requestPrincipals\", \"notRequestPrincipals\", \"namespaces\", \
                 \"notNamespaces\", \"serviceAccounts\", \"notServiceAccounts\", \"trustDomains\", \"notTrustDomains\", \
                 \"ipBlocks\", \"notIpBlocks\", \"remoteIpBlocks\", \"notRemoteIpBlocks\"";
    assert_eq!(
        problems(text),
        [
            "7 spec.acton [AuthorizationPolicy shop/cart] unknown field; known are \"selector\", \"targetRef\", \
             \"targetRefs\", \"action\", \"rules\", \"provider\""
                .to_owned(),
            format!("11 spec.rules[0].from[0].source.principal [AuthorizationPolicy shop/cart] unknown field; known are {known}"),
            "15 spec.rules[0].to[0].operation.ports[0] [AuthorizationPolicy shop/cart] found integer `8080` where a \
             string is expected: put it in quotes"
                .to_owned(),
        ]
    );
}

#[test]
fn what_has_the_right_form_may_still_be_wrong() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: Cart, namespace: shop}
spec:
  ports:
  - port: 80
  - port: 80
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  rules:
  - from:
    - source:
        ipBlocks:
        - 10.0.0.0/8
        - 10.0.0.300
";
    assert_eq!(
        problems(text),
        [
            "3 metadata.name [Service shop/Cart] \"Cart\" is not a name: lower-case letters, digits and '-' (RFC 1123)",
            "7 spec.ports[1].port [Service shop/Cart] 80 is listed twice",
            "18 spec.rules[0].from[0].source.ipBlocks[1] [AuthorizationPolicy shop/cart] \"10.0.0.300\" is neither an \
             address nor a block like 10.0.0.0/8 or fd00::/64",
        ]
    );
}

#[test]
fn small_slips_are_explained() {
    for (text, expected) in [
        ("kind: Pod\nmetadata: {name: a}\n", "1 apiVersion [Pod a] the field \"apiVersion\" is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "1 kind [a] the field \"kind\" is missing"),
        (
            "apiVersion: security.istio.io/v2\nkind: PeerAuthentication\nmetadata: {name: a}\n",
            "1 apiVersion [PeerAuthentication a] \"security.istio.io/v2\" is not known for PeerAuthentication: use \
             security.istio.io/v1 or security.istio.io/v1beta1",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: a\n",
            "3 metadata [Pod] the field \"name\" is missing",
        ),
        ("apiVersion: v1\nkind: Pod\n", "1  [Pod] the field \"metadata\" is missing"),
        ("- a\n- b\n", "1  [] is not an object: it must have apiVersion, kind and metadata"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus:\n  podIP: 10.0.0\n",
            "5 status.podIP [Pod a] invalid IP address syntax",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 70000\n",
            "6 spec.ports[0].port [Service a] found integer `70000` where a number from 0 to 65535 is expected",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - {port: 80, targetPort: \"80\"}\n",
            "6 spec.ports[0].targetPort [Service a] the text \"80\" names no port: write a number without quotes",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIP: none\n",
            "5 spec.clusterIP [Service a] \"none\" is neither None nor an address: invalid IP address syntax",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n",
            "5 spec.ports [Service a] has no value, a sequence is expected: write one or remove the field",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n  mtls:\n    mode: strict\n",
            "6 spec.mtls.mode [PeerAuthentication a] \"strict\" is not one of UNSET, DISABLE, PERMISSIVE, STRICT",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nsepc: {}\n",
            "4 sepc [PeerAuthentication a] unknown field; known are \"apiVersion\", \"kind\", \"metadata\", \"spec\", \"status\"",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n  portLevelMtls:\n    http: {mode: STRICT}\n",
            "6 spec.portLevelMtls.http [PeerAuthentication a] \"http\" is not a port from 1 to 65535",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {version: 1.0}}\n",
            "3 metadata.labels.version [Pod a] found floating point `1.0` where a string is expected: put it in quotes",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n",
            "3 metadata.namespace [Namespace b/a] a Namespace has no namespace",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn a_norwegian_label_is_text() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {country: no, answer: y, old: on}}\n";
    assert_eq!(keys(text), ["1 Pod default/a"]);
    let wrong =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {sure: true}}\nspec: {hostNetwork: yes}\n";
    assert_eq!(
        problems(wrong),
        [
            "3 metadata.labels.sure [Pod a] found boolean `true` where a string is expected: put it in quotes",
            "4 spec.hostNetwork [Pod a] found string \"yes\" where a boolean is expected",
        ]
    );
}

#[test]
fn text_that_is_not_yaml_is_told_with_its_line() {
    let found = problems("apiVersion: v1\nkind: Pod\nmetadata: {name: a\nspec: x\n");
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.contains("is not YAML: "), "{only}");
    assert!(only.starts_with("4 ") || only.starts_with("5 "), "{only}");
    let twice = problems("apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}\n");
    assert!(twice.iter().any(|one| one.starts_with("3 ") && one.contains("kind")), "{twice:?}");
}

#[test]
fn a_tab_a_bomb_and_deep_nesting_are_refused() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(0..9)
            .map(|n| {
                format!(
                    "b{n}: &b{n} [{0},{0},{0},{0},{0},{0},{0},{0},{0}]\n",
                    if n == 0 { "*a".to_owned() } else { format!("*b{}", n - 1) }
                )
            })
            .collect::<String>();
    for text in [bomb, "[".repeat(10_000), "kind:\n\t- a\n".to_owned()] {
        assert_eq!(read(&text).problems.len(), 1);
    }
}

#[test]
fn the_same_object_twice_in_one_file_names_both_lines() {
    let text = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
";
    assert_eq!(
        problems(text),
        ["5  [Namespace shop] is in this file already, at line 1: remove one of them"]
    );
}

proptest! {
    /// Outside bytes: anything is an answer, nothing is a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\\n\\t]{0,200}") {
        read(&text);
    }

    #[test]
    fn a_damaged_manifest_is_read_or_refused(at in 0..4000usize, noise in "[ -~\\n]{0,3}", cut in 0..4usize) {
        let good = include_str!("../../../tests/golden/policies/in.yaml");
        let at = at % good.len();
        let end = (at + cut).min(good.len());
        read(&format!("{}{noise}{}", &good[..at], &good[end..]));
    }
}
