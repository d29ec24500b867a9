//! `serve`: a forward-auth endpoint.
//!
//! First, the server sets up the signals, so that no signal is lost. Next, it opens the listeners, so that a wrong
//! address makes the start fail. Last, it starts the list. While the list asks DNS for the first time, requests already
//! arrive. By default, those that cannot be decided yet get 503.
//!
//! After SIGTERM, the server ends in steps, because a lost callback may never be sent again:
//!
//! 1. `/readyz` fails, and requests are still served for `--stop-delay`. A load balancer needs this time to notice the
//!    failure. Until then, the load balancer opens new connections, and a closed listener would refuse their callbacks.
//! 2. The listeners accept the connections that the system has queued, and then close. Each connection ends with its
//!    next response.
//! 3. The runtime ends, and the state file is written. This step has a separate time limit, since the disk may not
//!    respond.
//!
//! A second signal in step 1 or 2 skips to step 3. A signal in step 3 ends the process at once.

use std::{pin::pin, sync::Arc};

use callback_source::verify::TrustedProxies;
use tokio::{
    runtime::Builder,
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

mod file_limit;
mod inherited;
mod service_manager;
mod shutdown;
mod signals;

mod trust;

mod owner;
mod peer;

mod proxy_header;
#[cfg(unix)]
mod unix_socket;

mod listener;

mod framing;
mod idle;

mod shares;

mod permits;

mod metrics;
mod refusals;
mod response;
mod status;
mod status_page;
mod verify;

#[cfg(feature = "ext-authz")]
mod ext_authz_limits;
#[cfg(feature = "ext-authz")]
mod ext_authz_messages;
#[cfg(feature = "ext-authz")]
mod ext_authz_service;

#[cfg(feature = "ext-authz")]
mod ext_authz;

mod endpoint;
mod request_body;

mod recorder;

mod app;

mod deadline;
mod protocol;
mod replay_stream;

mod connection;
mod server;

mod watch;

mod reload;

mod follow_command;

#[cfg(feature = "ext-authz")]
use self::ext_authz_service::Authorization;
use self::{
    app::App,
    connection::Settings,
    endpoint::Endpoint,
    inherited::Inherited,
    listener::Listener,
    metrics::Metrics,
    recorder::Recorder,
    reload::{ReloadSource, Reloader},
    server::{ADMIN_CONNECTIONS, Server},
    service_manager::ServiceManager,
    shutdown::{SHUTDOWN_LIMIT, STOP_LIMIT, shut_down},
    signals::Signals,
    status::VerdictCounts,
    trust::Trust,
};
use crate::{
    args::{ConfigFile, ServeArgs, Setting, all},
    config::{self, Config, Proxies, Subject},
    error::Error,
    follow::{Follower, targets},
    journal::{Event, FLUSH_LIMIT, Journal},
    log,
    outcome::Outcome,
};

pub(crate) use self::follow_command::run as follow;

pub(crate) fn run(
    args: ServeArgs,
    settings: Vec<Setting>,
    file: Option<ConfigFile>,
) -> Result<Outcome, Error> {
    // This call must precede the start of the log's thread.
    let inherited = Inherited::from_env()?;
    log::init_for_server(&args.common)?;
    let config = Config::for_server(&args.common)?;
    let proxies = Proxies::from_serve_args(&args)?;
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let reload = Arc::new(Notify::new());
    // The signals are set up before the listeners open, so that no signal is lost.
    let mut signals = {
        let _context = runtime.enter();
        Signals::new(Arc::clone(&reload)).map_err(Error::Start)?
    };
    let source = ReloadSource {
        settings,
        file,
        requested: reload,
    };
    let serving = serve(&args, config, proxies, inherited, source, &mut signals);
    let outcome = runtime.block_on(serving);
    shut_down(runtime, SHUTDOWN_LIMIT, signals.next());
    outcome
}

async fn serve(
    args: &ServeArgs,
    config: Config,
    proxies: Proxies,
    mut inherited: Inherited,
    source: ReloadSource,
    signals: &mut Signals,
) -> Result<Outcome, Error> {
    #[cfg(feature = "ext-authz")]
    let envoys = args
        .ext_authz_listen
        .map_or(0, |_| ext_authz::MAX_CONNECTIONS);
    #[cfg(not(feature = "ext-authz"))]
    let envoys = 0;
    let (max_connections, envoys) = file_limit::room_for(args.max_connections, envoys);
    let trust = Trust::new(proxies.trusted.clone());
    let listener = Listener::bind(
        &args.listen,
        trust.clone(),
        proxies.protocol,
        &mut inherited,
    )?;
    let admin = match &args.admin_listen {
        Some(listen) => Some(Listener::bind(
            listen,
            Trust::new(TrustedProxies::none()),
            false,
            &mut inherited,
        )?),
        None => None,
    };
    let journal = match args.journal_path() {
        Some(path) => Some(Journal::start(&path, args.journal_keep)?),
        None => None,
    };
    #[cfg(feature = "ext-authz")]
    let ext_authz = match args.ext_authz_listen {
        Some(address) => Some(Listener::bind_plain(address, &mut inherited)?),
        None => None,
    };
    #[cfg(not(feature = "ext-authz"))]
    let _ = envoys;
    inherited.finish()?;
    let manager = ServiceManager::from_env();
    // The metrics are installed before the list is spawned, so that the counters of the list start at zero.
    let metrics = Metrics::install();
    tokio::spawn(metrics.clone().keep_up());
    log_start(args, &proxies);
    let list = config.list.spawn(config.resolver);

    let counts = Arc::<VerdictCounts>::default();
    #[cfg(feature = "ext-authz")]
    let authorization = Authorization::new(list.clone(), args, &proxies, Arc::clone(&counts));
    #[cfg(feature = "ext-authz")]
    let mut ext_authz = ext_authz
        .map(|listener| ext_authz::start(listener, list.clone(), authorization.clone(), envoys));
    let follower = Follower::start(
        &list,
        targets(&all(&args.follow)),
        args.follow_options.on_change.clone(),
        args.follow_options.allow_empty,
    );
    let app = Arc::new(App::new(
        list.clone(),
        args,
        &proxies,
        follower.status(),
        Arc::clone(&counts),
        metrics,
        journal.clone(),
    ));
    if let Some(journal) = &journal {
        journal.record(started(args));
        let recorder = Recorder::new(list.clone(), journal.clone(), Arc::clone(&counts));
        tokio::spawn(recorder.run());
    }
    let stop_counts = Arc::clone(&counts);
    let reloader = Reloader {
        journal: journal.clone(),
        app: Arc::clone(&app),
        #[cfg(feature = "ext-authz")]
        authorization,
        counts,
        list: list.clone(),
        trust,
        source,
        manager: manager.clone(),
    };
    let reloading = tokio::spawn(reloader.run());
    let mut servers = Vec::new();
    let endpoints = match admin {
        None => vec![(listener, Endpoint::Everything, max_connections)],
        Some(admin) => vec![
            (listener, Endpoint::VerifyOnly, max_connections),
            (admin, Endpoint::AdminOnly, ADMIN_CONNECTIONS),
        ],
    };
    for (listener, endpoint, max_connections) in endpoints {
        info!(
            "listening on {}{}",
            listener.address(),
            endpoint.log_suffix()
        );
        let settings = Settings {
            app: Arc::clone(&app),
            endpoint,
            idle_timeout: args.idle_timeout,
        };
        servers.push(Server::start(listener, settings, max_connections));
    }
    // This message is sent before the list is ready, because a boot must not wait for DNS.
    manager.ready();
    tokio::spawn(manager.clone().keep_watchdog_alive());
    tokio::spawn(manager.clone().report_ready(list));

    signals.next().await;
    manager.stopping(args.stop_delay + STOP_LIMIT + FLUSH_LIMIT + SHUTDOWN_LIMIT);
    // The refusals of the last minute are recorded before the stop.
    let record_stop = async || {
        if let Some(journal) = &journal {
            recorder::record_refusals(journal, &stop_counts);
            journal.record(Event::Stopped {});
            match journal.flush().await {
                Some(unwritten) if unwritten.is_empty() => {}
                Some(unwritten) => error!(
                    unwritten = unwritten.len(),
                    "the last events of the journal are lost: they could not be written before the stop"
                ),
                None => error!(
                    "the last events of the journal may be lost: the disk did not respond before the stop"
                ),
            }
        }
    };
    reloading.abort();
    app.stop();
    #[cfg(feature = "ext-authz")]
    if let Some(server) = &mut ext_authz {
        server.announce_stop();
    }
    if !args.stop_delay.is_zero() {
        info!(
            "stopping in {}: not ready, but still serving; another signal ends it at once",
            humantime::format_duration(args.stop_delay)
        );
        tokio::select! {
            () = sleep(args.stop_delay) => {}
            () = signals.next() => {
                warn!("stopped at once by a second signal");
                record_stop().await;
                return Ok(Outcome::Yes);
            }
        }
    }
    info!("stopping: requests in flight are finished first; another signal ends it at once");
    let closed = async {
        for server in &servers {
            server.stop();
        }
        #[cfg(feature = "ext-authz")]
        if let Some(server) = ext_authz {
            server.stop().await;
        }
        for server in servers {
            server.closed().await;
        }
        follower.stop().await;
    };
    let closed = pin!(timeout(STOP_LIMIT, closed));
    tokio::select! {
        in_time = closed => match in_time {
            Ok(()) => info!("stopped"),
            Err(_) => warn!("stopped, although requests were still in flight after {STOP_LIMIT:?}"),
        },
        () = signals.next() => warn!("stopped at once by a second signal"),
    }
    record_stop().await;
    Ok(Outcome::Yes)
}

fn started(args: &ServeArgs) -> Event {
    let hosts = config::hosts(&args.common, Subject::Callers);
    Event::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        networks: all(&args.common.allow)
            .iter()
            .map(ToString::to_string)
            .collect(),
        report_only: args.report_only,
    }
}

/// Logs the main settings in one line, such as the hosts, the networks and the trusted proxies.
fn log_start(args: &ServeArgs, proxies: &Proxies) {
    fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
        let texts: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
        texts.join(",")
    }
    let common = &args.common;
    let time = |time| humantime::format_duration(time).to_string();
    let dns_servers = match common.dns_server.is_empty() {
        true => "system".to_owned(),
        false => joined(all(&common.dns_server)),
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        hosts = joined(config::hosts(common, Subject::Callers)),
        networks = joined(all(&common.allow)),
        dns_servers,
        min_ttl = time(common.min_ttl),
        max_ttl = time(common.max_ttl),
        linger = time(common.linger),
        stale_for = time(common.stale_for),
        state_file = common
            .state_file
            .as_ref()
            .map(|path| path.display().to_string()),
        trusted_proxies = joined(all(&args.proxy.trusted_proxy)),
        client_ip_header = args
            .proxy
            .client_ip_header
            .as_ref()
            .map(|name| name.as_str()),
        proxy_protocol = proxies.protocol,
        report_only = args.report_only,
        "starting"
    );
}
