//! The server name in the first message of a TLS connection. Read with the parser of rustls, nothing is decrypted.

use rustls::server::Acceptor;

/// First byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 22;
/// Longest first message in bytes.
pub(super) const HELLO_BYTES_MAX: usize = 64 * 1_024;

/// What is known of a connection by its first bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// It speaks something else.
    NotTls,
    /// More bytes are needed.
    Incomplete,
    /// Whole; the name asked for, if one is.
    Name(Option<String>),
    /// It begins like TLS and is not.
    Broken,
}

/// Reads first bytes as they come.
#[derive(Default)]
pub(super) struct HelloReader {
    acceptor: Acceptor,
    seen: usize,
}

impl HelloReader {
    /// Takes in `bytes`, which follow those of earlier calls. Not to be called after it has told.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Hello {
        if self.seen == 0 && bytes.first().is_some_and(|first| *first != HANDSHAKE) {
            return Hello::NotTls;
        }
        self.seen += bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.acceptor.read_tls(&mut rest) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Hello::Broken,
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted
                        .client_hello()
                        .server_name()
                        .map(str::to_ascii_lowercase);
                    return Hello::Name(name);
                }
                Ok(None) => {}
                Err(_) => return Hello::Broken,
            }
        }
        if self.seen > HELLO_BYTES_MAX {
            return Hello::Broken;
        }
        Hello::Incomplete
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// The first bytes of a client that asks for `name`.
    pub(in crate::egress) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the usual versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        bytes
    }

    #[test]
    fn the_name_is_found_in_whole_and_in_pieces() {
        let bytes = hello("API.example.com");
        let name = Hello::Name(Some("api.example.com".to_owned()));
        assert_eq!(HelloReader::default().take(&bytes), name);
        let mut reader = HelloReader::default();
        let (last, first) = bytes.split_last().expect("it has bytes");
        for byte in first {
            assert_eq!(reader.take(&[*byte]), Hello::Incomplete);
        }
        assert_eq!(reader.take(&[*last]), name);
        assert_eq!(
            HelloReader::default().take(&hello("192.0.2.1")),
            Hello::Name(None)
        );
        let more = [bytes, b"early data".to_vec()].concat();
        assert_eq!(HelloReader::default().take(&more), name);
    }

    #[test]
    fn other_protocols_are_told_from_broken_ones() {
        assert_eq!(
            HelloReader::default().take(b"GET / HTTP/1.1\r\n"),
            Hello::NotTls
        );
        assert_eq!(
            HelloReader::default().take(&[22, 3, 1, 0, 4, 9, 9, 9, 9]),
            Hello::Broken
        );
        assert_eq!(
            HelloReader::default().take(&[22, 3, 1, 0xff, 0xff]),
            Hello::Broken
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0_usize..200, byte in any::<u8>(), cut in 1_usize..200) {
            let mut bytes = hello("api.example.com");
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut reader = HelloReader::default();
            for piece in bytes.chunks(cut) {
                if reader.take(piece) != Hello::Incomplete {
                    break;
                }
            }
        }
    }
}
