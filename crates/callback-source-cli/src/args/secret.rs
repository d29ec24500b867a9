//! Flags for the secret of a webhook.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::values::path;

/// Flags for the secret of a webhook. The secret itself is never an argument, since other users see the
/// arguments of a process.
#[derive(Debug, ClapArgs)]
pub(crate) struct SecretArgs {
    /// File with the secret as the provider returned it; a line break at its end is ignored
    /// [default: the secret in the environment variable `CALLBACK_SOURCE_WEBHOOK_SECRET`]
    #[arg(
        long,
        value_name = "PATH",
        value_parser = path()
    )]
    pub(crate) secret_file: Option<PathBuf>,
}
