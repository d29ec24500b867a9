//! Flags of `lookup`.

use clap::Args as ClapArgs;

use super::{common::CommonArgs, values::switch};

/// Print the addresses that would be admitted
///
/// One a line, IPv4 first, sorted by number, each once; networks of `--allow` are among them.
/// Special-purpose addresses (private, loopback, …) in an answer are left out, which stderr says.
///
/// Exits with 2 when a host could not be looked up; what was found is printed nevertheless, and
/// stderr says what is missing. Do not build a firewall rule from that.
#[derive(Debug, ClapArgs)]
pub(crate) struct LookupArgs {
    /// Print a table with host, record type, TTL and state
    #[arg(long, value_parser = switch())]
    pub(crate) by_host: bool,

    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,

    /// Look up the environment's API server instead, which the merchant calls: for egress rules
    ///
    /// `--host` and `--allow` do not count then.
    #[arg(long, value_parser = switch())]
    pub(crate) api: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
