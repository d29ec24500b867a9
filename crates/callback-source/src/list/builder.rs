//! The configuration of a list.

mod unlisted_peers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use tracing::warn;

use crate::{
    AllowSet, Family, HostName, LOG_TARGET, NetworkError, Resolve,
    list::{
        AllowList, Refresher,
        answer_cache::AnswerCache,
        clock::{SleepClock, now},
        log,
        on_demand::OnDemandLimits,
        schedule::Schedule,
        shared::{Shared, UNNAMED, watched_hosts},
        state_file::StateFile,
    },
    set::{Rules, networks::Cover},
    vipps,
};

/// Configures an [`AllowList`].
///
/// ```
/// # #[cfg(feature = "hickory")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callback_source::{AllowList, HickoryResolver, vipps::Environment};
///
/// let list = AllowList::builder()
///     .environment(Environment::Production)
///     .host("out.adyen.com".parse()?)
///     .net("212.93.32.0/19".parse()?)?
///     .ttl_bounds(Duration::from_secs(1), Duration::from_secs(600))?
///     .linger(Duration::from_secs(1800))
///     .spawn(HickoryResolver::from_system_conf()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct AllowListBuilder {
    rules: Rules,
    hosts: Vec<HostName>,
    networks: Vec<IpNet>,
    cover: Cover,
    state_file: Option<PathBuf>,
    restore_only: bool,
    on_demand: OnDemandLimits,
    watch: Vec<HostName>,
    name: Option<String>,
}

impl AllowList {
    /// Returns a builder without hosts.
    pub fn builder() -> AllowListBuilder {
        AllowListBuilder::default()
    }
}

impl AllowListBuilder {
    /// Adds the callback servers of an environment. The servers of production include those for disaster recovery,
    /// which take over without notice. A second call adds the servers of another environment.
    ///
    /// A shop that takes real payments must not add `Test`, since test payments cost nothing.
    ///
    /// ```
    /// use callback_source::{AllowList, vipps::Environment};
    /// # use callback_source::{Question, ResolveError, ResolveErrorKind};
    /// # let resolver = async |_: Question| Err(ResolveError::new(ResolveErrorKind::Timeout));
    ///
    /// // Two providers call the same endpoint.
    /// let (list, _) = AllowList::builder()
    ///     .environment(Environment::Production)
    ///     .host("out.adyen.com".parse()?)
    ///     .pair(resolver);
    /// assert_eq!(list.snapshot().hosts().count(), 8 + 1);
    /// # Ok::<_, callback_source::HostNameError>(())
    /// ```
    pub fn environment(self, environment: vipps::Environment) -> Self {
        self.hosts(environment.hosts())
    }

    /// Adds a host. See [`environment`](Self::environment) for an example.
    pub fn host(self, host: HostName) -> Self {
        self.hosts([host])
    }

    /// Adds hosts. Duplicates of a name are ignored.
    ///
    /// ```
    /// use callback_source::{AllowList, AllowListBuilder, HostName, HostNameError};
    ///
    /// fn from_config(names: &str) -> Result<AllowListBuilder, HostNameError> {
    ///     let hosts = names.split(',').map(|name| name.trim().parse::<HostName>());
    ///     let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
    ///     Ok(AllowList::builder().hosts(hosts))
    /// }
    ///
    /// assert!(from_config("out.adyen.com, outbound.epay.eu").is_ok());
    /// let error = from_config("out.adyen.com outbound.epay.eu").unwrap_err();
    /// assert!(error.to_string().starts_with("invalid host name `out.adyen.com outbound.epay.eu`"));
    /// ```
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        self.hosts.extend(hosts);
        self
    }

    /// Adds a static network, which is admitted whatever DNS answers. Default: none.
    ///
    /// # Errors
    ///
    /// Fails if the network covers a whole address family, alone or together with networks added before.
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let builder = AllowList::builder().net("212.93.32.0/19".parse()?)?;
    /// assert!(builder.net("0.0.0.0/0".parse()?).is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn net(self, network: IpNet) -> Result<Self, NetworkError> {
        self.nets([network])
    }

    /// Adds static networks, which are admitted whatever DNS answers. Static networks never expire: a network that the
    /// provider no longer uses must be removed from the configuration.
    ///
    /// ```
    /// use callback_source::{AllowList, Freshness};
    /// # use callback_source::{Question, ResolveError, ResolveErrorKind};
    /// # let resolver = async |_: Question| Err(ResolveError::new(ResolveErrorKind::Timeout));
    ///
    /// // A provider that publishes networks.
    /// let networks = ["212.93.32.0/19".parse()?, "185.218.228.0/22".parse()?];
    /// let (list, _) = AllowList::builder().nets(networks)?.pair(resolver);
    /// let verdict = list.verdict("185.218.231.7".parse()?);
    /// assert_eq!(verdict.allowed().map(|peer| peer.freshness()), Some(Freshness::Static));
    ///
    /// // Two halves admit everyone, as `0.0.0.0/0` does.
    /// let halves = ["0.0.0.0/1".parse()?, "128.0.0.0/1".parse()?];
    /// assert!(AllowList::builder().nets(halves).is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the networks cover a whole address family, alone or together with networks added before.
    pub fn nets(mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        for network in networks {
            self.cover.add(network)?;
            self.networks.push(network);
        }
        Ok(self)
    }

    /// Sets the bounds to which the TTL of an answer or denial is clamped. Default 5 s to 1 h.
    ///
    /// The lower bound is also the refresh interval floor: no question is asked again before this time has passed, not
    /// even in a flood of unlisted peers. The upper bound limits the time until the list asks again, even if a zone has
    /// a TTL of a day. When the list asks again, it notices that a server was withdrawn, unless a caching resolver
    /// still returns the old answer.
    ///
    /// # Errors
    ///
    /// Fails if `min` is below 1 s or above `max`. With a minimum of zero, a TTL of zero would cause lookups
    /// without pause.
    ///
    /// ```
    /// use std::time::Duration;
    /// use callback_source::AllowList;
    ///
    /// let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    /// assert!(AllowList::builder().ttl_bounds(second, hour).is_ok());
    /// assert!(AllowList::builder().ttl_bounds(Duration::ZERO, hour).is_err());
    /// ```
    pub fn ttl_bounds(mut self, min: Duration, max: Duration) -> Result<Self, TtlBoundsError> {
        if min < MIN_FLOOR || max < min {
            return Err(TtlBoundsError { min, max });
        }
        self.rules.min_ttl = min;
        self.rules.max_ttl = max;
        Ok(self)
    }

    /// Sets how long an address stays admitted after it left the answer. The address stays admitted at least until the
    /// answer that omits it has been refreshed. Default 1 h, no maximum. Zero turns lingering off.
    ///
    /// A server that left DNS may still have callbacks in flight. If a zone rotates its addresses, the window must be
    /// at least as long as the time until an address appears in an answer again:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{net::IpAddr, sync::atomic::{AtomicU8, Ordering}, time::Duration};
    /// use callback_source::{AllowList, Answer, Family, Freshness, Question};
    ///
    /// // Each answer names one of four servers in turn, with a TTL of ten minutes.
    /// const TTL: Duration = Duration::from_secs(10 * 60);
    /// let answers = AtomicU8::new(0);
    /// let resolver = move |_: Question| {
    ///     let server = 1 + answers.fetch_add(1, Ordering::Relaxed) % 4;
    ///     async move { Ok(Answer::new([[20, 0, 0, server].into()], TTL)) }
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .linger(4 * TTL)
    ///     .spawn(resolver);
    /// list.ready().await;
    ///
    /// tokio::time::sleep(3 * TTL).await;
    /// let first = IpAddr::from([20, 0, 0, 1]);
    /// let evidence = list.verdict(first).allowed().map(|peer| peer.freshness());
    /// assert_eq!(evidence, Some(Freshness::Lingering));
    /// # Ok(())
    /// # }
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.rules.linger = linger;
        self
    }

    /// Sets how long the last valid answer stays in use after the end of its TTL while lookups fail. Default 24 h, no
    /// maximum.
    ///
    /// A day leaves operators time to react. With a shorter window, a server that is withdrawn during an outage of DNS
    /// is admitted for less time. But genuine callbacks are also refused earlier. After the window, the verdict is
    /// undecided (503), not final (403), unless the answer of another host shows that DNS works:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{net::IpAddr, sync::atomic::{AtomicBool, Ordering}, time::Duration};
    /// use callback_source::{
    ///     AllowList, Answer, Family, Freshness, Question, RejectionKind, ResolveError, ResolveErrorKind,
    /// };
    ///
    /// // One answer, then an outage of DNS.
    /// let answered = AtomicBool::new(false);
    /// let resolver = move |_: Question| {
    ///     let outcome = match answered.swap(true, Ordering::Relaxed) {
    ///         false => Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60))),
    ///         true => Err(ResolveError::new(ResolveErrorKind::Timeout)),
    ///     };
    ///     async { outcome }
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .stale_for(Duration::from_secs(2 * 60 * 60))
    ///     .spawn(resolver);
    /// list.ready().await;
    /// let server: IpAddr = "20.0.0.1".parse()?;
    ///
    /// tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    /// let evidence = list.verdict(server).allowed().map(|peer| peer.freshness());
    /// assert_eq!(evidence, Some(Freshness::Stale));
    ///
    /// tokio::time::sleep(Duration::from_secs(2 * 60 * 60)).await;
    /// let reason = list.verdict(server).rejection().map(|rejection| rejection.kind());
    /// assert_eq!(reason, Some(RejectionKind::Unresolved));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.rules.stale_for = stale_for;
        self
    }

    /// Sets the longest pause between two lookups of a failing question. Default 60 s. A value below the [refresh
    /// interval floor](Self::ttl_bounds) is raised to that floor.
    ///
    /// The pause doubles with each failure, so that a failing DNS server is not flooded. The maximum pause also
    /// determines how late a list can notice that DNS works again:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::{Arc, atomic::{AtomicBool, Ordering}}, time::Duration};
    /// use callback_source::{AllowList, Answer, Question, ResolveError, ResolveErrorKind};
    /// use tokio::time::{sleep, timeout};
    ///
    /// let outage = Arc::new(AtomicBool::new(true));
    /// let is_down = Arc::clone(&outage);
    /// let resolver = move |_: Question| {
    ///     let outcome = match is_down.load(Ordering::Relaxed) {
    ///         true => Err(ResolveError::new(ResolveErrorKind::ServFail)),
    ///         false => Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60))),
    ///     };
    ///     async { outcome }
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .max_backoff(Duration::from_secs(10))
    ///     .spawn(resolver);
    ///
    /// sleep(Duration::from_secs(10 * 60)).await;
    /// outage.store(false, Ordering::Relaxed);
    /// // The pause, and at most half a second in which replicas spread out.
    /// timeout(Duration::from_secs(11), list.ready()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.rules.max_backoff = max_backoff;
        self
    }

    /// Sets how many addresses an answer may contain. An answer with more addresses is treated as a failed lookup, so
    /// that the previous answer stays in use. Default 256. With zero, no answer is accepted.
    ///
    /// An answer of thousands of addresses is a fault or an attack, and would admit that many peers. Vipps MobilePay
    /// once published fifteen addresses for all its production servers together.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question, ResolveErrorKind};
    ///
    /// // A forged answer, which names a whole network.
    /// let resolver = async |_: Question| {
    ///     let network = (0..=255).map(|last| [20, 0, 0, last].into());
    ///     Ok(Answer::new(network, Duration::from_secs(60)))
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .max_addresses(16)
    ///     .spawn(resolver);
    /// list.attempted().await;
    /// assert!(!list.verdict("20.0.0.7".parse()?).is_allowed());
    /// let error = list.health()[0].families[0].last_error.clone().expect("it failed");
    /// assert_eq!(error.kind(), ResolveErrorKind::TooManyAddresses);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_addresses(mut self, max_addresses: usize) -> Self {
        self.rules.max_addresses = max_addresses;
        self
    }

    /// Sets how many addresses of one host may linger at a time. Beyond this limit, the addresses that have lingered
    /// longest are no longer admitted, and a warning is logged. Default 1,024, which is four answers of the default
    /// maximum length.
    ///
    /// The limit bounds the memory that a zone with new addresses in every answer can use:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::atomic::{AtomicU8, Ordering}, time::Duration};
    /// use callback_source::{AllowList, Answer, Family, Question};
    ///
    /// let answers = AtomicU8::new(0);
    /// let resolver = move |_: Question| {
    ///     let server = 1 + answers.fetch_add(1, Ordering::Relaxed);
    ///     async move { Ok(Answer::new([[20, 0, 0, server].into()], Duration::from_secs(60))) }
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .max_lingering(2)
    ///     .spawn(resolver);
    /// list.ready().await;
    ///
    /// // Time for three more answers.
    /// tokio::time::sleep(Duration::from_secs(200)).await;
    /// let is_allowed = |server| list.verdict([20, 0, 0, server].into()).is_allowed();
    /// assert_eq!([1, 2, 3, 4].map(is_allowed), [false, true, true, true]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_lingering(mut self, max_lingering: usize) -> Self {
        self.rules.max_lingering = max_lingering;
        self
    }

    /// Sets the time limit of one lookup, with all servers and retries. Default 5 s, no minimum or maximum.
    ///
    /// The limit ends every lookup, unless the resolver blocks the thread. [`HickoryResolver`](crate::HickoryResolver)
    /// waits at most 2 s for each server, and queries the next server after 400 ms of silence. Eight servers therefore
    /// fit into the default. An expired answer stays in use for as long as its refresh can take.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Question, ResolveErrorKind};
    ///
    /// // A resolver that never returns.
    /// let resolver = |_: Question| std::future::pending();
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .question_time_limit(Duration::from_secs(3))
    ///     .spawn(resolver);
    /// tokio::time::timeout(Duration::from_secs(4), list.attempted()).await?;
    /// let error = list.health()[0].families[0].last_error.clone().expect("it failed");
    /// assert_eq!(error.kind(), ResolveErrorKind::Timeout);
    /// # Ok(())
    /// # }
    /// ```
    pub fn question_time_limit(mut self, limit: Duration) -> Self {
        self.rules.question_time_limit = limit;
        self
    }

    /// Looks up one address family only. This suits networks where questions for the other family are never answered.
    /// Default: both families.
    ///
    /// A peer of the other family is then [`NotListed`](crate::RejectionKind::NotListed), unless it is in a
    /// [static network](Self::net).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Family, Question, RejectionKind};
    ///
    /// let resolver = |question: Question| async move {
    ///     assert_eq!(question.family, Family::V4);
    ///     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// };
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .only_family(Family::V4)
    ///     .spawn(resolver);
    /// list.ready().await;
    /// let verdict = list.verdict("2606:4700::1".parse()?);
    /// assert_eq!(verdict.rejection().unwrap().kind(), RejectionKind::NotListed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn only_family(mut self, family: Family) -> Self {
        self.rules.only_family = Some(family);
        self
    }

    /// Keeps the state in a file, so that known servers are still admitted after a restart while DNS is
    /// down. Off by default.
    ///
    /// The file is JSON. It is written at once when addresses change, and when the refresher ends. When only times
    /// change, it is written at most once a minute. Each write creates a temporary file (`<name>.tmp`), which then
    /// replaces the state file. The file contains the original times (UTC), so that a restart does not extend a window.
    /// The state of hosts that are not configured at the start stays in the file until its windows end, in case these
    /// hosts are configured again. Meanwhile this state admits no peer. Each list of each process needs a separate
    /// file.
    ///
    /// An ignored file is not overwritten until there is state to write. The following files are ignored, with a
    /// warning:
    ///
    /// - a symbolic link;
    /// - a file that is corrupt, larger than 4 MiB, or in another version of the format;
    /// - a file whose time of writing is more than a minute in the future;
    /// - a file that belongs to a user other than root and the user of the process;
    /// - a file that can be written by every user, by a group that the process is not in, or by a group that cannot
    ///   read the file.
    ///
    /// The mode of a new file is 0600. A group that can read the file can also read the file that replaces it, if the
    /// process is in that group. The file itself must not be a mount point, since a mount point cannot be replaced.
    /// Mount its folder instead.
    ///
    /// State beyond 4 MiB is left out: first the addresses that have lingered longest, then the hosts that are not
    /// configured, then the last configured hosts.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.json");
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question, ResolveError, ResolveErrorKind};
    ///
    /// let builder = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .state_file(&path);
    /// let (list, refresher) = builder.clone().pair(|_: Question| async {
    ///     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// });
    /// let running = tokio::spawn(refresher.run());
    /// list.ready().await;
    /// drop(list);
    /// running.await?;
    ///
    /// // After the restart DNS is down.
    /// let list = builder.spawn(|_: Question| async {
    ///     Err(ResolveError::new(ResolveErrorKind::Timeout))
    /// });
    /// assert!(list.verdict("20.0.0.1".parse()?).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = false;
        self
    }

    /// Starts with the content of a [state file](Self::state_file), and never writes that file. Use this method to
    /// inspect the state of another process.
    ///
    /// The file may belong to any user and group, so that root and members of the file's group can inspect the state. A
    /// file that every user can write is ignored here, too. Do not admit peers by a list from this method unless you
    /// trust the owner and the group of the file.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.json");
    /// use callback_source::{AllowList, Question, ResolveError, ResolveErrorKind};
    /// # use {std::time::Duration, callback_source::Answer};
    ///
    /// let builder = AllowList::builder().host("callbacks.example.com".parse()?);
    /// # let (service, refresher) = builder.clone().state_file(&path).pair(async |_: Question| {
    /// #     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// # });
    /// # let running = tokio::spawn(refresher.run());
    /// # service.ready().await;
    /// # drop(service);
    /// # running.await?;
    /// // Without its refresher, the list shows the state of the service and looks up nothing.
    /// let (inspected, _) = builder.restore_from(&path).pair(async |_: Question| {
    ///     Err(ResolveError::new(ResolveErrorKind::Other))
    /// });
    /// for host in inspected.health() {
    ///     println!("{}: {:?}", host.host, host.addresses);
    /// }
    /// assert!(inspected.verdict("20.0.0.1".parse()?).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn restore_from(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = true;
        self
    }

    /// Admits special-purpose addresses (loopback, private, documentation …) that answers contain. Only for tests: a
    /// forged answer can then admit peers in the merchant's own network.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{net::IpAddr, time::Duration};
    /// use callback_source::{AllowList, Answer, Question};
    ///
    /// let loopback: IpAddr = "127.0.0.1".parse()?;
    /// let resolver = move |_: Question| async move {
    ///     Ok(Answer::new([loopback], Duration::from_secs(60)))
    /// };
    /// let builder = AllowList::builder().host("callbacks.example.com".parse()?);
    ///
    /// let list = builder.clone().spawn(resolver);
    /// list.attempted().await;
    /// assert!(!list.verdict(loopback).is_allowed());
    ///
    /// let list = builder.insecure_allow_special_addresses().spawn(resolver);
    /// list.ready().await;
    /// assert!(list.verdict(loopback).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn insecure_allow_special_addresses(mut self) -> Self {
        self.rules.insecure_allow_special_addresses = true;
        self
    }

    /// Sets the name of the list, which is the value of the label `list` of its [metrics](AllowList#metrics). The
    /// default is the provider's environment (`production` or `test`), or `default` if the hosts belong to no
    /// environment or to both. If another list of the process has the same name, a number is added: `production-2`.
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let builder = AllowList::builder().name("checkout");
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Builds the list and runs its [`Refresher`] on the current tokio runtime. Returns at once, so DNS never delays
    /// the start of a service. Callbacks that cannot be judged yet get 503.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime. A `main` that is not `async` must enter a runtime first:
    ///
    /// ```
    /// # use {std::time::Duration, callback_source::{Answer, Question}};
    /// # let resolver = async |_: Question| {
    /// #     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// # };
    /// use callback_source::{AllowList, vipps::Environment};
    ///
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let list = {
    ///     let _context = runtime.enter();
    ///     AllowList::builder().environment(Environment::Production).spawn(resolver)
    /// };
    /// runtime.block_on(list.ready());
    /// # Ok::<_, std::io::Error>(())
    /// ```
    pub fn spawn(self, resolver: impl Resolve) -> AllowList {
        let (list, refresher) = self.pair(resolver);
        tokio::spawn(refresher.run());
        list
    }

    /// Builds the list and its [`Refresher`], which the caller [runs](Refresher::run).
    ///
    /// Handlers that block the threads of their runtime also delay a refresher on that runtime, so answers may expire.
    /// A refresher on a separate thread is independent of such handlers:
    ///
    /// ```
    /// # use {std::time::Duration, callback_source::{Answer, Question}};
    /// # let resolver = async |_: Question| {
    /// #     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
    /// # };
    /// use callback_source::{AllowList, vipps::Environment};
    /// use tokio::runtime::Builder;
    ///
    /// let (list, refresher) = AllowList::builder().environment(Environment::Production).pair(resolver);
    /// let own = Builder::new_current_thread().enable_all().build()?;
    /// let thread = std::thread::spawn(move || own.block_on(refresher.run()));
    ///
    /// // The service runs on another runtime.
    /// Builder::new_multi_thread().build()?.block_on(list.ready());
    ///
    /// // The refresher ends with the last handle.
    /// drop(list);
    /// thread.join().expect("the refresher does not panic");
    /// # Ok::<_, std::io::Error>(())
    /// ```
    #[must_use = "nothing is looked up unless the refresher runs"]
    pub fn pair(self, resolver: impl Resolve) -> (AllowList, Refresher) {
        log::no_disaster_recovery(&self.hosts);
        if self.hosts.is_empty() && self.networks.is_empty() {
            warn!(target: LOG_TARGET, "the list has no host and no network: every callback is refused");
        }
        let now = now();
        let floor = self.rules.min_ttl;
        let time_limit = self.rules.question_time_limit;
        let watched = watched_hosts(&self.watch, &self.hosts);
        let environments = self.hosts.iter().filter_map(vipps::Environment::of_host);
        let environment = vipps::only_environment(environments).map(vipps::Environment::as_str);
        let name = self.name.as_deref().or(environment).unwrap_or(UNNAMED);
        let mut set = AllowSet::new(self.rules, self.hosts, &self.networks, now)
            .expect("`nets` has checked the networks");
        set.watch(watched, now);
        let state_file = self.state_file.map(|path| match self.restore_only {
            true => StateFile::looked_at(path),
            false => StateFile::kept(path),
        });
        if let Some(file) = &state_file {
            file.restore(&mut set, now);
        }
        let sleep_clock = SleepClock::from_system();
        let state_file = state_file.filter(|_| !self.restore_only).map(Arc::new);
        let schedule = Schedule::new(floor, &self.on_demand);
        let mut shared = Shared::new(set, self.on_demand, name, now);
        shared.state_file = state_file.clone();
        shared.watch = self.watch;
        let list = AllowList::new(Arc::new(shared));
        let cache = AnswerCache::new(resolver, time_limit);
        let refresher = Refresher::new(&list, cache, schedule, sleep_clock, state_file);
        (list, refresher)
    }
}

/// Error for invalid TTL bounds.
///
/// See [`AllowListBuilder::ttl_bounds`] for an example.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid TTL bounds {min:?} to {max:?}: the minimum must be at least 1 s and at most the maximum"
)]
pub struct TtlBoundsError {
    min: Duration,
    max: Duration,
}

crate::debug::debug_by_message!(TtlBoundsError);

/// The lowest refresh interval floor that is accepted. With a floor of zero, a TTL of zero would cause lookups without
/// pause.
const MIN_FLOOR: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
