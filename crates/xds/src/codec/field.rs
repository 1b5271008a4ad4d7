// SPDX-License-Identifier: Apache-2.0
//! Fields that several messages have: addresses, ports, gateways, enums. Each error names the field it is about.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use bytes::Bytes;
use ipnet::IpNet;
use mesh::{
    Hostname, InvalidName, Network, NetworkAddress, ServiceName,
    service::{AppProtocol, PortMap, ServicePort},
    workload::{GatewayAddress, GatewayDestination},
};
use proto::workload as wire;

/// Where a gateway listens when the message does not say.
const HBONE_PORT: u16 = 15008;

/// A field that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}")]
pub struct FieldError {
    /// Name of the field in the schema, with a path where it is nested.
    pub field: &'static str,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It must be there.
    #[error("is missing")]
    Missing,
    /// Not 4 or 16 bytes.
    #[error("is an address of {length} bytes")]
    Address {
        /// How long it is.
        length: usize,
    },
    /// A prefix longer than its address.
    #[error("has a prefix length of {length}")]
    Prefix {
        /// The length given.
        length: u32,
    },
    /// Not a port.
    #[error("{port} is not a port")]
    Port {
        /// The number given.
        port: u32,
    },
    /// An enum value from a newer schema, or from none.
    #[error("has the unknown value {value}")]
    Unknown {
        /// The number given.
        value: i32,
    },
    /// An extension that changes what the resource means.
    #[error("{name:?} is not supported")]
    Extension {
        /// Its name.
        name: String,
    },
    /// A text of the wrong form.
    #[error("{value:?} is no {what}")]
    Text {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// A pattern that cannot be used.
    #[error(transparent)]
    Pattern(mesh::l7::InvalidPattern),
    /// An expression that cannot be used.
    #[error(transparent)]
    Expression(mesh::expression::InvalidExpression),
    /// A name of the wrong form.
    #[error(transparent)]
    Name(InvalidName),
}

/// Puts the name of the field on a problem.
pub(super) trait In<T> {
    /// See the trait.
    fn field(self, field: &'static str) -> Result<T, FieldError>;
}

impl<T> In<T> for Result<T, Problem> {
    fn field(self, field: &'static str) -> Result<T, FieldError> {
        self.map_err(|problem| FieldError { field, problem })
    }
}

impl<T> In<T> for Result<T, InvalidName> {
    fn field(self, field: &'static str) -> Result<T, FieldError> {
        self.map_err(Problem::Name).field(field)
    }
}

impl<T> In<T> for Option<T> {
    fn field(self, field: &'static str) -> Result<T, FieldError> {
        self.ok_or(Problem::Missing).field(field)
    }
}

/// An enum whose meaning matters: an unknown value is refused.
pub(super) fn known<E: TryFrom<i32>>(value: i32) -> Result<E, Problem> {
    E::try_from(value).ok().ok_or(Problem::Unknown { value })
}

/// An address, never an IPv4-mapped one.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, Problem> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets) => Ok(IpAddr::from(Ipv6Addr::from(octets)).to_canonical()),
        Err(_) => Err(Problem::Address { length: bytes.len() }),
    }
}

/// An address as bytes.
pub(super) fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// A range; without a length a single address. Host bits are cleared.
pub(super) fn net(bytes: &[u8], length: Option<u32>) -> Result<IpNet, Problem> {
    let ip = ip(bytes)?;
    let Some(given) = length else { return Ok(IpNet::from(ip)) };
    let wrong = Problem::Prefix { length: given };
    // An IPv4-mapped prefix counts the 96 bits in front.
    let mapped = ip.is_ipv4() && bytes.len() == 16;
    let length = if mapped { given.checked_sub(96) } else { Some(given) };
    let Some(length) = length.and_then(|length| u8::try_from(length).ok()) else { return Err(wrong) };
    match IpNet::new(ip, length) {
        Ok(net) => Ok(net.trunc()),
        Err(_) => Err(wrong),
    }
}

/// A port where 0 is none.
pub(super) fn port(port: u32) -> Result<Option<u16>, Problem> {
    match u16::try_from(port) {
        Ok(number) => Ok((number != 0).then_some(number)),
        Err(_) => Err(Problem::Port { port }),
    }
}

/// A list of ports by service port; of two with the same number the last counts.
pub(super) fn ports(ports: Vec<wire::Port>) -> Result<PortMap, Problem> {
    let mut map = PortMap::new();
    for message in ports {
        let Some(number) = port(message.service_port)? else {
            return Err(Problem::Port { port: message.service_port });
        };
        map.insert(
            number,
            ServicePort { target: port(message.target_port)?, protocol: protocol(message.app_protocol) },
        );
    }
    Ok(map)
}

/// The messages of a list of ports.
pub(super) fn ports_message(ports: &PortMap) -> Vec<wire::Port> {
    let message = |(number, port): (&u16, &ServicePort)| wire::Port {
        service_port: u32::from(*number),
        target_port: port.target.map_or(0, u32::from),
        app_protocol: protocol_message(port.protocol).into(),
    };
    ports.iter().map(message).collect()
}

/// A hint: what is newer than this code is not declared.
fn protocol(value: i32) -> AppProtocol {
    match wire::AppProtocol::try_from(value) {
        Ok(wire::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(wire::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(wire::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(wire::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(wire::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(wire::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    }
}

fn protocol_message(protocol: AppProtocol) -> wire::AppProtocol {
    match protocol {
        AppProtocol::Unknown => wire::AppProtocol::Unknown,
        AppProtocol::Http11 => wire::AppProtocol::Http11,
        AppProtocol::Http2 => wire::AppProtocol::Http2,
        AppProtocol::Grpc => wire::AppProtocol::Grpc,
        AppProtocol::Tcp => wire::AppProtocol::Tcp,
        AppProtocol::Tls => wire::AppProtocol::Tls,
    }
}

/// A gateway or waypoint.
pub(super) fn gateway(message: wire::GatewayAddress) -> Result<GatewayAddress, Problem> {
    let destination = match message.destination.ok_or(Problem::Missing)? {
        wire::gateway_address::Destination::Hostname(name) => GatewayDestination::Hostname(ServiceName {
            namespace: name.namespace.into(),
            hostname: Hostname::parse(&name.hostname).map_err(Problem::Name)?,
        }),
        wire::gateway_address::Destination::Address(address) => {
            if let Some(length) = address.length
                && usize::try_from(length).ok() != Some(address.address.len() * 8)
            {
                return Err(Problem::Prefix { length });
            }
            GatewayDestination::Address(NetworkAddress::new(
                Network(address.network.into()),
                ip(&address.address)?,
            ))
        }
    };
    Ok(GatewayAddress { destination, hbone_port: port(message.hbone_mtls_port)?.unwrap_or(HBONE_PORT) })
}

/// The message of a gateway or waypoint.
pub(super) fn gateway_message(gateway: &GatewayAddress) -> wire::GatewayAddress {
    let destination = match &gateway.destination {
        GatewayDestination::Hostname(name) => {
            wire::gateway_address::Destination::Hostname(wire::NamespacedHostname {
                namespace: name.namespace.to_string(),
                hostname: name.hostname.to_string(),
            })
        }
        GatewayDestination::Address(address) => {
            wire::gateway_address::Destination::Address(wire::NetworkAddress {
                network: address.network.to_string(),
                address: ip_bytes(address.ip),
                length: None,
            })
        }
    };
    wire::GatewayAddress { destination: Some(destination), hbone_mtls_port: gateway.hbone_port.into() }
}

/// A name that must have its form.
pub(super) fn name<T: FromStr<Err = InvalidName>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(Problem::Name)
}
