// SPDX-License-Identifier: Apache-2.0
//! The DNS servers of the node. Questions that are not about the mesh are passed on byte for byte, so that every type
//! of record, present or future, gets through.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    system_conf::parse_resolv_conf,
};
use mesh::Hostname;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::dns::message::{renumbered, restored};

/// A server that does not answer by then is given up for the next one.
const ANSWER: Duration = Duration::from_secs(2);
/// Servers that are asked at most, as in the C library.
const SERVERS: usize = 3;
/// Addresses of names that are kept.
const CACHED: u64 = 4096;
/// Largest DNS message.
const LARGEST: usize = 65_535;

/// See the module.
pub struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<Hostname>,
    lookup: Option<TokioResolver>,
}

/// How a question came and is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream with a length before each message.
    Tcp,
}

impl Transport {
    /// The value of the label `request_protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl Resolver {
    /// Reads `resolv.conf`. Without a usable one there are no servers, and what is not about the mesh is refused.
    pub fn new(path: &Path) -> Self {
        let parsed = std::fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|text| parse_resolv_conf(text).map_err(|error| error.to_string()));
        match parsed {
            Ok((config, options)) => Self::with(config, options),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no DNS servers: only names of the mesh will resolve");
                Self { servers: Vec::new(), search: Vec::new(), lookup: None }
            }
        }
    }

    fn with(config: ResolverConfig, mut options: ResolverOpts) -> Self {
        options.cache_size = CACHED;
        options.timeout = ANSWER;
        let servers =
            config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).take(SERVERS).collect();
        let search =
            config.search().iter().filter_map(|name| Hostname::parse(&name.to_utf8()).ok()).collect();
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Self { servers, search, lookup: builder.with_options(options).build().ok() }
    }

    /// Search domains.
    pub fn search(&self) -> &[Hostname] {
        &self.search
    }

    /// Passes a question on and returns the first answer.
    ///
    /// # Errors
    /// When no server answers; the last one's error.
    pub async fn forward(&self, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no DNS servers");
        for server in &self.servers {
            let label = transport.as_str();
            metrics::counter!("istio_dns_upstream_requests_total", "request_protocol" => label).increment(1);
            let began = Instant::now();
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(*server, question).await,
                    Transport::Tcp => over_tcp(*server, question).await,
                }
            };
            match tokio::time::timeout(ANSWER, asked).await {
                Ok(Ok(answer)) => {
                    metrics::histogram!("istio_dns_upstream_request_duration_seconds", "request_protocol" => label)
                        .record(began.elapsed().as_secs_f64());
                    return Ok(answer);
                }
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
            metrics::counter!("istio_dns_upstream_failures_total", "request_protocol" => label).increment(1);
            tracing::debug!(%server, error = %last, "a DNS server did not answer");
        }
        Err(last)
    }

    /// Addresses of a name outside the mesh; empty when there are none.
    pub async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let Some(lookup) = &self.lookup else { return Vec::new() };
        match lookup.lookup_ip(format!("{name}.")).await {
            Ok(found) => found.iter().map(|ip| ip.to_canonical()).collect(),
            Err(error) => {
                tracing::debug!(name, %error, "a name was not resolved");
                Vec::new()
            }
        }
    }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (asked, id) = numbered(question)?;
    socket.send(&asked).await?;
    let mut answer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(restored) = restored(answer.get(..length).unwrap_or_default(), id, question) {
            return Ok(restored);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (asked, id) = numbered(question)?;
    write_message(&mut stream, &asked).await?;
    let answer = read_message(&mut stream).await?;
    restored(&answer, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A number of our own: the application's could be guessed by whoever asks beside it.
fn numbered(question: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let id = rand::random();
    Ok((renumbered(question, id).ok_or(io::ErrorKind::InvalidData)?, id))
}

/// Reads one message of a stream (RFC 7766 §8).
///
/// # Errors
/// When the stream ends.
pub async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message to a stream, length and message in one segment.
///
/// # Errors
/// When it is too long, or the stream failed.
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_too_long| io::ErrorKind::InvalidData)?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(message);
    stream.write_all(&out).await
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.servers).field("search", &self.search).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_leaves_no_servers() {
        let resolver = Resolver::new(Path::new("/nonexistent/resolv.conf"));
        assert!(resolver.servers.is_empty());
    }

    #[tokio::test]
    async fn servers_and_search_domains_come_from_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "search a.svc.cluster.local svc.cluster.local\nnameserver 10.0.0.10\n")
            .unwrap();
        let resolver = Resolver::new(file.path());
        assert_eq!(resolver.servers, ["10.0.0.10:53".parse().unwrap()]);
        assert_eq!(resolver.search()[1].as_str(), "svc.cluster.local");
    }
}
