//! Environment variables of flags.
//!
//! The variables are derived from the names of the flags, for all commands at once. No flag can lack its variable,
//! and no variable can be misspelled.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, builder::Resettable};

use super::lists::pieces;

/// Gives each flag of each subcommand its variable: `--min-ttl` has `CALLBACK_SOURCE_MIN_TTL`.
pub(super) fn with_variables(command: Command) -> Command {
    let set = |arg: Arg| match arg.get_long() {
        Some(name) if name != WITHOUT_VARIABLE => {
            let variable = PREFIX.to_owned() + &name.replace('-', "_").to_uppercase();
            arg.env(variable).hide_env_values(true)
        }
        _ => arg,
    };
    command.mut_subcommands(|command| command.mut_args(set))
}

/// Ignores blank variables: in a Compose file or a chart, an omitted value is an empty variable.
pub(super) fn without_blank_variables(
    command: Command,
    variable: fn(&OsStr) -> Option<OsString>,
) -> Command {
    let is_blank = move |arg: &Arg| {
        let text = arg.get_env().and_then(variable);
        let text = text.as_deref().and_then(OsStr::to_str);
        match arg.get_action() {
            ArgAction::Append => text.is_some_and(|text| pieces(text).next().is_none()),
            _ => text.is_some_and(|text| text.trim().is_empty()),
        }
    };
    let unset = move |arg: Arg| match is_blank(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    };
    command.mut_subcommands(move |command| command.mut_args(unset))
}

const PREFIX: &str = "CALLBACK_SOURCE_";

/// Header lines cannot be separated safely: their values may contain commas and blanks.
const WITHOUT_VARIABLE: &str = "header";
