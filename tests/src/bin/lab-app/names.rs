// SPDX-License-Identifier: Apache-2.0
//! DNS: one question, and a server that knows a few names and denies all others.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use lab::dns::{self, Over};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
};

/// TCP connections that are served at the same time.
const CONNECTIONS: usize = 256;
const TTL: u32 = 30;

/// Asks one server one question and prints the code and the addresses.
#[derive(Args)]
pub(crate) struct Dns {
    /// The name, fully qualified.
    name: String,
    /// Which records.
    #[arg(long = "type", value_enum, default_value_t = Kind::A)]
    kind: Kind,
    /// The server.
    #[arg(long)]
    server: SocketAddr,
    /// Over TCP instead of UDP.
    #[arg(long)]
    tcp: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    A,
    Aaaa,
}

impl Dns {
    pub(crate) async fn run(self) -> Result<()> {
        let kind = match self.kind {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
        };
        let answer =
            dns::ask(self.server, &self.name, kind, if self.tcp { Over::Tcp } else { Over::Udp }).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", answer.code)?;
        for address in answer.addresses {
            writeln!(out, "{address}")?;
        }
        Ok(())
    }
}

/// Answers A and AAAA questions over UDP and TCP from a fixed list.
#[derive(Args)]
pub(crate) struct DnsServer {
    /// Where to listen.
    #[arg(long, default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 53)))]
    listen: SocketAddr,
    /// `name=address`, any number of times.
    #[arg(long = "record")]
    records: Vec<String>,
}

type Zone = BTreeMap<Name, Vec<IpAddr>>;

impl DnsServer {
    pub(crate) async fn run(self) -> Result<()> {
        let mut zone = Zone::new();
        for record in &self.records {
            let (name, ip) =
                record.split_once('=').with_context(|| format!("{record:?} is not name=address"))?;
            let mut name = Name::from_utf8(name)?.to_lowercase();
            name.set_fqdn(true);
            zone.entry(name).or_default().push(ip.parse().with_context(|| format!("{ip} is no address"))?);
        }
        let zone = Arc::new(zone);
        let udp = UdpSocket::bind(self.listen).await.context("listening on UDP")?;
        let tcp = TcpListener::bind(self.listen).await.context("listening on TCP")?;
        tokio::try_join!(serve_udp(udp, &zone), serve_tcp(tcp, &zone)).map(drop)
    }
}

async fn serve_udp(socket: UdpSocket, zone: &Zone) -> Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = buffer.get(..length).and_then(|question| answer(question, zone)) {
            // Whoever gets no answer asks again.
            drop(socket.send_to(&answer, peer).await);
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: &Arc<Zone>) -> Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.context("accepting")?.0,
            Some(_ended) = connections.join_next() => continue,
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let zone = Arc::clone(zone);
        connections.spawn(async move {
            // A broken connection concerns its client only.
            drop(converse(stream, &zone).await);
            drop(permit);
        });
    }
}

async fn converse(mut stream: TcpStream, zone: &Zone) -> Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await?;
        let answer = answer(&question, zone).context("no question")?;
        stream.write_u16(u16::try_from(answer.len())?).await?;
        stream.write_all(&answer).await?;
    }
}

fn answer(question: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let found = zone.get(&query.name().to_lowercase());
    if found.is_none() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    for ip in found.into_iter().flatten() {
        let data = match (query.query_type(), ip) {
            (RecordType::A, IpAddr::V4(ip)) => RData::A((*ip).into()),
            (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA((*ip).into()),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    answer.add_query(query);
    answer.to_vec().ok()
}
