//! `man`: the man pages of the command, for packages.

use std::{
    env, fs,
    path::Path,
    time::{Duration, SystemTime},
};

use clap::Command;
use clap_mangen::Man;

use crate::{args::Args, error::Error, outcome::Outcome};

/// Writes a page for the command, and a page for each visible subcommand.
pub(crate) fn run(folder: &Path) -> Result<Outcome, Error> {
    let mut command = Args::whole().disable_help_subcommand(true);
    command.build();
    write(&command, folder, &date())?;
    Ok(Outcome::Yes)
}

fn write(command: &Command, folder: &Path, date: &str) -> Result<(), Error> {
    // The display name is the name of the page, such as `callback-source-serve`.
    let name = command.get_display_name();
    let name = name.unwrap_or_else(|| command.get_name()).to_owned();
    let version = command.get_version().unwrap_or(env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date)
        .source(format!("callback-source {version}"))
        .manual("User Commands");
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    let written = page.render(&mut text).and_then(|()| {
        // mandoc warns about an empty line and about each line break next to the empty line.
        let text = String::from_utf8_lossy(&text).replace(".br\n\n.br\n", ".sp\n");
        fs::write(&path, text)
    });
    written.map_err(|cause| Error::Write { path, cause })?;
    let shown = |command: &&Command| !command.is_hide_set();
    command
        .get_subcommands()
        .filter(shown)
        .try_for_each(|command| write(command, folder, date))
}

/// Returns the date of the pages. This is the time in `SOURCE_DATE_EPOCH` if the variable is set, so that two builds of
/// a release are equal. Otherwise it is today's date.
fn date() -> String {
    let release = env::var("SOURCE_DATE_EPOCH").ok();
    let release = release.and_then(|seconds| seconds.parse().ok());
    let release = release.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let time = humantime::format_rfc3339_seconds(release.unwrap_or_else(SystemTime::now));
    time.to_string().chars().take("2026-11-26".len()).collect()
}
