//! On-demand refreshes: the lookups that unlisted peers trigger and wait for.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    set::after,
    subscriber::subscriber,
    sync::{AtomicU64, Mutex, MutexGuard},
};

/// The limits of on-demand refreshes.
#[derive(Clone, Debug)]
pub(crate) struct OnDemandLimits {
    /// The minimum time from any lookup of a question to its next on-demand refresh.
    pub(crate) interval: Duration,
    /// The longest time for which a request of an unlisted peer waits.
    pub(crate) wait: Duration,
    /// The maximum number of unlisted peers that wait at the same time.
    pub(crate) waiters: usize,
}

impl Default for OnDemandLimits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            wait: Duration::from_secs(1),
            waiters: 1024,
        }
    }
}

/// State that the requests of unlisted peers share with the refresher.
///
/// A request starts no lookup. It only records its deadline. Everything else follows from the times of the last
/// lookups, which only the refresher tracks:
///
/// - The **refresher** begins a [`Turn`] after each event. Under the mutex, it reads the published set and
///   [`Demand::until`]. It plans which questions it asks now, and when it wakes for the other questions. Then it writes
///   [`quiet_until`](Self::quiet_until) and [`Demand::next_idle`]. A set with a new answer is always published before
///   the turn that regards the question as answered.
/// - A **request** reads `quiet_until` without the mutex. If the list is quiet until the deadline, the request is
///   judged at once, by a set that it reads *after* `quiet_until`. Otherwise the request raises `until` under the
///   mutex, and waits for `published_changed`.
///
/// No wake-up is lost, since both sides write under the mutex. A turn that comes after a request sees the deadline of
/// the request. A request that comes after a turn reads the `next_idle` of that turn. If its deadline is the first
/// deadline after `next_idle`, the request wakes the refresher. If an earlier request already had a deadline after
/// `next_idle`, the refresher wakes by itself at `next_idle`. Before that time, no question that is not in flight can
/// be asked on demand. Each turn that raises `quiet_until` sends `published_changed`. A waiting request subscribes to
/// `published_changed` before it reads `quiet_until`.
pub(crate) struct OnDemand {
    /// The time before which no question is in flight and none can be asked on demand. The list is quiet until this
    /// time. The value is zero while a question is in flight, before the first turn, and between `hosts_replaced` and
    /// the next turn. The value is `u64::MAX` without a refresher.
    quiet_until: AtomicU64,
    /// The time from which an unlisted peer can trigger the lookup of a watched host. The value is `u64::MAX` if a peer
    /// can trigger no lookup: the list watches no host, all questions about watched hosts are in flight, the first turn
    /// has not begun, an earlier trigger waits for the next turn, or the list has no refresher. It is written under the
    /// mutex, and read without the mutex.
    watched_at: AtomicU64,
    demand: Mutex<Demand>,
    /// The origin of the times here and in [`Demand`]. These times are in nanoseconds, since rounded times could make
    /// a question seem ready for a refresh too early or too late.
    epoch: Instant,
    limits: OnDemandLimits,
}

struct Demand {
    /// The latest deadline of all requests so far.
    until: u64,
    /// The earliest time at which a question that is not in flight can be asked on demand.
    next_idle: u64,
    /// True from a request that triggers the lookups of watched hosts until the next turn.
    wants_watched: bool,
    /// The peers that wait, each with the number of its waiting requests.
    waiting: HashMap<IpAddr, usize>,
    /// False once the refresher has ended. `OnDemand::hosts_replaced` then has no effect, since no turn would make the
    /// list quiet again.
    has_refresher: bool,
}

impl OnDemand {
    pub(crate) fn new(limits: OnDemandLimits, now: Instant) -> Self {
        Self {
            quiet_until: AtomicU64::new(0),
            watched_at: AtomicU64::new(u64::MAX),
            demand: Mutex::new(Demand {
                until: 0,
                next_idle: u64::MAX,
                wants_watched: false,
                waiting: HashMap::new(),
                has_refresher: true,
            }),
            epoch: now,
            limits,
        }
    }

    pub(crate) fn wait(&self) -> Duration {
        self.limits.wait
    }

    /// Returns the deadline of a request that arrives at `now`.
    pub(crate) fn deadline(&self, now: Instant) -> u64 {
        self.nanos(now).saturating_add(nanos(self.limits.wait))
    }

    /// Returns whether no question is in flight and none can be asked on demand before the deadline.
    pub(crate) fn is_quiet(&self, deadline: u64) -> bool {
        deadline <= self.quiet_until.load(Ordering::SeqCst)
    }

    /// Triggers the lookups of watched hosts, if at least one of their questions can be asked now. No request waits for
    /// these lookups.
    pub(crate) fn want_watched(&self, now: Instant, wake: &Notify) {
        let now = self.nanos(now);
        if now < self.watched_at.load(Ordering::SeqCst) {
            return;
        }
        self.want_watched_soon(wake);
    }

    /// Triggers the lookups of watched hosts, even before the refresher has published the time from which they can be
    /// looked up.
    pub(crate) fn want_watched_soon(&self, wake: &Notify) {
        let mut demand = self.lock();
        demand.wants_watched = true;
        // Until the next turn, another trigger would have no effect.
        self.watched_at.store(u64::MAX, Ordering::SeqCst);
        wake.notify_one();
    }

    /// Triggers the refresh of the questions that can be asked before the deadline. Returns the key of the waiting
    /// peer, which is the argument of [`leave`](Self::leave), or `None` if the peer must be judged at once.
    pub(crate) fn join(&self, peer: IpAddr, deadline: u64, wake: &Notify) -> Option<IpAddr> {
        let mut demand = self.lock();
        if self.is_quiet(deadline) {
            return None;
        }
        let before = demand.until;
        demand.until = before.max(deadline);
        if before <= demand.next_idle && demand.next_idle < deadline {
            #[cfg(callback_source_simulation)]
            let wake = match crate::simulation::planted(crate::simulation::Fault::WakeUpLost) {
                true => &Notify::new(),
                false => wake,
            };
            wake.notify_one();
        }
        if self.limits.wait.is_zero() {
            return None;
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::JudgedAtOnce) {
            return None;
        }
        let subscriber = subscriber(peer);
        let is_full = self.limits.waiters <= demand.waiting.len();
        match demand.waiting.entry(subscriber) {
            Entry::Occupied(mut requests) => *requests.get_mut() += 1,
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(vacant) => {
                vacant.insert(1);
            }
        }
        Some(subscriber)
    }

    /// Ends the wait of one request.
    pub(crate) fn leave(&self, subscriber: IpAddr) {
        let mut demand = self.lock();
        if let Entry::Occupied(mut requests) = demand.waiting.entry(subscriber) {
            *requests.get_mut() -= 1;
            if *requests.get() == 0 {
                requests.remove();
            }
        }
    }

    /// Begins a turn of the refresher.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn {
            demand: self.lock(),
            on_demand: self,
        }
    }

    /// Makes requests wait until the refresher has planned the lookups of the new hosts.
    pub(crate) fn hosts_replaced(&self) {
        let demand = self.lock();
        if demand.has_refresher {
            self.quiet_until.store(0, Ordering::SeqCst);
        }
    }

    /// Records that the list has no refresher. All requests are judged at once from now on.
    pub(crate) fn end(&self) {
        let mut demand = self.lock();
        demand.has_refresher = false;
        self.watched_at.store(u64::MAX, Ordering::SeqCst);
        self.quiet_until.store(u64::MAX, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Demand> {
        // Nothing panics under the mutex, and every state of `Demand` is valid.
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the nanoseconds since `self.epoch`, or zero for an earlier time, which can result from a sleep of the
    /// machine.
    fn nanos(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.epoch))
    }
}

/// Exclusive write access of the refresher to the state in [`OnDemand`].
pub(crate) struct Turn<'a> {
    demand: MutexGuard<'a, Demand>,
    on_demand: &'a OnDemand,
}

impl Turn<'_> {
    /// Returns the latest deadline of all requests so far, or `None` before the first request.
    pub(crate) fn wanted_until(&self) -> Option<Instant> {
        let until = Duration::from_nanos(self.demand.until);
        (!until.is_zero()).then(|| after(self.on_demand.epoch, until))
    }

    /// Returns whether the lookups of watched hosts have been triggered since the last turn, and resets the trigger.
    pub(crate) fn takes_watched(&mut self) -> bool {
        std::mem::take(&mut self.demand.wants_watched)
    }

    /// Publishes the earliest time at which a question about a watched host can be asked.
    pub(crate) fn set_watched_at(&self, at: Option<Instant>) {
        let at = at.map_or(u64::MAX, |at| self.on_demand.nanos(at));
        self.on_demand.watched_at.store(at, Ordering::SeqCst);
    }

    /// Ends the turn. Publishes whether a question is in flight, and the earliest time at which another question can be
    /// asked on demand. Returns whether the wait of a request may be over.
    pub(crate) fn end(mut self, is_asking: bool, next_idle: Option<Instant>) -> bool {
        let next_idle = next_idle.map_or(u64::MAX, |at| self.on_demand.nanos(at));
        self.demand.next_idle = next_idle;
        let quiet_until = if is_asking { 0 } else { next_idle };
        let before = self
            .on_demand
            .quiet_until
            .swap(quiet_until, Ordering::SeqCst);
        before < quiet_until
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
