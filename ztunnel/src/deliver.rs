// SPDX-License-Identifier: Apache-2.0
//! The last step into a pod: a connection to the application, from the client's address where that is wanted, with a
//! PROXY header where the application asked for one.

use plan::{
    Failure, What,
    inbound::{From, ProxyHeader, Upstream},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::pod::Shard;

/// TLV of the PROXY header that carries the client's identity.
const IDENTITY_TLV: u8 = 0xD0;
const SIGNATURE: [u8; 12] = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A];

/// Connects to the application.
///
/// # Errors
/// When it does not accept.
pub async fn deliver(shard: &Shard, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let sockets = &shard.pod.sockets;
    let address = upstream.address;
    let connected = match upstream.from {
        From::Client(source) => sockets.connect_from(source, address).await,
        From::Any => sockets.connect(address).await,
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            return Err(What::ConnectTimeout(address).into());
        }
        Err(error) => return Err(What::ConnectFailed { address, cause: error.to_string() }.into()),
    };
    if let Some(header) = &upstream.proxy {
        let written = stream.write_all(&encode(header)).await;
        written.map_err(|error| What::ConnectFailed { address, cause: error.to_string() })?;
    }
    Ok(stream)
}

/// PROXY protocol, version 2, command PROXY, TCP.
fn encode(header: &ProxyHeader) -> Vec<u8> {
    use std::net::IpAddr;
    let mut addresses = Vec::with_capacity(36);
    let family = match (header.source.ip(), header.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            addresses.extend(source.octets());
            addresses.extend(destination.octets());
            0x11
        }
        (source, destination) => {
            addresses.extend(v6(source));
            addresses.extend(v6(destination));
            0x21
        }
    };
    addresses.extend(header.source.port().to_be_bytes());
    addresses.extend(header.destination.port().to_be_bytes());
    let identity = header.identity.as_bytes();
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = SIGNATURE.to_vec();
    out.extend([0x21, family]);
    out.extend(length(addresses.len() + 3 + identity.len()));
    out.extend(addresses);
    out.push(IDENTITY_TLV);
    out.extend(length(identity.len()));
    out.extend(identity);
    out
}

fn v6(ip: std::net::IpAddr) -> [u8; 16] {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_both_ends_and_the_identity() {
        let header = ProxyHeader {
            source: "10.0.0.1:1234".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            identity: "spiffe://td/ns/a/sa/b".into(),
        };
        let bytes = encode(&header);
        assert_eq!(bytes[..12], SIGNATURE);
        assert_eq!(bytes[12..16], [0x21, 0x11, 0, 12 + 3 + 21]);
        assert_eq!(bytes[16..28], [10, 0, 0, 1, 10, 0, 0, 2, 0x04, 0xD2, 0, 80]);
        assert_eq!(bytes[28..31], [IDENTITY_TLV, 0, 21]);
        assert_eq!(&bytes[31..], b"spiffe://td/ns/a/sa/b");
    }

    #[test]
    fn mixed_families_are_written_as_ipv6() {
        let header = ProxyHeader {
            source: "10.0.0.1:1".parse().unwrap(),
            destination: "[fd00::2]:80".parse().unwrap(),
            identity: "".into(),
        };
        let bytes = encode(&header);
        assert_eq!(bytes[13..16], [0x21, 0, 36 + 3]);
    }
}
