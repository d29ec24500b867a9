//! Simulates a year of operation within seconds, from one seed. The list, the refresher, the layers and the state file
//! are real, and the clock and the network are simulated. An [oracle] decides for each peer and moment which verdicts
//! are right.
//!
//! ```text
//! cargo run --release -p simulate -- --seed 1            # a year; a failing one is shrunk and printed
//! cargo run --release -p simulate -- --seeds 1..3001
//! cargo run --release -p simulate -- --planted search    # each planted fault, until a seed finds it
//! cargo run --release -p simulate -- --planted replay    # the seeds that found them
//! cargo run --release -p simulate -- --exhaustive 6 --jobs 2
//! ```

use std::{
    fmt::Display,
    io,
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use callback_source::simulation::Fault;
use tokio::time::Instant;

use crate::{
    play::{Played, play},
    schedule::{Schedule, YEAR},
    sum::Sum,
};

mod exhaustive;
#[cfg(test)]
mod found;
mod network;
mod oracle;
mod planted;
mod play;
mod schedule;
mod shrink;
mod sum;
mod wire;
mod world;

fn main() -> ExitCode {
    match Options::read(std::env::args().skip(1)) {
        Ok(options) => match run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(error),
        },
        Err(problem) => fail(problem),
    }
}

fn fail(problem: impl Display) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::from(2)
}

fn run(options: &Options) -> io::Result<bool> {
    match options.task {
        Task::Seeds => seeds(options),
        Task::Planted { replay } => planted::run(replay, options.fault, &options.seeds),
        Task::Exhaustive(depth) => exhausted(depth, options.jobs),
    }
}

fn seeds(options: &Options) -> io::Result<bool> {
    let started = Instant::now();
    let next = AtomicU64::new(options.seeds.start);
    let sum = Mutex::new(Sum::default());
    let work = || -> io::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !options.seeds.contains(&seed) {
                return Ok(());
            }
            let schedule = Schedule::with_length(seed, options.seconds);
            let played = play(&schedule, options.fault)?;
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.add(seed, &played);
            if let Some(violation) = sum.wrong.get(&seed) {
                println!("{}", violation.of_seed(seed));
            }
            if sum.seeds % 100 == 0 {
                println!("{} seeds, {} wrong", sum.seeds, sum.wrong.len());
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|_| Err(io::Error::other("a simulation panicked")))
        })
    })?;
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", sum.report(started.elapsed()));
    let mut wrong = sum.wrong.iter().filter(|(_, of)| !of.is_bound());
    if let Some((seed, _)) = wrong.next() {
        explain(
            &Schedule::with_length(*seed, options.seconds),
            options.fault,
        )?;
    }
    Ok(sum.wrong.is_empty())
}

/// Shrinks a schedule that violates a rule, and prints it.
fn explain(schedule: &Schedule, fault: Option<Fault>) -> io::Result<()> {
    let Played { violation, .. } = play(schedule, fault)?;
    let Some(violation) = violation else {
        println!("seed {} does not go wrong a second time", schedule.seed);
        return Ok(());
    };
    let shrunk = shrink::shrink(schedule, fault, &violation)?;
    let violation = play(&shrunk, fault)?.violation.unwrap_or(violation);
    println!(
        "\n{}\n{}",
        violation.detail,
        shrink::as_test(&shrunk, &violation)
    );
    Ok(())
}

fn exhausted(depth: u32, jobs: u64) -> io::Result<bool> {
    let started = Instant::now();
    match exhaustive::exhaust(depth, jobs) {
        Ok(looked) => {
            println!(
                "{} schedules of {depth} events with {} states, {} verdicts ({} either), {:.1} s: none wrong",
                looked.schedules,
                looked.states,
                looked.verdicts,
                looked.either,
                started.elapsed().as_secs_f64()
            );
            Ok(true)
        }
        Err(problem) => {
            println!("{problem}");
            Ok(false)
        }
    }
}

#[derive(Debug)]
struct Options {
    task: Task,
    seeds: Range<u64>,
    seconds: u64,
    jobs: u64,
    fault: Option<Fault>,
}

#[derive(Debug)]
enum Task {
    Seeds,
    Planted { replay: bool },
    Exhaustive(u32),
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            task: Task::Seeds,
            seeds: 1..2,
            seconds: YEAR,
            jobs: 1,
            fault: None,
        };
        while let Some(argument) = arguments.next() {
            let value = arguments.next();
            let value = value.ok_or_else(|| format!("`{argument}` needs a value\n\n{USAGE}"))?;
            let wrong = || format!("unknown value `{value}` of `{argument}`\n\n{USAGE}");
            let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
            match argument.as_str() {
                "--seed" => {
                    let seed = number(&value)?;
                    options.seeds = seed..seed + 1;
                }
                "--seeds" => {
                    let (from, to) = value.split_once("..").ok_or_else(wrong)?;
                    options.seeds = number(from)?..number(to)?;
                }
                "--days" => options.seconds = number(&value)? * 24 * 60 * 60,
                "--jobs" => options.jobs = number(&value)?.max(1),
                "--planted" => {
                    let replay = match value.as_str() {
                        "replay" => true,
                        "search" => false,
                        _ => return Err(wrong()),
                    };
                    options.task = Task::Planted { replay };
                    options.seeds = 1..1_001;
                }
                "--fault" => {
                    let named = |fault: &&Fault| format!("{fault:?}") == value;
                    options.fault = Some(*Fault::ALL.iter().find(named).ok_or_else(wrong)?);
                }
                "--exhaustive" => {
                    let depth = value.parse().map_err(|_| wrong())?;
                    options.task = Task::Exhaustive(depth);
                }
                _ => return Err(format!("unknown argument `{argument}`\n\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

const USAGE: &str = "usage: simulate [--seed N | --seeds A..B] [--days N] [--jobs N] [--fault NAME]\n       \
                     simulate --planted search|replay [--fault NAME]\n       \
                     simulate --exhaustive EVENTS [--jobs N]";
