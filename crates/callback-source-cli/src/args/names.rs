//! Names of flags.

use clap::{Arg, ArgMatches, Command};

/// Changes each flag of each subcommand, except those of `demo`, which have neither variables nor keys.
pub(super) fn every_flag(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    command.mut_subcommands(|command| match command.get_name() {
        "demo" => command,
        _ => every_flag(command, change).mut_args(change),
    })
}

/// The innermost subcommand that was given, with its matches.
pub(super) fn innermost<'a>(
    command: &'a Command,
    matches: &'a ArgMatches,
) -> (&'a Command, &'a ArgMatches) {
    let Some((name, inner)) = matches.subcommand() else {
        return (command, matches);
    };
    match command.find_subcommand(name) {
        Some(command) => innermost(command, inner),
        None => (command, matches),
    }
}

/// The known name that is most similar to a misspelled one, if any is.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rated = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity > SIMILAR)
        .map(|(_, name)| name)
}

/// Similarity that clap requires of a name that it suggests for a flag.
const SIMILAR: f64 = 0.8;
