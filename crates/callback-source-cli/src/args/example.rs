//! A configuration file with all keys, made from the flags.

use clap::{Arg, Command};

use super::{
    file::{is_list, is_switch, keys},
    settings::{SettingKind, is_reloadable, toml_value},
};

/// A configuration file with all keys, each as a comment with its help and its default.
pub(super) fn file(command: &Command) -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in keys(command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        let title = heading.unwrap_or("Server");
        text.push_str(&format!("\n## {title}\n"));
        for arg in keys(command).filter(|arg| arg.get_help_heading() == heading) {
            text.push('\n');
            text.push_str(&entry(arg));
        }
    }
    text
}

fn entry(arg: &Arg) -> String {
    let key = arg.get_long().unwrap_or_default();
    let help = arg.get_long_help().or_else(|| arg.get_help());
    // The keys of the file are written without dashes.
    let help = help
        .map(ToString::to_string)
        .unwrap_or_default()
        .replace("`--", "`");
    let mut lines = Vec::new();
    for paragraph in help.split('\n') {
        wrap(paragraph, &mut lines);
    }
    let possible = arg.get_possible_values();
    if !possible.is_empty() && !is_switch(arg) {
        let names: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
        lines.push(format!("One of: {}.", names.join(", ")));
    }
    if is_reloadable(key) {
        lines.push("A change takes effect without a restart.".to_owned());
    }
    let comments = lines
        .iter()
        .map(|line| format!("# {line}").trim_end().to_owned() + "\n");
    let kind = match arg {
        switch if is_switch(switch) => SettingKind::Switch,
        list if is_list(list) => SettingKind::List,
        _ => SettingKind::Single,
    };
    let defaults = arg.get_default_values().iter();
    let mut values: Vec<_> = defaults
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if values.is_empty() {
        values.extend(example_of(key).map(str::to_owned));
    }
    comments.collect::<String>() + &format!("#{key} = {}\n", toml_value(kind, &values))
}

fn wrap(paragraph: &str, lines: &mut Vec<String>) {
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
}

/// Example of a value that has no default.
fn example_of(key: &str) -> Option<&'static str> {
    let example = EXAMPLES.iter().find(|(name, _)| *name == key);
    example.map(|(_, value)| *value)
}

const INTRODUCTION: &str = "\
# Configuration of `callback-source serve`. A key without `#` replaces its default.
#
# Check it:           callback-source config check --config PATH
# Show what applies:  callback-source config show --config PATH
#
# A flag or a variable (`min-ttl` is `--min-ttl` and `CALLBACK_SOURCE_MIN_TTL`) replaces the value of the
# file. `serve` reads the file again at SIGHUP, and within 15 seconds after its content has changed. If a
# value is invalid, or a key has changed that needs a restart, the previous configuration stays in force.
";

const EXAMPLES: [(&str, &str); 15] = [
    ("admin-listen", "127.0.0.1:8481"),
    ("allow", "192.0.2.0/24"),
    ("client-ip-header", "x-real-ip"),
    ("dns-server", "192.0.2.53"),
    ("environment", "production"),
    ("ext-authz-listen", "127.0.0.1:8482"),
    ("follow", "nftables:inet/shop/callers"),
    ("host", "callbacks.example.com"),
    ("journal", "/var/lib/callback-source/journal.jsonl"),
    ("listen", "127.0.0.1:8480"),
    ("log", "error,callback_source=info"),
    ("on-change", "systemctl reload nginx"),
    ("state-file", "/var/lib/callback-source/state.json"),
    ("trusted-proxy", "192.0.2.10"),
    ("unsure-status", "403"),
];

const WIDTH: usize = 100;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::{Args, Invocation, example_file};

    /// Each key of the printed file, with its value.
    fn entries(text: &str) -> Vec<(&str, &str)> {
        let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
        lines
            .filter(|line| !line.starts_with([' ', '#']))
            .filter_map(|line| line.split_once(" = "))
            .collect()
    }

    #[test]
    fn the_example_file_has_every_flag_of_serve_with_a_valid_value() {
        let text = example_file();
        let entries = entries(&text);
        let command = Args::command();
        let serve = command.find_subcommand("serve").unwrap();
        let flags = serve.get_arguments().filter_map(Arg::get_long);
        let mut flags: Vec<_> = flags.filter(|flag| *flag != "config").collect();
        let mut names: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        flags.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, flags);

        let folder = tempfile::tempdir().unwrap();
        for (key, value) in entries {
            let path = folder.path().join("config.toml");
            std::fs::write(&path, format!("{key} = {value}\n")).unwrap();
            let words = [
                "callback-source",
                "serve",
                "--listen=127.0.0.1:1",
                "--config",
            ];
            let words = words
                .into_iter()
                .map(Into::into)
                .chain([path.into_os_string()]);
            let read = Invocation::read(words);
            assert!(read.is_ok(), "{key} = {value}: {}", read.unwrap_err());
        }
    }

    #[cfg(feature = "ext-authz")]
    #[test]
    fn the_example_file_of_the_repository_is_the_printed_one() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/callback-source.toml"
        );
        let kept = std::fs::read_to_string(path).unwrap();
        assert!(
            kept == example_file(),
            "run `callback-source config example > docs/callback-source.toml`"
        );
    }
}
