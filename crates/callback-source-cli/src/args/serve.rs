//! Flags of `serve`.

use std::{net::SocketAddr, time::Duration};

use clap::Args as ClapArgs;
use http::StatusCode;

use super::{
    common::CommonArgs,
    lists::trimmed,
    proxy::{PROXY, ProxyArgs},
    values::{Listen, idle_timeout, listen, refusing_status, socket, stop_delay, switch},
};

/// Answer whether a request may pass: a forward-auth endpoint for nginx, Caddy, Traefik, Envoy
///
/// Judges the peer of the connection itself, unless that is a trusted proxy: then the client that it
/// names, in the one header that is given, or by the PROXY protocol.
///
/// `/verify` and below: 200 with `X-Callback-Source: allow` and `X-Callback-Host`, or 403, or 400
/// when a trusted proxy does not name the client, or 503
/// with `Retry-After` when it cannot be said, with `X-Callback-Source: reject` and
/// `X-Callback-Reason`. `/healthz`: 200 while it runs. `/readyz`: 200 when every host was asked once
/// and some address is in force, else 503. `/status.json`: everything that is known, for peers on
/// this machine, and only without forwarding headers.
///
/// Listens at once; DNS never delays the start. On SIGTERM, SIGINT or SIGQUIT it is not ready, serves
/// on for `--stop-delay`, then stops accepting, answers the requests in flight (for at most 10 s) and
/// exits with 0; a second signal ends it at once. SIGHUP, SIGUSR1 and SIGUSR2 are ignored.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Where to listen; a Unix socket is for one proxy, which may read and write it (mode 0660), and
    /// needs `--client-ip-header`
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        value_parser = trimmed(listen)
    )]
    pub(crate) listen: Listen,

    /// Where `/healthz`, `/readyz` and `/status.json` live alone, for everyone who can connect
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_parser = trimmed(socket)
    )]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// Refuse nothing: always answer 200, with headers that say what it would have been
    #[arg(long, value_parser = switch())]
    pub(crate) report_only: bool,

    /// The status in place of 503, for servers that understand only 401 and 403
    #[arg(
        long,
        value_name = "CODE",
        value_parser = trimmed(refusing_status)
    )]
    pub(crate) unsure_status: Option<StatusCode>,

    /// How many connections are served at a time
    ///
    /// When only a few places are left, each connection ends with its answer, and those that have kept
    /// the server waiting for a second are closed. When none is left, a new connection displaces one of
    /// the address that holds the most. Connections of trusted proxies are ended last.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 10_000,
        value_parser = trimmed(clap::value_parser!(u32).range(1..=1_000_000))
    )]
    pub(crate) max_connections: u32,

    /// How long a connection without a request is kept
    ///
    /// Set it to more than the proxy's own limit. Otherwise the proxy may send a callback into a
    /// connection that is just being closed.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "65m",
        value_parser = trimmed(idle_timeout)
    )]
    pub(crate) idle_timeout: Duration,

    /// How long to go on serving after the signal to stop, while `/readyz` answers 503
    ///
    /// For load balancers, which send callbacks until they have noticed.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = trimmed(stop_delay)
    )]
    pub(crate) stop_delay: Duration,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    /// Trusted proxies name the client in a header of the PROXY protocol (version 1 or 2) before the
    /// first byte; a connection of theirs without one is closed
    #[arg(
        long,
        value_parser = switch(),
        help_heading = PROXY
    )]
    pub(crate) proxy_protocol: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
