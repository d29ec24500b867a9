//! [`Resolve`] by hickory: one name server at a time, fail-over and CNAME chains by our own rules.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    net::NetError,
    proto::op::{Message, Query},
};
use tokio::{
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Answer, Question, Resolve, ResolveError, ResolveErrorKind,
    chain::Chain,
    server::{Server, is_denial, more_telling},
    server_address::{reachable, zone_index},
    system_conf::SystemConf,
};
use crate::LOG_TARGET;

/// Asks DNS servers.
///
/// - Names are absolute: no search list is tried, and the hosts file is not read.
/// - Nothing is cached here; the list does that.
/// - Servers are asked in the order given, each for at most 2 s. The next one is asked as well after
///   400 ms of silence, and at once after a failure (SERVFAIL, REFUSED, nonsense). What a server
///   denies (NXDOMAIN, no data) is an answer, and is final.
/// - A question is asked over UDP, with EDNS, and its letters are in random case, which an answer must
///   repeat (0x20). What a server does not take is left out within its 2 s: EDNS after FORMERR, NOTIMP or
///   BADVERS and after 200 ms of silence; UDP where the answer was truncated and after 400 ms of silence; all
///   three, EDNS, UDP and letter case, after any other failure and before a denial is believed. (A denial is
///   believed without that if the host's other family is answered.) The form that a server answered is the
///   first until two hours after it last worked, and has 500 ms. If it is another, one question in five minutes
///   is asked in the first form beside it.
/// - Over UDP, lower case is used only where TCP does not work, and twice: what both answers hold is taken.
/// - CNAMEs are followed, at most eight; the TTL is the least along the chain, and one with the top bit
///   set counts as zero (RFC 2181 section 8). Records off the chain are ignored.
///
/// For each name on the chain a server gets at most nine packets over UDP and one question over TCP.
#[derive(Clone)]
pub struct HickoryResolver {
    servers: Arc<ArcSwap<Servers>>,
    system: Option<Arc<System>>,
}

impl HickoryResolver {
    /// Asks the servers that the system is configured to ask.
    ///
    /// On Apple's systems, Android and Windows they come from the interface of the system. On other systems
    /// they are those of `/etc/resolv.conf`; see [`from_resolv_conf`](Self::from_resolv_conf). Both are
    /// read again as described there.
    ///
    /// # Errors
    ///
    /// On Apple's systems, Android and Windows: a configuration that cannot be read, or that names no
    /// server. On other systems: none, even if the file is missing.
    pub fn from_system_conf() -> Result<Self, SystemConfError> {
        system::resolver()
    }

    /// Asks the servers that a file in the form of resolv.conf(5) names.
    ///
    /// - Of the file, the lines `nameserver` and the option `use-vc` (TCP first) are used. What else is in
    ///   it does not matter. A `nameserver` line that cannot be used is ignored with a warning, and so are
    ///   those after the first eight servers.
    /// - A file without a server, an empty one and a missing one stand for the server on this machine
    ///   (127.0.0.1).
    /// - A file that cannot be read makes questions fail.
    /// - After each outcome that is not an answer the file is read again, at most once a second. If the
    ///   servers changed, the question is asked again of the new ones.
    ///
    /// It is read once here, which blocks the thread, and later on a thread for blocking work.
    #[must_use]
    pub fn from_resolv_conf(path: impl Into<PathBuf>) -> Self {
        Self::from_source(Source::File(path.into()))
    }

    fn from_source(source: Source) -> Self {
        let servers = Arc::new(ArcSwap::from_pointee(Servers::default()));
        let system = System::new(source);
        system.take(system.source.read(), &servers);
        Self {
            servers,
            system: Some(Arc::new(system)),
        }
    }

    /// Asks these servers, in this order.
    ///
    /// # Errors
    ///
    /// No server at all.
    pub fn from_servers(
        servers: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self, SystemConfError> {
        let servers: Vec<_> = servers.into_iter().map(reachable).collect();
        if servers.is_empty() {
            return Err(SystemConfError(NetError::NoConnections));
        }
        Ok(Self {
            servers: Arc::new(ArcSwap::from_pointee(Servers::new(&servers, false))),
            system: None,
        })
    }
}

impl Resolve for HickoryResolver {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        let Some(system) = &self.system else {
            return self.servers.load_full().resolve(&question).await;
        };
        if system.is_suspect() {
            system.look_again(&self.servers).await;
        }
        let suspicion = Suspicion(system);
        let servers = self.servers.load_full();
        let outcome = servers.resolve(&question).await;
        if outcome.is_ok() {
            suspicion.dispel();
            return outcome;
        }
        system.look_again(&self.servers).await;
        let changed = self.servers.load_full();
        match Arc::ptr_eq(&servers, &changed) {
            true => outcome,
            false => changed.resolve(&question).await,
        }
    }
}

impl fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HickoryResolver")
            .field("servers", &self.servers.load().addresses())
            .finish_non_exhaustive()
    }
}

/// There is no DNS server to ask: the system's configuration names none or cannot be read, or the
/// list of servers is empty.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no DNS server to ask")]
pub struct SystemConfError(#[source] NetError);

/// The system's configuration, read again when it may have changed.
struct System {
    source: Source,
    /// A question came to no answer since the last look.
    suspect: AtomicBool,
    look: Mutex<Look>,
    /// Result of the last look.
    found: std::sync::Mutex<Option<Result<SystemConf, io::ErrorKind>>>,
}

#[derive(Default)]
struct Look {
    begun_at: Option<Instant>,
    /// Kept until it is over: a disk that hangs holds one thread, not one more with each question.
    reading: Option<JoinHandle<io::Result<SystemConf>>>,
}

impl System {
    fn new(source: Source) -> Self {
        Self {
            source,
            suspect: AtomicBool::new(false),
            look: Mutex::default(),
            found: std::sync::Mutex::default(),
        }
    }

    fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Reads the configuration, unless it was read a moment ago, and waits for it for a moment.
    async fn look_again(&self, servers: &ArcSwap<Servers>) {
        let look = async {
            let mut look = self.look.lock().await;
            let Look { begun_at, reading } = &mut *look;
            if reading.is_none() {
                let now = Instant::now();
                if begun_at.is_some_and(|begun_at| now < begun_at + BETWEEN_LOOKS) {
                    return;
                }
                *begun_at = Some(now);
                self.suspect.store(false, Ordering::Release);
            }
            let source = self.source.clone();
            let read = reading
                .get_or_insert_with(|| spawn_blocking(move || source.read()))
                .await;
            *reading = None;
            // A panic of the reader is reported by tokio's own hook.
            if let Ok(read) = read {
                self.take(read, servers);
            }
        };
        // Too late or not, the servers are those that are known then.
        let _ = timeout(MAX_LOOK, look).await;
    }

    fn take(&self, read: io::Result<SystemConf>, servers: &ArcSwap<Servers>) {
        let mut found = self
            .found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let source = &self.source;
        match read {
            Ok(conf) if matches!(&*found, Some(Ok(before)) if *before == conf) => {}
            Ok(conf) => {
                for line in &conf.void {
                    warn!(target: LOG_TARGET, %source, "a DNS server is ignored: {line}");
                }
                if conf.is_default {
                    info!(
                        target: LOG_TARGET,
                        %source,
                        "no DNS server is configured, so the one on this machine is asked",
                    );
                }
                let new = Servers::new(&conf.servers, conf.tcp_first);
                let before = servers.load();
                if !before.is_like(&new) {
                    if found.is_some() {
                        let servers = &conf.servers;
                        info!(target: LOG_TARGET, ?servers, "the system's DNS servers changed");
                    }
                    servers.store(Arc::new(new));
                }
                *found = Some(Ok(conf));
            }
            Err(error) => {
                if !matches!(&*found, Some(Err(before)) if *before == error.kind()) {
                    warn!(
                        target: LOG_TARGET,
                        %source,
                        %error,
                        "the DNS configuration cannot be read; it is tried again",
                    );
                }
                *found = Some(Err(error.kind()));
                // Those that were known before are still the best guess.
                if servers.load().servers.is_empty() {
                    let why = format!("cannot read {source}: {error}");
                    servers.store(Arc::new(Servers {
                        why_none: Some(why.into()),
                        ..Servers::default()
                    }));
                }
            }
        }
    }
}

/// Leaves a suspicion behind, also where the list's time limit drops the question.
struct Suspicion<'a>(&'a System);

impl Suspicion<'_> {
    fn dispel(self) {
        std::mem::forget(self);
    }
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        self.0.suspect.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Servers {
    servers: Vec<Arc<Server>>,
    tcp_first: bool,
    why_none: Option<Arc<str>>,
}

impl Servers {
    fn new(addresses: &[SocketAddr], tcp_first: bool) -> Self {
        let servers = addresses.iter();
        Self {
            servers: servers
                .map(|address| Arc::new(Server::new(*address, tcp_first)))
                .collect(),
            tcp_first,
            why_none: None,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address()).collect()
    }

    fn is_like(&self, other: &Self) -> bool {
        self.tcp_first == other.tcp_first && self.addresses() == other.addresses()
    }

    async fn resolve(&self, question: &Question) -> Result<Answer, ResolveError> {
        if let Some(why) = &self.why_none {
            return Err(ResolveError::new(ResolveErrorKind::Network).with_cause(why.to_string()));
        }
        let mut chain = Chain::new(question)?;
        loop {
            if let Some(answer) = chain.take(self.ask(chain.query()).await)? {
                return Ok(answer);
            }
        }
    }

    /// Asks one server after the other; the first answer or denial counts.
    async fn ask(&self, query: Query) -> Result<Message, NetError> {
        let mut asked = FuturesUnordered::new();
        let mut failure = NetError::NoConnections;
        for server in &self.servers {
            asked.push(Arc::clone(server).ask(query.clone()));
            let silence = sleep(SILENCE);
            tokio::pin!(silence);
            tokio::select! {
                Some(outcome) = asked.next() => match outcome {
                    Err(error) if !is_denial(&error) => failure = more_telling(failure, error),
                    outcome => return outcome,
                },
                () = &mut silence => {}
            }
        }
        while let Some(outcome) = asked.next().await {
            match outcome {
                Err(error) if !is_denial(&error) => failure = more_telling(failure, error),
                outcome => return outcome,
            }
        }
        Err(failure)
    }
}

#[derive(Clone)]
enum Source {
    /// In the form of resolv.conf(5).
    File(PathBuf),
    /// The system's own interface, in place of a file.
    #[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
    System,
}

impl Source {
    fn read(&self) -> io::Result<SystemConf> {
        match self {
            Self::File(path) => read_file(path),
            #[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
            Self::System => system::read(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "`{}`", path.display()),
            #[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
            Self::System => f.write_str("the system's DNS configuration"),
        }
    }
}

#[cfg(all(unix, not(any(target_vendor = "apple", target_os = "android"))))]
mod system {
    use super::{HickoryResolver, SystemConfError};

    #[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
    pub(super) fn resolver() -> Result<HickoryResolver, SystemConfError> {
        Ok(HickoryResolver::from_resolv_conf("/etc/resolv.conf"))
    }
}

#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
mod system {
    use std::{io, net::SocketAddr};

    use hickory_resolver::{net::NetError, system_conf::read_system_conf};

    use super::{HickoryResolver, Source, SystemConf, SystemConfError, reachable};

    pub(super) fn resolver() -> Result<HickoryResolver, SystemConfError> {
        read_system_conf().map_err(SystemConfError)?;
        Ok(HickoryResolver::from_source(Source::System))
    }

    pub(super) fn read() -> io::Result<SystemConf> {
        let (config, _) = read_system_conf().map_err(io::Error::other)?;
        let mut conf = SystemConf::default();
        for server in config.name_servers() {
            let port = server.connections.first().map_or(53, |first| first.port);
            let address = reachable(SocketAddr::new(server.ip, port));
            if !conf.servers.contains(&address) {
                conf.servers.push(address);
            }
        }
        match conf.servers.is_empty() {
            true => Err(io::Error::other(NetError::NoConnections)),
            false => Ok(conf),
        }
    }
}

/// A file that is not there says as much as an empty one: glibc and musl read it so.
fn read_file(path: &Path) -> io::Result<SystemConf> {
    let mut text = Vec::new();
    match open(path) {
        Ok(file) => {
            file.take(MAX_TEXT).read_to_end(&mut text)?;
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            _ => return Err(error),
        },
    }
    Ok(SystemConf::parse(&text, zone_index))
}

/// A named pipe without a writer would block.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

const SILENCE: Duration = Duration::from_millis(400);

/// The least floor of a list: no question is asked more often.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
const MAX_LOOK: Duration = Duration::from_millis(200);

/// Of the file. Real ones have a few hundred bytes.
const MAX_TEXT: u64 = 1 << 20;
