//! What is listened to: an address, or a socket in the file system.

use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use callback_source::verify::TrustedProxies;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use super::proxy_header::{Proxy, ProxyHeaders};
use crate::{
    Error,
    args::Listen,
    config::{Client, Proxies},
};

/// A connection, whatever it runs over.
pub(super) type Stream = Box<dyn Io>;

pub(super) trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Io for T {}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Address {
        client: SocketAddr,
        /// Whether there is a trusted proxy in between.
        proxied: bool,
    },
    /// The proxy at a Unix socket.
    Socket,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    /// Who still has to say whose connection it is.
    pub(super) proxy: Option<Proxy>,
}

#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        /// The same socket, for [`Listener::accept_queued`].
        queue: std::net::TcpListener,
        trusted: TrustedProxies,
        headers: Option<ProxyHeaders>,
    },
    #[cfg(unix)]
    Unix(unix::SocketFile),
}

impl Listener {
    pub(super) async fn bind(listen: &Listen, proxies: Proxies) -> Result<Self, Error> {
        match listen {
            Listen::Tcp(address) => Self::bind_tcp(*address, proxies).await,
            #[cfg(unix)]
            Listen::Unix(path) => match unix::SocketFile::bind(path) {
                Ok(file) => Ok(Self::Unix(file)),
                Err(cause) => Err(Error::Listen {
                    address: format!("unix:{}", path.display()),
                    cause,
                }),
            },
            #[cfg(not(unix))]
            Listen::Unix(_) => Err(Error::NoUnixSockets),
        }
    }

    /// For those who connect without a proxy.
    pub(super) async fn bind_plain(address: SocketAddr) -> Result<Self, Error> {
        let none = Proxies {
            trusted: TrustedProxies::none(),
            client: Client::Peer,
            protocol: false,
        };
        Self::bind_tcp(address, none).await
    }

    async fn bind_tcp(address: SocketAddr, proxies: Proxies) -> Result<Self, Error> {
        let bound = async {
            let queue = TcpListener::bind(address).await?.into_std()?;
            let listener = TcpListener::from_std(queue.try_clone()?)?;
            Ok((listener, queue))
        };
        let (listener, queue) = bound.await.map_err(|cause| Error::Listen {
            address: address.to_string(),
            cause,
        })?;
        let trusted = proxies.trusted;
        Ok(Self::Tcp {
            listener,
            queue,
            headers: proxies.protocol.then(|| ProxyHeaders::new(trusted.clone())),
            trusted,
        })
    }

    /// For the log.
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

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arrived>> {
        Poll::Ready(Ok(match self {
            Self::Tcp {
                listener,
                trusted,
                headers,
                ..
            } => {
                let (stream, client) = ready!(listener.poll_accept(cx))?;
                Arrived::tcp(stream, client, trusted, headers.as_ref())
            }
            #[cfg(unix)]
            Self::Unix(file) => Arrived::unix(ready!(file.poll_accept(cx))?),
        }))
    }

    /// A connection that the system has accepted already; `WouldBlock` if there is none. Polling cannot tell:
    /// it does not ask the system before tokio was told of a connection, or once a task has used up its turn.
    pub(super) fn accept_queued(&self) -> io::Result<Arrived> {
        Ok(match self {
            Self::Tcp {
                queue,
                trusted,
                headers,
                ..
            } => {
                let (stream, client) = queue.accept()?;
                stream.set_nonblocking(true)?;
                Arrived::tcp(
                    TcpStream::from_std(stream)?,
                    client,
                    trusted,
                    headers.as_ref(),
                )
            }
            #[cfg(unix)]
            Self::Unix(file) => Arrived::unix(file.accept_queued()?),
        })
    }
}

impl Arrived {
    fn tcp(
        stream: TcpStream,
        client: SocketAddr,
        trusted: &TrustedProxies,
        headers: Option<&ProxyHeaders>,
    ) -> Self {
        // Small responses, and nothing to wait for.
        let _ = stream.set_nodelay(true);
        Self {
            stream: Box::new(stream),
            peer: Peer::Address {
                client,
                proxied: trusted.contains(client.ip()),
            },
            proxy: headers.and_then(|headers| headers.of(client)),
        }
    }

    #[cfg(unix)]
    fn unix(stream: tokio::net::UnixStream) -> Self {
        Self {
            stream: Box::new(stream),
            peer: Peer::Socket,
            proxy: None,
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::{
        fs, io,
        os::unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
        path::{Path, PathBuf},
        task::{Context, Poll},
    };

    use rustix::{fs::Mode, process::umask};
    use tokio::net::{UnixListener, UnixStream};

    /// A socket in the file system, which is removed when it is dropped.
    #[derive(Debug)]
    pub(in crate::serve) struct SocketFile {
        listener: UnixListener,
        queue: StdListener,
        path: PathBuf,
        /// Device and number, to tell it from one that another process put in its place.
        id: Option<(u64, u64)>,
    }

    impl SocketFile {
        pub(super) fn bind(path: &Path) -> io::Result<Self> {
            let listener = match bind_with_mode(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                    fs::remove_file(path)?;
                    bind_with_mode(path)
                }
                bound => bound,
            }?;
            listener.set_nonblocking(true)?;
            Ok(Self {
                listener: UnixListener::from_std(listener.try_clone()?)?,
                queue: listener,
                path: path.to_owned(),
                id: id(path),
            })
        }

        pub(super) fn path(&self) -> &Path {
            &self.path
        }

        pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
            let accepted = self.listener.poll_accept(cx);
            accepted.map(|accepted| accepted.map(|(stream, _)| stream))
        }

        pub(super) fn accept_queued(&self) -> io::Result<UnixStream> {
            let (stream, _) = self.queue.accept()?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }

    impl Drop for SocketFile {
        fn drop(&mut self) {
            if self.id.is_some() && id(&self.path) == self.id {
                // A later start takes it for left over.
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    /// With the mode from its first moment on; a change afterwards would leave a gap.
    fn bind_with_mode(path: &Path) -> io::Result<StdListener> {
        let before = umask(Mode::from_raw_mode(0o117));
        let bound = StdListener::bind(path);
        umask(before);
        bound
    }

    /// Whether it is a socket, and nobody listens to it.
    fn is_left_over(path: &Path) -> bool {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        is_socket && StdStream::connect(path).is_err_and(refused)
    }

    fn id(path: &Path) -> Option<(u64, u64)> {
        let found = fs::symlink_metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without an `await` in between, in which tokio could be told of the connections.
    fn takes_all_that_are_queued(listener: &Listener, connect: impl Fn()) {
        let empty = listener.accept_queued().map_err(|error| error.kind());
        assert_eq!(empty.map(|_| ()), Err(io::ErrorKind::WouldBlock));
        // More than tokio takes at one go.
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
    async fn connections_are_taken_before_tokio_was_told_of_them() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_plain(address).await.unwrap();
        let Listener::Tcp { queue, .. } = &listener else {
            panic!("it is TCP");
        };
        let address = queue.local_addr().unwrap();
        takes_all_that_are_queued(&listener, || {
            std::net::TcpStream::connect(address).unwrap();
        });
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn connections_of_a_unix_socket_are_taken_before_tokio_was_told_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::Unix(unix::SocketFile::bind(&path).unwrap());
        takes_all_that_are_queued(&listener, || {
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        });
    }
}
