//! [`Resolve`] by hickory: one name server at a time, fail-over and CNAME chains by our own rules.

pub(crate) mod chain;
mod server;
pub(crate) mod server_address;
mod servers;
mod system;
mod system_conf;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use hickory_resolver::net::NetError;

use self::{
    server_address::reachable,
    servers::Servers,
    system::{Source, Suspicion, System},
};
use super::{Answer, Question, Resolve, ResolveError};

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
        Source::of_this_system().map(Self::from_source)
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
