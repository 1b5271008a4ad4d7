// SPDX-License-Identifier: Apache-2.0
//! One DNS question to one server over UDP or TCP, from the calling thread's namespace. No cache, no search list, no
//! second try: a test wants to see what the server says.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
pub use hickory_proto::{op::ResponseCode, rr::RecordType};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(5);

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// In one datagram.
    Udp,
    /// With a length before it.
    Tcp,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, ...
    pub code: ResponseCode,
    /// The addresses among the answers, in the server's order.
    pub addresses: Vec<IpAddr>,
}

/// Asks `server` for the records of `kind` that `name` has.
///
/// # Errors
/// When no well-formed answer to that question comes within 5 s.
pub async fn ask(server: SocketAddr, name: &str, kind: RecordType, over: Over) -> Result<Answer> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let mut fully_qualified = Name::from_utf8(name).with_context(|| format!("{name} is no DNS name"))?;
    fully_qualified.set_fqdn(true);
    question.add_query(Query::query(fully_qualified, kind));
    let bytes = question.to_vec()?;
    let exchange = async {
        match over {
            Over::Udp => udp(server, &bytes).await,
            Over::Tcp => tcp(server, &bytes).await,
        }
    };
    let answer =
        timeout(DEADLINE, exchange).await.with_context(|| format!("asking {server} for {name}"))??;
    let answer = Message::from_vec(&answer).context("reading a DNS answer")?;
    ensure!(answer.metadata.id == question.metadata.id, "the answer is to another question");
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    Ok(Answer { code: answer.metadata.response_code, addresses: addresses.collect() })
}

async fn udp(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv4() { ([0; 4], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected: an answer from any other address is not an answer.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).await.with_context(|| format!("no answer from {server}"))?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn tcp(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
    stream.write_u16(u16::try_from(question.len())?).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    Ok(buffer)
}
