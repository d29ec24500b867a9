//! `config`: checks or shows the configuration, or prints an example of a configuration file.

use callback_source::HostName;
use serde::Serialize;

use crate::{
    args::{ConfigCommand, ConfigFile, ServeArgs, Setting, Source, example_file, toml_value},
    config::{self, Config, Proxies, Subject},
    error::Error,
    log,
    outcome::Outcome,
    output,
};

pub(crate) fn run(
    command: ConfigCommand,
    settings: &[Setting],
    file: Option<&ConfigFile>,
) -> Result<Outcome, Error> {
    match command {
        ConfigCommand::Check(args) => {
            check(&args)?;
            output::message("note", "the configuration is valid");
        }
        ConfigCommand::Show(args) => {
            check(&args.serve)?;
            match args.json {
                true => output::json(&settings.iter().map(Shown::new).collect::<Vec<_>>())?,
                false => {
                    let hosts = config::hosts(&args.serve.common, Subject::Callers);
                    output::data(table(settings, file, &hosts).as_bytes())?;
                }
            }
        }
        ConfigCommand::Example => output::data(example_file().as_bytes())?,
    }
    Ok(Outcome::Yes)
}

/// Fails if `serve` would reject these flags. Most of the state of the machine, such as whether a port is free, is not
/// checked.
fn check(args: &ServeArgs) -> Result<(), Error> {
    log::filter(&args.common)?;
    Config::for_server(&args.common)?;
    Proxies::from_serve_args(args)?;
    Ok(())
}

fn table(settings: &[Setting], file: Option<&ConfigFile>, hosts: &[HostName]) -> String {
    let rows = settings
        .iter()
        .map(|setting| match setting.values.as_slice() {
            [] => (format!("# {}", setting.key), "not set".to_owned()),
            values => {
                let value = toml_value(setting.kind, values);
                (
                    format!("{} = {value}", setting.key),
                    setting.source.to_string(),
                )
            }
        });
    let rows: Vec<_> = rows.collect();
    let widths = rows.iter().map(|(entry, _)| entry.chars().count());
    let width = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    let file = file.map(|file| format!("# file: {}\n", file.path.display()));
    let rows = rows
        .iter()
        .map(|(entry, source)| format!("{entry:width$}  # {source}\n"));
    let hosts = hosts
        .iter()
        .map(|host| format!("# host to look up: {host}\n"));
    file.into_iter().chain(rows).chain(hosts).collect()
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    values: &'a [String],
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

impl<'a> Shown<'a> {
    fn new(setting: &'a Setting) -> Self {
        let (source, variable, line) = match &setting.source {
            Source::Flag => ("flag", None, None),
            Source::Variable(name) => ("variable", Some(name.as_str()), None),
            Source::File(line) => ("file", None, Some(*line)),
            Source::Default => ("default", None, None),
        };
        Self {
            key: &setting.key,
            values: &setting.values,
            source,
            variable,
            line,
        }
    }
}

/// Maximum width of the column of entries, in characters. A longer entry does not widen the column.
const WIDEST: usize = 60;
