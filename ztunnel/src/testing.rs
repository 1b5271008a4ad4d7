// SPDX-License-Identifier: Apache-2.0
//! A pod on a node of this process, in its own network namespace and without privileges; an authority in memory that
//! really signs; and the smallest resources, to be changed where a test is about them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hbone::{PoolSettings, Settings};
use identity::{
    Authority, AuthorityError, Compliance, Identities, IdentitiesSettings, Profile, SigningRequest,
    SystemClock, Trust,
};
use mesh::{
    Hostname, Network, Service, TrustDomain, Workload, WorkloadKey, WorkloadUid,
    service::{IpFamilies, LoadBalancing, PortMap, ServicePort, Vip, Visibility},
    workload::{Health, Locality, Memberships, NetworkMode, TunnelProtocol, WorkloadType},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyPair, SanType,
};
use runtime::Tasks;
use tokio::runtime::Handle;
use xds::{Kind, Writer};

use crate::{
    aside::Aside,
    config::Config,
    metrics::Metrics,
    netns::Netns,
    node::Node,
    pod::{Pod, Shard},
    resolver::Resolver,
    socket::{Capture, SocketOptions},
};

struct Signer(CertifiedIssuer<'static, KeyPair>);

impl Signer {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
}

impl Authority for Signer {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, AuthorityError>> {
        Box::pin(async move {
            let csr = CertificateSigningRequestParams::from_pem(&request.csr).unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = vec![SanType::URI(request.identity.to_string().try_into().unwrap())];
            let now = std::time::SystemTime::now();
            params.not_before = (now - Duration::from_secs(60)).into();
            params.not_after = (now + request.validity).into();
            let leaf = params.signed_by(&csr.public_key, &self.0).unwrap();
            Ok(vec![leaf.pem(), self.0.pem()])
        })
    }
}

/// A node with one pod, `client` of namespace `shop`, that knows the whole mesh: what `writer` says.
pub(crate) struct Bench {
    pub(crate) writer: Writer,
    pub(crate) node: Arc<Node>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) tasks: Tasks,
}

impl Bench {
    /// Call it inside a runtime.
    pub(crate) fn new() -> Self {
        let config = Config::new([("NETWORK".to_owned(), "here".to_owned())]).unwrap();
        let (tasks, mut writer) = (Tasks::new(), Writer::new());
        let authority = Arc::new(Signer::new());
        let (identities, renewal) =
            Identities::new(authority, IdentitiesSettings::default(), Arc::new(SystemClock));
        let shutdown = tasks.shutdown();
        drop(tasks.spawn("certificates", renewal.run(async move { shutdown.requested().await })));
        let options =
            SocketOptions { mark: None, keepalive: None, ipv6: true, port_reuse: true, claims: None };
        let node = Arc::new(Node {
            replica: writer.replica(),
            identities,
            profile: Profile::new(Compliance::Preferred, Trust::default()),
            metrics: Metrics::new("test"),
            aside: Aside::default(),
            resolver: Resolver::new(&config.resolv_conf),
            dns: crate::dns::settings(&config, &[]).unwrap(),
            home: Netns::own().unwrap(),
            options: Arc::new(options),
            capture: Capture::InPlace,
            workers: vec![Handle::current()],
            pool: PoolSettings { connection: Settings::client(), ..PoolSettings::default() },
            server: Settings::server(),
            shards: parking_lot::RwLock::default(),
            config,
        });
        writer.apply([mesh::Change::Workload(workload("client", "10.0.0.1"))]);
        for kind in Kind::ALL {
            writer.mark_synced(kind);
        }
        let pod = Arc::new(Pod::new(&node, "1", &key("client"), Netns::own().unwrap()));
        let shard = Shard::new(&pod, tasks.clone());
        Self { writer, node, shard, tasks }
    }
}

pub(crate) fn key(name: &str) -> WorkloadKey {
    WorkloadKey { name: name.into(), namespace: "shop".into(), service_account: name.into() }
}

/// A workload `name` of namespace `shop` under its own account, which takes plain TCP.
pub(crate) fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap(),
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        service_account: name.into(),
        addresses: address.parse().into_iter().collect(),
        hostname: None,
        network: Network("here".into()),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::None,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "n1".into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
}

/// A service `name` of namespace `shop` at an address, its port 80 mapped to `target`.
pub(crate) fn service(name: &str, address: &str, target: u16) -> Service {
    let address: IpAddr = address.parse().unwrap();
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("{name}.shop.svc.cluster.local")).unwrap(),
        vips: vec![Vip { network: Network("here".into()), net: address.into() }],
        ports: PortMap::from([(80, ServicePort { target: Some(target), ..ServicePort::default() })]),
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    }
}

/// The membership of an endpoint.
pub(crate) fn of(service: &Service) -> Arc<Memberships> {
    Arc::new(BTreeMap::from([(service.key(), PortMap::new())]))
}
