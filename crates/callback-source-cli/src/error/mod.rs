//! Errors that end a command.
//!
//! A message names the wrong value, and `hint` adds the next step where the message does not. Mistakes in flags
//! are found before anything listens, so that a server never runs with a part of its configuration.

use std::{io, path::PathBuf};

use callback_source::{
    NetworkError, SystemConfError, TtlBoundsError,
    signature::{SecretError, webhook::SignError},
};
use tracing_subscriber::filter::ParseError;

#[cfg(unix)]
mod unix_socket;

#[cfg(unix)]
pub(crate) use self::unix_socket::UnixSocketError;

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    TtlBounds(#[from] TtlBoundsError),

    #[error(transparent)]
    NetworkError(#[from] NetworkError),

    #[error("`--ipv4-only` cannot be used with `--ipv6-only`")]
    NoFamily,

    #[error("cannot find a DNS server in the system's configuration")]
    SystemConfError(#[from] SystemConfError),

    #[error("invalid log filter `{}`", .filter.escape_default())]
    LogFilter {
        filter: String,
        #[source]
        cause: ParseError,
    },

    #[error("`--trusted-proxy` requires `--client-ip-header` or `--proxy-protocol`")]
    NoClientHeader,

    #[error("{0} requires `--trusted-proxy CIDR`")]
    NoTrustedProxy(&'static str),

    #[error("`--client-ip-header` cannot be used with `--proxy-protocol`")]
    TwoSources,

    #[error(
        "`--listen unix:PATH` requires `--client-ip-header`: the peer of a Unix socket has no address"
    )]
    UnixPeer,

    #[error("`--proxy-protocol` cannot be used with `--listen unix:PATH`")]
    ProxyProtocolOverUnix,

    #[cfg(not(unix))]
    #[error("this system has no Unix sockets")]
    NoUnixSockets,

    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        cause: io::Error,
    },

    #[cfg(unix)]
    #[error("cannot listen on unix:{}", .path.display())]
    ListenUnix {
        path: PathBuf,
        #[source]
        fault: UnixSocketError,
    },

    #[error("no webhook secret was given")]
    NoSecret,

    #[error("invalid webhook secret")]
    Secret(#[from] SecretError),

    #[error("{0} is not UTF-8 text")]
    SecretNotText(&'static str),

    #[error("cannot read {what} from `{}`", .path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    #[error("the body from stdin cannot be put into a command line: {0}")]
    Inline(&'static str),

    #[error("the path of the body is not UTF-8 text")]
    BodyFileName,

    #[error(transparent)]
    SignError(#[from] SignError),

    #[error("`{}` does not contain an HTTP request: {why}", .path.display())]
    NoRequest { path: PathBuf, why: String },

    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),

    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl Error {
    /// The next step.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TtlBounds(_) => Some("set both `--min-ttl` and `--max-ttl`"),
            Self::NetworkError(_) => None,
            Self::NoFamily => Some("leave out both to look up both families"),
            Self::SystemConfError(_) => Some("give one with `--dns-server IP`"),
            Self::LogFilter { .. } => {
                Some("give a level such as `warn`, or `TARGET=LEVEL` pairs separated by commas")
            }
            Self::Listen { cause, .. } => match cause.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("stop the process that listens there, or choose another port")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("choose a port above 1023, or grant the permission to use this one")
                }
                io::ErrorKind::AddrNotAvailable => {
                    Some("give an address of this machine, or `0.0.0.0` or `[::]` for all of them")
                }
                _ => None,
            },
            #[cfg(unix)]
            Self::ListenUnix { fault, .. } => fault.hint(),
            Self::NoClientHeader => Some(
                "give the header with `--client-ip-header NAME`, or let `serve` read the PROXY \
                 protocol with `--proxy-protocol`",
            ),
            Self::NoTrustedProxy(_) => Some(
                "give the addresses of your proxies with `--trusted-proxy CIDR`; without it, any client could choose its own address",
            ),
            Self::TwoSources => Some("leave out `--client-ip-header` or `--proxy-protocol`"),
            Self::UnixPeer => {
                Some("give the proxy's header with the client's address: `--client-ip-header NAME`")
            }
            Self::ProxyProtocolOverUnix => Some(
                "let the proxy name the client in a header, and give that with `--client-ip-header NAME`",
            ),
            #[cfg(not(unix))]
            Self::NoUnixSockets => Some("give an address and a port"),
            Self::NoSecret => Some(
                "give a file with `--secret-file PATH`, or set `CALLBACK_SOURCE_WEBHOOK_SECRET`",
            ),
            Self::Secret(_) | Self::SecretNotText(_) => Some(
                "use the `secret` exactly as the provider returned it when the webhook was registered",
            ),
            Self::Inline(_) | Self::BodyFileName => {
                Some("save the body to a file, and give that with `--body-file PATH`")
            }
            Self::NoRequest { .. } => {
                Some("save the request as it arrived: request line, headers, an empty line, body")
            }
            Self::Read { .. } | Self::SignError(_) | Self::Stdout(_) | Self::Start(_) => None,
        }
    }
}
