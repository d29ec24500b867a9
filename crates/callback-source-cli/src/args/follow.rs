//! Flags of `follow`, and those that it shares with `serve --follow`.

use std::net::SocketAddr;

use clap::{Args as ClapArgs, builder::StringValueParser};

use super::{
    common::CommonArgs,
    lists::{List, list, trimmed},
    targets::{Target, target},
    values::{socket, switch},
};

/// Keep firewalls and proxies equal to the set of admitted addresses
///
/// `nftables:inet/TABLE/SET`: the elements of `SET` (IPv4) and `SET6` (IPv6), each with the remaining time of
/// its address's window as timeout. Needs `nft` and CAP_NET_ADMIN. `haproxy:SOCKET:ACL`: an ACL of a running
/// HAProxy, named by the path of its file. The file is written as well. `file:FORMAT:PATH`: a file; the formats are
/// `plain`, `json`, `nginx-geo`, `nginx-allow`, `apache-rewritemap`, `caddy`, `traefik` and
/// `kubernetes-networkpolicy`.
///
/// While a host has not been resolved yet, addresses are only added. A target is never emptied, unless
/// `--allow-empty` is given. A target is checked every 2 s, and restored if something else has changed it.
///
/// SIGTERM, SIGINT and SIGQUIT end the command after the write in progress, with exit code 0. The targets keep
/// their addresses, except that elements of nftables end with their windows.
#[derive(Debug, ClapArgs)]
pub(crate) struct FollowArgs {
    /// Copy of the set: `nftables:inet/TABLE/SET`, `haproxy:SOCKET:ACL` or `file:FORMAT:PATH`
    #[arg(
        value_name = "TARGET",
        value_parser = list(target),
        required_unless_present = "print_ruleset"
    )]
    pub(crate) targets: Vec<List<Target>>,

    /// Look up once, bring the targets up to date, and exit: 0 if all targets are, otherwise 2. Give a
    /// `--state-file`, since lingering addresses are otherwise unknown to the next call
    #[arg(long, value_parser = switch())]
    pub(crate) once: bool,

    /// Look up once and print what would change, without changing it: exit code 0 if nothing would, 1 if
    /// something would, 2 for an error
    #[arg(long, value_parser = switch())]
    pub(crate) dry_run: bool,

    /// Print a ruleset for nftables that uses the sets of the target (by default
    /// `nftables:inet/callback_source/callers`), and exit
    #[arg(long, value_parser = switch())]
    pub(crate) print_ruleset: bool,

    /// Address of `/healthz`, `/readyz` and `/status.json`, for everyone who can connect
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = trimmed(socket)
    )]
    pub(crate) admin_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) options: FollowOptions,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Flags of `follow` and of `serve --follow`.
#[derive(Debug, ClapArgs)]
pub(crate) struct FollowOptions {
    /// Command for the shell that runs at the start and after each change of a `file:` target: one at a time,
    /// ended after 60 s, and repeated if it fails
    #[arg(
        long,
        value_name = "COMMAND",
        value_parser = trimmed(StringValueParser::new()),
        help_heading = TARGETS
    )]
    pub(crate) on_change: Option<String>,

    /// Empty the targets when no address is admitted any more
    #[arg(
        long,
        value_parser = switch(),
        help_heading = TARGETS
    )]
    pub(crate) allow_empty: bool,
}

pub(super) const TARGETS: &str = "Targets";
