//! Flags of all commands that look up.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use callback_source::HostName;
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{EnumValueParser, PathBufValueParser, StringValueParser, TypedValueParser},
};
use ipnet::IpNet;

use super::{
    lists::{List, list, trimmed},
    values::{allowed, duration, host_name, path, state_file, switch},
};

/// Flags of all commands that look up.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonArgs {
    /// Configuration file (TOML); its keys are the flags of `serve`
    ///
    /// `callback-source config example` prints a file with all keys.
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) config: Option<PathBuf>,

    /// Environment of the provider; may be repeated [default: production, unless `--host` or
    /// `--allow` is given]
    #[arg(
        long,
        value_name = "ENVIRONMENT",
        value_parser = list(EnumValueParser::<Environment>::new()),
        help_heading = CALLERS
    )]
    pub(crate) environment: Vec<List<Environment>>,

    /// Host whose addresses are admitted
    #[arg(
        long,
        value_name = "NAME",
        value_parser = list(host_name),
        help_heading = CALLERS
    )]
    pub(crate) host: Vec<List<HostName>>,

    /// Network or address that is always admitted, without DNS
    #[arg(
        long,
        value_name = "CIDR",
        value_parser = list(allowed),
        help_heading = CALLERS
    )]
    pub(crate) allow: Vec<List<IpNet>>,

    /// Admit special-purpose addresses (loopback, private, …) in answers: only for tests, since DNS can
    /// then open your own network
    #[arg(
        long,
        value_parser = switch(),
        help_heading = CALLERS
    )]
    pub(crate) allow_special_addresses: bool,

    /// Look up IPv4 addresses only, for networks without answers to AAAA questions: IPv6 peers are refused,
    /// unless `--allow` lists them
    #[arg(
        long,
        value_parser = switch(),
        help_heading = LOOKUPS
    )]
    pub(crate) ipv4_only: bool,

    /// Look up IPv6 addresses only: IPv4 peers are refused, unless `--allow` lists them
    #[arg(
        long,
        value_parser = switch(),
        help_heading = LOOKUPS
    )]
    pub(crate) ipv6_only: bool,

    /// DNS server; several are asked in the given order [default: the system's; port 53]
    #[arg(
        long,
        value_name = "IP[:PORT]",
        value_parser = list(callback_source::parse_dns_server),
        help_heading = LOOKUPS
    )]
    pub(crate) dns_server: Vec<List<SocketAddr>>,

    /// Minimum TTL, and minimum time between two lookups of a question
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = trimmed(duration),
        help_heading = LOOKUPS
    )]
    pub(crate) min_ttl: Duration,

    /// Maximum TTL: no question is asked less often
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = trimmed(duration),
        help_heading = LOOKUPS
    )]
    pub(crate) max_ttl: Duration,

    /// Time for which an address stays admitted after it left the answer, at least until that answer has
    /// been refreshed
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = trimmed(duration),
        help_heading = LOOKUPS
    )]
    pub(crate) linger: Duration,

    /// Time for which the last answer stays in use while lookups fail
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "24h",
        value_parser = trimmed(duration),
        help_heading = LOOKUPS
    )]
    pub(crate) stale_for: Duration,

    /// File that keeps the answers, so that a restart while DNS is down refuses no known server; `lookup`
    /// and `check` only read it
    #[arg(
        long,
        value_name = "PATH",
        value_parser = trimmed(PathBufValueParser::new().try_map(state_file)),
        help_heading = LOOKUPS
    )]
    pub(crate) state_file: Option<PathBuf>,

    /// Log filter: a level, or `TARGET=LEVEL` pairs separated by commas [default:
    /// `error,callback_source=warn`, for `serve` and `follow` `error,callback_source=info`]
    #[arg(long, value_name = "FILTER",  value_parser = trimmed(StringValueParser::new()), help_heading = LOG)]
    pub(crate) log: Option<String>,

    /// Format of the log
    #[arg(
        long,
        value_name = "FORMAT",
        value_parser = trimmed(EnumValueParser::<LogFormat>::new()),
        default_value = "text",
        help_heading = LOG
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Environment {
    /// Real payments, including the servers for disaster recovery
    Production,
    /// The merchant test environment
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

const CALLERS: &str = "Allowed callers";
const LOOKUPS: &str = "Lookups";
const LOG: &str = "Log";
