//! The configuration file.
//!
//! Its keys are the long flags of the commands that keep running, so that each setting has one definition:
//! name, help, default and parser are those of the flag. The values of the file replace the defaults, below
//! flags and variables.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::names::{every_flag, nearest};
use crate::error::{Error, Position};

/// A configuration file whose keys and values are valid.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) content: String,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) values: Vec<OsString>,
    pub(super) line: usize,
}

impl ConfigFile {
    /// Checks each key and each value of a file by the flags of `command`.
    pub(super) fn parse(path: PathBuf, content: String, command: &Command) -> Result<Self, Error> {
        let entries = entries(&content, command).map_err(|(at, problem)| Error::ConfigFile {
            path: path.clone(),
            position: position(&content, at),
            problem,
        })?;
        Ok(Self {
            path,
            content,
            entries,
        })
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes the values of the file the defaults of all commands that read one.
    pub(super) fn as_defaults(&self, command: Command) -> Command {
        command.mut_subcommands(|command| {
            let command = self.as_defaults(command);
            if !reads_file(&command) {
                return command;
            }
            command.mut_args(|arg| match arg.get_long().and_then(|key| self.entry(key)) {
                Some(entry) => arg.required(false).default_values(entry.values.clone()),
                None => arg,
            })
        })
    }
}

/// The path of the file, if the command line or the environment has one. Required values may be in the file, so their
/// absence is not an error here.
pub(super) fn path(command: &Command, words: &[OsString]) -> Option<PathBuf> {
    let command = every_flag(command.clone(), &|arg| arg.required(false));
    let matches = command.try_get_matches_from(words).ok()?;
    let mut matches = &matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches.try_get_one(CONFIG).ok().flatten().cloned()
}

/// The content of a file, which must be text.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let mut content = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut content))
        .and_then(|size| match u64::try_from(size) {
            Ok(..=MAX_SIZE) => Ok(()),
            _ => Err(io::Error::other("the file is larger than 1 MiB")),
        });
    read.map(|()| content).map_err(|cause| Error::Read {
        what: "the configuration",
        path: path.to_owned(),
        cause,
    })
}

/// The flags that are keys of the file.
pub(super) fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    let commands = command.get_subcommands();
    let serving = commands.filter(|command| CONFIGURED.contains(&command.get_name()));
    serving.flat_map(Command::get_arguments).filter(|arg| {
        let name = arg.get_long();
        name.is_some_and(|name| name != CONFIG && name != "help")
    })
}

pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

pub(super) fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values()
}

fn reads_file(command: &Command) -> bool {
    let mut args = command.get_arguments();
    args.any(|arg| arg.get_long() == Some(CONFIG))
}

/// A problem of the file, and where it is, in bytes.
type Problem = (usize, String);

fn entries(content: &str, command: &Command) -> Result<BTreeMap<String, Entry>, Problem> {
    let table = DeTable::parse(content).map_err(|error| {
        let at = error.span().map_or(content.len(), |span| span.start);
        (at, error.message().replace('\n', ", "))
    })?;
    let flags: BTreeMap<_, _> = keys(command)
        .filter_map(|arg| Some((arg.get_long()?, arg)))
        .collect();
    // In the order of the file, so that the first problem is reported first.
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
        .into_iter()
        .map(|(key, value)| {
            let name = key.get_ref().as_ref();
            let Some(arg) = flags.get(name) else {
                return Err((key.span().start, unknown(name, flags.keys().copied())));
            };
            let entry = Entry {
                values: values(name, arg, value)?,
                line: position(content, key.span().start).line,
            };
            Ok((name.to_owned(), entry))
        })
        .collect()
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known = nearest(name, known);
    let hint = known.map_or_else(
        || "; `callback-source config example` prints all keys".to_owned(),
        |nearest| format!("; did you mean `{nearest}`?"),
    );
    format!("unknown key `{}`{hint}", name.escape_debug())
}

fn values(name: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, Problem> {
    let at = value.span().start;
    match value.get_ref() {
        DeValue::Boolean(on) if is_switch(arg) => Ok(vec![on.to_string().into()]),
        _ if is_switch(arg) => Err((at, format!("`{name}` must be `true` or `false`"))),
        DeValue::Array(array) if is_list(arg) && array.is_empty() => Err((
            at,
            format!("`{name}` has no value; remove the key to use the default"),
        )),
        DeValue::Array(array) if is_list(arg) => {
            array.iter().map(|value| single(name, arg, value)).collect()
        }
        DeValue::Array(_) => Err((at, format!("`{name}` must be a single value"))),
        _ => Ok(vec![single(name, arg, value)?]),
    }
}

fn single(name: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<OsString, Problem> {
    let at = value.span().start;
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
        other => {
            let kind = other.type_str();
            return Err((at, format!("`{name}` must be a string, not a TOML {kind}")));
        }
    };
    // The command has this flag alone, because the flag's other rules are about other flags.
    let flag = Arg::new("value")
        .long("value")
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    let parsed = Command::new("value")
        .no_binary_name(true)
        .arg(flag)
        .try_get_matches_from([format!("--value={text}")]);
    match parsed {
        Ok(_) => Ok(text.into()),
        Err(error) => Err((at, invalid(name, &text, &error))),
    }
}

/// The problem that clap found in a value.
fn invalid(name: &str, text: &str, error: &clap::Error) -> String {
    if text.trim().is_empty() {
        return format!("`{name}` is empty; remove the key to use the default");
    }
    let text = text.escape_debug();
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.or_else(|| match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if error.kind() == ErrorKind::InvalidValue => {
            Some(format!("expected `{}`", valid.join("` or `")))
        }
        _ => None,
    });
    match cause {
        Some(cause) => format!("invalid value `{text}` of `{name}`: {cause}"),
        None => format!("invalid value `{text}` of `{name}`"),
    }
}

fn position(content: &str, at: usize) -> Position {
    let before = content.get(..at).unwrap_or(content);
    let line = before.rsplit('\n').next().unwrap_or(before);
    Position {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
    }
}

const CONFIG: &str = "config";

/// Commands whose flags are keys of the file.
const CONFIGURED: [&str; 1] = ["serve"];

const MAX_SIZE: u64 = 1024 * 1024;
