//! The handle of a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::{
    AllowSet, HostName, LOG_TARGET, NetworkError, Verdict,
    list::{
        clock::now,
        log,
        on_demand::OnDemandLimits,
        shared::{Shared, UNNAMED, watched_hosts},
    },
    set::{HostHealth, Rules},
};

/// The addresses that may call, kept up to date by a [`Refresher`](crate::Refresher).
///
/// This is a handle: cloning it increments a reference count, and all clones share one set. When the last clone is
/// dropped, the refresher ends.
///
/// The method `verdict` takes no lock and never waits for DNS. Each verdict checks whether the windows of the addresses
/// are still open. If the refresher ends, all addresses from DNS therefore expire eventually, and the verdict on them
/// becomes [`Unresolved`](crate::RejectionKind::Unresolved).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use callback_source::{AllowList, Answer, Question, RejectionKind};
///
/// // In place of `HickoryResolver`.
/// let resolver = |_: Question| async {
///     Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60)))
/// };
/// let list = AllowList::builder()
///     .host("callbacks.example.com".parse()?)
///     .spawn(resolver);
/// let peer = "20.0.0.9".parse()?;
/// let rejection = list.verdict(peer);
/// assert_eq!(rejection.rejection().unwrap().kind(), RejectionKind::Unresolved);
///
/// list.ready().await;
/// assert!(list.verdict("20.0.0.1".parse()?).is_allowed());
/// let rejection = list.verdict(peer);
/// assert_eq!(rejection.rejection().unwrap().kind(), RejectionKind::NotListed);
/// # Ok(())
/// # }
/// ```
///
/// # Metrics
///
/// With the feature `metrics`, a list reports these metrics through the facade of the crate `metrics`. Each metric has
/// the label `list`, whose value is the [name](crate::AllowListBuilder::name) of the list:
///
/// | name | kind | other labels |
/// |---|---|---|
/// | `callback_source_verdicts_total` | counter | `verdict`: `allow`, `not-listed`, `wrong-environment`, `unresolved`, … |
/// | `callback_source_lookups_total` | counter | `outcome`: `answer`, `nxdomain`, `no-data`, `servfail`, `refused`, `timeout`, `network`, `other` |
/// | `callback_source_changes_total` | counter | – |
/// | `callback_source_refused_then_listed_total` | counter | – |
/// | `callback_source_addresses` | gauge | – |
/// | `callback_source_last_answer_timestamp_seconds` | gauge | – |
/// | `callback_source_oldest_answer_timestamp_seconds` | gauge | – |
/// | `callback_source_last_admitted_timestamp_seconds` | gauge | – |
///
/// The timestamps are Unix times. A timestamp is 0 before its first event. The timestamps of answers are also 0 while
/// no answer is in use. Counters are present from the start, with the value 0, if the recorder is installed before the
/// list is built. `docs/operations.md` in the repository lists all metrics.
#[derive(Clone, Debug)]
pub struct AllowList {
    handle: Arc<Handle>,
}

impl AllowList {
    /// Returns a list of exactly these addresses, without DNS and without a task, for tests of a service. A list
    /// without any address is [`undecided`](Self::undecided).
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let list = AllowList::fixed(["127.0.1.1".parse().unwrap()]);
    /// assert!(list.verdict("127.0.1.1".parse().unwrap()).is_allowed());
    /// assert!(!list.verdict("127.0.1.2".parse().unwrap()).is_allowed());
    /// ```
    #[must_use]
    pub fn fixed(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let now = now();
        let networks: Vec<_> = addresses.into_iter().map(IpNet::from).collect();
        let set = AllowSet::new(Rules::default(), [], &networks, now)
            .expect("a whole family takes 2^32 single addresses");
        let shared = Shared::new(set, OnDemandLimits::default(), UNNAMED, now);
        shared.on_demand.end();
        Self::new(Arc::new(shared))
    }

    /// Returns a list that cannot decide about any peer, for tests of a service. If DNS has been down since the start,
    /// a list with neither restored state nor static networks cannot decide either.
    ///
    /// ```
    /// use callback_source::{AllowList, RejectionKind};
    ///
    /// let verdict = AllowList::undecided().verdict("192.0.2.1".parse().unwrap());
    /// assert_eq!(verdict.rejection().unwrap().kind(), RejectionKind::Unresolved);
    /// ```
    #[must_use]
    pub fn undecided() -> Self {
        // A set without hosts and networks rejects every peer as `Unresolved`, since `NotListed` would be a final
        // refusal.
        Self::fixed([])
    }

    /// Returns the verdict on a peer by the current set. Never waits.
    ///
    /// An IPv4 address may be in its IPv4-mapped form, as on a dual-stack socket:
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use callback_source::AllowList;
    ///
    /// let list = AllowList::fixed([IpAddr::from([192, 0, 2, 1])]);
    /// assert!(list.verdict("::ffff:192.0.2.1".parse()?).is_allowed());
    /// # Ok::<_, std::net::AddrParseError>(())
    /// ```
    pub fn verdict(&self, peer: IpAddr) -> Verdict {
        self.verdict_at(peer, Instant::now())
    }

    pub(crate) fn verdict_at(&self, peer: IpAddr, now: Instant) -> Verdict {
        self.shared().published.load().verdict(peer, now.into_std())
    }

    /// Returns the verdict on a peer, like [`verdict`](Self::verdict), but first waits for an on-demand refresh if the
    /// peer is unlisted. A server that the provider has just added can then be admitted.
    ///
    /// The refresh asks each question whose last lookup is at least 5 seconds ago. The request waits for lookups that
    /// are in flight, and for questions that may be asked again within the wait. If there are no such lookups or
    /// questions, the peer is judged at once. The wait is at most 1 second. At most 1,024 peers wait at the same time,
    /// each with any number of requests. Further peers are judged at once. The IPv6 addresses of one /64 are treated as
    /// one peer. All requests share the lookups, and dropping the future cancels no lookup. The builder can change
    /// these limits: [`on_demand_interval`](crate::AllowListBuilder::on_demand_interval),
    /// [`on_demand_wait`](crate::AllowListBuilder::on_demand_wait),
    /// [`max_waiting`](crate::AllowListBuilder::max_waiting).
    ///
    /// A caching resolver between the list and the provider's DNS servers can still hide a new address until the TTL of
    /// the cached answer ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::{Arc, Mutex}, time::Duration};
    /// use callback_source::{AllowList, Answer, Question};
    ///
    /// let dns = Arc::new(Mutex::new("20.0.0.1".parse()?));
    /// let current = Arc::clone(&dns);
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .spawn(move |_: Question| {
    ///         let answer = Answer::new([*current.lock().unwrap()], Duration::from_secs(3600));
    ///         async { Ok(answer) }
    ///     });
    /// list.ready().await;
    /// tokio::time::sleep(Duration::from_secs(10)).await;
    ///
    /// // The provider adds a server, and its first callback comes before the TTL has ended.
    /// let server = "20.0.0.2".parse()?;
    /// *dns.lock().unwrap() = server;
    /// assert!(!list.verdict(server).is_allowed());
    /// assert!(list.verdict_after_refresh(server).await.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verdict_after_refresh(&self, peer: IpAddr) -> Verdict {
        let now = Instant::now();
        let verdict = self.verdict_at(peer, now);
        if verdict.is_allowed() {
            return verdict;
        }
        match self.refresh_on_demand(peer, now) {
            Some(on_demand) => on_demand.await,
            None => verdict,
        }
    }

    /// Returns a future that waits for the verdict on an unlisted peer, or `None` if the caller must use its own
    /// verdict.
    pub(crate) fn refresh_on_demand(
        &self,
        peer: IpAddr,
        now: Instant,
    ) -> Option<impl Future<Output = Verdict> + Send + 'static> {
        let on_demand = &self.shared().on_demand;
        on_demand.want_watched(now.into_std(), &self.shared().wake);
        let deadline = on_demand.deadline(now.into_std());
        let permit = match on_demand.is_quiet(deadline) {
            true => None,
            false => Permit::new(self.shared(), peer, deadline),
        };
        // Between the caller's verdict and the check above, the refresh may have ended, and an answer may list the
        // peer.
        if permit.is_none() && !self.verdict_at(peer, now).is_allowed() {
            return None;
        }
        let list = self.clone();
        Some(async move {
            if permit.is_some() {
                let shared = list.shared();
                let mut published_changed = shared.published_changed.subscribe();
                let refreshed = async {
                    while !shared.on_demand.is_quiet(deadline)
                        && !list.verdict(peer).is_allowed()
                        && published_changed.changed().await.is_ok()
                    {}
                };
                // Whether or not the refresh ended in time, the verdict uses the current set.
                let _ = timeout(shared.on_demand.wait(), refreshed).await;
            }
            list.verdict(peer)
        })
    }

    /// Waits until the list [is ready](Self::is_ready).
    ///
    /// A service does not have to wait: requests that arrive earlier are judged by the answers so far. If the list
    /// never admits an address or a static network, this method never returns, so a tool that runs once needs a time
    /// limit:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), callback_source::HostNameError> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Question, ResolveError, ResolveErrorKind};
    ///
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .spawn(async |_: Question| Err(ResolveError::new(ResolveErrorKind::ServFail)));
    /// let ready = tokio::time::timeout(Duration::from_secs(10), list.ready()).await;
    /// assert!(ready.is_err(), "the zone is broken");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ready(&self) {
        let mut published_changed = self.shared().published_changed.subscribe();
        while !self.is_ready() && published_changed.changed().await.is_ok() {}
    }

    /// Waits until every question has been asked once and has a result, even if that result is a failure. While the
    /// refresher runs, the wait is no longer than the
    /// [time limit of one question](crate::AllowListBuilder::question_time_limit).
    ///
    /// Unlike [`ready`](Self::ready), this method also returns when no host answers, so that a tool can print the
    /// errors:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), callback_source::HostNameError> {
    /// use callback_source::{AllowList, Question, ResolveError, ResolveErrorKind};
    ///
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .spawn(async |_: Question| Err(ResolveError::new(ResolveErrorKind::Refused)));
    /// list.attempted().await;
    /// assert!(!list.is_ready());
    /// let health = list.health();
    /// let error = health[0].families[0].last_error.as_ref().expect("the question failed");
    /// assert_eq!(error.to_string(), "the DNS server refused to answer (REFUSED)");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn attempted(&self) {
        let mut published_changed = self.shared().published_changed.subscribe();
        while !self.snapshot().is_attempted() && published_changed.changed().await.is_ok() {}
    }

    /// Triggers the lookups of the [watched](crate::AllowListBuilder::watch) hosts, as an unlisted peer does. Waits
    /// until each of their questions has a result, even if that result is a failure. This method is for tools, since a
    /// service does not wait for watched hosts.
    pub async fn watched_attempted(&self) {
        let shared = self.shared();
        let mut published_changed = shared.published_changed.subscribe();
        while !self.snapshot().is_watched_attempted() {
            shared.on_demand.want_watched_soon(&shared.wake);
            if published_changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns whether every question has had a result, and at least one address or static network is admitted.
    ///
    /// A list that became ready stays ready until it admits no address and no static network. A readiness probe can
    /// return this value, so that a load balancer sends no callbacks before the list can decide:
    ///
    /// ```
    /// use callback_source::AllowList;
    /// use http::StatusCode;
    ///
    /// fn readyz(list: &AllowList) -> StatusCode {
    ///     match list.is_ready() {
    ///         true => StatusCode::OK,
    ///         false => StatusCode::SERVICE_UNAVAILABLE,
    ///     }
    /// }
    ///
    /// assert_eq!(readyz(&AllowList::fixed(["192.0.2.1".parse()?])), 200);
    /// assert_eq!(readyz(&AllowList::fixed([])), 503);
    /// # Ok::<_, std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared().published.load().is_ready(now())
    }

    /// Returns the current set. A snapshot never changes, so its addresses, networks and verdicts are consistent.
    /// [`changes`](Self::changes) has an example.
    #[must_use]
    pub fn snapshot(&self) -> Arc<AllowSet> {
        self.shared().published.load_full()
    }

    /// Returns the current state of each host, for a status page or an alarm:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), callback_source::HostNameError> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Family, Question, ResolveError, ResolveErrorKind};
    ///
    /// // A router that drops AAAA questions.
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .spawn(async |question: Question| match question.family {
    ///         Family::V4 => Ok(Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60))),
    ///         Family::V6 => Err(ResolveError::new(ResolveErrorKind::Timeout)),
    ///     });
    /// list.attempted().await;
    ///
    /// let mut alarms = Vec::new();
    /// for host in list.health() {
    ///     for question in host.families {
    ///         if let Some(error) = question.last_error {
    ///             alarms.push(format!("{} {}: {error}", host.host, question.family));
    ///         }
    ///     }
    /// }
    /// assert_eq!(alarms, ["callbacks.example.com AAAA: no DNS server answered in time"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Vec<HostHealth> {
        let mut health = self.snapshot().health(now());
        for host in &mut health {
            host.refused_then_listed = self.shared().refused.then_listed(&host.host);
        }
        health
    }

    /// Replaces the hosts while the list runs. Remaining hosts keep their addresses. The addresses of removed hosts are
    /// refused at once, unless they belong to another host or to a static network. New hosts are looked up at once.
    ///
    /// With a [state file](crate::AllowListBuilder::state_file), a host that is removed, and added again before its
    /// windows end, regains its addresses. If the process restarts in between, the addresses are lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question};
    ///
    /// let list = AllowList::builder()
    ///     .host("old.example.com".parse()?)
    ///     .spawn(|question: Question| async move {
    ///         let is_old = question.host.as_str() == "old.example.com";
    ///         let address = if is_old { "20.0.0.1" } else { "20.0.0.2" };
    ///         Ok(Answer::new([address.parse().unwrap()], Duration::from_secs(60)))
    ///     });
    /// list.ready().await;
    /// list.replace_hosts(["new.example.com".parse()?]);
    /// assert!(!list.verdict("20.0.0.1".parse()?).is_allowed());
    /// assert!(list.verdict_after_refresh("20.0.0.2".parse()?).await.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace_hosts(&self, hosts: impl IntoIterator<Item = HostName>) {
        let hosts: Vec<_> = hosts.into_iter().collect();
        log::no_disaster_recovery(&hosts);
        let shared = self.shared();
        let watched = watched_hosts(&shared.watch, &hosts);
        shared.update(|set, now| {
            let notices = match &shared.state_file {
                Some(file) => file.replace_hosts(set, hosts, now),
                None => set.replace_hosts(hosts, now),
            };
            set.watch(watched, now);
            notices
        });
        shared.on_demand.hosts_replaced();
        shared.wake.notify_one();
    }

    /// Replaces the [linger](crate::AllowListBuilder::linger) and the [stale](crate::AllowListBuilder::stale_for)
    /// window while the list runs.
    ///
    /// The stale window of an answer that is in use changes at once. The window of a lingering address keeps the end
    /// that was fixed when the address left the answer. A longer window does not admit an expired address again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::time::pause();
    /// use std::time::Duration;
    /// use callback_source::{AllowList, Answer, Question, ResolveError, ResolveErrorKind};
    ///
    /// // Each question is answered once. Then DNS is down.
    /// let (sender, mut answers) = tokio::sync::mpsc::channel(2);
    /// for _ in 0..2 {
    ///     sender.try_send(Answer::new(["20.0.0.1".parse()?], Duration::from_secs(60)))?;
    /// }
    /// let answers = std::sync::Mutex::new(answers);
    /// let list = AllowList::builder()
    ///     .host("callbacks.example.com".parse()?)
    ///     .spawn(move |_: Question| {
    ///         let answer = answers.lock().unwrap().try_recv();
    ///         async move { answer.map_err(|_| ResolveError::new(ResolveErrorKind::Timeout)) }
    ///     });
    /// list.ready().await;
    /// # tokio::time::sleep(Duration::from_secs(3600)).await;
    /// // An hour later:
    /// assert!(list.verdict("20.0.0.1".parse()?).is_allowed());
    /// list.replace_windows(Duration::from_secs(3600), Duration::from_secs(60));
    /// assert!(!list.verdict("20.0.0.1".parse()?).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace_windows(&self, linger: Duration, stale_for: Duration) {
        let shared = self.shared();
        shared.refused.set_window(linger);
        shared.update(|set, now| set.replace_windows(linger, stale_for, now));
        // The refresher must wake, since the next window may now end earlier.
        shared.wake.notify_one();
    }

    /// Replaces the static networks while the list runs. Peers in added networks are admitted at once, including those
    /// that wait for a verdict. Peers in removed networks are refused at once, unless their addresses belong to a host.
    ///
    /// # Errors
    ///
    /// Fails if the networks cover a whole address family. The list then stays unchanged.
    ///
    /// ```
    /// use callback_source::AllowList;
    ///
    /// let list = AllowList::fixed(["192.0.2.1".parse()?]);
    /// list.replace_networks(["198.51.100.0/24".parse()?])?;
    /// assert!(list.verdict("198.51.100.7".parse()?).is_allowed());
    /// assert!(!list.verdict("192.0.2.1".parse()?).is_allowed());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_networks(
        &self,
        networks: impl IntoIterator<Item = IpNet>,
    ) -> Result<(), NetworkError> {
        let networks: Vec<_> = networks.into_iter().collect();
        let mut replaced = Ok(());
        self.shared().update(|set, now| {
            let notices = set.replace_networks(&networks, now);
            notices.unwrap_or_else(|error| {
                replaced = Err(error);
                Vec::new()
            })
        });
        replaced?;
        let networks = networks.iter().map(ToString::to_string);
        let networks: Vec<_> = networks.collect();
        info!(target: LOG_TARGET, networks = networks.join(","), "static networks replaced");
        Ok(())
    }

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub(super) fn downgrade(&self) -> Weak<Handle> {
        Arc::downgrade(&self.handle)
    }

    pub(super) fn by_host(&self) -> BTreeMap<HostName, BTreeSet<IpAddr>> {
        let health = self.health().into_iter();
        health
            .map(|health| (health.host, health.addresses))
            .collect()
    }
}

/// State that exists once per list. Its reference count is the number of handles.
#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.wake.notify_one();
    }
}

/// Permit for a request to wait for an on-demand refresh.
struct Permit {
    shared: Arc<Shared>,
    peer: IpAddr,
}

impl Permit {
    fn new(shared: &Arc<Shared>, peer: IpAddr, deadline: u64) -> Option<Self> {
        let peer = shared.on_demand.join(peer, deadline, &shared.wake)?;
        let shared = Arc::clone(shared);
        Some(Self { shared, peer })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.on_demand.leave(self.peer);
    }
}

#[cfg(test)]
mod tests;
