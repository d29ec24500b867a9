//! A run of the whole stack under load: a zone that rotates, DNS servers with many faults, and listed and unlisted
//! callers at full speed over real sockets. For each instant and address, an [oracle] knows whether the address must be
//! admitted, must be refused, or may get either verdict.
//!
//! ```text
//! cargo run --release -p soak -- --seconds 1800
//! ```
//!
//! The exit code is 1 if a verdict or an answer was wrong, if a request failed, or if too many questions went out.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::post};
use callback_source::{
    AllowList, Answer, HickoryResolver, HostName, Question, Resolve, ResolveError,
    verify::{ConnectInfoPeer, VerifySourceLayer},
    vipps::Environment,
};
use clap::{Parser, value_parser};
use fastrand::Rng;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, interval},
};
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    faulty_zone::{Counts, FaultyZone},
    lines::Lines,
    load::{Caller, Tally},
    oracle::Oracle,
};

mod faulty_zone;
mod lines;
mod load;
mod oracle;
mod windows;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// A bounded run under load, with an oracle for every verdict.
#[derive(Debug, Parser)]
struct Args {
    /// Length of the run, in seconds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,

    /// Number of callers at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u16).range(2..=512))]
    callers: u16,

    /// Seed of the random choices; by default another one in each run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[tokio::main]
async fn run(args: &Args) -> io::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!(
        "soak for {} s with {} callers, seed {}",
        args.seconds, args.callers, seed
    );
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    let mut rng = Rng::with_seed(seed);

    let hosts: Vec<_> = Environment::Production.hosts().collect();
    let oracle = Arc::new(Oracle::new(hosts.clone()));
    let counts = Arc::<Counts>::default();
    let zone = FaultyZone::new(
        hosts.clone(),
        Arc::clone(&oracle),
        Arc::clone(&counts),
        rng.fork(),
    );
    let zone = zone.await?;
    let resolver = ReportingResolver {
        resolver: HickoryResolver::from_servers(zone.servers()).map_err(io::Error::other)?,
        oracle: Arc::clone(&oracle),
    };
    let started = Instant::now();
    let list = spawn_list(hosts.clone(), resolver)?;
    let server = serve(list.clone()).await?;
    list.ready().await;

    let end = started + Duration::from_secs(args.seconds);
    let tally = Arc::<Tally>::default();
    let mut callers = JoinSet::new();
    for number in 0..args.callers {
        let caller = Caller {
            server,
            hosts: hosts.len(),
            unlisted: number % 4 == 0,
            oracle: Arc::clone(&oracle),
            tally: Arc::clone(&tally),
            rng: rng.fork(),
        };
        callers.spawn(caller.run(end));
    }
    let mut background = JoinSet::new();
    background.spawn(zone.run());

    let memory_at_start = memory();
    let mut minute = interval(Duration::from_secs(60));
    minute.tick().await;
    loop {
        tokio::select! {
            called = callers.join_next() => match called {
                None => break,
                Some(called) => called.map_err(io::Error::other)?,
            },
            Some(ended) = background.join_next() => {
                ended.map_err(io::Error::other)??;
            }
            _ = minute.tick() => {
                println!(
                    "{:>5} s: {} requests, {} wrong, {} KiB",
                    started.elapsed().as_secs(),
                    number(&tally.requests),
                    tally.wrong(),
                    memory(),
                );
            }
        }
    }
    let memory_at_end = memory();
    let elapsed = started.elapsed();
    background.shutdown().await;

    let traffic = oracle.traffic();
    let bound = elapsed.as_millis() / windows::MIN_TTL.as_millis() + 1;
    let shortest = traffic.shortest_pause.unwrap_or_default();
    let too_often = u128::from(traffic.most_of_one) > bound
        || shortest + Duration::from_millis(250) < windows::MIN_TTL;
    let wrong_answers = oracle.wrong_answers();
    let requests = number(&tally.requests);
    println!("time                 {:.1} s", elapsed.as_secs_f64());
    println!(
        "requests             {requests} over {} connections, {:.0} a second",
        number(&tally.connections),
        requests as f64 / elapsed.as_secs_f64(),
    );
    println!(
        "verdicts             {} admitted (200), {} refused (403), {} undecided (503)",
        number(&tally.admitted),
        number(&tally.refused),
        number(&tally.undecided),
    );
    println!(
        "oracle               {} had to be admitted, {} had to be refused, {} either",
        number(&tally.had_to_admit),
        number(&tally.had_to_refuse),
        requests - number(&tally.had_to_admit) - number(&tally.had_to_refuse),
    );
    println!(
        "zone                 {} rotations, {} faults, {} outages",
        number(&counts.rotations),
        number(&counts.faults),
        number(&counts.outages),
    );
    println!(
        "questions            {} of at most {} ({} questions, once per {} s), {} packets; \
         shortest pause {:.3} s",
        traffic.asked,
        u128::from(traffic.questions) * bound,
        traffic.questions,
        windows::MIN_TTL.as_secs(),
        number(&counts.packets),
        shortest.as_secs_f64(),
    );
    println!("memory               {memory_at_start} KiB at start, {memory_at_end} KiB at end");
    println!(
        "log lines            {} info, {} warn, {} error",
        number(&lines.info),
        number(&lines.warn),
        number(&lines.error),
    );
    println!("wrong admissions     {}", number(&tally.wrong_admissions));
    println!("wrong refusals       {}", number(&tally.wrong_refusals));
    println!("wrong indecision     {}", number(&tally.wrong_indecision));
    println!("wrong answers        {}", wrong_answers.len());
    println!("broken requests      {}", number(&tally.broken));
    for detail in tally.details().iter().chain(&wrong_answers) {
        println!("  {detail}");
    }
    if too_often {
        println!("  too many DNS questions");
    }
    Ok(tally.wrong() == 0 && wrong_answers.is_empty() && !too_often)
}

fn spawn_list(hosts: Vec<HostName>, resolver: impl Resolve) -> io::Result<AllowList> {
    let builder = AllowList::builder()
        .hosts(hosts)
        .ttl_bounds(windows::MIN_TTL, windows::MAX_TTL)
        .map_err(io::Error::other)?
        .linger(windows::LINGER)
        .stale_for(windows::STALE)
        .max_backoff(windows::MAX_BACKOFF)
        .question_time_limit(windows::QUESTION_LIMIT)
        .max_addresses(windows::MAX_ADDRESSES)
        .insecure_allow_special_addresses();
    Ok(builder.spawn(resolver))
}

/// Serves on a dual-stack socket. The addresses of its IPv4 peers have the form `::ffff:a.b.c.d`.
async fn serve(list: AllowList) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await?;
    let address = listener.local_addr()?;
    let app = Router::new()
        .route(
            "/vipps/callbacks/v2/payments/{order_id}",
            post(async || "ok"),
        )
        .layer(VerifySourceLayer::rejecting(list, ConnectInfoPeer));
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(address)
}

/// A resolver that reports to the oracle.
struct ReportingResolver {
    resolver: HickoryResolver,
    oracle: Arc<Oracle>,
}

impl Resolve for ReportingResolver {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        let asked_at = Instant::now();
        self.oracle.asked(&question);
        let outcome = self.resolver.resolve(question.clone()).await;
        self.oracle.outcome(&question, asked_at, &outcome);
        outcome
    }
}

/// Returns the resident memory in KiB, or 0 if the system does not report it.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn number(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}
