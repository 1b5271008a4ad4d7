// SPDX-License-Identifier: Apache-2.0
//! Who may send what through a waypoint, and whose tokens it believes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::http::{Request, Response, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use lab::{
    Pod,
    echo::{self, Echo},
    eventually, http,
};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};

use super::Behind;
use crate::scene::{SOON, Scenario, Scene, scenarios};

/// Where keys are served.
const KEYS: u16 = 7080;

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_denied_path_is_refused_however_it_is_written,
        only_who_is_named_may_send_and_only_what_is_named,
        a_policy_on_trial_refuses_nobody_and_is_counted,
        a_call_that_is_denied_gets_a_status_of_grpc,
        connections_are_judged_by_what_is_known_of_them_and_again_when_policies_change,
        a_token_that_holds_names_its_sender,
        a_token_that_does_not_hold_is_refused,
        a_claim_decides_the_route_and_no_client_can_claim_it,
        keys_are_fetched_and_followed_when_they_are_rotated,
    ]
}

/// A policy for the service `server`.
fn policy(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: NAMESPACE}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: server}}], {fields}}}\n"
    )
}

impl Behind {
    /// One request from a pod, with the path as it is.
    async fn send(&self, from: &Pod, path: &str, fields: &[(&str, &str)]) -> Result<Response<Bytes>> {
        let request = Request::get(path).header(header::HOST, "server");
        let request = fields.iter().fold(request, |made, (name, value)| made.header(*name, *value));
        let stream = from.connect(self.target()).await?;
        timeout(SOON, http::exchange(stream, request.body(Full::default())?)).await.context("no answer")?
    }

    /// Waits until a request is answered so: policies travel by themselves.
    async fn answers(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        expected: StatusCode,
    ) -> Result<Response<Bytes>> {
        eventually(SOON, "the waypoint to answer so", async || {
            let response = self.send(&self.client, path, fields).await?;
            ensure!(response.status() == expected, "{path} is answered {response:?}");
            Ok(response)
        })
        .await
    }
}

async fn a_denied_path_is_refused_however_it_is_written(scene: Scene) -> Result<()> {
    let waypoint =
        scene.waypoint("b", "gate").variable("AMBIT_PATH_NORMALIZATION", "DECODE_AND_MERGE_SLASHES");
    let behind = Behind::with(&scene, waypoint, echo::HTTP, "http").await?;
    let rules =
        "action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*', '/files/{*}/secret']}}]}]";
    scene.apply("deny", &policy("deny", rules)).await?;
    let refused = behind.answers("/admin", &[], StatusCode::FORBIDDEN).await?;
    ensure!(refused.body().starts_with(b"RBAC: access denied"), "{:?}", refused.body());
    for path in [
        "/admin/x",
        "//admin",
        "/./admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/%61dmin",
        "/a/..%2fadmin",
        "/a%5c..%5cadmin",
        "/admin%2fx",
        "/admin?x=/public",
        "/files/a/secret",
        "/files//a/secret",
    ] {
        let response = behind.send(&behind.client, path, &[]).await?;
        ensure!(response.status() == StatusCode::FORBIDDEN, "{path} is answered {response:?}");
    }
    // What passes is seen by the server as it was judged.
    for (path, seen) in [
        ("/public", "/public"),
        ("/a/%2e%2e/public//x", "/public/x"),
        ("/%2561dmin", "/%2561dmin"),
        ("/administrator", "/administrator"),
        ("/files/secret", "/files/secret"),
    ] {
        let response = behind.send(&behind.client, path, &[]).await?;
        ensure!(response.status() == StatusCode::OK, "{path} is answered {response:?}");
        let echo: Echo = serde_json::from_slice(response.body())?;
        ensure!(echo.path == seen, "of {path} the server sees {}", echo.path);
    }
    let response = behind.send(&behind.client, "/a%00b", &[]).await?;
    ensure!(response.status() == StatusCode::BAD_REQUEST, "{response:?}");
    let line = behind.written(|access| access.field("status") == "403").await?;
    let policy = format!("{}/deny", scene.namespace());
    ensure!(line.field("policy") == policy && line.field("flags") == "UAEX", "{}", line.line);
    let instance = behind.instance()?;
    eventually(SOON, "the refusals being counted", async || {
        let counted = instance.metrics().await?.sum("istio_requests_total", &[("response_code", "403")]);
        ensure!(counted >= 13.0, "{counted} are counted");
        Ok(())
    })
    .await?;
    scene.withdraw("deny").await?;
    behind.answers("/admin", &[], StatusCode::OK).await.map(drop)
}

async fn only_who_is_named_may_send_and_only_what_is_named(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let stranger = scene.captured("a", "stranger").await?;
    let namespace = scene.namespace();
    let rules = format!(
        "rules: [{{from: [{{source: {{principals: [cluster.local/ns/{namespace}/sa/client]}}}}], \
         to: [{{operation: {{methods: [GET], hosts: [server], paths: [/open]}}}}]}}, \
         {{when: [{{key: 'request.headers[x-pass]', values: [sesame]}}]}}]"
    );
    scene.apply("allow", &policy("allow", &rules)).await?;
    behind.answers("/closed", &[], StatusCode::FORBIDDEN).await?;
    for (pod, path, fields, expected) in [
        (&behind.client, "/open", &[][..], StatusCode::OK),
        (&behind.client, "/closed", &[("x-pass", "sesame")], StatusCode::OK),
        (&stranger, "/open", &[], StatusCode::FORBIDDEN),
        (&stranger, "/open", &[("x-pass", "sesame")], StatusCode::OK),
        (&stranger, "/open", &[("x-pass", "sesam")], StatusCode::FORBIDDEN),
    ] {
        let response = behind.send(pod, path, fields).await?;
        ensure!(response.status() == expected, "{} {path} {fields:?}: {response:?}", pod.full_name());
    }
    let line =
        behind.written(|access| access.field("path") == "/open" && access.field("status") == "200").await?;
    ensure!(line.field("policy") == format!("{namespace}/allow"), "{}", line.line);
    Ok(())
}

async fn a_policy_on_trial_refuses_nobody_and_is_counted(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let rules = "action: DENY, rules: [{to: [{operation: {paths: [/trial]}}]}]";
    let trial = policy("trial", rules)
        .replace("namespace: NAMESPACE}", "namespace: NAMESPACE, annotations: {istio.io/dry-run: 'true'}}");
    let audit = policy("audit", "action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]");
    scene.apply("trial", &format!("{trial}---\n{audit}")).await?;
    let namespace = scene.namespace();
    eventually(SOON, "both being counted", async || {
        let response = behind.send(&behind.client, "/trial", &[]).await?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
        let metrics = behind.instance()?.metrics().await?;
        let trial = format!("{namespace}/trial");
        let denied = metrics.sum("ambit_dry_run_total", &[("policy", &trial), ("verdict", "denied")]);
        let audited = metrics.sum("ambit_audit_total", &[("policy", &format!("{namespace}/audit"))]);
        ensure!(denied >= 1.0 && audited >= 1.0, "{denied} denied, {audited} audited");
        Ok(())
    })
    .await
}

async fn a_call_that_is_denied_gets_a_status_of_grpc(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::GRPC, "grpc").await?;
    scene
        .apply("deny", &policy("deny", "action: DENY, rules: [{to: [{operation: {paths: ['/a.B/*']}}]}]"))
        .await?;
    eventually(SOON, "the call to be refused", async || {
        let call = Request::post("http://server/a.B/C").header("content-type", "application/grpc");
        let response = super::by_http2(behind.connect().await?, call.body(Full::default())?).await?;
        let status = response.headers().get("grpc-status");
        ensure!(
            response.status() == StatusCode::OK && status.is_some_and(|status| status == "7"),
            "{response:?}"
        );
        ensure!(response.headers().get("grpc-message").is_some_and(|said| said == "RBAC: access denied"));
        Ok(())
    })
    .await
}

async fn connections_are_judged_by_what_is_known_of_them_and_again_when_policies_change(
    scene: Scene,
) -> Result<()> {
    let behind = Behind::begin(&scene, echo::TCP, "tcp").await?;
    let mut open = behind.connect().await?;
    crate::policy::ask(&mut open, "before").await?;
    // What can only be told of requests refuses connections, and lets none pass.
    for (name, fields) in [
        ("deny", "action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]"),
        ("allow", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
    ] {
        scene.apply(name, &policy(name, fields)).await?;
        let mut rest = Vec::new();
        let ended = timeout(SOON, open.read_to_end(&mut rest)).await.context("it stays open")?;
        ensure!(ended.is_err() || rest.is_empty(), "{rest:?}");
        let mut refused = behind.connect().await?;
        refused.write_all(b"x").await.unwrap_or_default();
        let count = timeout(SOON, refused.read(&mut [0; 1])).await.context("it is open")?;
        ensure!(!matches!(count, Ok(1)), "{name} lets it pass");
        scene.withdraw(name).await?;
        open = eventually(SOON, "connections to pass again", async || {
            let mut stream = behind.connect().await?;
            crate::policy::ask(&mut stream, "again").await?;
            Ok(stream)
        })
        .await?;
    }
    let namespace = scene.namespace();
    let client = format!("rules: [{{from: [{{source: {{serviceAccounts: [{namespace}/client]}}}}]}}]");
    scene.apply("client", &policy("client", &client)).await?;
    crate::policy::ask(&mut open, "who is allowed stays").await?;
    let line = behind.written(|access| access.field("error").contains("policy change")).await?;
    ensure!(line.message == "connection complete", "{}", line.line);
    Ok(())
}

/// An issuer of tokens.
struct Issuer {
    name: String,
    kid: &'static str,
    key: KeyPair,
}

impl Issuer {
    fn new(name: &str, kid: &'static str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), kid, key: KeyPair::generate_for(&rcgen::PKCS_ED25519)? })
    }

    fn set(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x}]})
    }

    fn claims(&self) -> Result<Value> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        Ok(
            json!({"iss": self.name, "sub": "ann", "aud": "web", "exp": now + 600, "groups": ["admin"], "level": 3}),
        )
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "EdDSA", "kid": self.kid});
        let signed = signed(&header, claims);
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn token(&self) -> Result<String> {
        self.sign(&self.claims()?)
    }
}

fn signed(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// HMAC with SHA-256 (RFC 2104), by which a forger who knows the public key signs.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

/// Believes an issuer, and lets in only who has its token.
fn believing(issuer: &str, keys: &str) -> String {
    let rule = "rules: [{from: [{source: {requestPrincipals: ['*']}}], \
                when: [{key: 'request.auth.claims[groups]', values: [admin]}]}, {to: [{operation: {paths: [/headers/open]}}]}]";
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: tokens, namespace: NAMESPACE}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: server}}]\n  jwtRules:\n  - issuer: {issuer}\n\
         \x20   audiences: [web]\n    {keys}\n    outputPayloadToHeader: x-payload\n\
         \x20   outputClaimToHeaders: [{{header: x-level, claim: level}}]\n---\n{}",
        policy("admins", rule)
    )
}

/// A server that believes an issuer, and that issuer.
struct Believing {
    behind: Behind,
    issuer: Issuer,
}

impl Believing {
    async fn begin(scene: &Scene) -> Result<Self> {
        let (behind, issuer) = (Behind::begin(scene, echo::HTTP, "http").await?, Issuer::new("lab", "one")?);
        scene.apply("tokens", &believing("lab", &format!("jwks: '{}'", issuer.set()))).await?;
        behind.answers("/headers", &[], StatusCode::FORBIDDEN).await?;
        Ok(Self { behind, issuer })
    }

    /// One request with a token, and with a header that only the waypoint may write.
    async fn send(&self, token: &str) -> Result<Response<Bytes>> {
        let bearer = format!("Bearer {token}");
        let fields = [("authorization", bearer.as_str()), ("x-level", "9")];
        self.behind.send(&self.behind.client, "/headers", &fields).await
    }

    /// A token in which one claim is another.
    fn changed(&self, name: &str, value: Value) -> Result<String> {
        let mut claims = self.issuer.claims()?;
        claims[name] = value;
        self.issuer.sign(&claims)
    }
}

async fn a_token_that_holds_names_its_sender(scene: Scene) -> Result<()> {
    let believing = Believing::begin(&scene).await?;
    let behind = &believing.behind;
    let response = believing.send(&believing.issuer.token()?).await?;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    let echo: Echo = serde_json::from_slice(response.body())?;
    ensure!(echo.headers.get("x-level").is_some_and(|level| level == "3"), "{echo:?}");
    ensure!(
        echo.headers.contains_key("x-payload") && !echo.headers.contains_key("authorization"),
        "{echo:?}"
    );
    let plain =
        behind.send(&behind.client, "/headers/open", &[("x-level", "9"), ("x-payload", "mine")]).await?;
    let echo: Echo = serde_json::from_slice(plain.body())?;
    ensure!(!echo.headers.contains_key("x-level") && !echo.headers.contains_key("x-payload"), "{echo:?}");
    let guest = believing.send(&believing.changed("groups", json!(["guests"]))?).await?;
    ensure!(guest.status() == StatusCode::FORBIDDEN, "the claim does not count: {guest:?}");
    let path = format!("/headers?access_token={}&a=b", believing.issuer.token()?);
    let response = behind.send(&behind.client, &path, &[]).await?;
    let echo: Echo = serde_json::from_slice(response.body())?;
    ensure!(response.status() == StatusCode::OK && !format!("{echo:?}").contains("access_token"), "{echo:?}");
    behind.written(|access| access.field("path") == "/headers?a=b").await.map(drop)
}

async fn a_token_that_does_not_hold_is_refused(scene: Scene) -> Result<()> {
    let believing = Believing::begin(&scene).await?;
    let (issuer, other) = (&believing.issuer, Issuer::new("lab", "one")?);
    let changed = |name, value| believing.changed(name, value);
    let claims = issuer.claims()?;
    let refused = async || -> Result<f64> {
        let metrics = believing.behind.instance()?.metrics().await?;
        Ok(metrics.sum("ambit_jwt_tokens_total", &[("outcome", "refused")]))
    };
    let unsigned = format!("{}.", signed(&json!({"alg": "none"}), &claims));
    let forged = signed(&json!({"alg": "HS256", "kid": "one"}), &claims);
    let hmac =
        format!("{forged}.{}", URL_SAFE_NO_PAD.encode(hmac(issuer.key.der_bytes(), forged.as_bytes())));
    for (what, token, said) in [
        ("expired", changed("exp", json!(1))?, "Jwt is expired"),
        ("not valid yet", changed("nbf", json!(99_999_999_999_u64))?, "Jwt not yet valid"),
        ("for another", changed("aud", json!("mail"))?, "Audiences in Jwt are not allowed"),
        ("of another issuer", changed("iss", json!("else"))?, "Jwt issuer is not configured"),
        ("by another key", other.token()?, "Jwt verification fails"),
        ("unsigned", unsigned, "Jwt header [alg] is not supported"),
        ("signed with the public key", hmac, "Jwt header [alg] is not supported"),
        ("huge", changed("x", json!("x".repeat(20_000)))?, "Jwt is too long"),
        ("none", "rubbish".to_owned(), "Jwt is not in the form"),
    ] {
        let before = refused().await?;
        let response = believing.send(&token).await?;
        ensure!(response.status() == StatusCode::UNAUTHORIZED, "{what}: {response:?}");
        let counted = refused().await? - before;
        ensure!((counted - 1.0).abs() < f64::EPSILON, "{what}: {counted} are counted");
        let body = String::from_utf8_lossy(response.body()).into_owned();
        ensure!(body.starts_with(said), "{what}: {body}");
        let asked = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
        let expected = "Bearer realm=\"http://server/headers\", error=\"invalid_token\"";
        ensure!(asked == Some(expected), "{what}: {asked:?}");
    }
    Ok(())
}

/// Who is of level 3 is told from the others on the way.
const BY_CLAIM: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-claim, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
    - matches: [{headers: [{name: x-level, value: '3'}]}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: three}]}}]
      backendRefs: [{name: server, port: 80}]
    - backendRefs: [{name: server, port: 80}]
";

async fn a_claim_decides_the_route_and_no_client_can_claim_it(scene: Scene) -> Result<()> {
    let believing = Believing::begin(&scene).await?;
    scene.apply("by-claim", BY_CLAIM).await?;
    let route = async |token: &str, level: &str| {
        let bearer = format!("Bearer {token}");
        let fields = [("authorization", bearer.as_str()), ("x-level", level)];
        let response = believing.behind.send(&believing.behind.client, "/headers", &fields).await?;
        let echo: Echo = serde_json::from_slice(response.body())?;
        Ok::<_, anyhow::Error>(echo.headers.get("x-route").cloned())
    };
    let (three, four) = (believing.issuer.token()?, believing.changed("level", json!(4))?);
    eventually(SOON, "the route in force", async || {
        ensure!(route(&three, "9").await?.is_some_and(|route| route == "three"), "the claim does not count");
        Ok(())
    })
    .await?;
    ensure!(route(&four, "3").await?.is_none(), "what a client writes counts as a claim");
    Ok(())
}

/// Serves a document, and counts how often.
async fn documents(listener: TcpListener, document: Arc<Mutex<(String, usize)>>) -> Result<()> {
    let mut serving = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        let document = Arc::clone(&document);
        let answer = service_fn(move |_request: Request<Incoming>| {
            let mut kept = document.lock();
            kept.1 += 1;
            let body = Full::new(Bytes::from(kept.0.clone()));
            async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
        });
        serving.spawn(async move {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            served.await.unwrap_or_default();
        });
    }
}

async fn keys_are_fetched_and_followed_when_they_are_rotated(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let (first, second) = (Issuer::new("lab", "one")?, Issuer::new("lab", "two")?);
    let host = scene.plain("a", "issuer").await?;
    let document = Arc::new(Mutex::new((first.set().to_string(), 0)));
    let mut server = JoinSet::new();
    server.spawn(documents(host.listen(KEYS).await?, Arc::clone(&document)));
    let place = SocketAddr::new(host.v4(), KEYS);
    scene.apply("tokens", &believing("lab", &format!("jwksUri: http://{place}/keys"))).await?;
    behind.answers("/headers", &[], StatusCode::FORBIDDEN).await?;
    let bearer = |issuer: &Issuer| -> Result<String> { Ok(format!("Bearer {}", issuer.token()?)) };
    behind.answers("/headers", &[("authorization", &bearer(&first)?)], StatusCode::OK).await?;
    let unknown = bearer(&second)?;
    let response = behind.send(&behind.client, "/headers", &[("authorization", &unknown)]).await?;
    ensure!(response.status() == StatusCode::UNAUTHORIZED, "{response:?}");
    document.lock().0 = second.set().to_string();
    // Nobody makes it ask again and again: once in ten seconds.
    let before = document.lock().1;
    for _ in 0..20 {
        behind.send(&behind.client, "/headers", &[("authorization", &unknown)]).await?;
    }
    ensure!(document.lock().1 <= before + 2, "asked {} times", document.lock().1 - before);
    eventually(Duration::from_secs(30), "the new key to be known", async || {
        let response = behind.send(&behind.client, "/headers", &[("authorization", &unknown)]).await?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
        Ok(())
    })
    .await?;
    let old = behind.send(&behind.client, "/headers", &[("authorization", &bearer(&first)?)]).await?;
    ensure!(old.status() == StatusCode::UNAUTHORIZED, "the old key is still believed: {old:?}");
    // What is no set of keys takes nothing away.
    document.lock().0 = "gone".to_owned();
    let kept = behind.send(&behind.client, "/headers", &[("authorization", &unknown)]).await?;
    ensure!(kept.status() == StatusCode::OK, "{kept:?}");
    Ok(())
}
