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
/// Run the command within five minutes of its date. The headers are signed for the registered URL. To
/// reach the endpoint at another address, change the URL in the command, and leave the headers as they
/// are. The command does not contain the secret.
#[derive(Debug, ClapArgs)]
pub(crate) struct SignArgs {
    /// URL of the endpoint, as registered
    #[arg(
        long,
        value_name = "URL",
        value_parser = trimmed(endpoint)
    )]
    pub(crate) url: Uri,

    /// File with the body; `-` inserts stdin into the command [default: no body]
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) body_file: Option<PathBuf>,

    /// Date to sign [default: now]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = trimmed(time)
    )]
    pub(crate) date: Option<SystemTime>,

    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}
