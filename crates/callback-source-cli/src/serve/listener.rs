//! What is listened to: an address, or a socket in the file system.

use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use callback_source::verify::TrustedProxies;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
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
        let listener = TcpListener::bind(address).await;
        let trusted = proxies.trusted;
        Ok(Self::Tcp {
            listener: listener.map_err(|cause| Error::Listen {
                address: address.to_string(),
                cause,
            })?,
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
        match self {
            Self::Tcp {
                listener,
                trusted,
                headers,
            } => {
                let (stream, client) = ready!(listener.poll_accept(cx))?;
                // Small responses, and nothing to wait for.
                let _ = stream.set_nodelay(true);
                Poll::Ready(Ok(Arrived {
                    stream: Box::new(stream),
                    peer: Peer::Address {
                        client,
                        proxied: trusted.contains(client.ip()),
                    },
                    proxy: headers.as_ref().and_then(|headers| headers.of(client)),
                }))
            }
            #[cfg(unix)]
            Self::Unix(file) => {
                let stream = ready!(file.poll_accept(cx))?;
                Poll::Ready(Ok(Arrived {
                    stream: Box::new(stream),
                    peer: Peer::Socket,
                    proxy: None,
                }))
            }
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
                listener: UnixListener::from_std(listener)?,
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
