//! A bounded run of everything at once: a zone that rotates, DNS that fails in every way it can,
//! listed callers and strangers at full speed over real sockets, and an [oracle] that knows
//! at each instant who must be admitted, who must not, and where either is right.
//!
//! ```text
//! cargo run --release -p soak -- --seconds 1800
//! ```
//!
//! Exits with 1 if one verdict was wrong, one answer was, or DNS was asked too often.

use std::{
    fmt::Display,
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
use fastrand::Rng;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, interval},
};
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    lines::Lines,
    load::{Caller, Tally},
    oracle::Oracle,
    weather::{Counts, Weather},
};

mod lines;
mod load;
mod oracle;
mod weather;
mod windows;

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
    eprintln!("soak: {problem}");
    ExitCode::from(2)
}

struct Options {
    length: Duration,
    callers: usize,
    seed: u64,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            length: Duration::from_secs(60),
            callers: 32,
            seed: fastrand::u64(..),
        };
        while let Some(name) = args.next() {
            let value = args.next().and_then(|value| value.parse().ok());
            let value: u64 = value.ok_or_else(|| format!("`{name}` needs a number"))?;
            match name.as_str() {
                "--seconds" if value >= 1 => options.length = Duration::from_secs(value),
                "--callers" if (2..=512).contains(&value) => options.callers = value as usize,
                "--seed" => options.seed = value,
                _ => return Err(format!("`{name} {value}` is no option; {USAGE}")),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn run(options: &Options) -> io::Result<bool> {
    println!(
        "soak for {} s with {} callers, seed {}",
        options.length.as_secs(),
        options.callers,
        options.seed
    );
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    let mut rng = Rng::with_seed(options.seed);

    let hosts: Vec<_> = Environment::Production.hosts().collect();
    let oracle = Arc::new(Oracle::new(hosts.clone()));
    let counts = Arc::<Counts>::default();
    let weather = Weather::new(
        hosts.clone(),
        Arc::clone(&oracle),
        Arc::clone(&counts),
        rng.fork(),
    );
    let weather = weather.await?;
    let resolver = Overheard {
        resolver: HickoryResolver::from_servers(weather.servers()).map_err(io::Error::other)?,
        oracle: Arc::clone(&oracle),
    };
    let started = Instant::now();
    let list = spawn_list(hosts.clone(), resolver)?;
    let server = serve(list.clone()).await?;
    list.ready().await;

    let end = started + options.length;
    let tally = Arc::<Tally>::default();
    let mut callers = JoinSet::new();
    for number in 0..options.callers {
        let caller = Caller {
            server,
            hosts: hosts.len(),
            stranger: number % 4 == 0,
            oracle: Arc::clone(&oracle),
            tally: Arc::clone(&tally),
            rng: rng.fork(),
        };
        callers.spawn(caller.run(end));
    }
    let mut background = JoinSet::new();
    background.spawn(weather.run());

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
        "weather              {} rotations, {} faults, {} outages",
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
        println!("  DNS was asked too often");
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

/// On a dual-stack socket, whose IPv4 peers are `::ffff:a.b.c.d`.
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

/// The resolver, and the oracle that listens.
struct Overheard {
    resolver: HickoryResolver,
    oracle: Arc<Oracle>,
}

impl Resolve for Overheard {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        let asked_at = Instant::now();
        self.oracle.asked(&question);
        let outcome = self.resolver.resolve(question.clone()).await;
        self.oracle.outcome(&question, asked_at, &outcome);
        outcome
    }
}

/// Resident memory in KiB; 0 where the system does not say.
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

const USAGE: &str = "usage: soak [--seconds N] [--callers N] [--seed N]";
