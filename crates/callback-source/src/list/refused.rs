//! Record of refused peers, to detect an address that is listed soon after it was refused.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{
    HostName,
    subscriber::subscriber,
    sync::{AtomicU64, Mutex, MutexGuard},
};

/// Peers that were refused with 403 less than one linger window ago. IPv6 peers are stored by their /64.
///
/// With moka's default policy, a full cache accepts a new entry only if the key of that entry is requested more often
/// than the key of another entry. A genuine server, which is refused only once, would not be recorded. With LRU, the
/// cache evicts the peer whose last refusal is the oldest.
///
/// When an entry is read, its age is measured with tokio's clock. Expiry by moka would cost time for each refusal, and
/// existing entries would keep the old window after a change. This expiry is not needed, because the maximum number of
/// entries bounds the memory.
#[derive(Debug)]
pub(crate) struct RefusedPeers {
    /// The cache is built at the first refusal, because moka allocates the channels of a new cache at once.
    peers: OnceLock<Cache<IpAddr, Arc<Entry>>>,
    /// The linger window in nanoseconds.
    window: AtomicU64,
    epoch: Instant,
    /// Number of addresses of each host that were refused and then listed.
    then_listed: Mutex<BTreeMap<HostName, u64>>,
}

#[derive(Debug)]
struct Entry {
    /// The time of the first refusal. `first` and `last` are in nanoseconds since `RefusedPeers::epoch`.
    first: AtomicU64,
    last: AtomicU64,
    times: AtomicU64,
}

/// The refusals of a peer, each less than one linger window after the previous refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) times: u64,
    /// Time since the first refusal.
    pub(crate) first_ago: Duration,
    /// Time since the last refusal.
    pub(crate) last_ago: Duration,
}

impl RefusedPeers {
    pub(crate) fn new(window: Duration, now: Instant) -> Self {
        Self {
            peers: OnceLock::new(),
            window: AtomicU64::new(nanos(window)),
            epoch: now,
            then_listed: Mutex::default(),
        }
    }

    /// Replaces the linger window. The new window also applies to earlier refusals.
    pub(crate) fn set_window(&self, window: Duration) {
        self.window.store(nanos(window), Ordering::SeqCst);
    }

    /// Records a refusal. With a linger window of zero, does nothing.
    pub(crate) fn add(&self, peer: IpAddr, now: Instant) {
        let window = self.window.load(Ordering::SeqCst);
        if window == 0 {
            return;
        }
        let now = self.nanos(now);
        let peers = self.peers.get_or_init(|| {
            Cache::builder()
                .max_capacity(MAX_PEERS)
                .eviction_policy(EvictionPolicy::lru())
                .build()
        });
        let peer = subscriber(peer);
        match peers.get(&peer) {
            Some(entry) => {
                let gap = now.saturating_sub(entry.last.swap(now, Ordering::SeqCst));
                if window <= gap {
                    entry.first.store(now, Ordering::SeqCst);
                    entry.times.store(0, Ordering::SeqCst);
                }
                entry.times.fetch_add(1, Ordering::SeqCst);
            }
            None => {
                let entry = Entry {
                    first: AtomicU64::new(now),
                    last: AtomicU64::new(now),
                    times: AtomicU64::new(1),
                };
                peers.insert(peer, Arc::new(entry));
            }
        }
    }

    /// Returns the refusals of an address, if the last refusal was less than one linger window ago.
    pub(crate) fn find(&self, address: IpAddr, now: Instant) -> Option<Refusals> {
        let entry = self.peers.get()?.get(&subscriber(address))?;
        let now = self.nanos(now);
        let ago = |at: &AtomicU64| now.saturating_sub(at.load(Ordering::SeqCst));
        let last_ago = ago(&entry.last);
        let refusals = Refusals {
            times: entry.times.load(Ordering::SeqCst),
            first_ago: Duration::from_nanos(ago(&entry.first)),
            last_ago: Duration::from_nanos(last_ago),
        };
        (last_ago < self.window.load(Ordering::SeqCst)).then_some(refusals)
    }

    /// Removes and returns the refusals of an address that is now listed for a host, so that these refusals are
    /// reported only once.
    pub(crate) fn take(&self, address: IpAddr, host: &HostName, now: Instant) -> Option<Refusals> {
        let refusals = self.find(address, now)?;
        // If two callers find the same entry, only one caller removes the entry and reports it.
        self.peers.get()?.remove(&subscriber(address))?;
        *self.counts().entry(host.clone()).or_default() += 1;
        Some(refusals)
    }

    /// Returns the number of addresses of a host that were refused and then listed.
    pub(crate) fn then_listed(&self, host: &HostName) -> u64 {
        self.counts().get(host).copied().unwrap_or_default()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<HostName, u64>> {
        self.then_listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The maximum number of peers. They take about 5 MB, including moka's own data for each entry.
const MAX_PEERS: u64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn new() -> (RefusedPeers, Instant) {
        let now = crate::list::clock::now();
        (RefusedPeers::new(HOUR, now), now)
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4((0x1400_0000 + number).into())
    }

    fn host() -> HostName {
        "h.test".parse().unwrap()
    }

    #[test]
    fn refusals_are_counted_within_the_window_and_taken_once() {
        let (refused, start) = new();
        let at = |minutes: u32| start + minutes * Duration::from_secs(60);
        refused.add(v4(1), at(0));
        refused.add(v4(1), at(30));
        let expected = Refusals {
            times: 2,
            first_ago: 40 * Duration::from_secs(60),
            last_ago: 10 * Duration::from_secs(60),
        };
        assert_eq!(refused.find(v4(2), at(40)), None);
        assert_eq!(refused.take(v4(1), &host(), at(40)), Some(expected));
        assert_eq!(refused.take(v4(1), &host(), at(40)), None);
        assert_eq!(refused.then_listed(&host()), 1);
    }

    #[test]
    fn a_refusal_is_forgotten_at_the_end_of_the_window() {
        let (refused, start) = new();
        refused.add(v4(1), start);
        assert!(
            refused
                .find(v4(1), start + HOUR - Duration::from_nanos(1))
                .is_some()
        );
        assert_eq!(refused.find(v4(1), start + HOUR), None);
        refused.add(v4(1), start + HOUR);
        let refusals = refused.find(v4(1), start + HOUR).unwrap();
        assert_eq!((refusals.times, refusals.first_ago), (1, Duration::ZERO));
    }

    #[test]
    fn a_new_window_holds_for_earlier_refusals() {
        let (refused, start) = new();
        refused.add(v4(1), start);
        let remembered = |at| refused.find(v4(1), at).is_some();
        refused.set_window(2 * HOUR);
        assert!(remembered(start + HOUR) && !remembered(start + 2 * HOUR));
        refused.set_window(HOUR / 2);
        assert!(remembered(start) && !remembered(start + HOUR / 2));
    }

    #[test]
    fn without_a_window_nothing_is_remembered_and_an_endless_one_is_accepted() {
        let (_, now) = new();
        let none = RefusedPeers::new(Duration::ZERO, now);
        none.add(v4(1), now);
        assert_eq!(none.find(v4(1), now), None);
        let endless = RefusedPeers::new(Duration::MAX, now);
        endless.add(v4(1), now);
        assert!(endless.find(v4(1), now).is_some());
    }

    #[test]
    fn ipv6_peers_are_remembered_by_their_64_bit_prefix_and_mapped_ones_as_ipv4() {
        let (refused, now) = new();
        let ip = |text: &str| text.parse().unwrap();
        refused.add(ip("2a01:1:2:3::1"), now);
        refused.add(ip("::ffff:20.0.0.1"), now);
        assert!(refused.find(ip("2a01:1:2:3:ffff::2"), now).is_some());
        assert!(refused.find(ip("2a01:1:2:4::1"), now).is_none());
        assert!(refused.find(v4(1), now).is_some());
    }

    #[test]
    fn a_flood_displaces_the_oldest_refusals_and_never_the_newest() {
        let (refused, now) = new();
        let many = 3 * u32::try_from(MAX_PEERS).unwrap();
        for number in 0..many {
            refused.add(v4(number), now);
        }
        let peers = refused.peers.get().unwrap();
        peers.run_pending_tasks();
        assert!(peers.entry_count() <= MAX_PEERS, "{}", peers.entry_count());
        let remembered = |number| refused.find(v4(number), now).is_some();
        assert!(!remembered(0));
        assert!((many - 16_000..many).all(remembered));
    }
}
