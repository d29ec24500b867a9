//! What was typed.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use callback_source::{HostName, HostNameError};
use clap::{
    Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{
        BoolishValueParser, EnumValueParser, PathBufValueParser, StringValueParser,
        TypedValueParser,
    },
    error::ErrorKind,
};
use clap_complete::Shell;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use ipnet::IpNet;

mod value;

pub(crate) use self::value::{List, all, plain};
use self::value::{list, trimmed};

/// The name of the command.
pub(crate) const NAME: &str = "callback-source";

/// Look up, check and serve the callback servers of a payment provider
///
/// The provider publishes the servers that its callbacks come from as host names only. This command
/// follows them through DNS, and says which peers may send callbacks.
///
/// Exits with 0 for yes, 1 for no and 2 for an error. Each flag but `check --header` can also be given
/// as an environment variable, `CALLBACK_SOURCE_` and its name; several values are separated by commas,
/// blanks or line breaks, and an empty variable counts as not set.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Reads the command line and the environment.
    pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<_> = words.collect();
        let command = Self::command();
        let mut command = value::without_blank_variables(command, |name| std::env::var_os(name));
        let matches = match command.try_get_matches_from_mut(&words) {
            // A variable that is empty is named in the help all the same.
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                return Self::try_parse_from(words);
            }
            matches => matches?,
        };
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
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
    #[arg(long, env = "CALLBACK_SOURCE_BY_HOST", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
    pub(crate) by_host: bool,

    /// Print JSON
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
    pub(crate) json: bool,

    /// Look up the environment's API server instead, which the merchant calls: for egress rules
    ///
    /// `--host` and `--allow` do not count then.
    #[arg(long, env = "CALLBACK_SOURCE_API", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
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
    #[arg(
        value_name = "IP",
        value_parser = trimmed(address),
        required_unless_present = "peer"
    )]
    pub(crate) peers: Vec<IpAddr>,

    /// The peer of a connection, whose headers are then read as `serve` would, hop by hop
    #[arg(
        long,
        value_name = "IP",
        env = "CALLBACK_SOURCE_PEER", hide_env_values = true,
        value_parser = trimmed(address),
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
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

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
        env = "CALLBACK_SOURCE_LISTEN",
        hide_env_values = true,
        value_parser = trimmed(listen)
    )]
    pub(crate) listen: Listen,

    /// Where `/healthz`, `/readyz` and `/status.json` live alone, for everyone who can connect
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "CALLBACK_SOURCE_ADMIN_LISTEN",
        hide_env_values = true,
        value_parser = trimmed(socket)
    )]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// Refuse nothing: always answer 200, with headers that say what it would have been
    #[arg(long, env = "CALLBACK_SOURCE_REPORT_ONLY", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
    pub(crate) report_only: bool,

    /// The status in place of 503, for servers that understand only 401 and 403
    #[arg(
        long,
        value_name = "CODE",
        env = "CALLBACK_SOURCE_UNSURE_STATUS", hide_env_values = true,
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
        env = "CALLBACK_SOURCE_MAX_CONNECTIONS", hide_env_values = true,
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
        env = "CALLBACK_SOURCE_IDLE_TIMEOUT", hide_env_values = true,
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
        env = "CALLBACK_SOURCE_STOP_DELAY", hide_env_values = true,
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
        env = "CALLBACK_SOURCE_PROXY_PROTOCOL", hide_env_values = true,
        value_parser = trimmed(BoolishValueParser::new()),
        help_heading = PROXY
    )]
    pub(crate) proxy_protocol: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Whose word about the client counts.
#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyArgs {
    /// A proxy: when the connection comes from it, the client is who it says; `unix:` is the entry that
    /// nginx behind a Unix socket writes into `x-forwarded-for`, as a hop and never as the client
    #[arg(
        long,
        value_name = "CIDR|unix:",
        env = "CALLBACK_SOURCE_TRUSTED_PROXY", hide_env_values = true,
        value_parser = list(trusted_proxy),
        help_heading = PROXY
    )]
    pub(crate) trusted_proxy: Vec<List<TrustedProxy>>,

    /// The header in which trusted proxies name the client: `x-forwarded-for`, `forwarded`, or one that
    /// holds a single address, such as `x-real-ip`
    #[arg(
        long,
        value_name = "NAME",
        env = "CALLBACK_SOURCE_CLIENT_IP_HEADER", hide_env_values = true,
        value_parser = trimmed(header_name),
        help_heading = PROXY
    )]
    pub(crate) client_ip_header: Option<HeaderName>,
}

/// A hop whose forwarding headers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrustedProxy {
    Network(IpNet),
    UnixSocket,
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
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Uri,

    /// The file with the body; `-` puts what stdin has into the command [default: no body]
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_BODY_FILE",
        hide_env_values = true,
        value_parser = trimmed(PathBufValueParser::new())
    )]
    pub(crate) body_file: Option<PathBuf>,

    /// The date that is signed [default: now]
    #[arg(
        long,
        value_name = "TIME",
        env = "CALLBACK_SOURCE_DATE", hide_env_values = true,
        value_parser = trimmed(time)
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
        hide_env_values = true,
        value_parser = trimmed(PathBufValueParser::new())
    )]
    pub(crate) request: PathBuf,

    /// The URL that was registered: tells a host or path that a proxy changed from a wrong key
    #[arg(
        long,
        value_name = "URL",
        env = "CALLBACK_SOURCE_URL",
        hide_env_values = true,
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Option<Uri>,

    /// When the request arrived [default: now]
    #[arg(
        long,
        value_name = "TIME",
        env = "CALLBACK_SOURCE_AT", hide_env_values = true,
        value_parser = trimmed(time)
    )]
    pub(crate) at: Option<SystemTime>,

    /// Print JSON
    #[arg(long, env = "CALLBACK_SOURCE_JSON", hide_env_values = true, value_parser = trimmed(BoolishValueParser::new()))]
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
        hide_env_values = true,
        value_parser = trimmed(PathBufValueParser::new())
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
        value_parser = list(EnumValueParser::<Environment>::new()),
        help_heading = WHO
    )]
    pub(crate) environment: Vec<List<Environment>>,

    /// A host whose addresses are admitted
    #[arg(
        long,
        value_name = "NAME",
        env = "CALLBACK_SOURCE_HOST", hide_env_values = true,
        value_parser = list(host_name),
        help_heading = WHO
    )]
    pub(crate) host: Vec<List<HostName>>,

    /// A network or an address that is admitted whatever DNS says
    #[arg(
        long,
        value_name = "CIDR",
        env = "CALLBACK_SOURCE_ALLOW", hide_env_values = true,
        value_parser = list(allowed),
        help_heading = WHO
    )]
    pub(crate) allow: Vec<List<IpNet>>,

    /// Take special-purpose addresses (loopback, private, …) from answers: only for tests, since
    /// DNS can then open your own network
    #[arg(
        long,
        env = "CALLBACK_SOURCE_ALLOW_SPECIAL_ADDRESSES", hide_env_values = true,
        value_parser = trimmed(BoolishValueParser::new()),
        help_heading = WHO
    )]
    pub(crate) allow_special_addresses: bool,

    /// Look up IPv4 addresses only, where AAAA questions are never answered: IPv6 peers are refused,
    /// unless `--allow` has them
    #[arg(
        long,
        env = "CALLBACK_SOURCE_IPV4_ONLY", hide_env_values = true,
        value_parser = trimmed(BoolishValueParser::new()),
        help_heading = SUPPLY
    )]
    pub(crate) ipv4_only: bool,

    /// Look up IPv6 addresses only: IPv4 peers are refused, unless `--allow` has them
    #[arg(
        long,
        env = "CALLBACK_SOURCE_IPV6_ONLY", hide_env_values = true,
        value_parser = trimmed(BoolishValueParser::new()),
        help_heading = SUPPLY
    )]
    pub(crate) ipv6_only: bool,

    /// A DNS server, asked in the order given [default: the system's; port 53]
    #[arg(
        long,
        value_name = "IP[:PORT]",
        env = "CALLBACK_SOURCE_DNS_SERVER", hide_env_values = true,
        value_parser = list(callback_source::parse_dns_server),
        help_heading = SUPPLY
    )]
    pub(crate) dns_server: Vec<List<SocketAddr>>,

    /// The least TTL: no host is asked more often [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_MIN_TTL", hide_env_values = true,
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) min_ttl: Option<Duration>,

    /// The greatest TTL: no host is asked less often [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_MAX_TTL", hide_env_values = true,
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) max_ttl: Option<Duration>,

    /// For how long an address that left the answer stays admitted, at least until that answer has
    /// been refreshed [default: 1h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_LINGER", hide_env_values = true,
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) linger: Option<Duration>,

    /// For how long the last answer still counts while look-ups fail [default: 24h]
    #[arg(
        long,
        value_name = "DURATION",
        env = "CALLBACK_SOURCE_STALE_FOR", hide_env_values = true,
        value_parser = trimmed(duration),
        help_heading = SUPPLY
    )]
    pub(crate) stale_for: Option<Duration>,

    /// Keep what is known in this file, so that a restart while DNS is down refuses no known server;
    /// `lookup` and `check` only read it
    #[arg(
        long,
        value_name = "PATH",
        env = "CALLBACK_SOURCE_STATE_FILE", hide_env_values = true,
        value_parser = trimmed(PathBufValueParser::new().try_map(state_file)),
        help_heading = SUPPLY
    )]
    pub(crate) state_file: Option<PathBuf>,

    /// Log filter: a level, or `TARGET=LEVEL` pairs with commas in between [default:
    /// `error,callback_source=warn`, for `serve` `error,callback_source=info`]
    #[arg(long, value_name = "FILTER", env = "CALLBACK_SOURCE_LOG", hide_env_values = true, value_parser = trimmed(StringValueParser::new()), help_heading = LOG)]
    pub(crate) log: Option<String>,

    /// How to log
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CALLBACK_SOURCE_LOG_FORMAT", hide_env_values = true,
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

fn listen(text: &str) -> Result<Listen, &'static str> {
    text.parse()
}

fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "give an address and a port, such as `127.0.0.1:8481`")
}

fn address(text: &str) -> Result<IpAddr, std::net::AddrParseError> {
    text.parse()
}

fn header_name(text: &str) -> Result<HeaderName, &'static str> {
    text.parse()
        .map_err(|_| "give the name of a header, such as `x-forwarded-for`")
}

fn host_name(text: &str) -> Result<HostName, String> {
    text.parse()
        .map_err(|error: HostNameError| match error.address() {
            Some(address) => format!(
                "it is an address: use `--allow` to admit `{}` as a static network",
                plain(address)
            ),
            None => error.to_string(),
        })
}

/// A path that ends in `/` or `..` names a folder.
fn state_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    match path.file_name() {
        Some(_) if !is_folder => Ok(path),
        _ => Err("give the path of a file, such as `/var/lib/callback-source/state.json`"),
    }
}

fn allowed(text: &str) -> Result<IpNet, &'static str> {
    network(text).map_err(|error| match text.parse::<HostName>() {
        Ok(_) => "it is a host name: use `--host` to admit its addresses",
        Err(_) => error,
    })
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "give a network such as `212.93.32.0/19`, or an address")
}

fn trusted_proxy(text: &str) -> Result<TrustedProxy, &'static str> {
    match text {
        "unix:" => Ok(TrustedProxy::UnixSocket),
        _ => network(text).map(TrustedProxy::Network).map_err(|_| {
            "give a network such as `10.0.0.0/24`, an address, or `unix:` for proxies at a Unix socket"
        }),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a duration such as `90s`, `10m` or `24h`"))
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    let shortest = Duration::from_secs(1);
    match duration(text)? {
        time if (shortest..=A_DAY).contains(&time) => Ok(time),
        _ => Err("give a duration from `1s` to `24h`".to_owned()),
    }
}

fn stop_delay(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time <= A_DAY => Ok(time),
        _ => Err("give a duration of at most `24h`".to_owned()),
    }
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

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

const WHO: &str = "Who may call";
const PROXY: &str = "Behind a proxy";
const SUPPLY: &str = "Look-ups";
const LOG: &str = "Log";

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

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

    /// Each flag that can be given as a variable, and its command.
    fn flags() -> Vec<(String, clap::Arg)> {
        let args = Args::command();
        let mut flags = Vec::new();
        for command in args.get_subcommands() {
            let all = command
                .get_arguments()
                .filter(|flag| flag.get_env().is_some());
            flags.extend(all.map(|flag| (command.get_name().to_owned(), flag.clone())));
        }
        assert!(flags.len() > 40, "{}", flags.len());
        flags
    }

    fn takes_a_value(flag: &clap::Arg) -> bool {
        flag.get_action().takes_values()
    }

    /// What is read of a command with this value of a flag.
    fn given(command: &str, flag: &clap::Arg, value: &str) -> Result<String, String> {
        let flag = flag.get_long().unwrap_or_default();
        let needed = match command {
            "check" => "--peer=192.0.2.1",
            "serve" => "--listen=127.0.0.1:8480",
            "sign" => "--url=https://shop.example/",
            "verify" => "--request=saved",
            _ => "--log=info",
        };
        let mut words = vec![
            NAME.to_owned(),
            command.to_owned(),
            format!("--{flag}={value}"),
        ];
        if !needed.starts_with(&format!("--{flag}=")) {
            words.push(needed.to_owned());
        }
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(format!("{args:?}"))
    }

    #[test]
    fn a_flag_with_an_empty_value_is_an_error_that_names_it() {
        for (command, flag) in flags() {
            if !takes_a_value(&flag) {
                continue;
            }
            let name = format!("--{}", flag.get_long().unwrap_or_default());
            for text in ["", " ", "\n"] {
                let error = given(&command, &flag, text).expect_err(&name);
                let is_named = error.contains("a value is required for") && error.contains(&name);
                assert!(is_named, "{command} {name}={text:?}: {error}");
            }
        }
    }

    /// A flag that fails here needs `trimmed(…)` or `list(…)` round its value parser. One that takes none
    /// of the values needs one more.
    #[test]
    fn blanks_and_line_breaks_around_a_value_do_not_matter() {
        let values = [
            "10",
            "404",
            "1h",
            "127.0.0.1:8481",
            "unix:/run/a",
            "192.0.2.1",
            "x-real-ip",
            "production",
            "json",
            "a.example",
            "https://a.example/",
            "2023-03-30T08:38:32Z",
            "/tmp/a",
        ];
        for (command, flag) in flags() {
            if !takes_a_value(&flag) {
                continue;
            }
            let name = flag.get_long().unwrap_or_default();
            let mut taken = 0;
            for value in values {
                let Ok(read) = given(&command, &flag, value) else {
                    continue;
                };
                taken += 1;
                for text in [
                    format!(" {value}"),
                    format!("{value}\n"),
                    format!("\t{value} \r\n"),
                ] {
                    let found = given(&command, &flag, &text);
                    assert_eq!(found.as_ref(), Ok(&read), "{command} --{name}={text:?}");
                }
                if matches!(flag.get_action(), clap::ArgAction::Append) {
                    let twice = given(&command, &flag, &format!("{value},{value}"));
                    assert_ne!(twice.as_ref(), Ok(&read), "{command} --{name}");
                    for between in [", ", ",,", " , ", ",\n", "\n", " ", "\r\n  "] {
                        let text = format!(",{value}{between}{value},\n");
                        let found = given(&command, &flag, &text);
                        assert_eq!(found, twice, "{command} --{name}={text:?}");
                    }
                }
            }
            assert!(taken > 0, "{command} --{name} takes none of the values");
        }
    }

    #[test]
    fn a_variable_that_is_blank_counts_as_not_set() {
        type Variable = fn(&OsStr) -> Option<OsString>;
        let blank: [Variable; 3] = [
            |_| Some("".into()),
            |_| Some(" \t".into()),
            |_| Some("\n".into()),
        ];
        for variable in blank {
            let args = value::without_blank_variables(Args::command(), variable);
            for command in args.get_subcommands() {
                assert!(command.get_arguments().all(|flag| flag.get_env().is_none()));
            }
        }
        for (text, unset) in [(", ,", "lists"), ("x", "")] {
            let variable: Variable = match unset {
                "lists" => |_| Some(", ,".into()),
                _ => |_| Some("x".into()),
            };
            let args = value::without_blank_variables(Args::command(), variable);
            let all = args
                .get_subcommands()
                .flat_map(clap::Command::get_arguments);
            let kept = all.filter(|flag| flag.get_env().is_some()).count();
            let expected = flags().into_iter().filter(|(_, flag)| {
                let is_list = matches!(flag.get_action(), clap::ArgAction::Append);
                unset.is_empty() || !is_list
            });
            assert_eq!(kept, expected.count(), "{text:?}");
        }
    }
}
