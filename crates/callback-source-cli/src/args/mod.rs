//! Command line and environment.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

use crate::error::Error;

mod lists;
mod names;

mod file;
mod values;
mod variables;

mod settings;

mod common;
mod proxy;
mod secret;
mod targets;

mod ask;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod follow;
mod lookup;
mod serve;
mod sign;
mod verify;

mod config;
mod example;

#[cfg(feature = "demo")]
pub(crate) use self::demo::DemoArgs;
pub(crate) use self::{
    ask::{AskArgs, EventKind, ExplainArgs, HistoryArgs, StatusArgs, WatchArgs},
    check::CheckArgs,
    common::{CommonArgs, Environment, LogFormat},
    config::ConfigCommand,
    file::{ConfigFile, read as read_config_file},
    follow::FollowArgs,
    lists::{List, all},
    lookup::LookupArgs,
    secret::SecretArgs,
    serve::ServeArgs,
    settings::{Setting, Source, is_reloadable, toml_value},
    sign::SignArgs,
    targets::{FileFormat, Target},
    values::{Listen, TrustedProxy, plain},
    variables::SECRET_VARIABLE,
    verify::VerifyArgs,
};
use self::{
    names::innermost,
    settings::settings,
    variables::{reject_unknown, with_variables, without_blank_variables},
};

/// The name of the command.
pub(crate) const NAME: &str = "callback-source";

/// Look up, check and serve the callback servers of a payment provider
///
/// The provider publishes its callback servers as host names only. This command follows them through
/// DNS, and decides which peers may send callbacks.
///
/// The exit code is 0 for yes, 1 for no and 2 for an error. Each flag except `check --header` and those of `demo`
/// can also be set by an environment variable: `CALLBACK_SOURCE_MIN_TTL` sets `--min-ttl`. Several values are
/// separated by commas, blanks or line breaks. An empty variable is treated as unset, and an unknown variable with
/// this prefix is an error. Most commands also read a configuration file (`--config`). A flag replaces a variable,
/// and a variable replaces a value of the file.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// The command with the variables of all flags.
    pub(crate) fn whole() -> clap::Command {
        with_variables(Self::command())
    }
}

/// A configuration file with all keys, each as a comment with its help and its default.
pub(crate) fn example_file() -> String {
    example::file(&Args::command())
}

/// A command with its settings.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) settings: Vec<Setting>,
    pub(crate) file: Option<ConfigFile>,
}

impl Invocation {
    /// Reads the command line, the environment and the configuration file.
    pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        Self::with_file(words.collect(), read_config_file)
    }

    /// Reads the command line and the environment, with this content of the configuration file.
    pub(crate) fn again(
        words: impl Iterator<Item = OsString>,
        content: String,
    ) -> Result<Self, Error> {
        Self::with_file(words.collect(), |_| Ok(content))
    }

    /// Reads a line with flags of `serve` alone.
    #[cfg(feature = "demo")]
    pub(crate) fn without_variables(line: &str) -> Result<ServeArgs, Error> {
        match Args::try_parse_from(line.split_whitespace())?.command {
            Command::Serve(args) => Ok(args),
            _ => Err(clap::Error::new(ErrorKind::InvalidSubcommand).into()),
        }
    }

    fn with_file(
        words: Vec<OsString>,
        content: impl FnOnce(&Path) -> Result<String, Error>,
    ) -> Result<Self, Error> {
        let whole = Args::whole();
        let mut command = without_blank_variables(whole.clone(), |name| std::env::var_os(name));
        let path = file::path(&command, &words);
        let file = match path {
            Some(path) => {
                let content = content(&path)?;
                Some(ConfigFile::parse(path, content, &whole)?)
            }
            None => None,
        };
        if let Some(file) = &file {
            command = file.as_defaults(command);
        }
        let matches = match command.try_get_matches_from_mut(&words) {
            // The help lists the variables of all flags, including empty variables.
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                whole.clone().try_get_matches_from(words)?
            }
            matches => matches?,
        };
        let args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if reads_variables(&args.command) {
            reject_unknown(&whole, std::env::vars_os())?;
        }
        let (given, matches) = innermost(&command, &matches);
        Ok(Self {
            command: args.command,
            settings: settings(&whole, given, matches, file.as_ref()),
            file,
        })
    }
}

/// Returns whether a command reads variables. `demo` does not, so that no variable can prevent its start.
fn reads_variables(command: &Command) -> bool {
    #[cfg(feature = "demo")]
    if matches!(command, Command::Demo(_)) {
        return false;
    }
    let _ = command;
    true
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lookup(LookupArgs),
    Check(CheckArgs),
    Serve(ServeArgs),
    Follow(FollowArgs),
    Status(StatusArgs),
    History(HistoryArgs),
    Explain(ExplainArgs),
    Watch(WatchArgs),
    Sign(SignArgs),
    Verify(VerifyArgs),
    /// Check, show or start a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_help_lists_the_flags_without_an_environment_variable() {
        let args = with_variables(Args::command());
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
        let demo = cfg!(feature = "demo").then_some("demo --listen");
        let expected: Vec<_> = ["check --header"].into_iter().chain(demo).collect();
        assert_eq!(without, expected);
        let help = args.get_long_about().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(
            help.contains("Each flag except `check --header` and those of `demo` can also"),
            "{help}"
        );
    }

    /// Each flag with a variable, and its command.
    fn flags() -> Vec<(String, clap::Arg)> {
        let args = with_variables(Args::command());
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

    fn has_a_value(flag: &clap::Arg) -> bool {
        flag.get_action().takes_values()
    }

    /// Arguments of a command with this value of a flag, in their debug form.
    fn parsed(command: &str, flag: &clap::Arg, value: &str) -> Result<String, String> {
        let flag = flag.get_long().unwrap_or_default();
        let needed = match command {
            "check" => "--peer=192.0.2.1",
            "follow" => "file:plain:/tmp/b",
            "status" | "history" | "watch" => "--admin-listen=127.0.0.1:8481",
            "explain" => return explained(flag, value),
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

    /// As [`parsed`], for the command that needs a peer as well.
    fn explained(flag: &str, value: &str) -> Result<String, String> {
        let mut words = vec![
            NAME.to_owned(),
            "explain".to_owned(),
            "192.0.2.1".to_owned(),
            format!("--{flag}={value}"),
        ];
        if flag != "admin-listen" {
            words.push("--admin-listen=127.0.0.1:8481".to_owned());
        }
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(format!("{args:?}"))
    }

    #[test]
    fn a_flag_with_an_empty_value_is_an_error_that_names_it() {
        for (command, flag) in flags() {
            if !has_a_value(&flag) {
                continue;
            }
            let name = format!("--{}", flag.get_long().unwrap_or_default());
            for text in ["", " ", "\n"] {
                let error = parsed(&command, &flag, text).expect_err(&name);
                let is_named = error.contains("a value is required for") && error.contains(&name);
                assert!(is_named, "{command} {name}={text:?}: {error}");
            }
        }
    }

    /// A flag that fails here needs `trimmed(…)` or `list(…)` around its value parser. A flag that accepts none
    /// of these values needs another one.
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
            "changes",
            "a.example",
            "https://a.example/",
            "2023-03-30T08:38:32Z",
            "/tmp/a",
            "file:plain:/tmp/a",
        ];
        for (command, flag) in flags() {
            if !has_a_value(&flag) {
                continue;
            }
            let name = flag.get_long().unwrap_or_default();
            let mut accepted = 0;
            for value in values {
                let Ok(read) = parsed(&command, &flag, value) else {
                    continue;
                };
                accepted += 1;
                for text in [
                    format!(" {value}"),
                    format!("{value}\n"),
                    format!("\t{value} \r\n"),
                ] {
                    let found = parsed(&command, &flag, &text);
                    assert_eq!(found.as_ref(), Ok(&read), "{command} --{name}={text:?}");
                }
                if matches!(flag.get_action(), clap::ArgAction::Append) {
                    let twice = parsed(&command, &flag, &format!("{value},{value}"));
                    assert_ne!(twice.as_ref(), Ok(&read), "{command} --{name}");
                    for between in [", ", ",,", " , ", ",\n", "\n", " ", "\r\n  "] {
                        let text = format!(",{value}{between}{value},\n");
                        let found = parsed(&command, &flag, &text);
                        assert_eq!(found, twice, "{command} --{name}={text:?}");
                    }
                }
            }
            assert!(
                accepted > 0,
                "{command} --{name} accepts none of the values"
            );
        }
    }

    #[test]
    fn a_blank_variable_is_treated_as_unset() {
        type Variable = fn(&OsStr) -> Option<OsString>;
        let blank: [Variable; 3] = [
            |_| Some("".into()),
            |_| Some(" \t".into()),
            |_| Some("\n".into()),
        ];
        for variable in blank {
            let args = without_blank_variables(with_variables(Args::command()), variable);
            for command in args.get_subcommands() {
                assert!(command.get_arguments().all(|flag| flag.get_env().is_none()));
            }
        }
        for (text, unset) in [(", ,", "lists"), ("x", "")] {
            let variable: Variable = match unset {
                "lists" => |_| Some(", ,".into()),
                _ => |_| Some("x".into()),
            };
            let args = without_blank_variables(with_variables(Args::command()), variable);
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
