// SPDX-License-Identifier: Apache-2.0
//! `:authority` of a CONNECT: an address or a host name, always with a port (RFC 9110 §9.3.6, RFC 3986 §3.2).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use mesh::Hostname;

/// What a tunnel is asked to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address; never an IPv4-mapped IPv6 one.
    Address(SocketAddr),
    /// A service by name, with a port of the service.
    Host {
        /// Name of the service.
        hostname: Hostname,
        /// Port of the service.
        port: u16,
    },
}

/// Text that is not `ip:port`, `[ip]:port` or `name:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid authority {text:?}")]
pub struct InvalidAuthority {
    /// What was given.
    pub text: String,
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        parse(text).ok_or_else(|| InvalidAuthority { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Authority> {
    let (host, port) = text.rsplit_once(':')?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let ip: Option<IpAddr> = match host.strip_prefix('[') {
        Some(rest) => Some(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    };
    match ip {
        Some(ip) => Some(Authority::Address(SocketAddr::new(ip.to_canonical(), port))),
        // `10.0.0.1.` would be a name that is written like an address.
        None => {
            let hostname = Hostname::parse(host).ok()?;
            hostname.as_str().parse::<IpAddr>().is_err().then_some(Authority::Host { hostname, port })
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { hostname, port } => write!(f, "{hostname}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let cases = [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("Web.Shop.:80", Some("web.shop:80")),
            ("web:65535", Some("web:65535")),
            ("fd00::1:80", None),
            ("10.0.0.1.:80", None),
            ("[10.0.0.1]:80", None),
            ("[fd00::1]", None),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:+80", None),
            ("user@host:80", None),
            (":80", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<Authority>();
            assert_eq!(parsed.ok().map(|authority| authority.to_string()).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ip in any::<IpAddr>(), port in 1..u16::MAX) {
            let authority = Authority::Address(SocketAddr::new(ip.to_canonical(), port));
            prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC*") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
            }
        }
    }
}
