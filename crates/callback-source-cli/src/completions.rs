//! `completions`: a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::{Args, NAME},
    error::Error,
    outcome::Outcome,
    output,
};

pub(crate) fn run(shell: Shell) -> Result<Outcome, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    output::data(&script)?;
    Ok(Outcome::Yes)
}
