//! `follow`: keeps targets equal to the list, without `/verify`.

use std::{pin::pin, sync::Arc, time::Duration};

use callback_source::AllowList;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tracing::{info, warn};

use super::{
    app::App,
    connection::Settings,
    endpoint::Endpoint,
    inherited::Inherited,
    listener::Listener,
    metrics::Metrics,
    server::{ADMIN_CONNECTIONS, Server},
    service_manager::ServiceManager,
    shutdown::{SHUTDOWN_LIMIT, STOP_LIMIT, shut_down},
    signals::Signals,
};
use crate::{
    args::{FollowArgs, Target, all},
    config::{Config, Subject},
    error::Error,
    follow::{Follower, Mode, once, ruleset, targets},
    log,
    outcome::Outcome,
    output, report,
};

pub(crate) fn run(args: &FollowArgs) -> Result<Outcome, Error> {
    if args.print_ruleset {
        return print_ruleset(args);
    }
    if args.once || args.dry_run {
        return run_once(args);
    }
    log::init_for_server(&args.common)?;
    let config = Config::for_server(&args.common)?;
    let runtime = runtime()?;
    // The signals are set up before the list starts, so that no signal is lost.
    let mut signals = {
        let _context = runtime.enter();
        // SIGHUP changes nothing here: `follow` never reloads its configuration file.
        Signals::new(Arc::default()).map_err(Error::Start)?
    };
    let outcome = runtime.block_on(follow(args, config, &mut signals));
    shut_down(runtime, SHUTDOWN_LIMIT, signals.next());
    outcome
}

async fn follow(
    args: &FollowArgs,
    config: Config,
    signals: &mut Signals,
) -> Result<Outcome, Error> {
    let admin = match args.admin_listen {
        Some(address) => Some(Listener::bind_plain(address, &mut Inherited::default())?),
        None => None,
    };
    let manager = ServiceManager::from_env();
    // The metrics are installed before the list is spawned, so that the counters of the list start at zero.
    let metrics = Metrics::install();
    tokio::spawn(metrics.clone().keep_up());
    let list = config.list.spawn(config.resolver);
    let follower = start(args, &list);
    let app = App::without_verify(list.clone(), follower.status(), metrics);
    let app = Arc::new(app);
    let server = admin.map(|listener| {
        info!("listening on {} (admin)", listener.address());
        let settings = Settings {
            app: Arc::clone(&app),
            endpoint: Endpoint::AdminOnly,
            idle_timeout: ADMIN_IDLE_TIMEOUT,
        };
        Server::start(listener, settings, ADMIN_CONNECTIONS)
    });
    manager.ready();
    tokio::spawn(manager.clone().keep_watchdog_alive());
    tokio::spawn(manager.clone().report_ready(list));

    signals.next().await;
    manager.stopping(STOP_LIMIT + SHUTDOWN_LIMIT);
    app.stop();
    info!("stopping: a write in progress is finished first; another signal ends it at once");
    let closed = async {
        follower.stop().await;
        if let Some(server) = server {
            server.stop();
            server.closed().await;
        }
    };
    let closed = pin!(timeout(STOP_LIMIT, closed));
    tokio::select! {
        in_time = closed => match in_time {
            Ok(()) => info!("stopped"),
            Err(_) => warn!("stopped, although a target was still being written after {STOP_LIMIT:?}"),
        },
        () = signals.next() => warn!("stopped at once by a second signal"),
    }
    Ok(Outcome::Yes)
}

fn start(args: &FollowArgs, list: &AllowList) -> Follower {
    Follower::start(
        list,
        targets(&all(&args.targets)),
        args.options.on_change.clone(),
        args.options.allow_empty,
    )
}

fn run_once(args: &FollowArgs) -> Result<Outcome, Error> {
    log::init_for_one_shot(&args.common)?;
    let (mode, config) = match args.dry_run {
        true => (
            Mode::DryRun,
            Config::for_one_shot(&args.common, Subject::Callers)?,
        ),
        // `--once` also writes the state file, because the next run must know which addresses linger.
        false => (Mode::Write, Config::for_server(&args.common)?),
    };
    let runtime = runtime()?;
    let (outcome, differences, hosts) = runtime.block_on(async {
        let list = config.list.spawn(config.resolver);
        let targets = targets(&all(&args.targets));
        let on_change = args.options.on_change.clone();
        let allow_empty = args.options.allow_empty;
        let (outcome, differences) = once(&list, targets, on_change, allow_empty, mode).await;
        (outcome, differences, list.health())
    });
    // Except in a dry run, dropping the runtime writes the state file.
    drop(runtime);
    if mode == Mode::DryRun {
        output::data(differences.as_bytes())?;
    }
    report::print_unanswered("error", &hosts);
    Ok(outcome)
}

fn print_ruleset(args: &FollowArgs) -> Result<Outcome, Error> {
    let networks = all(&args.common.allow);
    let intervals = networks
        .iter()
        .any(|network| network.prefix_len() < network.max_prefix_len());
    let targets = all(&args.targets).into_iter();
    let mut sets: Vec<_> = targets
        .filter_map(|target| match target {
            Target::Nftables { table, set } => Some((table, set)),
            _ => None,
        })
        .collect();
    if sets.is_empty() {
        sets.push(("callback_source".to_owned(), "callers".to_owned()));
    }
    for (table, set) in sets {
        output::data(ruleset(&table, &set, intervals).as_bytes())?;
    }
    Ok(Outcome::Yes)
}

fn runtime() -> Result<Runtime, Error> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)
}

const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_secs(65 * 60);
