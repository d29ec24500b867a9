//! What is listened to: an address, or a socket in the file system.

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    task::{Context, Poll, ready},
};

use callback_source::verify::TrustedProxies;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
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
    pub(super) fn bind(listen: &Listen, proxies: Proxies) -> Result<Self, Error> {
        match listen {
            Listen::Tcp(address) => Self::bind_tcp(*address, proxies),
            #[cfg(unix)]
            Listen::Unix(path) => match unix::SocketFile::bind(path) {
                Ok(file) => Ok(Self::Unix(file)),
                Err(fault) => Err(Error::ListenUnix {
                    path: path.clone(),
                    fault,
                }),
            },
            #[cfg(not(unix))]
            Listen::Unix(_) => Err(Error::NoUnixSockets),
        }
    }

    /// For those who connect without a proxy.
    pub(super) fn bind_plain(address: SocketAddr) -> Result<Self, Error> {
        let none = Proxies {
            trusted: TrustedProxies::none(),
            client: Client::Peer,
            protocol: false,
        };
        Self::bind_tcp(address, none)
    }

    fn bind_tcp(address: SocketAddr, proxies: Proxies) -> Result<Self, Error> {
        let bound = || {
            let queue = listen(tcp_socket(address)?, address)?.into_std()?;
            let listener = TcpListener::from_std(queue.try_clone()?)?;
            Ok((listener, queue))
        };
        let (listener, queue) = bound().map_err(|cause| Error::Listen {
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

fn tcp_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // What tokio's own `bind` does. Elsewhere the option would let another process take the address over.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // `[::]` means both families to nearly everybody, and is what images and charts contain. Whether the
        // system takes it for IPv6 only depends on a setting (`net.ipv6.bindv6only`).
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

/// As tokio's own `bind`.
const BACKLOG: u32 = 1024;

#[cfg(unix)]
pub(crate) mod unix {
    use std::{
        fs::{self, FileType},
        io,
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
        pub(super) fn bind(path: &Path) -> Result<Self, SocketFault> {
            let listener = match bind_with_mode(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    match what_is_there(path) {
                        There::LeftOver => {
                            fs::remove_file(path)?;
                            bind_with_mode(path).map_err(|error| SocketFault::of(error, path))
                        }
                        There::Socket => Err(SocketFault::InUse),
                        There::Foreign => Err(SocketFault::Foreign),
                        There::Other(what) => Err(SocketFault::NoSocket(what)),
                        There::Nothing => Err(SocketFault::Io(error)),
                    }
                }
                bound => bound.map_err(|error| SocketFault::of(error, path)),
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

    /// Things that a path can lead to.
    enum There {
        Nothing,
        /// A socket to which no process listens.
        LeftOver,
        Socket,
        /// A socket that this process may not use.
        Foreign,
        Other(&'static str),
    }

    fn what_is_there(path: &Path) -> There {
        let Ok(found) = fs::symlink_metadata(path) else {
            return There::Nothing;
        };
        let found = found.file_type();
        if !found.is_socket() {
            return There::Other(name(found));
        }
        match StdStream::connect(path).map_err(|error| error.kind()) {
            Err(io::ErrorKind::ConnectionRefused) => There::LeftOver,
            Err(io::ErrorKind::PermissionDenied) => There::Foreign,
            _ => There::Socket,
        }
    }

    fn name(found: FileType) -> &'static str {
        match found {
            found if found.is_dir() => "a directory",
            found if found.is_symlink() => "a symbolic link",
            found if found.is_file() => "a regular file",
            found if found.is_fifo() => "a named pipe",
            _ => "a device",
        }
    }

    /// Reason why a path cannot be listened to.
    #[derive(Debug, thiserror::Error)]
    pub(crate) enum SocketFault {
        #[error("this path is {0}, not a socket")]
        NoSocket(&'static str),

        #[error("another process listens to this socket")]
        InUse,

        #[error("a socket of another user is there")]
        Foreign,

        #[error("the path is too long for a Unix socket")]
        TooLong,

        #[error("folder `{}` does not exist", .0.display())]
        NoFolder(PathBuf),

        #[error("`{}` is not a folder", .0.display())]
        NotAFolder(PathBuf),

        #[error("this process may not create a socket in folder `{}`", .0.display())]
        NoRight(PathBuf),

        #[error(transparent)]
        Io(#[from] io::Error),
    }

    impl SocketFault {
        fn of(error: io::Error, path: &Path) -> Self {
            let folder = match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => Path::new("/"),
            };
            let folder = folder.to_owned();
            match error.kind() {
                // What the standard library gives before it asks the system.
                io::ErrorKind::InvalidInput => Self::TooLong,
                io::ErrorKind::NotFound => Self::NoFolder(folder),
                io::ErrorKind::NotADirectory => Self::NotAFolder(folder),
                io::ErrorKind::PermissionDenied => Self::NoRight(folder),
                _ => Self::Io(error),
            }
        }

        /// The next step.
        pub(crate) fn hint(&self) -> Option<&'static str> {
            match self {
                Self::NoSocket("a directory") => {
                    Some("give a path in that directory, such as `unix:DIRECTORY/verify.sock`")
                }
                Self::NoSocket("a symbolic link") => Some("give the path of the socket itself"),
                Self::NoSocket(_) => Some("give another path; nothing is deleted there"),
                Self::InUse => Some("stop that process, or give another path"),
                Self::Foreign => Some("remove it if its process has ended, or give another path"),
                Self::TooLong => Some("give a path of at most 107 bytes, such as one below `/run`"),
                Self::NoFolder(_) => {
                    Some("create it first, for example with systemd's `RuntimeDirectory=`")
                }
                Self::NotAFolder(_) => Some("give another path"),
                Self::NoRight(_) => {
                    Some("let the user of this process write to the folder, or give another path")
                }
                Self::Io(_) => None,
            }
        }
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
        let listener = Listener::bind_plain(address).unwrap();
        let Listener::Tcp { queue, .. } = &listener else {
            panic!("it is TCP");
        };
        let address = queue.local_addr().unwrap();
        takes_all_that_are_queued(&listener, || {
            std::net::TcpStream::connect(address).unwrap();
        });
    }

    #[tokio::test]
    async fn the_unspecified_address_of_ipv6_is_for_both_families() {
        let socket = TcpSocket::new_v6().unwrap();
        // As where `net.ipv6.bindv6only` is set.
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
    async fn connections_of_a_unix_socket_are_taken_before_tokio_was_told_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::Unix(unix::SocketFile::bind(&path).unwrap());
        takes_all_that_are_queued(&listener, || {
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        });
    }
}
