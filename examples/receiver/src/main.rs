//! The command `receiver`.

use std::{error::Error, io, iter, process::ExitCode};

use clap::Parser;
use receiver::{args::Args, run::run};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(io::stderr)
        .init();
    let Err(failure) = run(&args).await else {
        return ExitCode::SUCCESS;
    };
    let causes = iter::successors(Some(&failure as &dyn Error), |&error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    eprintln!("error: {}", causes.join(": "));
    if let Some(hint) = failure.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(2)
}
