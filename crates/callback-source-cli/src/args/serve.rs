//! Flags of `serve`.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args as ClapArgs,
    builder::{PathBufValueParser, TypedValueParser},
};
use http::StatusCode;

use super::{
    common::CommonArgs,
    follow::{FollowOptions, TARGETS},
    lists::{List, list, trimmed},
    proxy::{PROXY, ProxyArgs},
    targets::{Target, target},
    values::{
        Listen, duration, idle_timeout, listen, refusing_status, state_file, stop_delay, switch,
    },
};

/// Decide whether a request may pass: a forward-auth endpoint for nginx, Caddy, Traefik, Envoy
///
/// Checks the peer of the connection. If the peer is a trusted proxy, checks the client that it names in
/// the given header or by the PROXY protocol.
///
/// `/verify` and below: 200 with `X-Callback-Source: allow` and `X-Callback-Host` admits a request. A
/// refusal has `X-Callback-Source: reject`, `X-Callback-Reason`, and the status 403; 400 if a trusted
/// proxy does not name the client; or 503 with `Retry-After` if the list cannot decide. `/healthz`: 200
/// while the server runs. `/readyz`: 200 if every host was asked once and some address is admitted, else
/// 503. `/status` (a page), `/status.json` and `/metrics`: the state of the list, for peers on this machine without
/// forwarding headers.
///
/// Listens at once; DNS never delays the start. After SIGTERM, SIGINT or SIGQUIT it reports that it is
/// not ready, and keeps serving for `--stop-delay`. Then it stops accepting, finishes the requests in
/// flight (for at most 10 s) and exits with 0. A second signal ends it at once.
///
/// SIGHUP reads the configuration file again, and so does a change of its content. An invalid file changes
/// nothing. SIGUSR1 and SIGUSR2 are ignored.
///
/// A socket that systemd passes (socket activation) serves the flag that names its address. Readiness, reloads,
/// stopping and the watchdog are reported to systemd.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Address or Unix socket on which to listen; a Unix socket is for one proxy, which may read and
    /// write it (mode 0660), and requires `--client-ip-header`
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        value_parser = trimmed(listen)
    )]
    pub(crate) listen: Listen,

    /// Separate address or Unix socket of `/healthz`, `/readyz`, `/status` and `/metrics`, for everyone who
    /// can connect, and for the commands `status`, `history`, `explain` and `watch`
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        value_parser = trimmed(listen)
    )]
    pub(crate) admin_listen: Option<Listen>,

    /// Address of Envoy's external authorization over gRPC
    /// (`envoy.service.auth.v3.Authorization/Check`), for your Envoys only
    ///
    /// The client is `attributes.source.address`, or the one that a trusted proxy in front of Envoy names in
    /// `--client-ip-header`. The gRPC health service is at the same address.
    #[cfg(feature = "ext-authz")]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = trimmed(super::values::socket)
    )]
    pub(crate) ext_authz_listen: Option<std::net::SocketAddr>,

    /// Refuse nothing: always respond with 200, with the verdict in headers
    #[arg(long, value_parser = switch())]
    pub(crate) report_only: bool,

    /// Status in place of 503, for servers that understand only 401 and 403
    #[arg(
        long,
        value_name = "CODE",
        value_parser = trimmed(refusing_status)
    )]
    pub(crate) unsure_status: Option<StatusCode>,

    /// Maximum number of connections
    ///
    /// When few free connections are left, each connection ends with its next response. A connection that
    /// has then waited for its client for a second is closed. When none is left, a new connection displaces
    /// one of the address with the most connections. Connections of trusted proxies are ended last.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 10_000,
        value_parser = trimmed(clap::value_parser!(u32).range(1..=1_000_000))
    )]
    pub(crate) max_connections: u32,

    /// Time for which a connection without a request is kept open
    ///
    /// Set it above the proxy's own limit. Otherwise the proxy may send a callback into a connection
    /// that is just being closed.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "65m",
        value_parser = trimmed(idle_timeout)
    )]
    pub(crate) idle_timeout: Duration,

    /// Time for which to keep serving after the signal to stop, while `/readyz` responds with 503
    ///
    /// Load balancers send callbacks until they notice that the server is not ready.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = trimmed(stop_delay)
    )]
    pub(crate) stop_delay: Duration,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    /// Read the client from the PROXY protocol header (version 1 or 2), which trusted proxies send before
    /// the first byte; a connection of a trusted proxy without this header is closed
    #[arg(
        long,
        value_parser = switch(),
        help_heading = PROXY
    )]
    pub(crate) proxy_protocol: bool,

    /// Copy of the set to keep up to date, as with `follow`
    #[arg(
        long,
        value_name = "TARGET",
        value_parser = list(target),
        help_heading = TARGETS
    )]
    pub(crate) follow: Vec<List<Target>>,

    #[command(flatten)]
    pub(crate) follow_options: FollowOptions,

    /// File for the journal: changes, outages, refusals [default: `journal.jsonl` beside the state file, if there
    /// is one]
    ///
    /// One JSON object a line, with at most 4 MiB in this file and 4 MiB in an earlier one (`PATH.1`).
    #[arg(
        long,
        value_name = "PATH",
        value_parser = trimmed(PathBufValueParser::new().try_map(state_file)),
        help_heading = JOURNAL
    )]
    pub(crate) journal: Option<PathBuf>,

    /// Time after which the addresses of refused peers are removed from the journal
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "90days",
        value_parser = trimmed(duration),
        help_heading = JOURNAL
    )]
    pub(crate) journal_keep: Duration,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

impl ServeArgs {
    /// The file of the journal, which by default is beside the state file.
    pub(crate) fn journal_path(&self) -> Option<PathBuf> {
        let beside = || {
            let state = self.common.state_file.as_ref()?;
            Some(state.with_file_name("journal.jsonl"))
        };
        self.journal.clone().or_else(beside)
    }
}

const JOURNAL: &str = "Journal";
