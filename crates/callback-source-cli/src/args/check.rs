//! Flags of `check`.

use std::net::IpAddr;

use clap::Args as ClapArgs;
use http::{HeaderName, HeaderValue};

use super::{
    common::CommonArgs,
    lists::trimmed,
    proxy::{PROXY, ProxyArgs},
    values::{address, header_line, switch},
};

/// Say whether these peers would be admitted
///
/// One a line: the host whose answer holds the address and how fresh that is, or the reason why not.
///
/// With `--peer` one request: each hop on the way to the client, nearest first, and whether the client
/// would be admitted.
///
/// Exits with 0 when all are admitted, with 1 when some are not, and with 2 when it cannot be said,
/// such as when DNS cannot be reached.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// Addresses of peers
    #[arg(
        value_name = "IP",
        value_parser = trimmed(address),
        required_unless_present = "peer"
    )]
    pub(crate) peers: Vec<IpAddr>,

    /// The peer of a connection, whose headers are then read as `serve` would, hop by hop
    #[arg(
        long,
        value_name = "IP",
        value_parser = trimmed(address),
        conflicts_with = "peers",
        help_heading = PROXY
    )]
    pub(crate) peer: Option<IpAddr>,

    /// A header of a request from that peer; may be repeated
    #[arg(
        long,
        value_name = "NAME: VALUE",
        value_parser = header_line,
        requires = "peer",
        help_heading = PROXY
    )]
    pub(crate) header: Vec<(HeaderName, HeaderValue)>,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
