//! Listening sockets that the service manager opened for this process: systemd's socket activation.
//!
//! Each flag uses the socket whose address is the address in the flag. The names and the order of sockets are ignored.
//! Otherwise a socket unit could listen on an address other than the address in the flag.

#[cfg(unix)]
use std::{os::unix::net::UnixListener, path::Path};

use std::net::{SocketAddr, TcpListener};

#[cfg(unix)]
use listenfd::ListenFd;
#[cfg(unix)]
use socket2::SockRef;
use tracing::info;

use crate::error::Error;

/// Sockets that no flag uses yet.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    tcp: Vec<TcpListener>,
    #[cfg(unix)]
    unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes over the sockets that the environment describes.
    ///
    /// The variables are removed from the environment, so this function must run before the process has a second
    /// thread.
    #[cfg(unix)]
    pub(super) fn from_env() -> Result<Self, Error> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..passed.len() {
            let is_listener = if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
                let is_listener = SockRef::from(&socket).is_listener();
                inherited.tcp.push(socket);
                is_listener
            } else if let Ok(Some(socket)) = passed.take_unix_listener(index) {
                let is_listener = SockRef::from(&socket).is_listener();
                inherited.unix.push(socket);
                is_listener
            } else {
                Ok(false)
            };
            if !is_listener.unwrap_or(false) {
                return Err(Error::InheritedSocket(index + 1));
            }
        }
        Ok(inherited)
    }

    #[cfg(not(unix))]
    pub(super) fn from_env() -> Result<Self, Error> {
        Ok(Self::default())
    }

    pub(super) fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let is_at = |socket: &TcpListener| socket.local_addr().is_ok_and(|at| at == address);
        let position = self.tcp.iter().position(is_at)?;
        info!("the service manager passed the socket of {address}");
        Some(self.tcp.swap_remove(position))
    }

    #[cfg(unix)]
    pub(super) fn take_unix(&mut self, path: &Path) -> Option<UnixListener> {
        let position = self.unix.iter().position(|socket| {
            let address = socket.local_addr();
            address.is_ok_and(|at| at.as_pathname() == Some(path))
        })?;
        info!(
            "the service manager passed the socket of unix:{}",
            path.display()
        );
        Some(self.unix.swap_remove(position))
    }

    /// Fails if a socket is left that no flag uses. Connections to such a socket would wait forever.
    pub(super) fn finish(self) -> Result<(), Error> {
        if let Some(socket) = self.tcp.first() {
            let address = socket.local_addr().map(|address| address.to_string());
            return Err(Error::UnusedSocket(address.unwrap_or_default()));
        }
        #[cfg(unix)]
        if let Some(socket) = self.unix.first() {
            let address = socket.local_addr().ok();
            let path = address.as_ref().and_then(|address| address.as_pathname());
            let path = path.unwrap_or_else(|| Path::new("")).display();
            return Err(Error::UnusedSocket(format!("unix:{path}")));
        }
        Ok(())
    }
}
