//! The system's DNS configuration and its reloads.
//!
//! A machine that joins another network gets other DNS servers. The old servers may fall silent or deny everything. The
//! configuration is therefore read again after each outcome that is not an answer, at most once a second. A separate
//! thread reads the configuration, because the disk may not respond. The lookup waits for that thread for at most 200
//! ms.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout},
};
use tracing::{info, warn};

#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
use super::server_address::reachable;
use super::{
    SystemConfError, server_address::zone_index, servers::Servers, system_conf::SystemConf,
};
use crate::LOG_TARGET;

/// DNS configuration of the system. It is read again after a denial or a failed lookup.
pub(super) struct System {
    pub(super) source: Source,
    /// True if a lookup has ended without an answer since the last read began.
    suspect: AtomicBool,
    look: Mutex<Look>,
    /// Result of the last read.
    found: std::sync::Mutex<Option<Result<SystemConf, io::ErrorKind>>>,
}

#[derive(Default)]
struct Look {
    begun_at: Option<Instant>,
    /// The read in progress. The handle is kept until the read ends, so that a hanging disk blocks a single thread
    /// instead of one thread for each lookup.
    reading: Option<JoinHandle<io::Result<SystemConf>>>,
}

impl System {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            suspect: AtomicBool::new(false),
            look: Mutex::default(),
            found: std::sync::Mutex::default(),
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Reads the configuration, at most once a second, and waits up to 200 ms for the result.
    pub(super) async fn look_again(&self, servers: &ArcSwap<Servers>) {
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
            // A panic of the reader is reported by the panic hook.
            if let Ok(read) = read {
                self.take(read, servers);
            }
        };
        // After a timeout, the lookup continues with the known servers.
        let _ = timeout(MAX_LOOK, look).await;
    }

    pub(super) fn take(&self, read: io::Result<SystemConf>, servers: &ArcSwap<Servers>) {
        let mut found = self
            .found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let source = &self.source;
        match read {
            Ok(conf) if matches!(&*found, Some(Ok(before)) if *before == conf) => {}
            Ok(conf) => {
                for line in &conf.void {
                    warn!(target: LOG_TARGET, %source, "ignored a DNS server: {line}");
                }
                if conf.is_default {
                    info!(
                        target: LOG_TARGET,
                        %source,
                        "no DNS server is configured; using the server on this machine",
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
                        "cannot read the DNS configuration; it is read again after the next lookup without an answer",
                    );
                }
                *found = Some(Err(error.kind()));
                // If an earlier read succeeded, its servers stay in use.
                if servers.load().is_empty() {
                    let why = format!("cannot read {source}: {error}");
                    servers.store(Arc::new(Servers::none(&why)));
                }
            }
        }
    }
}

/// Marks the configuration as suspect on drop, so that a lookup that is dropped at its time limit also marks it.
pub(super) struct Suspicion<'a>(pub(super) &'a System);

impl Suspicion<'_> {
    pub(super) fn dispel(self) {
        std::mem::forget(self);
    }
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        self.0.suspect.store(true, Ordering::Release);
    }
}

#[derive(Clone)]
pub(super) enum Source {
    /// A file in resolv.conf(5) format.
    File(PathBuf),
    /// The system's own interface.
    #[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
    System,
}

impl Source {
    /// Returns the source of the system's own configuration.
    ///
    /// # Errors
    ///
    /// See [`HickoryResolver::from_system_conf`](super::HickoryResolver::from_system_conf).
    pub(super) fn of_this_system() -> Result<Self, SystemConfError> {
        platform::source()
    }

    pub(super) fn read(&self) -> io::Result<SystemConf> {
        match self {
            Self::File(path) => read_file(path),
            #[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
            Self::System => platform::read(),
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
mod platform {
    use super::{Source, SystemConfError};

    #[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
    pub(super) fn source() -> Result<Source, SystemConfError> {
        Ok(Source::File("/etc/resolv.conf".into()))
    }
}

#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
mod platform {
    use std::{io, net::SocketAddr};

    use hickory_resolver::{net::NetError, system_conf::read_system_conf};

    use super::{Source, SystemConf, SystemConfError, reachable};

    pub(super) fn source() -> Result<Source, SystemConfError> {
        read_system_conf().map_err(SystemConfError)?;
        Ok(Source::System)
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

/// Reads a file. A missing file is treated as empty, as glibc and musl do.
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

/// Opens a file without blocking, since opening a named pipe without a writer would block forever.
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

/// The minimum time between two reads. It equals the lowest possible refresh interval floor.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
const MAX_LOOK: Duration = Duration::from_millis(200);

/// Maximum number of bytes that are read from the file. Real files have a few hundred bytes.
const MAX_TEXT: u64 = 1 << 20;
