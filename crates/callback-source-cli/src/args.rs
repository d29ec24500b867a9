//! What was typed.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use callback_source::HostName;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use clap_complete::Shell;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use ipnet::IpNet;

/// The name of the command.
pub(crate) const NAME: &str = "callback-source";

/// Look up, check and serve the callback servers of a payment provider
///
/// The provider publishes the servers that its callbacks come from as host names only. This command
/// follows them through DNS, and says which peers may send callbacks.
///
/// Exits with 0 for yes, 1 for no and 2 for an error. Each flag but `check --header` can also be given
/// as an environment variable, `CALLBACK_SOURCE_` and its name; several values are separated by commas.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lookup(LookupArgs),
    Check(CheckArgs),
    Serve(ServeArgs),
    Sign(SignArgs),
    Verify(VerifyArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

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
    #[arg(long, env = "CALLBACK_SOURCE_BY_HOST", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) by_host: bool,

    /// Print JSON
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,

    /// Look up the environment's API server instead, which the merchant calls: for egress rules
    ///
    /// `--host` and `--allow` do not count then.
    #[arg(long, env = "CALLBACK_SOURCE_API", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) api: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Say whether these peers would be admitted
///
/// One a line: the host whose answer holds the address and how fresh that is, or the reason why not.
///
/// With `--peer` one request: each hop on the way to the client, nearest first, and whether the client
/// would be admitted.
///
/// Exits with 0 when all are admitted, with 1 when some are not, and with 2 when it cannot be said,
/// such as when DNS cannot be reached.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// Addresses of peers
    #[arg(value_name = "IP", required_unless_present = "peer")]
    pub(crate) peers: Vec<IpAddr>,

    /// The peer of a connection, whose headers are then read as `serve` would, hop by hop
    #[arg(
        long,
        value_name = "IP",
        env = "CALLBACK_SOURCE_PEER", hide_env_values = true,
        conflicts_with = "peers",
        help_heading = PROXY
    )]
    pub(crate) peer: Option<IpAddr>,

    /// A header of a request from that peer; may be repeated
    #[arg(
        long,
        value_name = "NAME: VALUE",
        value_parser = header_line,
        requires = "peer",
        help_heading = PROXY
    )]
    pub(crate) header: Vec<(HeaderName, HeaderValue)>,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    /// Print JSON
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Answer whether a request may pass: a forward-auth endpoint for nginx, Caddy, Traefik, Envoy
///
/// Judges the peer of the connection itself, unless that is a trusted proxy: then the client that it
/// names, in the one header that is given, or by the PROXY protocol.
///
/// `/verify` and below: 200 with `X-Callback-Source: allow` and `X-Callback-Host`, or 403, or 503
/// with `Retry-After` when it cannot be said, with `X-Callback-Source: reject` and
/// `X-Callback-Reason`. `/healthz`: 200 while it runs. `/readyz`: 200 when every host was asked once
/// and some address is in force, else 503. `/status.json`: everything that is known, for peers on
/// this machine, and only without forwarding headers.
///
/// Listens at once; DNS never delays the start. On SIGTERM it stops accepting, answers the requests
/// in flight (for at most 10 s) and exits with 0; a second signal ends it at once.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Where to listen; a Unix socket is for one proxy, which may read and write it (mode 0660), and
    /// needs `--client-ip-header`
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        env = "CALLBACK_SOURCE_LISTEN",
        hide_env_values = true
    )]
    pub(crate) listen: Listen,

    /// Where `/healthz`, `/readyz` and `/status.json` live alone, for everyone who can connect
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "CALLBACK_SOURCE_ADMIN_LISTEN",
        hide_env_values = true
    )]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// Refuse nothing: always answer 200, with headers that say what it would have been
    #[arg(long, env = "CALLBACK_SOURCE_REPORT_ONLY", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) report_only: bool,

    /// The status in place of 503, for servers that understand only 401 and 403
    #[arg(
        long,
        value_name = "CODE",
        env = "CALLBACK_SOURCE_UNSURE_STATUS", hide_env_values = true,
        value_parser = refusing_status
    )]
    pub(crate) unsure_status: Option<StatusCode>,

    /// How many connections are served at a time
    ///
    /// When all are taken, those that have kept the server waiting for a second are closed.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "CALLBACK_SOURCE_MAX_CONNECTIONS", hide_env_values = true,
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(crate) max_connections: u32,

    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,

    /// Trusted proxies name the client in a header of the PROXY protocol (version 1 or 2) before the
    /// first byte; a connection of theirs without one is closed
    #[arg(
        long,
        env = "CALLBACK_SOURCE_PROXY_PROTOCOL", hide_env_values = true,
        value_parser = BoolishValueParser::new(),
        help_heading = PROXY
    )]
    pub(crate) proxy_protocol: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Whose word about the client counts.
#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyArgs {
    /// A proxy: when the connection comes from it, the client is who it says
    #[arg(
        long,
        value_name = "CIDR",
        env = "CALLBACK_SOURCE_TRUSTED_PROXY", hide_env_values = true,
        value_delimiter = ',',
        value_parser = network,
        help_heading = PROXY
    )]
    pub(crate) trusted_proxy: Vec<IpNet>,

    /// The header in which trusted proxies name the client: `x-forwarded-for`, `forwarded`, or one that
    /// holds a single address, such as `x-real-ip`
    #[arg(
        long,
        value_name = "NAME",
        env = "CALLBACK_SOURCE_CLIENT_IP_HEADER", hide_env_values = true,
        help_heading = PROXY
    )]
    pub(crate) client_ip_header: Option<HeaderName>,
}

/// An address, or a socket in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => {
                Err("give the path of the socket, such as `unix:/run/callback-source.sock`")
            }
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(
                |_| "give an address and a port, such as `127.0.0.1:8480`, or `unix:PATH`",
            ),
        }
    }
}

/// Print a `curl` command that sends a signed webhook, to test an endpoint
///
/// To be pasted within five minutes of its date. The headers are signed for the URL that was
/// registered: to reach the endpoint at another place, change the URL in the command, and leave the
/// headers as they are. The secret is not in the command.
#[derive(Debug, ClapArgs)]
pub(crate) struct SignArgs {
    /// The URL of the endpoint, as it was registered
    #[arg(
        long,
        value_name = "URL",
        env = "CALLBACK_SOURCE_URL",
        hide_env_values = true,
        value_parser = endpoint
    )]
    pub(crate) url: Uri,

    /// The file with the body; `-` puts what stdin has into the command [default: no body]
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_BODY_FILE",
        hide_env_values = true
    )]
    pub(crate) body_file: Option<PathBuf>,

    /// The date that is signed [default: now]
    #[arg(
        long,
        value_name = "TIME",
        env = "CALLBACK_SOURCE_DATE", hide_env_values = true,
        value_parser = time
    )]
    pub(crate) date: Option<SystemTime>,

    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}

/// Say which part of a saved webhook does not fit: date, content hash, host, path or key
///
/// The date is a part like the others: a request that was saved more than five minutes ago does not
/// fit, unless `--at` says when it arrived.
///
/// Exits with 0 when everything fits, with 1 when something does not, and with 2 when it cannot be
/// said, such as when the file holds no request.
#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// The file with the request as it arrived: request line, headers, an empty line, and the body
    /// byte for byte; `-` reads stdin
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_REQUEST",
        hide_env_values = true
    )]
    pub(crate) request: PathBuf,

    /// The URL that was registered: tells a host or path that a proxy changed from a wrong key
    #[arg(
        long,
        value_name = "URL",
        env = "CALLBACK_SOURCE_URL",
        hide_env_values = true,
        value_parser = endpoint
    )]
    pub(crate) url: Option<Uri>,

    /// When the request arrived [default: now]
    #[arg(
        long,
        value_name = "TIME",
        env = "CALLBACK_SOURCE_AT", hide_env_values = true,
        value_parser = time
    )]
    pub(crate) at: Option<SystemTime>,

    /// Print JSON
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}

/// Where the secret of a webhook comes from. Never an argument: the list of processes shows those.
#[derive(Debug, ClapArgs)]
pub(crate) struct SecretArgs {
    /// The file with the secret as the provider gave it; a line break at its end does not count
    /// [default: the secret is in the environment variable `CALLBACK_SOURCE_WEBHOOK_SECRET`]
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_SECRET_FILE",
        hide_env_values = true
    )]
    pub(crate) secret_file: Option<PathBuf>,
}

/// The flags of all commands that look up.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonArgs {
    /// The provider's environment; several add up [default: production, unless `--host` or
    /// `--allow` is given]
    #[arg(
        long,
        value_name = "ENVIRONMENT",
        env = "CALLBACK_SOURCE_ENVIRONMENT", hide_env_values = true,
        value_delimiter = ',',
        help_heading = WHO
    )]
    pub(crate) environment: Vec<Environment>,

    /// A host whose addresses are admitted
    #[arg(
        long,
        value_name = "NAME",
        env = "CALLBACK_SOURCE_HOST", hide_env_values = true,
        value_delimiter = ',',
        help_heading = WHO
    )]
    pub(crate) host: Vec<HostName>,

    /// A network or an address that is admitted whatever DNS says
    #[arg(
        long,
        value_name = "CIDR",
        env = "CALLBACK_SOURCE_ALLOW", hide_env_values = true,
        value_delimiter = ',',
        value_parser = network,
        help_heading = WHO
    )]
    pub(crate) allow: Vec<IpNet>,

    /// Take special-purpose addresses (loopback, private, …) from answers: only for tests, since
    /// DNS can then open your own network
    #[arg(
        long,
        env = "CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES", hide_env_values = true,
        value_parser = BoolishValueParser::new(),
        help_heading = WHO
    )]
    pub(crate) allow_special_addresses: bool,

    /// A DNS server, asked in the order given [default: the system's; port 53]
    #[arg(
        long,
        value_name = "IP[:PORT]",
        env = "CALLBACK_SOURCE_DNS_SERVER", hide_env_values = true,
        value_delimiter = ',',
        value_parser = dns_server,
        help_heading = SUPPLY
    )]
    pub(crate) dns_server: Vec<SocketAddr>,

    /// The least TTL: no host is asked more often [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_MIN_TTL", hide_env_values = true,
        value_parser = duration,
        help_heading = SUPPLY
    )]
    pub(crate) min_ttl: Option<Duration>,

    /// The greatest TTL: no host is asked less often [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_MAX_TTL", hide_env_values = true,
        value_parser = duration,
        help_heading = SUPPLY
    )]
    pub(crate) max_ttl: Option<Duration>,

    /// For how long an address that left the answer still counts [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_LINGER", hide_env_values = true,
        value_parser = duration,
        help_heading = SUPPLY
    )]
    pub(crate) linger: Option<Duration>,

    /// For how long the last answer still counts while look-ups fail [default: 24h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_STALE_FOR", hide_env_values = true,
        value_parser = duration,
        help_heading = SUPPLY
    )]
    pub(crate) stale_for: Option<Duration>,

    /// Keep what is known in this file, so that a restart while DNS is down refuses nobody; `lookup`
    /// and `check` only read it
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_STATE_FILE", hide_env_values = true,
        help_heading = SUPPLY
    )]
    pub(crate) state_file: Option<PathBuf>,

    /// What to log: a level, or `TARGET=LEVEL` pairs with commas in between [default:
    /// `error,callback_source=warn`, for `serve` `error,callback_source=info`]
    #[arg(long, value_name = "FILTER", env = "CALLBACK_SOURCE_LOG", hide_env_values = true, help_heading = LOG)]
    pub(crate) log: Option<String>,

    /// How to log
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CALLBACK_SOURCE_LOG_FORMAT", hide_env_values = true,
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

fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "give a network such as `212.93.32.0/19`, or an address")
}

fn dns_server(text: &str) -> Result<SocketAddr, &'static str> {
    let server: SocketAddr = text
        .parse()
        .or_else(|_| {
            text.parse::<IpAddr>()
                .map(|ip| SocketAddr::new(ip, DNS_PORT))
        })
        .map_err(
            |_| "give an address such as `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:53`",
        )?;
    match server.port() {
        0 => Err("there is no port 0"),
        _ => Ok(server),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a duration such as `90s`, `10m` or `24h`"))
}

fn refusing_status(text: &str) -> Result<StatusCode, &'static str> {
    text.parse::<StatusCode>()
        .ok()
        .filter(|status| status.is_client_error() || status.is_server_error())
        .ok_or("give a status from 400 to 599: with any other, the callback would pass")
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let hint = "give a header such as `X-Forwarded-For: 192.0.2.1`";
    let (name, value) = text.split_once(':').ok_or(hint)?;
    let name = name.parse().map_err(|_| hint)?;
    let value = value.trim_matches([' ', '\t']).parse().map_err(|_| hint)?;
    Ok((name, value))
}

/// What is registered is said in full; a fragment is never sent.
fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let hint = "give the whole URL, such as `https://shop.example/webhooks`";
    let url: Uri = text.parse().map_err(|_| hint)?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_web || url.host().is_none_or(str::is_empty) {
        return Err(hint);
    }
    Ok(url)
}

fn time(text: &str) -> Result<SystemTime, &'static str> {
    httpdate::parse_http_date(text)
        .or_else(|_| humantime::parse_rfc3339_weak(text))
        .map_err(
            |_| "give a time such as `Thu, 30 Mar 2023 08:38:32 GMT` or `2023-03-30T08:38:32Z`",
        )
}

const DNS_PORT: u16 = 53;

const WHO: &str = "Who may call";
const PROXY: &str = "Behind a proxy";
const SUPPLY: &str = "Look-ups";
const LOG: &str = "Log";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_says_which_flags_have_no_environment_variable() {
        let args = Args::command();
        let mut without = Vec::new();
        for command in args.get_subcommands() {
            for flag in command.get_arguments() {
                let Some(name) = flag.get_long() else {
                    continue;
                };
                let variable = format!("CALLBACK_SOURCE_{}", name.replace('-', "_").to_uppercase());
                match flag.get_env() {
                    Some(env) => assert_eq!(env, variable.as_str()),
                    None => without.push(format!("{} --{name}", command.get_name())),
                }
            }
        }
        assert_eq!(without, ["check --header"]);
        let help = args.get_long_about().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(
            help.contains("Each flag but `check --header` can also be given"),
            "{help}"
        );
    }
}
