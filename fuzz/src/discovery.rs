// SPDX-License-Identifier: Apache-2.0
//! Discovery: single resources, and the delta protocol of both ends.

use std::sync::LazyLock;

use mesh::{Change, Index};
use prost::Message as _;
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    workload::address,
};
use xds::{
    Kind, Resource,
    codec::{self, ResourceKey},
    delta::{Publisher, Session, Subscriber, session::Limits, subscriber::Step},
};

use crate::manifest;

/// A server's catalogue.
static PUBLISHED: LazyLock<Publisher> = LazyLock::new(|| {
    let mut publisher = Publisher::new();
    for kind in Kind::ALL {
        publisher.replace(kind, manifest::told(include_str!("mesh.yaml")));
    }
    publisher
});
/// The longest complaint about a response, and the longest list of resources it may come to.
const LONGEST_COMPLAINT: usize = 8192;

/// A kind, then a message of it.
pub(crate) fn resource(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    let kind = match kind % 7 {
        0 => Kind::Address,
        1 => Kind::Authorization,
        2 => Kind::Route,
        3 => Kind::Telemetry,
        4 => Kind::Traffic,
        5 => Kind::Guard,
        _ => Kind::Authentication,
    };
    let name = called(kind, message).unwrap_or_default();
    let Ok(resource) = codec::decode(kind, &name, message) else { return };
    assert_eq!(resource.kind(), kind);
    assert!(codec::decode(kind, "another/name/than/any", message).is_err() || name.contains("another/"));
    survives(&resource);
    let mut index = Index::new();
    let key = resource.key();
    index.apply(Change::from(resource.clone()));
    index.apply(Change::from(resource));
    index.apply(key.gone());
    assert_eq!(index.workloads().count() + index.services().count() + index.policies().count(), 0);
    assert_eq!(index.routes().count() + index.telemetries().count() + index.traffics().count(), 0);
    assert_eq!(index.guards().count() + index.authentications().count(), 0);
}

/// The name that a message would be sent under.
fn called(kind: Kind, message: &[u8]) -> Option<String> {
    Some(match kind {
        Kind::Authorization => {
            let policy = proto::security::Authorization::decode(message).ok()?;
            format!("{}/{}", policy.namespace, policy.name)
        }
        Kind::Route => {
            let route = proto::waypoint::Route::decode(message).ok()?;
            let kind =
                mesh::l7::RouteKind::ALL.into_iter().find(|kind| wire_kind(*kind) as i32 == route.kind)?;
            format!("{}/{}/{}", kind.as_str(), route.namespace, route.name)
        }
        Kind::Telemetry => {
            let telemetry = proto::waypoint::Telemetry::decode(message).ok()?;
            format!("{}/{}", telemetry.namespace, telemetry.name)
        }
        Kind::Traffic => {
            let service = proto::waypoint::Traffic::decode(message).ok()?.service?;
            format!("{}/{}", service.namespace, service.hostname)
        }
        Kind::Guard => {
            let guard = proto::waypoint::Guard::decode(message).ok()?;
            format!("{}/{}", guard.namespace, guard.name)
        }
        Kind::Authentication => {
            let authentication = proto::waypoint::Authentication::decode(message).ok()?;
            format!("{}/{}", authentication.namespace, authentication.name)
        }
        Kind::Address => match proto::workload::Address::decode(message).ok()?.r#type? {
            address::Type::Workload(workload) => workload.uid,
            address::Type::Service(service) => format!("{}/{}", service.namespace, service.hostname),
        },
    })
}

fn wire_kind(kind: mesh::l7::RouteKind) -> proto::waypoint::Kind {
    match kind {
        mesh::l7::RouteKind::Http => proto::waypoint::Kind::Http,
        mesh::l7::RouteKind::Grpc => proto::waypoint::Kind::Grpc,
        mesh::l7::RouteKind::Tls => proto::waypoint::Kind::Tls,
        mesh::l7::RouteKind::Tcp => proto::waypoint::Kind::Tcp,
    }
}

/// What is written is read back, and written the same.
pub(crate) fn survives(resource: &Resource) {
    let (name, message) = (resource.name(), resource.encode());
    let again = codec::decode(resource.kind(), &name, &message);
    assert_eq!(again.as_ref(), Ok(resource), "sent as {name}");
    assert_eq!(again.map(|again| again.encode()), Ok(message));
    assert!(ResourceKey::named(resource.kind(), &name).contains(&Some(resource.key())));
}

/// What a server says, to a client that wants everything and to one that asks for names.
pub(crate) fn response(bytes: &[u8]) {
    let Ok(response) = DeltaDiscoveryResponse::decode(bytes) else { return };
    let node = proto::core::Node::default();
    let mut on_demand = Subscriber::on_demand(node.clone(), &Kind::ALL);
    on_demand.want(&"/10.0.0.1".into());
    for mut subscriber in [Subscriber::new(node, &Kind::ALL), on_demand] {
        let mut index = Index::new();
        // Once more: what repeats itself changes nothing.
        for _ in 0..2 {
            take(&mut subscriber, response.clone(), &mut index);
            let known = index.workloads().count() + index.services().count();
            assert_eq!(subscriber.len(Kind::Address), known);
            assert_eq!(subscriber.len(Kind::Authorization), index.policies().count());
            assert_eq!(subscriber.len(Kind::Route), index.routes().count());
            assert_eq!(subscriber.len(Kind::Telemetry), index.telemetries().count());
            assert_eq!(subscriber.len(Kind::Traffic), index.traffics().count());
            assert_eq!(subscriber.len(Kind::Guard), index.guards().count());
            assert_eq!(subscriber.len(Kind::Authentication), index.authentications().count());
        }
        assert_eq!(subscriber.connect().len(), Kind::ALL.len());
    }
}

fn take(subscriber: &mut Subscriber, response: DeltaDiscoveryResponse, index: &mut Index) {
    let (nonce, url) = (response.nonce.clone(), response.type_url.clone());
    let offered = response.resources.len();
    let mut delivery = subscriber.take(response);
    let answer = loop {
        match delivery.step() {
            Step::Apply(changes) => changes.into_iter().for_each(|change| drop(index.apply(change))),
            Step::Answer(answer) => break answer,
        }
    };
    assert_eq!((answer.request.response_nonce, answer.request.type_url), (nonce, url));
    assert_eq!(answer.request.error_detail.is_some(), !answer.refused.is_empty());
    assert!(answer.refused.len() <= offered.max(1));
    let complaint = answer.request.error_detail.map_or(0, |status| status.message.len());
    assert!(complaint <= LONGEST_COMPLAINT, "a complaint of {complaint} bytes");
}

/// What a client says, to a server that has something to tell.
pub(crate) fn request(bytes: &[u8]) {
    let publisher = &*PUBLISHED;
    let mut session = Session::new(Limits::default());
    // Requests with their lengths before them, as on the stream.
    let mut rest = bytes;
    while let Ok(request) = DeltaDiscoveryRequest::decode_length_delimited(&mut rest) {
        if session.receive(request, publisher).is_err() {
            return;
        }
        while let Ok(Some(response)) = session.poll(publisher) {
            assert!(Kind::of_type_url(&response.type_url).is_some());
            assert!(!response.nonce.is_empty());
            let mut index = Index::new();
            take(&mut Subscriber::new(proto::core::Node::default(), &Kind::ALL), response, &mut index);
        }
        if rest.is_empty() {
            return;
        }
    }
}
