//! [`HickoryResolver`]: this crate's own fail-over and CNAME rules on top of hickory's protocol code.

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

/// Resolver that queries DNS servers.
///
/// - **Names** are absolute. Search lists and the hosts file are not used.
/// - **Caching** is done by the allow list, not by the resolver.
/// - **Fail-over.** Servers are queried in the given order, each for at most 2 s. The next server is queried after 400
///   ms of silence, or immediately after a failure (SERVFAIL, REFUSED, a malformed answer). A denial (NXDOMAIN, no
///   data) is final: no further server is queried.
/// - **Forgery.** By default, the first query is sent over UDP with EDNS and random letter case. The answer must repeat
///   this letter case (0x20).
/// - **Fallback.** Within a server's 2 s, features that the server does not support are dropped. EDNS is dropped after
///   FORMERR, NOTIMP, BADVERS or 200 ms of silence. UDP is dropped after a truncated answer or 400 ms of silence. EDNS,
///   UDP and random case are dropped after any other failure. A denial is confirmed by a query over TCP in lower case
///   without EDNS. If the server has answered the name in random case within the last hour, a denial needs no
///   confirmation, and no further form is tried after SERVFAIL or REFUSED. A query in lower case is sent over UDP only
///   if TCP fails or is silent, or if only this form worked recently. Two such queries are then sent, and only records
///   that both answers contain are used.
/// - **Memory.** If a server needs another form of the query, that form is tried first until it fails, or until two
///   hours after its last success. The next form is tried after 500 ms of silence. Once every five minutes, the default
///   form is tried as well.
/// - **CNAMEs.** At most eight CNAME records are followed. The TTL of the answer is the lowest TTL along the chain. A
///   TTL whose top bit is set is treated as zero (RFC 2181 section 8). Records outside the chain are ignored.
///
/// For each name of the chain, a server receives at most nine UDP packets and one TCP query.
///
/// ```no_run
/// use callback_source::{AllowList, HickoryResolver, vipps::Environment};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = HickoryResolver::from_servers(["192.0.2.53:53".parse()?])?;
/// let list = AllowList::builder().environment(Environment::Test).spawn(resolver);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HickoryResolver {
    servers: Arc<ArcSwap<Servers>>,
    system: Option<Arc<System>>,
}

impl HickoryResolver {
    /// Creates a resolver that queries the DNS servers of the system's configuration.
    ///
    /// Apple's systems, Android and Windows provide these servers through a system interface. Other systems list the
    /// servers in `/etc/resolv.conf`. Either source is read again as described at
    /// [`from_resolv_conf`](Self::from_resolv_conf).
    ///
    /// # Errors
    ///
    /// On Apple's systems, Android and Windows, returns an error if the configuration cannot be read. If the
    /// configuration names no server, this function fails on Apple's systems, and every lookup fails on Android and
    /// Windows. On other systems, this function never fails, even if the file is missing.
    ///
    /// ```
    /// use callback_source::HickoryResolver;
    ///
    /// fn resolver() -> Result<HickoryResolver, Box<dyn std::error::Error>> {
    ///     match std::env::var("SHOP_DNS_SERVER") {
    ///         // A server of the test environment, in place of the system's.
    ///         Ok(server) => Ok(HickoryResolver::from_servers([server.parse()?])?),
    ///         Err(_) => Ok(HickoryResolver::from_system_conf()?),
    ///     }
    /// }
    /// # resolver()?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_system_conf() -> Result<Self, SystemConfError> {
        Source::of_this_system().map(Self::from_source)
    }

    /// Creates a resolver that queries the DNS servers of a file in resolv.conf(5) format.
    ///
    /// - `nameserver` lines and the option `use-vc` (TCP first) are used. Other lines are ignored. Invalid `nameserver`
    ///   lines and servers after the eighth are skipped. The first four skipped lines are logged as warnings.
    /// - If the file is missing, empty, or names no valid server, the server on this machine (127.0.0.1) is queried.
    /// - If the file cannot be read, the servers of the last successful read stay in use. If no read has succeeded yet,
    ///   lookups fail.
    /// - After a denial or a failed lookup, the file is read again, at most once a second. If the servers have changed,
    ///   the question is sent to the new servers.
    ///
    /// The first read happens in this call and blocks the thread. Later reads run on tokio's blocking
    /// threads.
    ///
    /// ```
    /// use callback_source::HickoryResolver;
    ///
    /// // The servers behind the local stub of systemd-resolved.
    /// let resolver = HickoryResolver::from_resolv_conf("/run/systemd/resolve/resolv.conf");
    /// ```
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

    /// Creates a resolver that queries these DNS servers in this order. The next server is queried after a failure, or
    /// after 400 ms of silence.
    ///
    /// The unspecified address is replaced by the loopback address.
    ///
    /// # Errors
    ///
    /// Returns an error if `servers` is empty.
    ///
    /// ```
    /// use callback_source::{HickoryResolver, parse_dns_server};
    ///
    /// let configured = "192.0.2.53 [2001:db8::53]:5353";
    /// let servers = configured.split_whitespace().map(parse_dns_server);
    /// let resolver = HickoryResolver::from_servers(servers.collect::<Result<Vec<_>, _>>()?)?;
    ///
    /// let error = HickoryResolver::from_servers([]).unwrap_err();
    /// assert_eq!(error.to_string(), "no DNS server is configured");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
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

/// Error for a resolver without DNS servers, because the system's configuration cannot be read or names no server, or
/// because the given list is empty.
///
/// See [`HickoryResolver::from_servers`] for an example.
#[derive(Clone, thiserror::Error)]
#[error("no DNS server is configured")]
pub struct SystemConfError(#[source] NetError);

crate::debug::debug_by_message!(SystemConfError);
