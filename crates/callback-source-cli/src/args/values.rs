//! Values of flags.
//!
//! Each error shows a correct value. Most values come from variables and files, where neither completion nor
//! `--help` is at hand.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use callback_source::{HostName, HostNameError};
use clap::builder::{BoolishValueParser, PathBufValueParser, TypedValueParser};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use ipnet::IpNet;

use super::lists::trimmed;

/// Parser of a flag without a value. The flag's variable is `true` or `false`.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    trimmed(BoolishValueParser::new())
}

pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    trimmed(PathBufValueParser::new())
}

/// Hop whose forwarding headers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrustedProxy {
    Network(IpNet),
    UnixSocket,
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => f.write_str(&plain(*network)),
            Self::UnixSocket => f.write_str("unix:"),
        }
    }
}

/// Address or Unix socket on which to listen.
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

pub(super) fn listen(text: &str) -> Result<Listen, &'static str> {
    text.parse()
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "give an address and a port, such as `127.0.0.1:8481`")
}

/// Parses a loopback address and a port.
#[cfg(feature = "demo")]
pub(super) fn loopback_socket(text: &str) -> Result<SocketAddr, &'static str> {
    let address = socket(text)?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("give a loopback address, such as `127.0.0.1:8480`"),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse()
        .map_err(|_| "give an IP address, such as `192.0.2.1` or `2001:db8::1`")
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, &'static str> {
    text.parse()
        .map_err(|_| "give the name of a header, such as `x-forwarded-for`")
}

pub(super) fn host_name(text: &str) -> Result<HostName, String> {
    text.parse()
        .map_err(|error: HostNameError| match error.address() {
            Some(address) => format!(
                "it is an address: use `--allow` to admit `{}` as a static network",
                plain(address)
            ),
            None => error.to_string(),
        })
}

/// Rejects a path that names a folder, such as one that ends in `/` or `..`.
pub(super) fn state_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    match path.file_name() {
        Some(_) if !is_folder => Ok(path),
        _ => Err("give the path of a file, such as `/var/lib/callback-source/state.json`"),
    }
}

pub(super) fn allowed(text: &str) -> Result<IpNet, &'static str> {
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

pub(super) fn trusted_proxy(text: &str) -> Result<TrustedProxy, &'static str> {
    match text {
        "unix:" => Ok(TrustedProxy::UnixSocket),
        _ => network(text).map(TrustedProxy::Network).map_err(|_| {
            "give a network such as `10.0.0.0/24`, an address, or `unix:` for proxies at a Unix socket"
        }),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a duration such as `90s`, `10m` or `24h`"))
}

pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    let shortest = Duration::from_secs(1);
    match duration(text)? {
        time if (shortest..=A_DAY).contains(&time) => Ok(time),
        _ => Err("give a duration from `1s` to `24h`".to_owned()),
    }
}

pub(super) fn stop_delay(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time <= A_DAY => Ok(time),
        _ => Err("give a duration of at most `24h`".to_owned()),
    }
}

pub(super) fn refusing_status(text: &str) -> Result<StatusCode, &'static str> {
    text.parse::<StatusCode>()
        .ok()
        .filter(|status| status.is_client_error() || status.is_server_error())
        .ok_or("give a status from 400 to 599: with any other, the callback would pass")
}

pub(super) fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let hint = "give a header such as `X-Forwarded-For: 192.0.2.1`";
    let (name, value) = text.split_once(':').ok_or(hint)?;
    let name = name.parse().map_err(|_| hint)?;
    let value = value.trim_matches([' ', '\t']).parse().map_err(|_| hint)?;
    Ok((name, value))
}

/// Parses an absolute URL. Its fragment, if any, is never sent.
pub(super) fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let hint = "give the whole URL, such as `https://shop.example/webhooks`";
    let url: Uri = text.parse().map_err(|_| hint)?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_web || url.host().is_none_or(str::is_empty) {
        return Err(hint);
    }
    Ok(url)
}

pub(super) fn time(text: &str) -> Result<SystemTime, &'static str> {
    httpdate::parse_http_date(text)
        .or_else(|_| humantime::parse_rfc3339_weak(text))
        .map_err(
            |_| "give a time such as `Thu, 30 Mar 2023 08:38:32 GMT` or `2023-03-30T08:38:32Z`",
        )
}

/// Time in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    At(SystemTime),
    Ago(Duration),
    /// The beginning of the day (UTC) that was this many days ago.
    Day(u32),
}

impl Past {
    pub(crate) fn time(self) -> SystemTime {
        let now = SystemTime::now();
        let ago = match self {
            Self::At(time) => return time,
            Self::Ago(ago) => ago,
            Self::Day(days) => {
                let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
                let today = since_epoch.unwrap_or_default().as_secs() % A_DAY.as_secs();
                A_DAY * days + Duration::from_secs(today)
            }
        };
        now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Parses a time in the past, such as `yesterday`.
pub(super) fn past(text: &str) -> Result<Past, &'static str> {
    match text {
        "today" => return Ok(Past::Day(0)),
        "yesterday" => return Ok(Past::Day(1)),
        _ => {}
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Past::Ago(ago));
    }
    let time = time(text).or_else(|_| {
        // A date means its first moment.
        humantime::parse_rfc3339_weak(&format!("{text} 00:00:00"))
    });
    time.map(Past::At).map_err(|_| {
        "give `today`, `yesterday`, a duration such as `12h`, or a time such as `2026-03-30T08:38:32Z`"
    })
}

/// Formats a network, without the prefix length if it has a single address.
pub(crate) fn plain(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_time_is_a_day_a_duration_or_a_time() {
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        for (text, past_time) in [
            ("today", Past::Day(0)),
            ("yesterday", Past::Day(1)),
            ("90m", Past::Ago(Duration::from_secs(5400))),
            ("2026-03-30", Past::At(at("2026-03-30T00:00:00Z"))),
            ("2026-03-30T08:38:32Z", Past::At(at("2026-03-30T08:38:32Z"))),
        ] {
            assert_eq!(past(text), Ok(past_time), "{text}");
        }
        assert!(past("tomorrow").is_err());
        let midnight = Past::Day(0).time().duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(midnight.unwrap().as_secs() % A_DAY.as_secs(), 0);
        assert!(Past::Day(1).time() < Past::Day(0).time());
    }
}
