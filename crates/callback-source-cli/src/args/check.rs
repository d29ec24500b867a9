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

/// Check whether these peers would be admitted
///
/// One peer a line, with the host whose answer contains the address and the freshness of that answer, or
/// with the reason of the refusal.
///
/// With `--peer`, prints each hop of one request on the way to the client, nearest first, and the verdict on
/// the client.
///
/// The exit code is 0 if all peers are admitted, 1 if some peers are not, and 2 if the command cannot decide,
/// for example because DNS cannot be reached.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// Addresses of peers
    #[arg(
        value_name = "IP",
        value_parser = trimmed(address),
        required_unless_present = "peer"
    )]
    pub(crate) peers: Vec<IpAddr>,

    /// Peer of a connection; its forwarding headers are read hop by hop, as `serve` does
    #[arg(
        long,
        value_name = "IP",
        value_parser = trimmed(address),
        conflicts_with = "peers",
        help_heading = PROXY
    )]
    pub(crate) peer: Option<IpAddr>,

    /// Header of the request from that peer; may be repeated
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
