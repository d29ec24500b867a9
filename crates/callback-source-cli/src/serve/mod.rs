//! `serve`: a forward-auth endpoint.

use std::{pin::pin, sync::Arc, thread, time::Duration};

use callback_source::AllowList;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

mod file_limit;
mod signals;

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

mod response;
mod status;
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

mod app;

mod deadline;
mod protocol;
mod replay_stream;

mod connection;
mod server;

#[cfg(feature = "ext-authz")]
use self::ext_authz_service::Authorization;
use self::{
    app::App, connection::Settings, endpoint::Endpoint, listener::Listener, server::Server,
    signals::Signals,
};
use crate::{
    args::ServeArgs,
    config::{Config, Proxies},
    error::Error,
    log,
    outcome::Outcome,
};

pub(crate) fn run(args: ServeArgs) -> Result<Outcome, Error> {
    log::init_for_server(&args.common)?;
    let config = Config::for_server(&args.common)?;
    let proxies = Proxies::from_serve_args(&args)?;
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    // Before anything else, so that no signal is lost.
    let mut signals = {
        let _context = runtime.enter();
        Signals::new().map_err(Error::Start)?
    };
    let outcome = runtime.block_on(serve(&args, config, proxies, &mut signals));
    shut_down(runtime, SHUTDOWN_LIMIT, signals.next());
    outcome
}

/// Shuts down the runtime, which writes the state file first. Returns at the limit or at a signal.
///
/// A write to a disk that does not respond never ends, and dropping the runtime would wait for it. The
/// signal is awaited on another runtime, since this one no longer reports any.
fn shut_down(runtime: Runtime, limit: Duration, signal: impl Future<Output = ()>) {
    let Ok(signal_runtime) = Builder::new_current_thread().enable_all().build() else {
        runtime.shutdown_timeout(limit);
        return;
    };
    let (end, ended) = oneshot::channel();
    let start = Instant::now();
    let spawned = thread::Builder::new().spawn(move || {
        runtime.shutdown_timeout(limit);
        let _ = end.send(());
    });
    if spawned.is_err() {
        // The runtime was dropped with the closure.
        return;
    }
    signal_runtime.block_on(async {
        tokio::select! {
            _ = ended => {
                if start.elapsed() >= limit {
                    warn!(
                        "stopped before all work had ended, such as writing the state file: waited for {limit:?}"
                    );
                }
            }
            () = signal => warn!("stopped at once by a second signal"),
        }
    });
}

async fn serve(
    args: &ServeArgs,
    config: Config,
    proxies: Proxies,
    signals: &mut Signals,
) -> Result<Outcome, Error> {
    #[cfg(feature = "ext-authz")]
    let envoys = args
        .ext_authz_listen
        .map_or(0, |_| ext_authz::MAX_CONNECTIONS);
    #[cfg(not(feature = "ext-authz"))]
    let envoys = 0;
    let (max_connections, envoys) = file_limit::room_for(args.max_connections, envoys);
    let app_proxies = proxies.clone();
    let listener = Listener::bind(&args.listen, proxies)?;
    let admin = match args.admin_listen {
        Some(address) => Some(Listener::bind_plain(address)?),
        None => None,
    };
    #[cfg(feature = "ext-authz")]
    let ext_authz = match args.ext_authz_listen {
        Some(address) => Some(Listener::bind_plain(address)?),
        None => None,
    };
    #[cfg(not(feature = "ext-authz"))]
    let _ = envoys;
    let list = config.list.spawn(config.resolver);

    let counts = Arc::default();
    #[cfg(feature = "ext-authz")]
    let mut ext_authz = ext_authz.map(|listener| {
        let authorization =
            Authorization::new(list.clone(), args, &app_proxies, Arc::clone(&counts));
        ext_authz::start(listener, list.clone(), authorization, envoys)
    });
    let app = Arc::new(App::new(list.clone(), args, &app_proxies, counts));
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
    tokio::spawn(log_ready(list));

    signals.next().await;
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
    };
    let closed = pin!(timeout(STOP_LIMIT, closed));
    tokio::select! {
        in_time = closed => match in_time {
            Ok(()) => info!("stopped"),
            Err(_) => warn!("stopped, although requests were still in flight after {STOP_LIMIT:?}"),
        },
        () = signals.next() => warn!("stopped at once by a second signal"),
    }
    Ok(Outcome::Yes)
}

async fn log_ready(list: AllowList) {
    let start = Instant::now();
    list.ready().await;
    let addresses = list.snapshot().addresses(Instant::now().into_std()).len();
    info!(addresses, after = ?start.elapsed(), "ready");
}

/// Time limit for requests in flight.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Time limit for writing the state file.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Limit of the admin listener. It is separate from the limit for callbacks, so that callers cannot shut out
/// an operator.
const ADMIN_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::mpsc,
    };

    use super::*;

    /// A runtime with a write that ends when the sender is dropped.
    fn stuck() -> (Runtime, mpsc::Sender<()>) {
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        runtime.spawn_blocking(move || {
            start.send(()).unwrap();
            let _ = released.recv();
        });
        started.recv().unwrap();
        (runtime, release)
    }

    #[test]
    fn a_stuck_disk_does_not_keep_the_server_from_ending() {
        let (runtime, _release) = stuck();
        shut_down(runtime, Duration::from_millis(10), pending());
    }

    #[test]
    fn a_signal_ends_the_server_while_its_disk_is_stuck() {
        let (runtime, _release) = stuck();
        let start = Instant::now();
        shut_down(runtime, Duration::from_secs(60), ready(()));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
