//! Peer of a connection, and the stream of bytes to it.
//!
//! The stream is boxed, so that the rest of the server is compiled once for TCP and Unix sockets.

use std::{fmt, net::SocketAddr};

use callback_source::verify::TrustedProxies;
use tokio::io::{AsyncRead, AsyncWrite};

/// Peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp {
        client: SocketAddr,
        /// Address of the trusted proxy, if it sent a PROXY header.
        proxy: Option<SocketAddr>,
    },
    /// The proxy at a Unix socket, which has no address.
    Unix,
}

impl Peer {
    /// Returns the peer according to the proxies that are trusted now. Also returns whether the peer is a trusted proxy
    /// or was named by a trusted proxy.
    ///
    /// A connection can outlast the trust in its proxy. If the proxy is no longer trusted, the peer is the proxy
    /// itself.
    pub(super) fn judged_by(self, trusted: &TrustedProxies) -> (Self, bool) {
        match self {
            Self::Unix => (self, true),
            Self::Tcp {
                client,
                proxy: None,
            } => (self, trusted.contains(client.ip())),
            Self::Tcp {
                proxy: Some(proxy), ..
            } if trusted.contains(proxy.ip()) => (self, true),
            Self::Tcp {
                proxy: Some(proxy), ..
            } => {
                let itself = Self::Tcp {
                    client: proxy,
                    proxy: None,
                };
                (itself, false)
            }
        }
    }
}

/// Stream of a connection, whatever its transport.
pub(super) type Stream = Box<dyn Io>;

pub(super) trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Io for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_no_longer_trusted_speaks_for_no_client() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let trusted = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]).unwrap();
        let named = |proxy: Option<&str>| Peer::Tcp {
            client: at("192.0.2.1:1"),
            proxy: proxy.map(at),
        };
        let by_proxy = named(Some("10.0.0.1:2"));
        assert_eq!(by_proxy.judged_by(&trusted), (by_proxy, true));
        let itself = Peer::Tcp {
            client: at("10.0.0.1:2"),
            proxy: None,
        };
        let none = TrustedProxies::none();
        assert_eq!(by_proxy.judged_by(&none), (itself, false));
        assert_eq!(itself.judged_by(&trusted), (itself, true));
        assert_eq!(itself.judged_by(&none), (itself, false));
        assert_eq!(named(None).judged_by(&trusted), (named(None), false));
        assert_eq!(Peer::Unix.judged_by(&none), (Peer::Unix, true));
    }
}
