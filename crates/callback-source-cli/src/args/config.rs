//! Subcommands of `config`.

use clap::{Args as ClapArgs, Subcommand};

use super::{serve::ServeArgs, values::switch};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration that `serve` would use with these flags, variables and file
    ///
    /// Opens no socket and asks no DNS server. The exit code is 0 if `serve` accepts the configuration, and 2
    /// if it does not.
    Check(ServeArgs),
    Show(ShowArgs),
    /// Print a configuration file with all keys, each as a comment
    Example,
}

/// Print the configuration that `serve` would use with these flags, variables and file
///
/// One setting a line in the form of a configuration file, with the source of its value.
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// Print JSON
    #[arg(long, value_parser = switch())]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}
