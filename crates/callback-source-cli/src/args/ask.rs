//! Flags of the commands that ask a running server.

use std::{net::IpAddr, path::PathBuf};

use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{EnumValueParser, StringValueParser},
};

use super::{
    lists::{List, list, trimmed},
    values::{Listen, Past, address, listen, past, path, switch},
};

/// The server to ask.
#[derive(Debug, ClapArgs)]
pub(crate) struct AskArgs {
    /// Admin listener of the running server
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        value_parser = trimmed(listen)
    )]
    pub(crate) admin_listen: Listen,

    /// Configuration file of the running server, for its `admin-listen`
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) config: Option<PathBuf>,

    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,
}

/// Show the state of the running server
///
/// The exit code is 0 if the server is ready, 1 if it is not, and 2 if it cannot be asked.
#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// Show the journal of the running server: changes, outages, refusals
///
/// One event a line, oldest first. The exit code is 0 if there are events, 1 if there are none, and 2 if the server
/// cannot be asked. `--only refused-then-listed` shows servers of the provider that were refused before an answer
/// contained their addresses.
#[derive(Debug, ClapArgs)]
pub(crate) struct HistoryArgs {
    /// Oldest event to show: `today`, `yesterday`, a duration such as `12h`, or a time (UTC)
    #[arg(
        long,
        value_name = "TIME",
        value_parser = trimmed(past)
    )]
    pub(crate) since: Option<Past>,

    /// Events about this peer or server only
    #[arg(
        long,
        value_name = "IP",
        value_parser = trimmed(address)
    )]
    pub(crate) peer: Option<IpAddr>,

    /// Events of these kinds only
    #[arg(
        long,
        value_name = "KIND",
        value_parser = list(EnumValueParser::<EventKind>::new())
    )]
    pub(crate) only: Vec<List<EventKind>>,

    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventKind {
    /// Addresses that were added, left the answer, or were removed
    Changes,
    /// Questions that failed, and for how long
    Outages,
    /// Refused peers, with the reason and the number of refusals
    Refusals,
    /// Refused peers whose addresses were in a later answer
    RefusedThenListed,
    /// Starts, stops and reloads
    Operation,
}

/// Explain the verdict of the running server on a peer
///
/// Shows the verdict at this moment, when the peer was listed and by which host, and when it was refused.
///
/// The exit code is 0 if the peer is admitted (with `--at`: was listed), 1 if it is not, and 2 if the server cannot
/// decide, cannot be asked, or has removed the lines of that time from its journal.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// Address of the peer
    #[arg(value_name = "IP", value_parser = trimmed(address))]
    pub(crate) peer: IpAddr,

    /// Time to explain in place of now: `yesterday`, a duration such as `12h`, or a time (UTC)
    #[arg(
        long,
        value_name = "TIME",
        value_parser = trimmed(past)
    )]
    pub(crate) at: Option<Past>,

    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// Show the events of the running server as they happen, one a line
///
/// Runs until it is interrupted. While the server restarts, the command waits.
#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    /// Command for the shell to run at each change of the addresses, with the event as JSON on its stdin
    ///
    /// Only one such command runs at a time. After 60 s, it is killed with the processes that it started.
    #[arg(
        long,
        value_name = "COMMAND",
        value_parser = trimmed(StringValueParser::new())
    )]
    pub(crate) on_change: Option<String>,

    #[command(flatten)]
    pub(crate) ask: AskArgs,
}
