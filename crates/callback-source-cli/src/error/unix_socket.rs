//! Error from listening on a Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Reason why the server cannot listen on a path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnixSocketError {
    #[error("this path is {0}, not a socket")]
    NoSocket(&'static str),

    #[error("another process listens on this socket")]
    InUse,

    #[error("the socket at this path belongs to another user")]
    Foreign,

    #[error("the path is too long for a Unix socket")]
    TooLong,

    #[error("folder `{}` does not exist", .0.display())]
    NoFolder(PathBuf),

    #[error("`{}` is not a folder", .0.display())]
    NotAFolder(PathBuf),

    #[error("no permission to create a socket in folder `{}`", .0.display())]
    NoRight(PathBuf),

    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UnixSocketError {
    pub(crate) fn from_io(error: io::Error, path: &Path) -> Self {
        let folder = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let folder = folder.to_owned();
        match error.kind() {
            // The standard library itself returns this kind if the path is too long.
            io::ErrorKind::InvalidInput => Self::TooLong,
            io::ErrorKind::NotFound => Self::NoFolder(folder),
            io::ErrorKind::NotADirectory => Self::NotAFolder(folder),
            io::ErrorKind::PermissionDenied => Self::NoRight(folder),
            _ => Self::Io(error),
        }
    }

    /// Returns the next step for the user, if there is one.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSocket("a directory") => {
                Some("give a path in that directory, such as `unix:DIRECTORY/verify.sock`")
            }
            Self::NoSocket("a symbolic link") => Some("give the path of the socket itself"),
            Self::NoSocket(_) => Some("give another path; this file is not deleted"),
            Self::InUse => Some("stop that process, or give another path"),
            Self::Foreign => Some("remove it if its process has ended, or give another path"),
            Self::TooLong => Some("give a path of at most 107 bytes, such as one below `/run`"),
            Self::NoFolder(_) => {
                Some("create it first, for example with systemd's `RuntimeDirectory=`")
            }
            Self::NotAFolder(_) => Some("give another path"),
            Self::NoRight(_) => {
                Some("allow the user of this process to write to the folder, or give another path")
            }
            Self::Io(_) => None,
        }
    }
}
