// SPDX-License-Identifier: Apache-2.0
//! Requests and connections through guards, in one process.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use mesh::{
    Authentication, Change, Guard, PolicyName,
    l7::{
        authentication::{JwtRule, Keys, Location},
        guard::{Attachment, Attribute, Condition, GuardAction, GuardClause, GuardRule, Test},
    },
    policy::StringMatch,
    service::AppProtocol,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::testing::{Bench, SOON, VIP, Wire, answer, bound};

fn attached() -> Vec<Attachment> {
    vec![Attachment::Service(bound("web", VIP, 1, AppProtocol::Http11).key())]
}

fn guard(name: &str, action: GuardAction, of: Attribute, prefix: &str) -> Change {
    let any = vec![Test::Text(StringMatch::Prefix(prefix.into()))];
    let clause = GuardClause { alternatives: vec![vec![Condition { of, any, none: Vec::new() }]] };
    Change::Guard(Guard {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        attached: attached(),
        action,
        rules: vec![GuardRule { clauses: vec![clause] }],
        dry_run: false,
    })
}

/// A waypoint whose server says which path it was asked for.
async fn web() -> Bench {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let server = answer(|request| Response::new(Full::from(request.uri().to_string())));
    bench.server("one", AppProtocol::Http11, Wire::Http1, server).await;
    bench
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "web").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_request_is_judged_by_the_path_that_the_server_sees() {
    let mut bench = web().await;
    bench.writer.apply([guard("deny", GuardAction::Deny, Attribute::Path, "/admin")]);
    for path in ["/admin", "/a/../admin?x", "/%61dmin", "/a/%2e%2e/admin"] {
        let response = bench.ask(get(path)).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert_eq!(response.body(), "RBAC: access denied\n");
    }
    let response = bench.ask(get("/a/%2e%2e/b?x=/../admin")).await;
    assert_eq!((response.status(), response.body().as_ref()), (StatusCode::OK, b"/b?x=/../admin".as_ref()));
    assert_eq!(bench.ask(get("/a%00")).await.status(), StatusCode::BAD_REQUEST);
    bench.writer.apply([guard("allow", GuardAction::Allow, Attribute::Method, "PO")]);
    assert_eq!(bench.ask(get("/b")).await.status(), StatusCode::FORBIDDEN, "nothing else is allowed");
}

#[tokio::test]
async fn a_token_that_does_not_hold_is_refused_and_none_passes() {
    let mut bench = web().await;
    let rule = JwtRule {
        issuer: "i".into(),
        audiences: Vec::new(),
        keys: Keys::Inline("{\"keys\":[]}".into()),
        from: vec![Location::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into() }],
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        words: Vec::new(),
    };
    let name = PolicyName { namespace: "shop".into(), name: "tokens".into() };
    let authentication = Authentication { name, attached: attached(), rules: vec![rule] };
    bench.writer.apply([Change::Authentication(authentication)]);
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK);
    let mut request = get("/x?y=z");
    request.headers_mut().insert("authorization", "Bearer rubbish".parse().unwrap());
    let response = bench.ask(request).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer realm=\"http://web/x\", error=\"invalid_token\""
    );
    bench.writer.apply([guard("users", GuardAction::Allow, Attribute::RequestPrincipal, "i/")]);
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_connection_that_is_carried_is_refused_by_what_only_requests_have() {
    let mut bench = Bench::new(AppProtocol::Tcp, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Tcp).await;
    drop(bench.tasks.spawn("echo", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap_or_default();
            }
        }
    }));
    let following = std::sync::Arc::clone(&bench.shard.waypoint).follow(bench.tasks.clone());
    drop(bench.tasks.spawn("follow", following));
    let mut open = bench.connect().await;
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    bench.writer.apply([guard("deny", GuardAction::Deny, Attribute::Path, "/")]);
    let ended = tokio::time::timeout(SOON, open.read_u8()).await.unwrap();
    assert!(ended.is_err(), "it is asked again when a policy changes");
    assert!(bench.tunnel(&format!("{VIP}:80")).await.is_err(), "a new one is refused");
    assert!(bench.shard.waypoint.open.snapshot().is_empty());
}

#[tokio::test]
async fn a_switch_of_protocols_is_judged_again_as_the_request_that_it_was() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http11).await;
    drop(bench.tasks.spawn("switching", async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            while stream.read_u8().await.unwrap() != b'!' {}
            let switched = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            stream.write_all(switched).await.unwrap();
            streams.push(stream);
        }
    }));
    let following = std::sync::Arc::clone(&bench.shard.waypoint).follow(bench.tasks.clone());
    drop(bench.tasks.spawn("follow", following));
    let open = async |path: &str| {
        let mut tunnel = bench.connect().await;
        let wish = format!(
            "GET {path} HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: x\r\nend: !\r\n\r\n"
        );
        tunnel.write_all(wish.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(SOON, tunnel.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        tunnel
    };
    let (mut secret, _public) = (open("/%73ecret").await, open("/public").await);
    bench.writer.apply([guard("deny", GuardAction::Deny, Attribute::Path, "/secret")]);
    let ended = tokio::time::timeout(SOON, secret.read_u8()).await.unwrap();
    assert!(ended.is_err(), "it is asked again when a policy changes");
    let left = bench.shard.waypoint.open.snapshot();
    assert_eq!(left.len(), 1, "the other is allowed still");
}

#[tokio::test]
async fn what_is_explained_is_what_requests_get() {
    let mut bench = web().await;
    bench.writer.apply([guard("deny", GuardAction::Deny, Attribute::Path, "/admin")]);
    let explained = |path: &str| {
        let said = [
            ("destination", format!("{VIP}:80")),
            ("identity", "spiffe://cluster.local/ns/shop/sa/client".to_owned()),
            ("path", path.to_owned()),
        ];
        let query = said.map(|(name, value)| (name.to_owned(), value)).into();
        let question = runtime::http::Request { query, ..Default::default() };
        let answer = crate::explain::answer(&bench.shard.waypoint, &question);
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
        serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap()
    };
    for path in ["/admin", "/a/../admin?x", "/b"] {
        let refused = bench.ask(get(path)).await.status() == StatusCode::FORBIDDEN;
        let said = explained(path);
        assert_eq!(said["addressed"]["kind"], "service");
        assert_eq!(said["policies"]["verdict"]["allowed"], !refused, "{path}: {said}");
        assert_eq!(said["policies"]["verdict"]["policy"] == "shop/deny", refused, "{path}: {said}");
        let backend = &said["route"]["backends"][0];
        assert_eq!(
            (&backend["endpoints"]["count"], &backend["hop"]["next"]["name"]),
            (&1.into(), &"one".into())
        );
    }
}
