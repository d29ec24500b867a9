//! The command `callback-source`: looks up the callback servers of a payment provider, checks peers, serves forward
//! authentication, and signs and verifies webhooks.
//!
//! Exits with 0 for yes, 1 for no, and 2 for an error or an undecided result. Data goes to stdout, everything else to
//! stderr.

use std::{ffi::OsString, process::ExitCode};

mod error;
mod outcome;

mod args;

mod config;
mod log;
mod secret;

mod replace_file;

mod journal;

mod output;
mod process_group;

mod report;
mod request_file;

mod ask;
mod follow;

mod check;
mod completions;
mod config_command;
mod lookup;
mod man;
mod serve;
mod sign;
mod verify;

#[cfg(feature = "demo")]
mod demo;

use self::{
    args::{Command, Invocation},
    error::Error,
    outcome::Outcome,
};

fn main() -> ExitCode {
    let code = match run(std::env::args_os()) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Incomplete) => ExitCode::from(2),
        Err(error) => {
            output::failure(&error);
            ExitCode::from(2)
        }
    };
    log::finish();
    code
}

fn run(words: impl Iterator<Item = OsString>) -> Result<Outcome, Error> {
    let invocation = match Invocation::read(words) {
        // clap reports `--help` and `--version` as errors as well.
        Err(Error::Usage(error)) => {
            // If printing fails, the failure cannot be reported on another output.
            let _ = error.print();
            return Ok(match error.exit_code() {
                0 => Outcome::Yes,
                _ => Outcome::Incomplete,
            });
        }
        invocation => invocation?,
    };
    let Invocation {
        command,
        settings,
        file,
    } = invocation;
    match command {
        Command::Lookup(args) => lookup::run(args),
        Command::Check(args) => check::run(args),
        Command::Serve(args) => serve::run(args, settings, file),
        Command::Follow(args) => serve::follow(&args),
        Command::Status(args) => ask::status(&args),
        Command::History(args) => ask::history(&args),
        Command::Explain(args) => ask::explain(&args),
        Command::Watch(args) => ask::watch(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Config(command) => config_command::run(command, &settings, file.as_ref()),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { folder } => man::run(&folder),
    }
}
