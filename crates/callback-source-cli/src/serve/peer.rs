//! Who is at the other end of a connection, and the stream of bytes to it.

use std::{fmt, net::SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp {
        client: SocketAddr,
        /// Whether there is a trusted proxy in between.
        proxied: bool,
    },
    /// The proxy at a Unix socket.
    Unix,
}

/// A connection, whatever it runs over.
pub(super) type Stream = Box<dyn Io>;

pub(super) trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Io for T {}
