//! Command line and environment.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

mod lists;

mod values;
mod variables;

mod common;
mod proxy;
mod secret;
mod targets;

mod check;
mod follow;
mod lookup;
mod serve;
mod sign;
mod verify;

use self::variables::{with_variables, without_blank_variables};
pub(crate) use self::{
    check::CheckArgs,
    common::{CommonArgs, Environment, LogFormat},
    follow::FollowArgs,
    lists::{List, all},
    lookup::LookupArgs,
    secret::SecretArgs,
    serve::ServeArgs,
    sign::SignArgs,
    targets::{FileFormat, Target},
    values::{Listen, TrustedProxy, plain},
    verify::VerifyArgs,
};

/// The name of the command.
pub(crate) const NAME: &str = "callback-source";

/// Look up, check and serve the callback servers of a payment provider
///
/// The provider publishes its callback servers as host names only. This command follows them through
/// DNS, and decides which peers may send callbacks.
///
/// The exit code is 0 for yes, 1 for no and 2 for an error. Each flag except `check --header` can also
/// be set by an environment variable, `CALLBACK_SOURCE_` and its name. Several values are separated by
/// commas, blanks or line breaks. An empty variable is treated as unset.
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
        let whole = with_variables(Self::command());
        let mut command = without_blank_variables(whole.clone(), |name| std::env::var_os(name));
        let matches = match command.try_get_matches_from_mut(&words) {
            // The help lists the variables of all flags, also the empty ones.
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                whole.try_get_matches_from(words)?
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
    Follow(FollowArgs),
    Sign(SignArgs),
    Verify(VerifyArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
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
        assert_eq!(without, ["check --header"]);
        let help = args.get_long_about().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(
            help.contains("Each flag except `check --header` can also"),
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
