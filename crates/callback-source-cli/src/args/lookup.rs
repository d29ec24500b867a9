//! Flags of `lookup`.

use clap::Args as ClapArgs;

use super::{common::CommonArgs, values::switch};

/// Print the addresses that would be admitted
///
/// One address a line, IPv4 first, in numerical order and without duplicates. Networks of `--allow` are
/// included. Special-purpose addresses (private, loopback, …) in an answer are left out, with a warning
/// on stderr.
///
/// The exit code is 2 if a lookup failed. The addresses that were found are printed nevertheless, and
/// stderr names what is missing. Do not build a firewall rule from an incomplete list.
#[derive(Debug, ClapArgs)]
pub(crate) struct LookupArgs {
    /// Print a table with host, record type, TTL and state
    #[arg(long, value_parser = switch())]
    pub(crate) by_host: bool,

    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,

    /// Look up the API server that the merchant calls, in place of the callback servers: for egress rules
    ///
    /// `--host` and `--allow` are ignored.
    #[arg(long, value_parser = switch())]
    pub(crate) api: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
