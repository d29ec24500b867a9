//! Flags of `demo`.

use std::net::SocketAddr;

use clap::Args as ClapArgs;

use super::{lists::trimmed, values::loopback_socket};

/// Try `serve` on this machine, with a DNS server in the process
///
/// Reads no configuration: no file and no variables. The DNS server knows one host. Its address is 127.0.0.1, so that
/// this machine is the callback server. After half a minute, it adds 127.0.0.3.
#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// Address of this machine on which to listen
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8480",
        value_parser = trimmed(loopback_socket)
    )]
    pub(crate) listen: SocketAddr,
}
