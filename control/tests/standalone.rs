// SPDX-License-Identifier: Apache-2.0
//! The whole control plane on loopback, over a folder of manifests: a node proxy's clients talk to it as they do in a mesh.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use control::{
    app::{self, Control},
    config::Config,
};
use identity::{
    Authority, AuthorityError, CaClient, CaSettings, Certificate, Compliance, Connector, Credentials,
    PrivateKey, Profile, RootSource, SigningRequest, Token, Trust, ca::Subject,
};
use mesh::{PolicyName, SpiffeId, WorkloadUid};
use runtime::{Tasks, env::Env};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use xds::{Client, ClientConfig, Replica, Writer};

/// Nothing here takes longer, unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: shop
  annotations: {ambient.istio.io/redirection: enabled}
spec: {nodeName: node-1, serviceAccountName: cart}
status:
  phase: Running
  podIP: 10.20.1.5
  conditions: [{type: Ready, status: \"True\"}]
";

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec:
  rules:
  - from: [{source: {namespaces: [shop]}}]
";

const TOKENS: &str = "
- {token: node-1-token, namespace: istio-system, serviceAccount: ztunnel, node: node-1}
- {token: node-2-token, namespace: istio-system, serviceAccount: ztunnel, node: node-2}
- {token: cart-token, namespace: shop, serviceAccount: cart}
";

/// A control plane of its own for each test.
struct Plane {
    folder: tempfile::TempDir,
    tasks: Tasks,
    control: Control,
}

impl Plane {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("cart.yaml"), POD).unwrap();
        fs::write(manifests.join("guard.yaml"), POLICY).unwrap();
        fs::write(folder.path().join("tokens.yaml"), TOKENS).unwrap();
        let tasks = Tasks::new();
        let control = start(folder.path(), &tasks).await;
        Self { folder, tasks, control }
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folder.path().join("manifests").join(name)
    }

    /// Replaces a file at once, as editors and `kubectl` do.
    fn replace(&self, name: &str, text: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.manifest(name)).unwrap();
    }

    fn root(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/root-cert.pem")).unwrap()
    }

    fn connector(&self) -> Connector {
        let address = format!("https://localhost:{}", self.control.discovery.port());
        let profile = Profile::new(Compliance::Preferred, Trust::default());
        Connector::new(&address, RootSource::Pem(self.root()), None, profile).unwrap()
    }

    /// A node proxy's discovery.
    fn subscribe(&self, token: &str) -> Replica {
        let connector = self.connector();
        let token = token.to_owned();
        let writer = Writer::new();
        let replica = writer.replica();
        let config = ClientConfig {
            channel: Arc::new(move || {
                let connector = connector.clone();
                Box::pin(async move { Ok(connector.open().await?) })
            }),
            token: Some(Arc::new(move || Ok(token.clone()))),
            headers: vec![("clusterid".to_owned(), "Kubernetes".to_owned())],
            node_id: "ztunnel~10.20.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local".to_owned(),
            node_metadata: serde_json::Map::new(),
            kinds: &xds::Kind::L4,
            on_demand: false,
        };
        let client = Client::new(config, writer).unwrap();
        let shutdown = self.tasks.shutdown();
        drop(self.tasks.spawn("proxy", client.run(async move { shutdown.requested().await })));
        replica
    }

    async fn certificate(
        &self,
        token: &str,
        subject: Subject,
        identity: &str,
    ) -> Result<Certificate, AuthorityError> {
        let identity: SpiffeId = identity.parse().unwrap();
        let token = Some(Token::Literal(token.to_owned()));
        let credentials = Credentials::new(token, "Kubernetes", []).unwrap();
        let client = CaClient::new(CaSettings { connector: self.connector(), credentials, subject });
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr(&identity).unwrap();
        let validity = Duration::from_secs(86_400);
        let chain = client.sign(SigningRequest { csr, identity: identity.clone(), validity }).await?;
        Ok(Certificate::issued(&identity, &key, &chain, SystemTime::now()).unwrap())
    }

    async fn fetch(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.control.metrics.port())).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn status(&self) -> serde_json::Value {
        let answer = self.fetch("/status").await;
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap()
    }

    async fn end(self) {
        let drained = self.tasks.drain(DEADLINE).await;
        assert_eq!(drained.forced, [], "everything ends when it is asked to");
    }
}

async fn start(folder: &Path, tasks: &Tasks) -> Control {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let variables = [
        ("AMBIT_MANIFESTS", path("manifests")),
        ("AMBIT_STATE_DIR", path("state")),
        ("AMBIT_TOKENS", path("tokens.yaml")),
        ("AMBIT_XDS_ADDR", "127.0.0.1:0".to_owned()),
        ("AMBIT_METRICS_ADDR", "127.0.0.1:0".to_owned()),
        ("AMBIT_CERT_TTL", "1h".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let config = Config::read(Env::new(variables)).unwrap();
    app::start(config, Arc::new(String::new), tasks).await.unwrap()
}

/// Waits until the replica is as wanted; says how long that took.
async fn until(replica: &Replica, wanted: impl Fn(&mesh::Index) -> bool) -> Duration {
    let started = Instant::now();
    let mut changed = replica.changed();
    let waiting = async {
        replica.wait_synced().await;
        while !replica.read(&wanted) {
            changed.changed().await.expect("the client runs");
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("it becomes as wanted");
    started.elapsed()
}

fn guard_allows(index: &mesh::Index, namespace: &str) -> bool {
    let name: PolicyName = "shop/guard".parse().unwrap();
    index.policy(&name).is_some_and(|policy| format!("{policy:?}").contains(&format!("{namespace:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_file_takes_effect_within_a_second_and_a_broken_one_changes_nothing() {
    const ROUNDS: usize = 3;
    let plane = Plane::start().await;
    let replica = plane.subscribe("node-1-token");
    let uid = WorkloadUid::parse("Kubernetes//Pod/shop/cart").unwrap();
    until(&replica, |index| index.workload(&uid).is_some() && guard_allows(index, "shop")).await;

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        plane.replace("guard.yaml", &POLICY.replace("[shop]", "[bank]"));
        times.push(until(&replica, |index| guard_allows(index, "bank")).await);
        // Written in place, as `echo >` does.
        fs::write(plane.manifest("guard.yaml"), POLICY.replace("[shop]", "[mill]")).unwrap();
        times.push(until(&replica, |index| guard_allows(index, "mill")).await);
    }

    plane.replace("guard.yaml", &POLICY.replace("- from:", "- selektor: x\n    from:"));
    let started = Instant::now();
    let problem = loop {
        let status = plane.status().await;
        let files = status["manifests"]["files"].as_array().unwrap().clone();
        let guard = files.into_iter().find(|file| file["file"] == "guard.yaml").unwrap();
        if guard["state"] == "broken" {
            break guard["problems"][0].clone();
        }
        assert!(started.elapsed() < DEADLINE, "the error is told: {status}");
        tokio::task::yield_now().await;
    };
    assert_eq!(problem["line"], 7);
    assert_eq!(problem["field"], "spec.rules[0].selektor");
    assert_eq!(problem["object"], "AuthorizationPolicy shop/guard");
    assert!(replica.read(|index| guard_allows(index, "mill")), "the last good state stays");

    let name: PolicyName = "shop/guard".parse().unwrap();
    for _ in 0..ROUNDS {
        plane.replace("guard.yaml", POLICY);
        until(&replica, |index| guard_allows(index, "shop")).await;
        fs::remove_file(plane.manifest("guard.yaml")).unwrap();
        times.push(until(&replica, |index| index.policy(&name).is_none()).await);
    }
    // One of nine may fall into a moment in which the machine does something else.
    let late = times.iter().filter(|time| **time >= Duration::from_secs(1)).count();
    assert!(late <= 1, "{times:?}");
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_who_listens_and_what_is_there() {
    let plane = Plane::start().await;
    let replica = plane.subscribe("node-2-token");
    until(&replica, |_| true).await;
    let started = Instant::now();
    let status = loop {
        let status = plane.status().await;
        if status["proxies"][0]["types"]["Address"]["synced"] == true {
            break status;
        }
        assert!(started.elapsed() < DEADLINE, "the proxy acknowledges: {status}");
        tokio::task::yield_now().await;
    };
    assert_eq!(status["ready"], true);
    assert_eq!(status["objects"]["Pod"], 1);
    assert_eq!(status["resources"]["Authorization"], 1);
    assert_eq!(status["proxies"][0]["caller"], "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    assert!(plane.fetch("/ready").await.starts_with("HTTP/1.1 200"));
    assert!(plane.fetch("/metrics").await.starts_with("HTTP/1.1 200"));
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_certificates_for_its_own_pods_only() {
    let plane = Plane::start().await;
    until(&plane.subscribe("node-1-token"), |_| true).await;
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let issued = plane.certificate("node-1-token", Subject::Impersonated, cart).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(issued.remaining(SystemTime::now()) <= hour, "AMBIT_CERT_TTL is the longest");
    plane.certificate("cart-token", Subject::Caller, cart).await.unwrap();

    for (token, identity, expected) in [
        ("node-2-token", cart, "no pod of service account shop/cart runs on node node-2"),
        (
            "node-1-token",
            "spiffe://cluster.local/ns/shop/sa/web",
            "no pod of service account shop/web runs on node node-1",
        ),
        ("cart-token", "spiffe://cluster.local/ns/shop/sa/web", "not the service account of a node proxy"),
        ("no-such-token", cart, "not known here"),
    ] {
        let error = plane.certificate(token, Subject::Impersonated, identity).await.unwrap_err();
        let AuthorityError::Refused { reason } = error else { panic!("{token}: {error:?}") };
        assert!(reason.contains(expected), "{token} for {identity}: {reason}");
    }

    // The pod moves to the other node, and so does the right to its identity.
    plane.replace("cart.yaml", &POD.replace("node-1", "node-2"));
    let started = Instant::now();
    while plane.certificate("node-2-token", Subject::Impersonated, cart).await.is_err() {
        assert!(started.elapsed() < DEADLINE, "the move is seen");
    }
    plane.certificate("node-1-token", Subject::Impersonated, cart).await.unwrap_err();
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_token_learns_nothing() {
    let plane = Plane::start().await;
    let stranger = plane.subscribe("no-such-token");
    until(&plane.subscribe("node-1-token"), |_| true).await;
    assert!(!stranger.synced());
    assert!(
        stranger.read(|index| index
            .workload(&WorkloadUid::parse("Kubernetes//Pod/shop/cart").unwrap())
            .is_none())
    );
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_root_and_the_policies_of_broken_files() {
    let plane = Plane::start().await;
    let replica = plane.subscribe("node-1-token");
    until(&replica, |index| guard_allows(index, "shop")).await;
    let root = plane.root();
    let Plane { folder, tasks, .. } = plane;
    tasks.drain(DEADLINE).await;

    fs::write(folder.path().join("manifests/guard.yaml"), "kind: [").unwrap();
    let tasks = Tasks::new();
    let control = start(folder.path(), &tasks).await;
    let plane = Plane { folder, tasks, control };
    assert_eq!(plane.root(), root);
    let replica = plane.subscribe("node-1-token");
    until(&replica, |index| guard_allows(index, "shop")).await;
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_speaks_does_not_hold_up_the_end() {
    let plane = Plane::start().await;
    let address: SocketAddr = ([127, 0, 0, 1], plane.control.discovery.port()).into();
    let silent = TcpStream::connect(address).await.unwrap();
    until(&plane.subscribe("node-1-token"), |_| true).await;
    plane.end().await;
    drop(silent);
}
