//! Flags of `verify`.

use std::{path::PathBuf, time::SystemTime};

use clap::Args as ClapArgs;
use http::Uri;

use super::{
    lists::trimmed,
    secret::SecretArgs,
    values::{endpoint, path, switch, time},
};

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
        value_parser = path()
    )]
    pub(crate) request: PathBuf,

    /// The URL that was registered: tells a host or path that a proxy changed from a wrong key
    #[arg(
        long,
        value_name = "URL",
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Option<Uri>,

    /// When the request arrived [default: now]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = trimmed(time)
    )]
    pub(crate) at: Option<SystemTime>,

    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}
