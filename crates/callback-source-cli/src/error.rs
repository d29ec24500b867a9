//! What ends a command.

use std::{io, net::SocketAddr};

use callback_source::{NoDnsServer, TooWide, TtlBoundsError};
use tracing_subscriber::filter::ParseError;

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    TtlBounds(#[from] TtlBoundsError),

    #[error(transparent)]
    TooWide(#[from] TooWide),

    #[error("the system names no DNS server")]
    NoDnsServer(#[from] NoDnsServer),

    #[error("`{}` is no log filter", .filter.escape_default())]
    LogFilter {
        filter: String,
        #[source]
        cause: ParseError,
    },

    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },

    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),

    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl Error {
    /// What to do next.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TtlBounds(_) => Some("set both `--min-ttl` and `--max-ttl`"),
            Self::TooWide(_) => None,
            Self::NoDnsServer(_) => Some("name one with `--dns-server IP`"),
            Self::LogFilter { .. } => {
                Some("give a level such as `warn`, or `TARGET=LEVEL` pairs with commas in between")
            }
            Self::Listen { cause, .. } => match cause.kind() {
                io::ErrorKind::AddrInUse => Some("stop what listens there, or choose another port"),
                io::ErrorKind::PermissionDenied => {
                    Some("choose a port above 1023, or grant the right to use this one")
                }
                io::ErrorKind::AddrNotAvailable => {
                    Some("give an address of this machine, or `0.0.0.0` or `[::]` for all of them")
                }
                _ => None,
            },
            Self::Stdout(_) | Self::Start(_) => None,
        }
    }
}
