// SPDX-License-Identifier: Apache-2.0
//! Changes of pods, one at a time and many at once, and how long it takes until every subscriber has them.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lab::kube::{KubeCluster, api::Session};
use prost::Message as _;
use proto::workload::{Address, Workload, address::Type};
use serde_json::{Value, json};

use super::{
    Scale, fill, scene,
    subscriber::{Arrival, SUBSCRIBERS, Subscribers},
};

/// Between the end of a change and the beginning of the next.
const PAUSE: Duration = Duration::from_secs(1);
/// A change that takes longer is lost.
const LOST: Duration = Duration::from_secs(30);
/// Connections that make a burst.
const WRITERS: usize = 8;

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// From before the first write.
    pub(super) from_write: Duration,
    /// From when the last write was acknowledged; nothing if everybody had it before.
    pub(super) from_acknowledged: Duration,
    /// Bytes to each subscriber.
    pub(super) bytes: f64,
    /// Messages to each subscriber.
    pub(super) messages: f64,
}

/// What a workload looks like once a change is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    /// The label `version`, which is the canonical revision.
    Revision(String),
    /// One address.
    Address(Vec<u8>),
}

impl Sign {
    fn is_on(&self, workload: &Workload) -> bool {
        match self {
            Self::Revision(revision) => workload.canonical_revision == *revision,
            Self::Address(address) => workload.addresses.iter().any(|own| own.as_ref() == address.as_slice()),
        }
    }
}

/// Counts on through all turns, so that no change is like an earlier one.
#[derive(Debug, Default)]
pub(super) struct Changes {
    made: usize,
}

impl Changes {
    /// Changes single pods, a second or more apart: by turns a label, an address, and a pod that is new.
    pub(super) async fn alone(
        &mut self,
        cluster: &KubeCluster,
        scale: &Scale,
        subscribers: &mut Subscribers,
        count: usize,
    ) -> Result<Vec<Took>> {
        let mut session = fill::session(cluster).await?;
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            tokio::time::sleep(PAUSE).await;
            self.made += 1;
            let number = self.made;
            let (pod, change, sign) = match number % 3 {
                0 => {
                    let pod = scene::pod(scale, number * 7 % scale.pods);
                    (pod, relabelled(number), Sign::Revision(revision(number)))
                }
                1 => {
                    // Not one on the host's network, and ready: the address is all that changes.
                    let pod = scene::pod(scale, 1 + number % (scale.services.min(5)));
                    let address = scene::address(150_000 + number);
                    let mut status = pod.status.clone();
                    status["status"]["podIP"] = json!(address);
                    status["status"]["podIPs"] = json!([{"ip": address}]);
                    (pod, status, Sign::Address(octets(&address)?))
                }
                _ => {
                    let mut pod = scene::pod(scale, scale.pods + number);
                    pod.name = format!("late-{number}");
                    pod.object["metadata"]["name"] = json!(pod.name);
                    pod.object["metadata"]["labels"]["version"] = json!(revision(number));
                    // No controller shall adopt it.
                    pod.object["metadata"]["labels"]["pod-template-hash"] = json!("none");
                    session.create(&pod.collection(), &pod.object).await?;
                    let status = pod.status.clone();
                    (pod, status, Sign::Revision(revision(number)))
                }
            };
            let path =
                if change.get("status").is_some() { format!("{}/status", pod.path()) } else { pod.path() };
            let wanted = [(pod.uid(), sign)];
            let write = write(&mut session, &path, &change);
            all.push(measure(subscribers, &wanted, write).await.with_context(|| pod.uid())?);
        }
        Ok(all)
    }

    /// Changes a label of many pods as fast as the API server takes it.
    pub(super) async fn burst(
        &mut self,
        cluster: &KubeCluster,
        scale: &Scale,
        subscribers: &mut Subscribers,
        count: usize,
    ) -> Result<Took> {
        tokio::time::sleep(PAUSE).await;
        self.made += 1;
        let number = self.made;
        let pods: Vec<_> = (0..count).map(|pod| scene::pod(scale, pod)).collect();
        let wanted: Vec<_> = pods.iter().map(|pod| (pod.uid(), Sign::Revision(revision(number)))).collect();
        let mut sessions = Vec::new();
        for _ in 0..WRITERS {
            sessions.push(fill::session(cluster).await?);
        }
        let change = relabelled(number);
        let queue = parking_lot::Mutex::new(pods.iter());
        let writer = async |mut session: Session| {
            let mut last = Instant::now();
            loop {
                let next = queue.lock().next();
                let Some(pod) = next else { return anyhow::Ok(last) };
                last = write(&mut session, &pod.path(), &change).await?;
            }
        };
        let writing = async {
            let ends: Vec<Instant> =
                stream::iter(sessions).map(&writer).buffer_unordered(WRITERS).try_collect().await?;
            ends.into_iter().max().context("nobody wrote")
        };
        measure(subscribers, &wanted, writing).await
    }
}

fn revision(number: usize) -> String {
    format!("change-{number}")
}

fn relabelled(number: usize) -> Value {
    json!({"metadata": {"labels": {"version": revision(number)}}})
}

fn octets(address: &str) -> Result<Vec<u8>> {
    let address: std::net::Ipv4Addr = address.parse().context("an address")?;
    Ok(address.octets().to_vec())
}

/// Writes one change; returns when it was acknowledged.
async fn write(session: &mut Session, path: &str, change: &Value) -> Result<Instant> {
    session.merge(path, change).await?;
    Ok(Instant::now())
}

/// From the beginning of `writing` until every subscriber has all that is wanted.
async fn measure(
    subscribers: &mut Subscribers,
    wanted: &[(String, Sign)],
    writing: impl Future<Output = Result<Instant>>,
) -> Result<Took> {
    subscribers.forget()?;
    let (bytes, messages) = (subscribers.bytes(), subscribers.messages());
    let mut missing: HashSet<(usize, &str)> = wanted
        .iter()
        .flat_map(|(name, _)| (0..SUBSCRIBERS).map(move |subscriber| (subscriber, name.as_str())))
        .collect();
    let signs: std::collections::HashMap<&str, &Sign> =
        wanted.iter().map(|(name, sign)| (name.as_str(), sign)).collect();
    let started = Instant::now();
    let reading = async {
        let mut last = started;
        while !missing.is_empty() {
            let Arrival { subscriber, at, name, body } = subscribers.next(LOST).await?;
            let Some((name, sign)) = signs.get_key_value(name.as_str()) else { continue };
            if body.is_some_and(|body| shows(&body, sign)) && missing.remove(&(subscriber, *name)) {
                last = last.max(at);
            }
        }
        anyhow::Ok(last)
    };
    let (acknowledged, last) = tokio::try_join!(writing, reading)?;
    Ok(Took {
        from_write: last - started,
        from_acknowledged: last.saturating_duration_since(acknowledged),
        bytes: subscribers.bytes() - bytes,
        messages: subscribers.messages() - messages,
    })
}

fn shows(body: &[u8], sign: &Sign) -> bool {
    match Address::decode(body).map(|address| address.r#type) {
        Ok(Some(Type::Workload(workload))) => sign.is_on(&workload),
        Ok(Some(Type::Service(_)) | None) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(workload: Workload) -> Vec<u8> {
        Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec()
    }

    #[test]
    fn a_change_is_seen_by_what_it_changes() {
        let revision = Sign::Revision("change-7".to_owned());
        let changed = Workload { canonical_revision: "change-7".to_owned(), ..Workload::default() };
        assert!(shows(&body(changed), &revision));
        assert!(!shows(&body(Workload::default()), &revision));
        assert!(!shows(b"no message", &revision));
        let address = Sign::Address(octets("10.0.0.7").unwrap());
        let moved = Workload { addresses: vec![octets("10.0.0.7").unwrap().into()], ..Workload::default() };
        assert!(shows(&body(moved), &address));
    }
}
