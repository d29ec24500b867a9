//! Flags for proxies in front of the server.

use clap::Args as ClapArgs;
use http::HeaderName;

use super::{
    lists::{List, list, trimmed},
    values::{TrustedProxy, header_name, trusted_proxy},
};

/// Flags for proxies in front of the server.
#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyArgs {
    /// Proxy that is trusted to name the client; `unix:` trusts the entry that nginx behind a Unix socket
    /// writes into `x-forwarded-for`, as a hop and never as the client
    #[arg(
        long,
        value_name = "CIDR|unix:",
        value_parser = list(trusted_proxy),
        help_heading = PROXY
    )]
    pub(crate) trusted_proxy: Vec<List<TrustedProxy>>,

    /// Header with the client's address, from trusted proxies: `x-forwarded-for`, `forwarded`, or one with a
    /// single address, such as `x-real-ip`
    #[arg(
        long,
        value_name = "NAME",
        value_parser = trimmed(header_name),
        help_heading = PROXY
    )]
    pub(crate) client_ip_header: Option<HeaderName>,
}

pub(super) const PROXY: &str = "Behind a proxy";
