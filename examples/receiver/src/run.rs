//! The service from start to end.

use std::{
    future::{Future, IntoFuture},
    io::{self, Write},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use callback_source::{AllowList, HickoryResolver, NoDnsServer};
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tracing::{info, warn};

use crate::{
    app::{self, Mode},
    args::Args,
    embedded_dns::EmbeddedDns,
    samples::{Sample, reachable},
};

/// Serves until it is told to end, and says on standard output where, and what to try.
///
/// # Errors
///
/// If it cannot start, or cannot accept connections any more.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let ended = end_signal().map_err(Failure::Start)?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| Failure::Listen(args.listen, error))?;
    let addr = listener.local_addr().map_err(Failure::Start)?;
    let mut out = format!("listening on http://{addr}\n");

    // Held until the end, since dropping it stops it.
    let embedded_dns = match args.embedded_dns {
        true => Some(EmbeddedDns::start().await.map_err(Failure::Start)?),
        false => None,
    };
    let resolver = match &embedded_dns {
        Some(dns) => HickoryResolver::from_servers([dns.addr()]),
        None if args.dns_server.is_empty() => HickoryResolver::from_system_conf(),
        None => HickoryResolver::from_servers(args.dns_server.iter().copied()),
    };
    let resolver = resolver.map_err(Failure::NoDnsServer)?;
    if embedded_dns.is_some() {
        let server = reachable(addr).ok_or(Failure::Unreachable(addr))?;
        out += &samples(args, server);
    }

    let mut list = AllowList::builder().environment(args.environment);
    if args.believes_special_addresses() {
        warn!(
            "special addresses in DNS answers are believed: whoever forges one can open this network"
        );
        list = list.insecure_allow_special_addresses();
    }
    if args.mode() == Mode::Tag {
        warn!("callbacks are received from anybody");
    }
    let app = app::router(list.spawn(resolver), args.mode());
    // Nobody has to read it.
    let _ = io::stdout().write_all(out.as_bytes());

    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service)
        .with_graceful_shutdown(async move { stopped.notified().await });
    let mut server = pin!(server.into_future());
    tokio::select! {
        result = &mut server => return result.map_err(Failure::Serve),
        () = ended => info!("told to end"),
    }
    stop.notify_one();
    match timeout(GRACE, server).await {
        Ok(result) => result.map_err(Failure::Serve),
        Err(_) => {
            warn!("requests under way were cut off after {GRACE:?}");
            Ok(())
        }
    }
}

/// Why the service is not, or no longer, there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The address to listen on cannot be had.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] io::Error),
    /// There is no DNS server to ask.
    #[error("the system names no DNS server")]
    NoDnsServer(#[source] NoDnsServer),
    /// The embedded DNS server gives IPv4 addresses, and the service listens elsewhere.
    #[error("callback servers with IPv4 addresses, as `--embedded-dns` has, do not reach `{0}`")]
    Unreachable(SocketAddr),
    /// The system refused something else that is needed.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// No more connections can be accepted.
    #[error("cannot accept connections any more")]
    Serve(#[source] io::Error),
}

impl Failure {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen(..) => Some("choose another address with `--listen ADDR:PORT`"),
            Self::NoDnsServer(_) => Some("name one with `--dns-server IP:PORT`"),
            Self::Unreachable(_) => Some("listen on IPv4: `--listen 127.0.0.1:8080`"),
            Self::Start(_) | Self::Serve(_) => None,
        }
    }
}

fn samples(args: &Args, server: SocketAddr) -> String {
    let genuine = Sample {
        source: Some(EmbeddedDns::first_server(args.environment)),
        server,
    };
    let forged = Sample {
        source: None,
        server,
    };
    let refused = match args.mode() {
        Mode::Reject => "is refused",
        Mode::Tag => "would be refused without `--tag`",
    };
    format!(
        "\n# from a callback server, is let in\n{genuine}\n\n# from elsewhere, {refused}\n{forged}\n\n\
         # what was received\ncurl http://{server}/received\n"
    )
}

#[cfg(unix)]
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

/// The longest that the provider waits for an answer is as long.
const GRACE: Duration = Duration::from_secs(10);
