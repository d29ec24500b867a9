//! The header of the PROXY protocol, which trusted proxies send before anything else.
//!
//! The library's listener for axum does not limit the number of connections. In `serve`, each connection has a permit,
//! and the time limit of the first head also covers the PROXY header.

use std::{io, net::SocketAddr, sync::Arc};

use callback_source::verify::proxy_protocol::Header;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    owner::Owner,
    peer::{Peer, Stream},
    trust::Trust,
};
use crate::log::OncePerMinute;

/// Trusted proxies, which must send the header.
#[derive(Clone, Debug)]
pub(super) struct ProxyHeaders {
    proxies: Trust,
    warnings: Arc<OncePerMinute>,
}

impl ProxyHeaders {
    pub(super) fn new(proxies: Trust) -> Self {
        Self {
            proxies,
            warnings: Arc::default(),
        }
    }

    /// Returns the proxy at the other end of a connection, if it is trusted.
    pub(super) fn expected_from(&self, peer: SocketAddr) -> Option<Proxy> {
        self.proxies.proxies().contains(peer.ip()).then(|| Proxy {
            peer,
            warnings: Arc::clone(&self.warnings),
        })
    }
}

/// A trusted proxy at the other end of a connection.
#[derive(Debug)]
pub(super) struct Proxy {
    peer: SocketAddr,
    warnings: Arc<OncePerMinute>,
}

impl Proxy {
    /// Reads the header, and returns the client and the bytes that were read after the header. A proxy that names no
    /// client, as in a health check, is the client itself.
    pub(super) async fn read_header(&self, stream: &mut Stream) -> io::Result<(Peer, Vec<u8>)> {
        let mut ahead = Vec::new();
        match Header::read(stream, &mut ahead).await {
            Ok(Ok(header)) => {
                let peer = Peer::Tcp {
                    client: header.client().unwrap_or(self.peer),
                    proxy: Some(self.peer),
                };
                Ok((peer, ahead))
            }
            Ok(Err(error)) => {
                self.warn_limited(&error.to_string());
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(error) => {
                // Nothing is logged if no byte was sent: some load balancers check the port in this way.
                if error.kind() == io::ErrorKind::UnexpectedEof && !ahead.is_empty() {
                    self.warn_limited("the PROXY protocol header is incomplete");
                }
                Err(error)
            }
        }
    }

    /// Returns the owner of a connection whose header names this client.
    pub(super) fn owner(&self, client: Peer) -> Owner {
        match client {
            Peer::Tcp { client, .. } if client != self.peer => Owner::address(client.ip()),
            Peer::Tcp { .. } | Peer::Unix => Owner::Trusted,
        }
    }

    fn warn_limited(&self, problem: &str) {
        let proxy = self.peer.ip().to_canonical();
        if self.warnings.admits(Instant::now()) {
            warn!(%proxy, "connection of a trusted proxy closed: {problem}");
        } else {
            debug!(%proxy, "connection of a trusted proxy closed: {problem}");
        }
    }
}
