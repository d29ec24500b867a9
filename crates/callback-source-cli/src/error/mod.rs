//! Errors that end a command.
//!
//! A message names the wrong value, if there is one. If there is a next step that the message does not name, `hint`
//! returns it. Mistakes in flags are found before anything listens, so that a server never runs with only a part of its
//! configuration.

use std::{fmt, io, path::PathBuf};

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
    /// Error of the command line. clap also reports `--help` and `--version` as this error.
    #[error(transparent)]
    Usage(#[from] clap::Error),

    #[error("{}:{position}: {problem}", .path.display())]
    ConfigFile {
        path: PathBuf,
        position: Position,
        problem: String,
    },

    #[error(
        "unknown variable `{}`{}",
        .name.escape_debug(),
        .nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
    )]
    UnknownVariable {
        name: String,
        nearest: Option<String>,
    },

    #[error(transparent)]
    TtlBounds(#[from] TtlBoundsError),

    #[error(transparent)]
    NetworkError(#[from] NetworkError),

    #[error("`{0}` can be changed only by a restart")]
    NeedsRestart(String),

    #[error("the file has no keys any more")]
    NoKeysLeft,

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

    #[error("socket {0} of the service manager is not a listening TCP or Unix stream socket")]
    InheritedSocket(usize),

    #[error("the service manager passed a socket of {0}, and no flag names this address")]
    UnusedSocket(String),

    #[error("cannot ask the server at {address}")]
    Ask {
        address: String,
        #[source]
        cause: io::Error,
    },

    #[error("the server has no journal, or is older than this command")]
    NoJournal,

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

    #[error("cannot write `{}`", .path.display())]
    Write {
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

/// Position in a text file. Line and column start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl Error {
    /// Returns the next step for the user, if there is one that the message does not name.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Usage(_) | Self::ConfigFile { .. } => None,
            Self::UnknownVariable { .. } => Some(
                "`callback-source SUBCOMMAND --help` lists the variables; give variables of other \
                 programs another prefix",
            ),
            Self::TtlBounds(_) => Some("set both `--min-ttl` and `--max-ttl`"),
            Self::NetworkError(_) | Self::NeedsRestart(_) | Self::NoKeysLeft => None,
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
            Self::InheritedSocket(_) => {
                Some("use `ListenStream=` without `Accept=yes` in the socket unit")
            }
            Self::UnusedSocket(_) => Some(
                "give it with `--listen` or `--admin-listen`, or change `ListenStream=` in the socket unit",
            ),
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
            Self::Ask { .. } => {
                Some("give the admin listener of the running server with `--admin-listen`")
            }
            Self::NoJournal => Some("start `serve` with `--journal PATH` or `--state-file PATH`"),
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
            Self::Read { .. }
            | Self::Write { .. }
            | Self::SignError(_)
            | Self::Stdout(_)
            | Self::Start(_) => None,
        }
    }
}
