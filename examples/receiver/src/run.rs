//! The service from start to end.

use std::{
    env,
    fs::File,
    future::{Future, IntoFuture},
    io::{self, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use callback_source::{
    AllowList, HickoryResolver, SystemConfError,
    signature::{Secret, SecretError, Token},
};
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tracing::{info, warn};

use crate::{
    app::{self, Credentials, Mode},
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
    let credentials = Credentials {
        webhook_secret: webhook_secret(args)?,
        token: token(args)?,
    };
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
    let resolver = resolver.map_err(Failure::SystemConfError)?;
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
    let app = app::router(list.spawn(resolver), args.mode(), credentials);
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
    #[error("cannot find a DNS server in the system's configuration")]
    SystemConfError(#[source] SystemConfError),
    /// The embedded DNS server gives IPv4 addresses, and the service listens elsewhere.
    #[error("callback servers with IPv4 addresses, as `--embedded-dns` has, do not reach `{0}`")]
    Unreachable(SocketAddr),
    /// The secret of the webhook cannot be read.
    #[error("cannot read the webhook secret from `{}`", .0.display())]
    SecretFile(PathBuf, #[source] io::Error),
    /// The secret of the webhook is none.
    #[error("the webhook secret cannot be used")]
    Secret(#[source] SecretError),
    /// The token is none.
    #[error("the token cannot be used")]
    Token(#[source] SecretError),
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
            Self::SystemConfError(_) => Some("name one with `--dns-server IP:PORT`"),
            Self::Unreachable(_) => Some("listen on IPv4: `--listen 127.0.0.1:8080`"),
            Self::Secret(_) => Some("take the `secret` that registering the webhook gave"),
            Self::Token(_) => {
                Some("give the whole `Authorization` value that orders are made with")
            }
            Self::SecretFile(..) | Self::Start(_) | Self::Serve(_) => None,
        }
    }
}

/// The secret, from where the list of processes does not show it.
fn webhook_secret(args: &Args) -> Result<Option<Secret>, Failure> {
    let text = match &args.webhook_secret_file {
        Some(path) => {
            let mut text = String::with_capacity(MAX_SECRET);
            let file = File::open(path);
            let read = file.and_then(|file| {
                let mut file = file.take(MAX_SECRET as u64);
                file.read_to_string(&mut text)
            });
            read.map_err(|error| Failure::SecretFile(path.clone(), error))?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            text
        }
        None => match env::var(WEBHOOK_SECRET) {
            Ok(text) => text,
            Err(env::VarError::NotPresent) => return Ok(None),
            // As a secret that proves nothing: what was set must not be passed over.
            Err(env::VarError::NotUnicode(_)) => String::new(),
        },
    };
    Secret::new(text).map(Some).map_err(Failure::Secret)
}

fn token(args: &Args) -> Result<Option<Token>, Failure> {
    let given = args.token.clone().map(|token| token.0);
    given.transpose().map_err(Failure::Token)
}

fn samples(args: &Args, server: SocketAddr) -> String {
    let genuine = Sample {
        source: Some(EmbeddedDns::first_server(args.environment)),
        server,
        token: args.token.is_some(),
    };
    let forged = Sample {
        source: None,
        server,
        token: args.token.is_some(),
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

const WEBHOOK_SECRET: &str = "CALLBACK_SOURCE_WEBHOOK_SECRET";
const MAX_SECRET: usize = 8 * 1024;

/// The longest that the provider waits for an answer is as long.
const GRACE: Duration = Duration::from_secs(10);
