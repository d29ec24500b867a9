//! Listener on an address or on a Unix socket.
//!
//! When a listener closes, the system resets the connections in the listener's queue. Their clients may already have
//! sent callbacks. Therefore these connections are accepted before the listener closes, through a second handle of the
//! socket. tokio's own handle does not ask the system before its driver has reported a connection.

use std::{
    future::poll_fn,
    io,
    net::{Ipv6Addr, SocketAddr},
    task::{Context, Poll, ready},
    time::Duration,
};

use callback_source::verify::TrustedProxies;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[cfg(unix)]
use super::unix_socket::SocketFile;
use super::{
    inherited::Inherited,
    owner::Owner,
    peer::{Peer, Stream},
    proxy_header::{Proxy, ProxyHeaders},
    trust::Trust,
};
use crate::{args::Listen, error::Error};

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    /// `true` if the peer is a trusted proxy.
    trusted: bool,
    /// The trusted proxy whose PROXY header is still unread.
    pub(super) proxy: Option<Proxy>,
}

#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        /// Second handle of the socket, for [`Listener::accept_queued`].
        queue: std::net::TcpListener,
        trusted: Trust,
        headers: Option<ProxyHeaders>,
    },
    #[cfg(unix)]
    Unix(SocketFile),
}

impl Listener {
    /// Listens on an address. Uses the socket that the service manager passed for this address, if there is such a
    /// socket.
    ///
    /// `reads_proxy_headers` is `true` if trusted proxies send the header of the PROXY protocol.
    pub(super) fn bind(
        listen: &Listen,
        trusted: Trust,
        reads_proxy_headers: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, Error> {
        match listen {
            Listen::Tcp(address) => {
                Self::bind_tcp(*address, trusted, reads_proxy_headers, inherited)
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let file = match inherited.take_unix(path) {
                    Some(socket) => SocketFile::inherited(socket, path).map_err(Into::into),
                    None => SocketFile::bind(path),
                };
                match file {
                    Ok(file) => Ok(Self::Unix(file)),
                    Err(fault) => Err(Error::ListenUnix {
                        path: path.clone(),
                        fault,
                    }),
                }
            }
            #[cfg(not(unix))]
            Listen::Unix(_) => Err(Error::NoUnixSockets),
        }
    }

    /// Listens on an address, without trusted proxies.
    pub(super) fn bind_plain(
        address: SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<Self, Error> {
        let none = Trust::new(TrustedProxies::none());
        Self::bind_tcp(address, none, false, inherited)
    }

    fn bind_tcp(
        address: SocketAddr,
        trusted: Trust,
        reads_proxy_headers: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, Error> {
        let mut bound = || {
            let queue = match inherited.take_tcp(address) {
                Some(socket) => socket,
                None => listen(tcp_socket(address)?, address)?.into_std()?,
            };
            queue.set_nonblocking(true)?;
            let listener = TcpListener::from_std(queue.try_clone()?)?;
            Ok((listener, queue))
        };
        let (listener, queue) = bound().map_err(|cause| Error::Listen {
            address: address.to_string(),
            cause,
        })?;
        Ok(Self::Tcp {
            listener,
            queue,
            headers: reads_proxy_headers.then(|| ProxyHeaders::new(trusted.clone())),
            trusted,
        })
    }

    /// Address as the log shows it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp { listener, .. } => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(error) => error.to_string(),
            },
            #[cfg(unix)]
            Self::Unix(file) => format!("unix:{}", file.path().display()),
        }
    }

    /// Accepts the next connection, and skips connections that the client has already closed.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        loop {
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Err(error) if is_of_client(&error) => {}
                accepted => return accepted,
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(Ok(match self {
            Self::Tcp {
                listener,
                trusted,
                headers,
                ..
            } => {
                let (stream, client) = ready!(listener.poll_accept(cx))?;
                Accepted::tcp(stream, client, trusted, headers.as_ref())
            }
            #[cfg(unix)]
            Self::Unix(file) => Accepted::unix(ready!(file.poll_accept(cx))?),
        }))
    }

    /// Accepts a connection from the system's queue. Returns `WouldBlock` if the queue is empty.
    ///
    /// Polling is not enough. A poll does not ask the system before tokio's driver has reported a connection, or after
    /// the task has used up its budget.
    pub(super) fn accept_queued(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp {
                queue,
                trusted,
                headers,
                ..
            } => {
                let (stream, client) = queue.accept()?;
                stream.set_nonblocking(true)?;
                Accepted::tcp(
                    TcpStream::from_std(stream)?,
                    client,
                    trusted,
                    headers.as_ref(),
                )
            }
            #[cfg(unix)]
            Self::Unix(file) => Accepted::unix(file.accept_queued()?),
        })
    }
}

fn tcp_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // tokio's `bind` sets this option, too. On systems other than Unix, the option would let another process take over
    // the address.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Container images and charts use `[::]` for both families. On some systems, `[::]` means IPv6 only
        // (`net.ipv6.bindv6only`).
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Accepted {
    fn tcp(
        stream: TcpStream,
        client: SocketAddr,
        trusted: &Trust,
        headers: Option<&ProxyHeaders>,
    ) -> Self {
        // Nagle's algorithm would not help: responses are small, and no further data follows that could be sent with a
        // response.
        let _ = stream.set_nodelay(true);
        Self {
            stream: Box::new(stream),
            peer: Peer::Tcp {
                client,
                proxy: None,
            },
            trusted: trusted.proxies().contains(client.ip()),
            proxy: headers.and_then(|headers| headers.expected_from(client)),
        }
    }

    pub(super) fn owner(&self) -> Owner {
        match self.peer {
            _ if self.proxy.is_some() => Owner::Unknown,
            Peer::Unix => Owner::Trusted,
            Peer::Tcp { .. } if self.trusted => Owner::Trusted,
            Peer::Tcp { client, .. } => Owner::address(client.ip()),
        }
    }

    #[cfg(unix)]
    fn unix(stream: tokio::net::UnixStream) -> Self {
        Self {
            stream: Box::new(stream),
            peer: Peer::Unix,
            trusted: true,
            proxy: None,
        }
    }
}

/// Returns whether accepting failed because the client has closed the connection.
pub(super) fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Pause after a system error, such as too many open files: an immediate attempt would fail, too.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Backlog of connections, as in tokio's `bind`.
const BACKLOG: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts queued connections without an `await`. During an `await`, tokio's driver could report the connections.
    fn accepts_all_that_are_queued(listener: &Listener, connect: impl Fn()) {
        let empty = listener.accept_queued().map_err(|error| error.kind());
        assert_eq!(empty.map(|_| ()), Err(io::ErrorKind::WouldBlock));
        // These are more connections than a task may accept before it yields.
        for _ in 0..200 {
            connect();
            assert!(listener.accept_queued().is_ok());
        }
        connect();
        connect();
        assert!(listener.accept_queued().is_ok() && listener.accept_queued().is_ok());
        assert!(listener.accept_queued().is_err());
    }

    #[tokio::test]
    async fn queued_connections_are_accepted_before_tokio_reports_them() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_plain(address, &mut Inherited::default()).unwrap();
        let Listener::Tcp { queue, .. } = &listener else {
            panic!("it is TCP");
        };
        let address = queue.local_addr().unwrap();
        accepts_all_that_are_queued(&listener, || {
            std::net::TcpStream::connect(address).unwrap();
        });
    }

    #[tokio::test]
    async fn the_unspecified_address_of_ipv6_serves_both_families() {
        let socket = TcpSocket::new_v6().unwrap();
        // The socket is set up as on a system with `net.ipv6.bindv6only`.
        SockRef::from(&socket).set_only_v6(true).unwrap();
        let listener = listen(socket, "[::]:0".parse().unwrap()).unwrap();
        assert!(!SockRef::from(&listener).only_v6().unwrap());
        let port = listener.local_addr().unwrap().port();
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            std::net::TcpStream::connect(address).unwrap();
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn queued_connections_of_a_unix_socket_are_accepted_before_tokio_reports_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::Unix(SocketFile::bind(&path).unwrap());
        accepts_all_that_are_queued(&listener, || {
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        });
    }
}
