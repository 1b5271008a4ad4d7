// SPDX-License-Identifier: Apache-2.0
//! One connected ztunnel: hello, then one request at a time, each answered before the next. What to say is the
//! roster's choice; this says it, with a deadline on every packet.

use std::{io, os::fd::AsFd, time::Instant};

use prost::Message as _;
use proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, Version, WorkloadInfo, WorkloadRequest,
    WorkloadResponse, ZdsHello, workload_request, workload_response,
};
use runtime::Shutdown;

use super::{
    Announcements,
    packet::Packets,
    roster::{LinkId, Message, Next},
};

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed; most often ztunnel went away.
    #[error("the connection of ztunnel failed while {doing}")]
    Lost {
        /// What was going on.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Bytes that are not the expected message.
    #[error("ztunnel sent no valid {what}")]
    Malformed {
        /// Which message was expected.
        what: &'static str,
        /// What is wrong with it; nothing when it decodes, but is empty.
        #[source]
        source: Option<prost::DecodeError>,
    },
    /// It speaks another version.
    #[error("ztunnel speaks version {version} of ZDS, this agent speaks 1")]
    Version {
        /// As it came.
        version: i32,
    },
    /// It did not accept the snapshot.
    #[error("ztunnel refused the snapshot: {error}")]
    Snapshot {
        /// In its words.
        error: String,
    },
    /// A packet nobody asked for.
    #[error("ztunnel spoke without being asked")]
    Unasked,
}

/// Talks to one ztunnel until it goes or the agent ends.
///
/// # Errors
/// When it goes or breaks the protocol.
pub async fn serve(
    packets: Packets,
    announcements: Announcements,
    shutdown: Shutdown,
) -> Result<(), LinkError> {
    let hello = packets
        .receive()
        .await
        .map_err(|source| LinkError::Lost { doing: "waiting for its hello", source })?;
    greeting(&hello)?;
    let presence = announcements.connect();
    tokio::select! {
        result = converse(&packets, &announcements, presence.link) => result,
        () = shutdown.requested() => Ok(()),
    }
}

/// Reads ztunnel's first packet.
///
/// # Errors
/// When it is no hello of a version that this agent speaks.
pub fn greeting(packet: &[u8]) -> Result<(), LinkError> {
    let hello = ZdsHello::decode(packet)
        .map_err(|error| LinkError::Malformed { what: "hello", source: Some(error) })?;
    if hello.version != i32::from(Version::V1) {
        return Err(LinkError::Version { version: hello.version });
    }
    Ok(())
}

/// Reads ztunnel's word on a request: an error in its words, empty when it did what it was asked.
///
/// # Errors
/// When it is no answer.
pub fn verdict(packet: &[u8]) -> Result<String, LinkError> {
    let response = WorkloadResponse::decode(packet)
        .map_err(|error| LinkError::Malformed { what: "answer", source: Some(error) })?;
    match response.payload {
        Some(workload_response::Payload::Ack(ack)) => Ok(ack.error),
        None => Err(LinkError::Malformed { what: "answer", source: None }),
    }
}

async fn converse(packets: &Packets, announcements: &Announcements, link: LinkId) -> Result<(), LinkError> {
    let mut changes = announcements.changes();
    loop {
        changes.mark_unchanged();
        match announcements.read(|roster| roster.next(link, Instant::now())) {
            Next::Send(message) => {
                let error = ask(packets, &message).await?;
                settle(announcements, link, &message, error)?;
            }
            Next::Idle(again) => tokio::select! {
                // The sender lives in `announcements`; were it gone, the peer's end would still be noticed.
                Ok(()) = changes.changed() => {}
                () = until(again) => {}
                packet = packets.receive_whenever() => return match packet {
                    Ok(_) => Err(LinkError::Unasked),
                    Err(source) => Err(LinkError::Lost { doing: "waiting for changes", source }),
                },
            },
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Sends one message and waits for ztunnel's word; empty means done.
async fn ask(packets: &Packets, message: &Message) -> Result<String, LinkError> {
    let descriptor = match message {
        Message::Add(workload, _) => workload.netns.as_ref().map(AsFd::as_fd),
        Message::Keep(_) | Message::Del(_) | Message::SnapshotSent => None,
    };
    let sent = packets.send(&encode(message), descriptor).await;
    sent.map_err(|source| LinkError::Lost { doing: "sending", source })?;
    let packet = packets
        .receive()
        .await
        .map_err(|source| LinkError::Lost { doing: "waiting for its answer", source })?;
    verdict(&packet)
}

fn settle(
    announcements: &Announcements,
    link: LinkId,
    message: &Message,
    error: String,
) -> Result<(), LinkError> {
    match message {
        Message::SnapshotSent if !error.is_empty() => return Err(LinkError::Snapshot { error }),
        Message::Add(workload, _) if !error.is_empty() => {
            tracing::warn!(pod = %workload.name, namespace = %workload.namespace, uid = %workload.uid, %error, "ztunnel refused the pod");
        }
        Message::Keep(uid) | Message::Del(uid) if !error.is_empty() => {
            tracing::warn!(%uid, %error, "ztunnel does not know the pod");
        }
        Message::Add(workload, _) => tracing::debug!(uid = %workload.uid, "ztunnel serves the pod"),
        Message::Del(uid) => tracing::debug!(%uid, "ztunnel let go of the pod"),
        Message::Keep(_) | Message::SnapshotSent => {}
    }
    announcements.change(|roster| roster.answered(link, message, &error, Instant::now()));
    Ok(())
}

fn encode(message: &Message) -> Vec<u8> {
    let payload = match message {
        Message::Add(workload, _) => workload_request::Payload::Add(AddWorkload {
            uid: workload.uid.to_string(),
            workload_info: Some(WorkloadInfo {
                name: workload.name.clone(),
                namespace: workload.namespace.clone(),
                service_account: workload.service_account.clone(),
            }),
        }),
        Message::Keep(uid) => workload_request::Payload::Keep(KeepWorkload { uid: uid.to_string() }),
        Message::Del(uid) => workload_request::Payload::Del(DelWorkload { uid: uid.to_string() }),
        Message::SnapshotSent => workload_request::Payload::SnapshotSent(SnapshotSent {}),
    };
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}
