//! The service, from start to shutdown.

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

/// Runs the service until a signal ends it. Prints the address and, with an embedded DNS server, the sample commands to
/// standard output.
///
/// # Errors
///
/// If the service cannot start, or can no longer accept connections.
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

    // Kept until the service ends, because dropping it stops the DNS server.
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
    if args.accepts_special_addresses() {
        warn!(
            "special-purpose addresses in DNS answers are accepted: a forged answer can admit hosts of this network"
        );
        list = list.insecure_allow_special_addresses();
    }
    if args.mode() == Mode::Tag {
        warn!("callbacks are received from every peer");
    }
    let app = app::router(list.spawn(resolver), args.mode(), credentials);
    // A closed standard output does not stop the service.
    let _ = io::stdout().write_all(out.as_bytes());

    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service)
        .with_graceful_shutdown(async move { stopped.notified().await });
    let mut server = pin!(server.into_future());
    tokio::select! {
        result = &mut server => return result.map_err(Failure::Serve),
        () = ended => info!("stopping on a signal"),
    }
    stop.notify_one();
    match timeout(GRACE, server).await {
        Ok(result) => result.map_err(Failure::Serve),
        Err(_) => {
            warn!("requests in progress were cut off after {GRACE:?}");
            Ok(())
        }
    }
}

/// The reason why the service did not start, or why it stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The address to listen on cannot be bound.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] io::Error),
    /// The system's DNS configuration cannot be read, or names no server.
    #[error("cannot find a DNS server in the system's configuration")]
    SystemConfError(#[source] SystemConfError),
    /// The embedded DNS server has IPv4 addresses only, and the service does not listen on IPv4.
    #[error("the IPv4 callback servers of `--embedded-dns` cannot reach `{0}`")]
    Unreachable(SocketAddr),
    /// The secret of the webhook cannot be read.
    #[error("cannot read the webhook secret from `{}`", .0.display())]
    SecretFile(PathBuf, #[source] io::Error),
    /// The secret of the webhook is invalid.
    #[error("invalid webhook secret")]
    Secret(#[source] SecretError),
    /// The token is invalid.
    #[error("invalid token")]
    Token(#[source] SecretError),
    /// Another error of the system during the start.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The listener failed.
    #[error("cannot accept more connections")]
    Serve(#[source] io::Error),
}

impl Failure {
    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen(..) => Some("choose another address with `--listen ADDR:PORT`"),
            Self::SystemConfError(_) => Some("give a DNS server with `--dns-server IP:PORT`"),
            Self::Unreachable(_) => Some("listen on IPv4: `--listen 127.0.0.1:8080`"),
            Self::Secret(_) => Some("use the `secret` from the registration of the webhook"),
            Self::Token(_) => {
                Some("give the whole `Authorization` value that orders are created with")
            }
            Self::SecretFile(..) | Self::Start(_) | Self::Serve(_) => None,
        }
    }
}

/// Reads the secret from a file or the environment, so that the process list does not show the secret.
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
            // The variable is set, so it must not be ignored. An empty secret is invalid, so the start fails.
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
        Mode::Reject => "refused",
        Mode::Tag => "refused without `--tag`",
    };
    let alias = match (genuine.source, cfg!(target_os = "linux")) {
        (Some(source), false) => format!("\n# first, on macOS\nsudo ifconfig lo0 alias {source}\n"),
        _ => String::new(),
    };
    format!(
        "{alias}\n# from a callback server: accepted\n{genuine}\n\n# from another address: {refused}\n{forged}\n\n\
         # the received callbacks\ncurl http://{server}/received\n"
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

const WEBHOOK_SECRET: &str = "RECEIVER_WEBHOOK_SECRET";
const MAX_SECRET: usize = 8 * 1024;

/// The longest time that the provider waits for a response.
const GRACE: Duration = Duration::from_secs(10);
