//! Flags of `verify`.

use std::{path::PathBuf, time::SystemTime};

use clap::Args as ClapArgs;
use http::Uri;

use super::{
    lists::trimmed,
    secret::SecretArgs,
    values::{endpoint, path, switch, time},
};

/// Show which part of a saved webhook does not match: date, content hash, host, path or key
///
/// The date is a part like the others: a request that was saved more than five minutes ago does not
/// match, unless `--at` gives the time of its arrival.
///
/// The exit code is 0 if every part matches, 1 if some part does not, and 2 if this cannot be decided,
/// such as when the file does not contain a request.
#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// File with the request as it arrived: request line, headers, an empty line, and the body
    /// byte for byte; `-` reads stdin
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) request: PathBuf,

    /// Registered URL: distinguishes a host or path that a proxy changed from a wrong key
    #[arg(
        long,
        value_name = "URL",
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Option<Uri>,

    /// Time at which the request arrived [default: now]
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
