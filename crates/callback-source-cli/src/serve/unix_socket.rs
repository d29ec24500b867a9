//! Listener on a Unix socket.
//!
//! If a process is killed, its socket stays in the file system, and the next start would fail. Therefore the start
//! removes the socket if no process listens on it. Any other file at the path is not removed, because a wrong path must
//! not delete data.
//!
//! Whoever can write to the socket can name any client. The socket is therefore created with its final mode, and is
//! never open to everyone.

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

use crate::error::UnixSocketError;

/// Socket in the file system. Its file is removed when this value is dropped, unless the service manager created it.
#[derive(Debug)]
pub(super) struct SocketFile {
    listener: UnixListener,
    queue: StdListener,
    path: PathBuf,
    /// Device and inode, which distinguish this socket from a later socket of another process at the same path.
    /// `None` if another process removes the file.
    id: Option<(u64, u64)>,
}

impl SocketFile {
    pub(super) fn bind(path: &Path) -> Result<Self, UnixSocketError> {
        let listener = match bind_with_mode(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match occupant(path) {
                Occupant::LeftOver => {
                    fs::remove_file(path)?;
                    bind_with_mode(path).map_err(|error| UnixSocketError::from_io(error, path))
                }
                Occupant::Socket => Err(UnixSocketError::InUse),
                Occupant::Foreign => Err(UnixSocketError::Foreign),
                Occupant::Other(what) => Err(UnixSocketError::NoSocket(what)),
                Occupant::Nothing => Err(UnixSocketError::Io(error)),
            },
            bound => bound.map_err(|error| UnixSocketError::from_io(error, path)),
        }?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener.try_clone()?)?,
            queue: listener,
            path: path.to_owned(),
            id: id(path),
        })
    }

    /// Uses a socket that the service manager created. The removal of the file is left to the manager.
    pub(super) fn inherited(listener: StdListener, path: &Path) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener.try_clone()?)?,
            queue: listener,
            path: path.to_owned(),
            id: None,
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
            // If this fails, the next start removes the unused socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds with the final mode. If the mode were changed later, other users could connect before the change.
fn bind_with_mode(path: &Path) -> io::Result<StdListener> {
    let before = umask(Mode::from_raw_mode(0o117));
    let bound = StdListener::bind(path);
    umask(before);
    bound
}

/// Kind of file at a path.
enum Occupant {
    Nothing,
    /// Socket on which no process listens.
    LeftOver,
    Socket,
    /// Socket that this process may not use.
    Foreign,
    Other(&'static str),
}

fn occupant(path: &Path) -> Occupant {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Occupant::Nothing;
    };
    let found = found.file_type();
    if !found.is_socket() {
        return Occupant::Other(name(found));
    }
    match StdStream::connect(path).map_err(|error| error.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => Occupant::LeftOver,
        Err(io::ErrorKind::PermissionDenied) => Occupant::Foreign,
        _ => Occupant::Socket,
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

fn id(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
