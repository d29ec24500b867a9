//! The settings of a command, each with its source.

use std::fmt;

use clap::{ArgMatches, Command, parser::ValueSource};

use super::file::{ConfigFile, is_list, is_switch, keys};

/// A setting that a configuration file can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    /// Values as they were given; none if it is not set.
    pub(crate) values: Vec<String>,
    pub(crate) kind: SettingKind,
    pub(crate) source: Source,
}

/// Form of the value in a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingKind {
    Switch,
    Single,
    List,
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    /// The variable's name.
    Variable(String),
    /// The line in the configuration file.
    File(usize),
    Default,
}

/// The settings of a command, in the order of its help.
///
/// `whole` is the command with all its subcommands, `command` the one that was given.
pub(super) fn settings(
    whole: &Command,
    command: &Command,
    matches: &ArgMatches,
    file: Option<&ConfigFile>,
) -> Vec<Setting> {
    let keys: Vec<_> = keys(whole).filter_map(clap::Arg::get_long).collect();
    let args = command.get_arguments();
    let configurable = args.filter_map(|arg| {
        let key = arg.get_long().filter(|key| keys.contains(key))?;
        let id = arg.get_id().as_str();
        let raw = matches.get_raw(id).into_iter().flatten();
        let values = match is_switch(arg) {
            true => vec![matches.get_flag(id).to_string()],
            false => raw
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        };
        let kind = match arg {
            switch if is_switch(switch) => SettingKind::Switch,
            list if is_list(list) => SettingKind::List,
            _ => SettingKind::Single,
        };
        let variable = || {
            arg.get_env()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => Source::Variable(variable().unwrap_or_default()),
            _ => match file.and_then(|file| file.entry(key)) {
                Some(entry) => Source::File(entry.line),
                None => Source::Default,
            },
        };
        Some(Setting {
            key: key.to_owned(),
            values,
            kind,
            source,
        })
    });
    configurable.collect()
}

/// Returns whether a running server can take over a new value of a key.
pub(crate) fn is_reloadable(key: &str) -> bool {
    RELOADABLE.contains(&key)
}

/// Values in the form of a configuration file.
pub(crate) fn toml_value(kind: SettingKind, values: &[String]) -> String {
    let text = |value: &String| match value.parse::<u32>() {
        Ok(_) => value.clone(),
        // Strings have the escapes of JSON.
        Err(_) => serde_json::Value::from(value.as_str()).to_string(),
    };
    match kind {
        SettingKind::Switch => values
            .first()
            .cloned()
            .unwrap_or_else(|| "false".to_owned()),
        SettingKind::Single => values.first().map(text).unwrap_or_default(),
        SettingKind::List => {
            let elements: Vec<_> = values.iter().map(text).collect();
            format!("[{}]", elements.join(", "))
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File(line) => write!(f, "file, line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Keys whose new values a running server can take over. A new value of any other key would need new sockets, or would
/// leave connections open that were accepted under other rules.
const RELOADABLE: [&str; 10] = [
    "allow",
    "client-ip-header",
    "environment",
    "host",
    "linger",
    "log",
    "report-only",
    "stale-for",
    "trusted-proxy",
    "unsure-status",
];
