// SPDX-License-Identifier: Apache-2.0
//! The connection to the node agent: one protobuf message per `SOCK_SEQPACKET` packet, a pod's namespace beside
//! `AddWorkload`. It carries messages; what they mean for the pods is `pods`' to say. Tokio has no type for such a socket;
//! its `UnixDatagram` only lends the registration with the runtime, which is the same for every unix socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use prost::Message;
use proto::zds::{
    AddWorkload, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request::Payload, workload_response,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use tokio::{io::Interest, net::UnixDatagram};

/// Largest message that is accepted.
const MAX_MESSAGE: usize = 1024;
/// The agent takes a message at once or is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What the agent asks.
#[derive(Debug)]
pub enum Request {
    /// Serve this pod.
    Add(AddWorkload, OwnedFd),
    /// A pod that is still there, without a namespace to offer.
    Keep(String),
    /// Stop serving this pod.
    Del(String),
    /// All pods that were there before have been named.
    SnapshotSent,
}

impl Request {
    /// Reads one message and takes the descriptors that came with it.
    ///
    /// # Errors
    /// When it is no request, or has not what belongs to it.
    pub fn parse(message: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<Self, ZdsError> {
        let request = WorkloadRequest::decode(message).map_err(ZdsError::Decode)?;
        let descriptor = descriptors.pop();
        if !descriptors.is_empty() {
            return Err(ZdsError::Protocol("more than one descriptor"));
        }
        match (request.payload, descriptor) {
            (Some(Payload::Add(add)), Some(netns)) if add.workload_info.is_some() => {
                Ok(Self::Add(add, netns))
            }
            (Some(Payload::Add(_)), Some(_)) => Err(ZdsError::Protocol("AddWorkload without workload_info")),
            (Some(Payload::Add(_)), None) => Err(ZdsError::Protocol("AddWorkload without a namespace")),
            (Some(_), Some(_)) => {
                Err(ZdsError::Protocol("a descriptor beside a message other than AddWorkload"))
            }
            (Some(Payload::Keep(keep)), None) => Ok(Self::Keep(keep.uid)),
            (Some(Payload::Del(del)), None) => Ok(Self::Del(del.uid)),
            (Some(Payload::SnapshotSent(_)), None) => Ok(Self::SnapshotSent),
            (None, _) => Err(ZdsError::Protocol("an unknown request")),
        }
    }
}

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ZdsError {
    /// The socket failed.
    #[error("the connection to the node agent failed")]
    Io(#[from] io::Error),
    /// The agent closed it.
    #[error("the node agent closed the connection")]
    Closed,
    /// Not a message of this protocol.
    #[error("the node agent sent something that is not a ZDS request")]
    Decode(#[source] prost::DecodeError),
    /// A rule of the protocol was broken.
    #[error("the node agent broke the ZDS protocol: {0}")]
    Protocol(&'static str),
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    socket: UnixDatagram,
}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody serves the path.
    pub async fn open(path: &Path) -> Result<Self, ZdsError> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(io::Error::from)?;
        connect(&socket, &SocketAddrUnix::new(path).map_err(io::Error::from)?).map_err(io::Error::from)?;
        let connection = Self::new(socket)?;
        connection.send(&ZdsHello { version: proto::zds::Version::V1.into() }.encode_to_vec()).await?;
        Ok(connection)
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// The next request. Cancel safe: a packet is taken whole or not at all.
    ///
    /// # Errors
    /// When the connection ended or the protocol was broken.
    pub async fn receive(&self) -> Result<Request, ZdsError> {
        let (message, descriptors) =
            self.socket.async_io(Interest::READABLE, || receive_packet(&self.socket)).await?;
        if message.is_empty() {
            return Err(ZdsError::Closed);
        }
        Request::parse(&message, descriptors)
    }

    /// Answers the last request; an empty error means done.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn acknowledge(&self, error: String) -> Result<(), ZdsError> {
        let payload = workload_response::Payload::Ack(proto::zds::Ack { error });
        self.send(&WorkloadResponse { payload: Some(payload) }.encode_to_vec()).await
    }

    async fn send(&self, message: &[u8]) -> Result<(), ZdsError> {
        let write = self.socket.async_io(Interest::WRITABLE, || {
            let mut control = SendAncillaryBuffer::default();
            Ok(sendmsg(&self.socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match tokio::time::timeout(SEND_TIMEOUT, write).await {
            Ok(result) => Ok(result.map(|_bytes| ())?),
            Err(_elapsed) => Err(ZdsError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

fn receive_packet(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; MAX_MESSAGE];
    // Room for two, so that a second one is seen and refused instead of being cut off.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message or its descriptors were too long"));
    }
    let mut descriptors = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            descriptors.extend(rights);
        }
    }
    message.truncate(received.bytes);
    Ok((message, descriptors))
}

#[cfg(test)]
mod tests;
