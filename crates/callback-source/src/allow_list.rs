//! The list that a service asks: a handle to a set that is kept up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    AllowSet, HostName, Refresher, Resolve, TooWide, Verdict,
    allow_set::{HostHealth, Notice, Rules, SetChange},
    answer_cache::AnswerCache,
    networks::Cover,
    observe::{NoticeLog, RefusalLog, TARGET},
    state_file::StateFile,
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
        let set = AllowSet::new(Rules::default(), [], &networks, now)
            .expect("it would take 2^32 single addresses to make up a whole family");
        let shared = Shared::new(set, Recheck::default(), now);
        shared.driven.store(false, Ordering::Relaxed);
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
        self.shared().published.load().verdict(peer, now)
    }

    /// Like [`verdict`](Self::verdict), but a peer that is not listed may have the list asked again
    /// first, so that a server that was added a moment ago is not refused.
    ///
    /// All such peers share one round of questions; there is one at most every 5 seconds, and it asks
    /// nothing that was asked within the last 5. It is waited for at most 1 second by at most 1,024
    /// callers, the others are judged at once. Dropping the future cancels no question.
    ///
    /// A caching resolver between here and the provider can still hide a new address until its TTL
    /// ends.
    pub async fn settled_verdict(&self, peer: IpAddr) -> Verdict {
        let now = Instant::now();
        let verdict = self.verdict_at(peer, now);
        if verdict.is_allowed() {
            return verdict;
        }
        match self.recheck(peer, now) {
            Some(recheck) => recheck.await,
            None => verdict,
        }
    }

    /// The settled verdict of a peer that is not listed, unless it is to be judged at once.
    pub(crate) fn recheck(
        &self,
        peer: IpAddr,
        now: Instant,
    ) -> Option<impl Future<Output = Verdict> + Send + 'static> {
        let shared = self.shared();
        let round = shared.round_under_way(now)?;
        let place = Waiting::enter(shared)?;
        let list = self.clone();
        Some(async move {
            let shared = &place.0;
            let mut news = shared.news.subscribe();
            let settled = async {
                loop {
                    let verdict = list.verdict(peer);
                    if verdict.is_allowed() || round <= shared.round_done.load(Ordering::Acquire) {
                        return;
                    }
                    if news.changed().await.is_err() {
                        return;
                    }
                }
            };
            // Too late or not, the verdict is by what is known then.
            let _ = timeout(shared.recheck.wait, settled).await;
            list.verdict(peer)
        })
    }

    /// Waits until the list [is ready](Self::is_ready).
    ///
    /// A service need not wait for it: requests that come before are answered as well as they can
    /// be. Never ends while no host answers.
    pub async fn ready(&self) {
        let mut news = self.shared().news.subscribe();
        while !self.is_ready() && news.changed().await.is_ok() {}
    }

    /// Waits until every question was tried once to an end, answered or not, which takes no longer
    /// than the time limit of one question.
    pub async fn tried(&self) {
        let mut news = self.shared().news.subscribe();
        while !self.snapshot().is_tried() && news.changed().await.is_ok() {}
    }

    /// Whether every question was tried once to an end, and an address or a static network is in
    /// force. A ready list is not ready again only when nothing is in force.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared().published.load().is_ready(Instant::now())
    }

    /// The set at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<AllowSet> {
        self.shared().published.load_full()
    }

    /// How each host is doing at this moment.
    #[must_use]
    pub fn health(&self) -> Vec<HostHealth> {
        self.snapshot().health(Instant::now())
    }

    /// Follows the changes of the set from this moment on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let news = self.shared().news.subscribe();
        Changes {
            seen: self.by_host(),
            list: self.clone(),
            news,
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
        self.shared().wake.notify_one();
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
    news: watch::Receiver<()>,
    seen: BTreeMap<HostName, BTreeSet<IpAddr>>,
}

impl Changes {
    /// Waits until the set differs from when it was last told, and tells how, by host.
    ///
    /// Never ends when nothing changes any more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Vec<SetChange> {
        loop {
            self.news.mark_unchanged();
            let current = self.list.by_host();
            let changes = self.differences(&current);
            if !changes.is_empty() {
                self.seen = current;
                return changes;
            }
            // The list that is held keeps the sender alive.
            let _ = self.news.changed().await;
        }
    }

    fn differences(&self, current: &BTreeMap<HostName, BTreeSet<IpAddr>>) -> Vec<SetChange> {
        let at = Instant::now();
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
#[derive(Clone, Debug)]
#[must_use]
pub struct AllowListBuilder {
    rules: Rules,
    hosts: Vec<HostName>,
    networks: Vec<IpNet>,
    cover: Cover,
    state_file: Option<PathBuf>,
    restore_only: bool,
    question_time_limit: Duration,
    recheck: Recheck,
}

impl Default for AllowListBuilder {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            hosts: Vec::new(),
            networks: Vec::new(),
            cover: Cover::default(),
            state_file: None,
            restore_only: false,
            question_time_limit: Duration::from_secs(5),
            recheck: Recheck::default(),
        }
    }
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
    pub fn net(self, network: IpNet) -> Result<Self, TooWide> {
        self.nets([network])
    }

    /// Adds static networks, which are admitted whatever DNS says.
    ///
    /// # Errors
    ///
    /// Networks that make up, alone or with those added before, a whole address family.
    pub fn nets(mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<Self, TooWide> {
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
        if least < LEAST_FLOOR || most < least {
            return Err(TtlBoundsError { least, most });
        }
        self.rules.min_ttl = least;
        self.rules.max_ttl = most;
        Ok(self)
    }

    /// Sets for how long an address that left the answer still counts. Default 1 h.
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
    pub fn question_time_limit(mut self, limit: Duration) -> Self {
        self.question_time_limit = limit;
        self
    }

    /// Sets the least time between two rounds of questions that strangers cause. Default 5 s.
    pub fn recheck_interval(mut self, interval: Duration) -> Self {
        self.recheck.interval = interval;
        self
    }

    /// Sets how long a stranger's request waits for such a round. Default 1 s; zero judges at once.
    pub fn recheck_wait(mut self, wait: Duration) -> Self {
        self.recheck.wait = wait;
        self
    }

    /// Sets how many requests wait at a time; others are judged at once. Default 1,024.
    pub fn recheck_waiters(mut self, waiters: usize) -> Self {
        self.recheck.waiters = waiters;
        self
    }

    /// Keeps what is known in a file, so that a restart while DNS is down refuses nobody. Off by
    /// default.
    ///
    /// JSON, mode 0600; written next to its final name (`<name>.tmp`) and renamed: at once when
    /// addresses change, at most once a minute when only times do, and when the refresher ends. It
    /// holds the original times (UTC), so that restarts stretch no window. What it holds of hosts that
    /// are not in the list is kept for its windows, for the case that they are configured again, and
    /// admits no peer until then. One file is for one list of one process.
    ///
    /// A file is ignored with a warning, and not overwritten before there is something to write, if it
    /// is corrupt, larger than 4 MiB, of a newer version, from the future, or a symbolic link; if it
    /// belongs to another user than the process's own and root; or if others can write it, or a group
    /// that the process is not in. The mode of a new file is 0600; a group that can read the file can
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
            warn!(target: TARGET, "the list has no host and no network: every callback is refused");
        }
        let now = Instant::now();
        let floor = self.rules.min_ttl;
        let mut set = AllowSet::new(self.rules, self.hosts, &self.networks, now)
            .expect("`nets` has checked the networks");
        let state_file = self.state_file.map(|path| match self.restore_only {
            true => StateFile::looked_at(path),
            false => StateFile::kept(path),
        });
        if let Some(file) = &state_file {
            file.restore(&mut set, now);
        }
        let state_file = state_file.filter(|_| !self.restore_only).map(Arc::new);
        let mut shared = Shared::new(set, self.recheck, now);
        shared.state_file = state_file.clone();
        let shared = Arc::new(shared);
        let cache = AnswerCache::new(resolver, floor, self.question_time_limit);
        let refresher = Refresher::new(Arc::clone(&shared), cache, state_file);
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
            target: TARGET,
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

/// When an unlisted peer has the list asked again.
#[derive(Clone, Debug)]
pub(crate) struct Recheck {
    pub(crate) interval: Duration,
    wait: Duration,
    waiters: usize,
}

impl Default for Recheck {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            wait: Duration::from_secs(1),
            waiters: 1024,
        }
    }
}

/// What handles and refresher share.
pub(crate) struct Shared {
    /// What requests read.
    pub(crate) published: ArcSwap<AllowSet>,
    /// What writers change, and publish a copy of. Never locked on the path of a request.
    master: Mutex<Master>,
    /// Told after each publication.
    pub(crate) news: watch::Sender<()>,
    /// Tells the refresher to look around.
    pub(crate) wake: Notify,
    /// Whether the last handle is gone.
    pub(crate) abandoned: AtomicBool,
    /// Whether addresses changed since the refresher last looked.
    pub(crate) unsaved: AtomicBool,
    /// Whether there is a refresher.
    pub(crate) driven: AtomicBool,
    pub(crate) recheck: Recheck,
    /// The number of the last round that was wanted, and of the last that is done. The first is
    /// wanted from the start.
    pub(crate) round_wanted: AtomicU64,
    pub(crate) round_done: AtomicU64,
    /// When the next round may be wanted, in milliseconds since the epoch.
    next_round: AtomicU64,
    epoch: Instant,
    waiting: AtomicUsize,
    pub(crate) refusals: RefusalLog,
    /// The file that the refresher writes.
    state_file: Option<Arc<StateFile>>,
}

impl Shared {
    fn new(set: AllowSet, recheck: Recheck, now: Instant) -> Self {
        Self {
            published: ArcSwap::from_pointee(set.clone()),
            master: Mutex::new(Master {
                set,
                log: NoticeLog::default(),
            }),
            unsaved: AtomicBool::new(false),
            news: watch::Sender::new(()),
            wake: Notify::new(),
            abandoned: AtomicBool::new(false),
            driven: AtomicBool::new(true),
            next_round: AtomicU64::new(millis(recheck.interval)),
            recheck,
            round_wanted: AtomicU64::new(1),
            round_done: AtomicU64::new(0),
            epoch: now,
            waiting: AtomicUsize::new(0),
            refusals: RefusalLog::new(now),
            state_file: None,
        }
    }

    /// Changes the set, publishes it and reports what happened.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AllowSet, Instant) -> Vec<Notice>) {
        let now = Instant::now();
        // A panic of another writer leaves a set that is whole enough: each change ends by building
        // the index anew.
        let mut master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        let notices = change(&mut master.set, now);
        self.published.store(Arc::new(master.set.clone()));
        if notices
            .iter()
            .any(|notice| matches!(notice, Notice::Changed(_)))
        {
            self.unsaved.store(true, Ordering::Release);
        }
        let Master { set, log } = &mut *master;
        log.report(&notices, set, now);
        drop(master);
        self.news.send_replace(());
    }

    /// The round that a stranger can wait for, which it starts if it is time.
    fn round_under_way(&self, now: Instant) -> Option<u64> {
        if !self.driven.load(Ordering::Relaxed) {
            return None;
        }
        let now = millis(now.saturating_duration_since(self.epoch));
        let next = self.next_round.load(Ordering::Relaxed);
        if next <= now {
            let claimed = self.next_round.compare_exchange(
                next,
                now.saturating_add(millis(self.recheck.interval)),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if claimed.is_ok() {
                self.round_wanted.fetch_add(1, Ordering::AcqRel);
                self.wake.notify_one();
            }
        }
        let wanted = self.round_wanted.load(Ordering::Acquire);
        (self.round_done.load(Ordering::Acquire) < wanted).then_some(wanted)
    }
}

struct Master {
    set: AllowSet,
    log: NoticeLog,
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
        self.shared.abandoned.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

/// A place among the requests that wait for a round.
struct Waiting(Arc<Shared>);

impl Waiting {
    fn enter(shared: &Arc<Shared>) -> Option<Self> {
        if shared.recheck.wait.is_zero() {
            return None;
        }
        let place = Self(Arc::clone(shared));
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        (before < shared.recheck.waiters).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Below this a TTL of zero would have DNS asked without pause.
const LEAST_FLOOR: Duration = Duration::from_secs(1);
