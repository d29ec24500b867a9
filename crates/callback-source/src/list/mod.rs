//! The list that a service asks: a handle to a set that is kept up to date.

mod answer_cache;
mod log;
mod on_demand;
mod refresher;
mod sleep_clock;
pub(crate) mod state_file;

pub use refresher::Refresher;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::warn;

use crate::{
    AllowSet, Family, HostName, LOG_TARGET, NetworkError, Resolve, Verdict,
    list::answer_cache::AnswerCache,
    list::on_demand::{OnDemand, OnDemandLimits},
    list::sleep_clock::SleepClock,
    list::state_file::StateFile,
    rate_limit::PeerRateLimit,
    set::networks::Cover,
    set::{HostHealth, Notice, Rules, SetChange},
    vipps,
};

/// The addresses that may call, kept up to date by a [`Refresher`].
///
/// A handle: cloning it is one reference count, and all clones see the same set. When the last one
/// is dropped, the refresher ends.
///
/// Reading it takes no lock and never waits for DNS. Freshness is judged at each verdict, so a list
/// whose refresher died ends in [`Unresolved`](crate::RejectionKind::Unresolved), not in an open door.
///
/// With the feature `metrics` it reports through the `metrics` facade:
///
/// | name | kind | labels |
/// |---|---|---|
/// | `callback_source_verdicts_total` | counter | `verdict`: `allow`, `not-listed`, `unresolved`, … |
/// | `callback_source_lookups_total` | counter | `outcome`: `answer`, `nxdomain`, `servfail`, … |
/// | `callback_source_changes_total` | counter | – |
/// | `callback_source_addresses` | gauge | – |
/// | `callback_source_oldest_answer_age_seconds` | gauge | – |
/// | `callback_source_proxy_headers_total` | counter | `outcome`: `client`, `local`, `malformed`, …; with the feature `proxy-protocol` |
#[derive(Clone, Debug)]
pub struct AllowList {
    handle: Arc<Handle>,
}

impl AllowList {
    /// Starts to describe a list.
    pub fn builder() -> AllowListBuilder {
        AllowListBuilder::default()
    }

    /// A list of exactly these addresses, without DNS and without a task: for a merchant's own
    /// tests.
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
        let now = Instant::now();
        let networks: Vec<_> = addresses.into_iter().map(IpNet::from).collect();
        let set = AllowSet::new(Rules::default(), [], &networks, now.into_std())
            .expect("it would take 2^32 single addresses to make up a whole family");
        let shared = Shared::new(set, OnDemandLimits::default(), now);
        shared.on_demand.end();
        Self {
            handle: Arc::new(Handle {
                shared: Arc::new(shared),
            }),
        }
    }

    /// Whether a peer may call, by what is known at this moment. Never waits.
    pub fn verdict(&self, peer: IpAddr) -> Verdict {
        self.verdict_at(peer, Instant::now())
    }

    pub(crate) fn verdict_at(&self, peer: IpAddr, now: Instant) -> Verdict {
        self.shared().published.load().verdict(peer, now.into_std())
    }

    /// Returns the verdict on a peer like [`verdict`](Self::verdict), but for an unlisted peer first
    /// waits for lookups, so that a server that was added a moment ago is not refused.
    ///
    /// A question that was last asked more than 5 seconds ago is asked at once, one that was asked less than
    /// 5 but more than 4 seconds ago when the 5 seconds are over, and one that is being asked is waited for.
    /// If that leaves none, the peer is judged at once. It waits for at most 1 second. At most 1,024 peers
    /// wait at a time (IPv6 peers by their /64), each with any number of requests; others are judged at
    /// once. All of them share the lookups, and dropping the future cancels none.
    ///
    /// A caching resolver between here and the provider can still hide a new address until its TTL
    /// ends.
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

    /// The settled verdict of an unlisted peer, unless it is to be judged at once.
    pub(crate) fn refresh_on_demand(
        &self,
        peer: IpAddr,
        now: Instant,
    ) -> Option<impl Future<Output = Verdict> + Send + 'static> {
        let on_demand = &self.shared().on_demand;
        let deadline = on_demand.deadline(now.into_std());
        let place = match on_demand.is_quiet(deadline) {
            true => None,
            false => Place::take(self, peer, deadline),
        };
        // The answer that ended the last lookup may have come after the verdict that led here.
        if place.is_none() && !self.verdict_at(peer, now).is_allowed() {
            return None;
        }
        let list = self.clone();
        Some(async move {
            if place.is_some() {
                let shared = list.shared();
                let mut published_changed = shared.published_changed.subscribe();
                let settled = async {
                    while !shared.on_demand.is_quiet(deadline)
                        && !list.verdict(peer).is_allowed()
                        && published_changed.changed().await.is_ok()
                    {}
                };
                // Too late or not, the verdict is by what is known then.
                let _ = timeout(shared.on_demand.wait(), settled).await;
            }
            list.verdict(peer)
        })
    }

    /// Waits until the list [is ready](Self::is_ready).
    ///
    /// A service need not wait for it: requests that come before are answered as well as they can
    /// be. Never ends while no host answers.
    pub async fn ready(&self) {
        let mut published_changed = self.shared().published_changed.subscribe();
        while !self.is_ready() && published_changed.changed().await.is_ok() {}
    }

    /// Waits until every question was tried once to an end, answered or not, which takes no longer
    /// than the time limit of one question.
    pub async fn attempted(&self) {
        let mut published_changed = self.shared().published_changed.subscribe();
        while !self.snapshot().is_attempted() && published_changed.changed().await.is_ok() {}
    }

    /// Whether every question was tried once to an end, and an address or a static network is in
    /// force. A ready list is not ready again only when nothing is in force.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared()
            .published
            .load()
            .is_ready(Instant::now().into_std())
    }

    /// The set at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<AllowSet> {
        self.shared().published.load_full()
    }

    /// How each host is doing at this moment.
    #[must_use]
    pub fn health(&self) -> Vec<HostHealth> {
        self.snapshot().health(Instant::now().into_std())
    }

    /// Follows the changes of the set from this moment on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let published_changed = self.shared().published_changed.subscribe();
        Changes {
            seen: self.by_host(),
            list: self.clone(),
            published_changed,
        }
    }

    /// Replaces the hosts while the list runs. Hosts that stay keep their addresses, those that go
    /// lose them at once, and new ones are looked up at once.
    ///
    /// With a [state file](AllowListBuilder::state_file), a host that comes back within its windows has
    /// its addresses again. A restart does not know a host that was taken out in this way.
    pub fn replace_hosts(&self, hosts: impl IntoIterator<Item = HostName>) {
        let hosts: Vec<_> = hosts.into_iter().collect();
        warn_of_gaps(&hosts);
        let shared = self.shared();
        shared.update(|set, now| match &shared.state_file {
            Some(file) => file.replace_hosts(set, hosts, now),
            None => set.replace_hosts(hosts, now),
        });
        shared.on_demand.hosts_replaced();
        shared.wake.notify_one();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    fn by_host(&self) -> BTreeMap<HostName, BTreeSet<IpAddr>> {
        let health = self.health().into_iter();
        health
            .map(|health| (health.host, health.addresses))
            .collect()
    }
}

/// The changes of a list, see [`AllowList::changes`].
///
/// What happened between two calls of [`next`](Self::next) is summed up, so that a slow reader loses
/// nothing and holds no memory.
#[derive(Debug)]
pub struct Changes {
    list: AllowList,
    published_changed: watch::Receiver<()>,
    seen: BTreeMap<HostName, BTreeSet<IpAddr>>,
}

impl Changes {
    /// Waits until the set differs from when it was last told, and tells how, by host.
    ///
    /// Never ends when nothing changes any more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Vec<SetChange> {
        loop {
            self.published_changed.mark_unchanged();
            let current = self.list.by_host();
            let changes = self.differences(&current);
            if !changes.is_empty() {
                self.seen = current;
                return changes;
            }
            // The list that is held keeps the sender alive.
            let _ = self.published_changed.changed().await;
        }
    }

    fn differences(&self, current: &BTreeMap<HostName, BTreeSet<IpAddr>>) -> Vec<SetChange> {
        let at = Instant::now().into_std();
        let none = BTreeSet::new();
        let hosts: BTreeSet<_> = self.seen.keys().chain(current.keys()).collect();
        let changes = hosts.into_iter().map(|host| {
            let before = self.seen.get(host).unwrap_or(&none);
            let after = current.get(host).unwrap_or(&none);
            SetChange {
                host: host.clone(),
                added: after.difference(before).copied().collect(),
                removed: before.difference(after).copied().collect(),
                at,
            }
        });
        changes
            .filter(|change| !change.added.is_empty() || !change.removed.is_empty())
            .collect()
    }
}

/// Describes an [`AllowList`].
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
}

impl AllowListBuilder {
    /// Adds the callback servers of an environment, for production those for disaster recovery
    /// included. Environments add up.
    pub fn environment(self, environment: vipps::Environment) -> Self {
        self.hosts(environment.hosts())
    }

    /// Adds a host.
    pub fn host(self, host: HostName) -> Self {
        self.hosts([host])
    }

    /// Adds hosts.
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        self.hosts.extend(hosts);
        self
    }

    /// Adds a static network, which is admitted whatever DNS says.
    ///
    /// # Errors
    ///
    /// A network that is, or with those added before makes up, a whole address family.
    pub fn net(self, network: IpNet) -> Result<Self, NetworkError> {
        self.nets([network])
    }

    /// Adds static networks, which are admitted whatever DNS says.
    ///
    /// # Errors
    ///
    /// Networks that make up, alone or with those added before, a whole address family.
    pub fn nets(mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        for network in networks {
            self.cover.add(network)?;
            self.networks.push(network);
        }
        Ok(self)
    }

    /// Sets the bounds that the TTL of an answer is clamped to. Default 5 s to 1 h.
    ///
    /// The least TTL is also the floor: no question is asked more often.
    ///
    /// # Errors
    ///
    /// A least TTL below 1 s, or above the greatest.
    pub fn ttl_bounds(mut self, least: Duration, most: Duration) -> Result<Self, TtlBoundsError> {
        if least < MIN_FLOOR || most < least {
            return Err(TtlBoundsError { least, most });
        }
        self.rules.min_ttl = least;
        self.rules.max_ttl = most;
        Ok(self)
    }

    /// Sets how long an address stays admitted after it left the answer, at least until the answer
    /// that omits it has been refreshed; zero: not at all. Default 1 h.
    ///
    /// A zone that shows another part of its addresses in each answer needs a window of as many TTLs
    /// as it takes for an address to come back.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.rules.linger = linger;
        self
    }

    /// Sets for how long the last valid answer still counts while look-ups fail, from the end of its
    /// TTL. Default 24 h.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.rules.stale_for = stale_for;
        self
    }

    /// Sets the longest pause between two tries of a failing question. Default 60 s; the floor if
    /// that is longer.
    pub fn max_backoff(mut self, max_backoff: Duration) -> Self {
        self.rules.max_backoff = max_backoff;
        self
    }

    /// Sets how many addresses an answer may hold; one with more is a failure. Default 256.
    pub fn max_addresses(mut self, max_addresses: usize) -> Self {
        self.rules.max_addresses = max_addresses;
        self
    }

    /// Sets how many addresses of one host may linger at a time. Default 1,024.
    pub fn max_lingering(mut self, max_lingering: usize) -> Self {
        self.rules.max_lingering = max_lingering;
        self
    }

    /// Sets how long one question may take, all servers and retries included. Default 5 s.
    ///
    /// An expired answer stays in use for as long as its refresh can take.
    pub fn question_time_limit(mut self, limit: Duration) -> Self {
        self.rules.question_time_limit = limit;
        self
    }

    /// Looks up one family only, for networks in which the questions of the other one are never
    /// answered.
    ///
    /// A peer of the other family is then [`NotListed`](crate::RejectionKind::NotListed), unless a
    /// [static network](Self::net) admits it.
    pub fn only_family(mut self, family: Family) -> Self {
        self.rules.only_family = Some(family);
        self
    }

    /// Sets the least time between two lookups of one question for unlisted peers. Default 5 s.
    ///
    /// The [floor](Self::ttl_bounds) or [`on_demand_wait`](Self::on_demand_wait), if longer, counts instead.
    pub fn on_demand_interval(mut self, interval: Duration) -> Self {
        self.on_demand.interval = interval;
        self
    }

    /// Sets how long the request of an unlisted peer waits for lookups. Default 1 s; zero judges at once.
    pub fn on_demand_wait(mut self, wait: Duration) -> Self {
        self.on_demand.wait = wait;
        self
    }

    /// Sets how many unlisted peers wait at a time; others are judged at once. Default 1,024.
    ///
    /// All requests of one peer wait in one place, so that many of them take it from no other peer. The
    /// IPv6 addresses of one /64 are one peer.
    pub fn max_waiting(mut self, waiters: usize) -> Self {
        self.on_demand.waiters = waiters;
        self
    }

    /// Keeps what is known in a file, so that a restart while DNS is down refuses no known server. Off
    /// by default.
    ///
    /// JSON, written next to its final name (`<name>.tmp`) and renamed: at once when
    /// addresses change, at most once a minute when only times do, and when the refresher ends. It
    /// holds the original times (UTC), so that restarts stretch no window. What it holds of hosts that
    /// are not in the list is kept for its windows, for the case that they are configured again, and
    /// admits no peer until then. One file is for one list of one process.
    ///
    /// A file is ignored with a warning, and not overwritten before there is something to write, if it
    /// is corrupt, larger than 4 MiB, of a newer version, from the future, or a symbolic link; if it
    /// belongs to another user than the process's own and root; or if it can be written by every user, by a
    /// group that the process is not in, or by a group that cannot read it. The mode of a new file is 0600; a group that can read the file can
    /// read the next one too. The file must not be a mount of its own, since it could not be replaced:
    /// mount its folder.
    ///
    /// State of more than 4 MiB is cut: first the addresses that have lingered longest, then the hosts
    /// named last.
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = false;
        self
    }

    /// Starts with what a [state file](Self::state_file) holds, and never writes it: for a look at
    /// what another process keeps.
    ///
    /// The file may belong to any user and group, so that root and members of its group can look. What
    /// others can write is ignored here too. Do not admit peers by such a look unless you trust the owner
    /// of the file.
    pub fn restore_from(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self.restore_only = true;
        self
    }

    /// Takes special-purpose addresses (loopback, private, documentation …) from answers. Whoever
    /// can forge an answer then opens the merchant's own network: only for tests.
    pub fn insecure_allow_special_addresses(mut self) -> Self {
        self.rules.insecure_allow_special_addresses = true;
        self
    }

    /// Builds the list and runs its [`Refresher`] on the current tokio runtime. Returns at once; DNS
    /// never delays a start.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(self, resolver: impl Resolve) -> AllowList {
        let (list, refresher) = self.pair(resolver);
        tokio::spawn(refresher.run());
        list
    }

    /// Builds the list and the [`Refresher`] that keeps it up to date, which the caller has to
    /// [run](Refresher::run).
    #[must_use = "nothing is looked up unless the refresher runs"]
    pub fn pair(self, resolver: impl Resolve) -> (AllowList, Refresher) {
        warn_of_gaps(&self.hosts);
        if self.hosts.is_empty() && self.networks.is_empty() {
            warn!(target: LOG_TARGET, "the list has no host and no network: every callback is refused");
        }
        let now = Instant::now();
        let floor = self.rules.min_ttl;
        let time_limit = self.rules.question_time_limit;
        let mut set = AllowSet::new(self.rules, self.hosts, &self.networks, now.into_std())
            .expect("`nets` has checked the networks");
        let state_file = self.state_file.map(|path| match self.restore_only {
            true => StateFile::looked_at(path),
            false => StateFile::kept(path),
        });
        if let Some(file) = &state_file {
            file.restore(&mut set, now.into_std());
        }
        let sleep_clock = SleepClock::from_system();
        let state_file = state_file.filter(|_| !self.restore_only).map(Arc::new);
        let mut shared = Shared::new(set, self.on_demand, now);
        shared.state_file = state_file.clone();
        let shared = Arc::new(shared);
        let cache = AnswerCache::new(resolver, floor, time_limit);
        let refresher = Refresher::new(Arc::clone(&shared), cache, sleep_clock, state_file);
        (
            AllowList {
                handle: Arc::new(Handle { shared }),
            },
            refresher,
        )
    }
}

fn warn_of_gaps(hosts: &[HostName]) {
    if vipps::lacks_disaster_recovery(hosts) {
        warn!(
            target: LOG_TARGET,
            "the hosts contain callback servers of production, but not all of those for disaster \
             recovery: an outage at the provider will be one here; name the environment `production` \
             as a whole"
        );
    }
}

/// TTL bounds that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "TTL bounds of {least:?} to {most:?} are not possible: the least TTL must be at least 1 s and at \
     most the greatest"
)]
pub struct TtlBoundsError {
    least: Duration,
    most: Duration,
}

/// What handles and refresher share.
pub(crate) struct Shared {
    /// What requests read.
    pub(crate) published: ArcSwap<AllowSet>,
    /// What writers change, and publish a copy of. Never locked on the path of a request.
    writer: Mutex<Writer>,
    /// Told after each publication.
    pub(crate) published_changed: watch::Sender<()>,
    /// Tells the refresher to look around.
    pub(crate) wake: Notify,
    /// Whether the last handle is gone.
    pub(crate) handles_dropped: AtomicBool,
    /// Whether addresses changed since the refresher last looked.
    pub(crate) dirty: AtomicBool,
    pub(crate) on_demand: OnDemand,
    pub(crate) refusals: PeerRateLimit,
    /// The file that the refresher writes.
    state_file: Option<Arc<StateFile>>,
}

impl Shared {
    fn new(set: AllowSet, on_demand: OnDemandLimits, now: Instant) -> Self {
        Self {
            on_demand: OnDemand::new(on_demand, set.rules().min_ttl, now.into_std()),
            published: ArcSwap::from_pointee(set.clone()),
            writer: Mutex::new(Writer {
                set,
                log: log::NoticeLog::default(),
            }),
            dirty: AtomicBool::new(false),
            published_changed: watch::Sender::new(()),
            wake: Notify::new(),
            handles_dropped: AtomicBool::new(false),
            refusals: PeerRateLimit::new(now),
            state_file: None,
        }
    }

    /// Changes the set, publishes it and reports what happened.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut AllowSet, std::time::Instant) -> Vec<Notice>,
    ) {
        let now = Instant::now().into_std();
        // A panic of another writer leaves a set that is whole enough: each change ends by building
        // the index anew.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(callback_source_simulation)]
        let before = writer.set.clone();
        let notices = change(&mut writer.set, now);
        self.published.store(Arc::new(writer.set.clone()));
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::PublishedBeforeApplied) {
            self.published.store(Arc::new(before));
        }
        if notices
            .iter()
            .any(|notice| matches!(notice, Notice::Changed(_)))
        {
            self.dirty.store(true, Ordering::Release);
        }
        let Writer { set, log } = &mut *writer;
        log.report(&notices, set, now);
        drop(writer);
        self.published_changed.send_replace(());
    }
}

struct Writer {
    set: AllowSet,
    log: log::NoticeLog,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.handles_dropped.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

/// The place of a request among those that wait.
struct Place {
    list: AllowList,
    peer: IpAddr,
}

impl Place {
    fn take(list: &AllowList, peer: IpAddr, deadline: u64) -> Option<Self> {
        let shared = list.shared();
        let peer = shared.on_demand.join(peer, deadline, &shared.wake)?;
        let list = list.clone();
        Some(Self { list, peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.list.shared().on_demand.leave(self.peer);
    }
}

/// Below this a TTL of zero would have DNS asked without pause.
const MIN_FLOOR: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use tokio::time::advance;

    use super::*;
    use crate::{Answer, Question};

    /// Everything that a request does before it waits, from several threads at the same moment, while
    /// the refresher stands still.
    #[tokio::test(start_paused = true)]
    async fn of_peers_that_call_at_the_same_moment_each_waits_for_the_refresh() {
        const THREADS: usize = 4;
        let answer = |_: Question| {
            let addresses = ["20.0.0.1".parse().unwrap()];
            std::future::ready(Ok(Answer::new(addresses, Duration::from_secs(3600))))
        };
        let list = AllowList::builder()
            .host("h.test".parse().unwrap())
            .spawn(answer);
        list.ready().await;
        for _ in 0..2_000 {
            advance(Duration::from_secs(6)).await;
            let now = Instant::now();
            let barrier = Barrier::new(THREADS);
            let waits = |peer: usize| {
                let (list, barrier) = (&list, &barrier);
                move || {
                    let peer = [20, 0, 9, peer as u8].into();
                    barrier.wait();
                    list.refresh_on_demand(peer, now).is_some()
                }
            };
            let waiting = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS).map(|peer| scope.spawn(waits(peer))).collect();
                let waiting = threads.into_iter().map(|thread| thread.join().unwrap());
                waiting.filter(|waits| *waits).count()
            });
            assert_eq!(waiting, THREADS);
            // The refresh ends.
            let peer = [20, 0, 9, 9].into();
            assert!(!list.verdict_after_refresh(peer).await.is_allowed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_whose_answer_comes_between_verdict_and_wait_is_admitted() {
        let addresses = Arc::new(Mutex::new(["20.0.0.1".parse().unwrap()]));
        let current = Arc::clone(&addresses);
        let list =
            AllowList::builder()
                .host("h.test".parse().unwrap())
                .spawn(move |_: Question| {
                    let answer = Answer::new(*current.lock().unwrap(), Duration::from_secs(3600));
                    std::future::ready(Ok(answer))
                });
        list.ready().await;
        advance(Duration::from_secs(6)).await;

        let new = "20.0.0.2".parse().unwrap();
        let now = Instant::now();
        assert!(!list.verdict_at(new, now).is_allowed());
        // Another peer's call has the question asked, and all is over.
        *addresses.lock().unwrap() = [new];
        let _ = list.verdict_after_refresh([20, 0, 9, 9].into()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let settled = list.refresh_on_demand(new, now).expect("it is not refused");
        assert!(settled.await.is_allowed());
    }
}
