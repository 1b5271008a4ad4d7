// SPDX-License-Identifier: Apache-2.0
//! The server name in a TLS handshake, read from the first bytes of a connection (RFC 6066 §3), without ending it.

use rustls::server::Acceptor;

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More are needed.
    Incomplete,
    /// A handshake, with the name that it asks for.
    Complete(Option<String>),
    /// No TLS.
    None,
}

/// A handshake is not longer.
pub const LONGEST: usize = 64 * 1024;

/// Reads the first message of a client.
pub fn hello(bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Hello::None;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Hello::Complete(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_) => return Hello::None,
        }
    }
    if bytes.len() > LONGEST { Hello::None } else { Hello::Incomplete }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs::default_provider};

    use super::*;

    fn first_flight(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_server_name_is_found_when_all_of_it_is_there() {
        let bytes = first_flight("web.example");
        assert_eq!(hello(&bytes), Hello::Complete(Some("web.example".to_owned())));
        for length in [0, 1, 5, 100, bytes.len() - 1] {
            assert_eq!(hello(&bytes[..length]), Hello::Incomplete, "{length} bytes");
        }
        assert_eq!(hello(&first_flight("10.0.0.1")), Hello::Complete(None), "an address is no name");
    }

    #[test]
    fn what_is_no_handshake_is_told_at_once() {
        assert_eq!(hello(b"GET / HTTP/1.1\r\n\r\n"), Hello::None);
        assert_eq!(hello(&[0x16, 0x03, 0x01, 0xFF, 0xFF, 0x01]), Hello::None, "longer than a record may be");
    }
}
