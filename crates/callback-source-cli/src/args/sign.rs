//! Flags of `sign`.

use std::{path::PathBuf, time::SystemTime};

use clap::Args as ClapArgs;
use http::Uri;

use super::{
    lists::trimmed,
    secret::SecretArgs,
    values::{endpoint, path, time},
};

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
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Uri,

    /// The file with the body; `-` puts what stdin has into the command [default: no body]
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) body_file: Option<PathBuf>,

    /// The date that is signed [default: now]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = trimmed(time)
    )]
    pub(crate) date: Option<SystemTime>,

    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}
