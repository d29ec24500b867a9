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
    values::{allowed, duration, host_name, state_file, switch},
};

/// Flags of all commands that look up.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonArgs {
    /// The provider's environment; several add up [default: production, unless `--host` or
    /// `--allow` is given]
    #[arg(
        long,
        value_name = "ENVIRONMENT",
        value_parser = list(EnumValueParser::<Environment>::new()),
        help_heading = WHO
    )]
    pub(crate) environment: Vec<List<Environment>>,

    /// A host whose addresses are admitted
    #[arg(
        long,
        value_name = "NAME",
        value_parser = list(host_name),
        help_heading = WHO
    )]
    pub(crate) host: Vec<List<HostName>>,

    /// A network or an address that is admitted whatever DNS says
    #[arg(
        long,
        value_name = "CIDR",
        value_parser = list(allowed),
        help_heading = WHO
    )]
    pub(crate) allow: Vec<List<IpNet>>,

    /// Take special-purpose addresses (loopback, private, …) from answers: only for tests, since
    /// DNS can then open your own network
    #[arg(
        long,
        value_parser = switch(),
        help_heading = WHO
    )]
    pub(crate) allow_special_addresses: bool,

    /// Look up IPv4 addresses only, where AAAA questions are never answered: IPv6 peers are refused,
    /// unless `--allow` has them
    #[arg(
        long,
        value_parser = switch(),
        help_heading = SUPPLY
    )]
    pub(crate) ipv4_only: bool,

    /// Look up IPv6 addresses only: IPv4 peers are refused, unless `--allow` has them
    #[arg(
        long,
        value_parser = switch(),
        help_heading = SUPPLY
    )]
    pub(crate) ipv6_only: bool,

    /// A DNS server, asked in the order given [default: the system's; port 53]
    #[arg(
        long,
        value_name = "IP[:PORT]",
        value_parser = list(callback_source::parse_dns_server),
        help_heading = SUPPLY
    )]
    pub(crate) dns_server: Vec<List<SocketAddr>>,

    /// The least TTL: no host is asked more often [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) min_ttl: Option<Duration>,

    /// The greatest TTL: no host is asked less often [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) max_ttl: Option<Duration>,

    /// For how long an address that left the answer stays admitted, at least until that answer has
    /// been refreshed [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) linger: Option<Duration>,

    /// For how long the last answer still counts while look-ups fail [default: 24h]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) stale_for: Option<Duration>,

    /// Keep what is known in this file, so that a restart while DNS is down refuses no known server;
    /// `lookup` and `check` only read it
    #[arg(
        long,
        value_name = "PATH",
        value_parser = trimmed(PathBufValueParser::new().try_map(state_file)),
        help_heading = SUPPLY
    )]
    pub(crate) state_file: Option<PathBuf>,

    /// Log filter: a level, or `TARGET=LEVEL` pairs with commas in between [default:
    /// `error,callback_source=warn`, for `serve` `error,callback_source=info`]
    #[arg(long, value_name = "FILTER",  value_parser = trimmed(StringValueParser::new()), help_heading = LOG)]
    pub(crate) log: Option<String>,

    /// How to log
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
    /// Real payments, the servers for disaster recovery included
    Production,
    /// The merchant test environment
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

const WHO: &str = "Who may call";
const SUPPLY: &str = "Look-ups";
const LOG: &str = "Log";
