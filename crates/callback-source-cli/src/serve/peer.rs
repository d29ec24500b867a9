//! Peer of a connection, and the stream of bytes to it.
//!
//! The stream is boxed, so that the rest of the server is compiled once for TCP and Unix sockets.

use std::{fmt, net::SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};

/// Peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp {
        client: SocketAddr,
        /// `true` if a trusted proxy connected for the client.
        proxied: bool,
    },
    /// The proxy at a Unix socket, which has no address.
    Unix,
}

/// Stream of a connection, whatever its transport.
pub(super) type Stream = Box<dyn Io>;

pub(super) trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Io for T {}
