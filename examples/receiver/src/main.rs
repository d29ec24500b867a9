//! The command `receiver`.

use std::{error::Error, io, iter, process::ExitCode};

use clap::Parser;
use receiver::{args::Args, run::run};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // These crates log a line for each unexpected packet, which any sender can cause.
    let quiet = "hickory_resolver=error,hickory_net=error,hickory_proto=error,h2=error";
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{quiet},{filter}")))
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
