//! On-demand refreshes: the lookups that unlisted peers trigger and wait for.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{rate_limit::subscriber, set::after};

/// The limits of on-demand refreshes.
#[derive(Clone, Debug)]
pub(crate) struct OnDemandLimits {
    /// The least time between two lookups of one question for unlisted peers.
    pub(crate) interval: Duration,
    /// How long a request of an unlisted peer waits at most.
    pub(crate) wait: Duration,
    /// How many unlisted peers wait at a time.
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
/// A request claims nothing and starts nothing. It states until when it waits, and everything else
/// follows from the times at which the questions were asked, which the refresher alone knows:
///
/// - The **refresher** takes a [`Turn`] after each event. Under the lock it reads the published set
///   and [`Demand::until`], starts the questions whose time has come, sets its timer for the others,
///   and writes [`quiet_until`](Self::quiet_until) and [`Demand::next_idle`]. A set is always
///   published before the turn that calls its question answered.
/// - A **request** reads `quiet_until` without the lock. If nothing happens before its deadline it
///   is judged at once, by a set that it reads *after* that word. Otherwise it raises `until` under
///   the lock and waits for published_changed.
///
/// No wake-up is lost: as both sides write under the lock, a request either comes before a turn,
/// which then sees its deadline, or after it, and finds `next_idle` of that turn. If the question
/// with that time was not wanted before and is now, the request wakes the refresher. If it was, the
/// refresher wakes by itself at `next_idle`, which is before any other question can be asked. Each
/// turn that makes `quiet_until` later sends published_changed, for which requests subscribe before they read it.
pub(crate) struct OnDemand {
    /// No question is being asked, and none can be asked on demand, before this time. Zero while one
    /// is being asked and before the first turn, the end of time when there is no refresher. Written
    /// under the lock, read without it.
    quiet_until: AtomicU64,
    demand: Mutex<Demand>,
    /// The times here and in [`Demand`] are nanoseconds since this one. Rounded ones would let a
    /// question look askable before it is, or after.
    epoch: Instant,
    limits: OnDemandLimits,
}

struct Demand {
    /// The latest deadline of a request. Written by requests, read by the refresher.
    until: u64,
    /// The earliest time at which a question that is not being asked can be asked on demand. Written
    /// by the refresher, read by requests.
    next_idle: u64,
    /// The peers that wait, and with how many requests each.
    waiting: HashMap<IpAddr, usize>,
    /// Whether there is a refresher.
    has_refresher: bool,
}

impl OnDemand {
    pub(crate) fn new(limits: OnDemandLimits, now: Instant) -> Self {
        Self {
            quiet_until: AtomicU64::new(0),
            demand: Mutex::new(Demand {
                until: 0,
                next_idle: u64::MAX,
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

    /// Until when a request that comes now waits at most.
    pub(crate) fn deadline(&self, now: Instant) -> u64 {
        self.nanos(now).saturating_add(nanos(self.limits.wait))
    }

    /// Whether no question is being asked, and none can be asked on demand before the deadline.
    pub(crate) fn is_quiet(&self, deadline: u64) -> bool {
        deadline <= self.quiet_until.load(Ordering::Acquire)
    }

    /// Has questions asked that can be asked before the deadline. Returns the place under which the
    /// peer waits, unless it is to be judged at once.
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

    /// Starts a turn of the refresher.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn {
            demand: self.lock(),
            on_demand: self,
        }
    }

    /// Makes requests wait until the refresher has looked at the new hosts.
    pub(crate) fn hosts_replaced(&self) {
        let demand = self.lock();
        if demand.has_refresher {
            self.quiet_until.store(0, Ordering::Release);
        }
    }

    /// Makes requests wait for nothing from now on: there is no refresher.
    pub(crate) fn end(&self) {
        let mut demand = self.lock();
        demand.has_refresher = false;
        self.quiet_until.store(u64::MAX, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Demand> {
        // Nothing panics while it is held, and every state of it is a possible one.
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A time before the epoch, which a sleep of the machine can make, counts as the epoch.
    fn nanos(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.epoch))
    }
}

/// A look of the refresher at what is wanted, see [`OnDemand`].
pub(crate) struct Turn<'a> {
    demand: MutexGuard<'a, Demand>,
    on_demand: &'a OnDemand,
}

impl Turn<'_> {
    /// The latest deadline of a request, if there was one.
    pub(crate) fn wanted_until(&self) -> Option<Instant> {
        let until = Duration::from_nanos(self.demand.until);
        (!until.is_zero()).then(|| after(self.on_demand.epoch, until))
    }

    /// Says whether a question is being asked, and when the next of the others can be asked on
    /// demand. Returns whether requests may be done with their wait.
    pub(crate) fn end(mut self, is_asking: bool, next_idle: Option<Instant>) -> bool {
        let next_idle = next_idle.map_or(u64::MAX, |at| self.on_demand.nanos(at));
        self.demand.next_idle = next_idle;
        let quiet_until = if is_asking { 0 } else { next_idle };
        let before = self
            .on_demand
            .quiet_until
            .swap(quiet_until, Ordering::AcqRel);
        before < quiet_until
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
