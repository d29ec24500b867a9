//! Rate limits for log events.
//!
//! A peer must not be able to fill a disk with log events, or to hide an important event among thousands.
//! [`PeerRateLimit`] reports how many events it left out. The other two types leave out only repetitions of the same
//! fault.
//!
//! | type | admits | for |
//! |---|---|---|
//! | [`RateLimit`] | one event per interval | a single fault, such as a full disk |
//! | [`KeyedRateLimit`] | one event per key and interval | the failures of each question |
//! | [`PeerRateLimit`] | one event per peer and minute, ten per second in all | refusals, which peers cause at will |
//!
//! A mistake in the set-up of a service lasts for as long as the process runs. Each such mistake is logged once per
//! process, with [`std::sync::Once`].

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::subscriber::subscriber;

/// Admits one event per interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimit {
    admitted_at: Option<Instant>,
}

impl RateLimit {
    /// Returns whether an event is admitted. A rejected event does not extend the interval.
    pub(crate) fn admits(&mut self, interval: Duration, now: Instant) -> bool {
        let is_over = |at| interval <= now.saturating_duration_since(at);
        let admits = self.admitted_at.is_none_or(is_over);
        if admits {
            self.admitted_at = Some(now);
        }
        admits
    }
}

/// Admits one event per key and interval. The caller must bound the number of keys.
#[derive(Debug)]
pub(crate) struct KeyedRateLimit<K> {
    limits: HashMap<K, RateLimit>,
}

impl<K> Default for KeyedRateLimit<K> {
    fn default() -> Self {
        Self {
            limits: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> KeyedRateLimit<K> {
    /// Returns whether an event with this key is admitted.
    pub(crate) fn admits(&mut self, key: &K, interval: Duration, now: Instant) -> bool {
        match self.limits.get_mut(key) {
            Some(limit) => limit.admits(interval, now),
            None => {
                let mut limit = RateLimit::default();
                let admits = limit.admits(interval, now);
                self.limits.insert(key.clone(), limit);
                admits
            }
        }
    }

    /// Forgets a key, so that its next event is admitted.
    pub(crate) fn forget(&mut self, key: &K) {
        self.limits.remove(key);
    }

    /// Forgets all keys for which `is_kept` returns `false`.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&K) -> bool) {
        self.limits.retain(|key, _| is_kept(key));
    }
}

/// Admits one event per peer and minute, and ten per second in all, so that a flood cannot fill a disk.
///
/// A `PeerRateLimit` remembers at most 10,000 peers. All IPv6 addresses of one /64 share a limit. All events without a
/// peer share a limit, too.
pub(crate) struct PeerRateLimit {
    peers: Cache<IpAddr, RateLimit>,
    epoch: Instant,
    /// `second << 8 | events`: the second of the last admitted event, and the number of events that were admitted in
    /// that second.
    window: AtomicU64,
    left_out: AtomicU64,
}

impl PeerRateLimit {
    pub(crate) fn new(now: tokio::time::Instant) -> Self {
        Self {
            peers: Cache::new(PEERS_REMEMBERED),
            epoch: now.into_std(),
            window: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns how many events were left out since the last admitted event, or `None` if this event is rejected.
    pub(crate) fn admits(&self, peer: Option<IpAddr>, now: tokio::time::Instant) -> Option<u64> {
        let now = now.into_std();
        // The limit per second is checked before the peer is remembered. An event that this limit rejects is not
        // logged, so it must not start the minute of its peer.
        let is_admitted = self.has_room(now) && self.is_due(peer, now) && self.uses_room(now);
        if is_admitted {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn has_room(&self, now: Instant) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        window >> 8 != self.second(now) || window & 0xff < EVENTS_PER_SECOND
    }

    fn uses_room(&self, now: Instant) -> bool {
        let second = self.second(now);
        let add = |window: u64| match (window >> 8 == second, window & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, events) if events < EVENTS_PER_SECOND => Some(window + 1),
            (true, _) => None,
        };
        self.window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    fn is_due(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let peer = peer.map_or(NO_PEER, subscriber);
        let mut limit = self.peers.get(&peer).unwrap_or_default();
        let admits = limit.admits(ONCE_A_MINUTE, now);
        if admits {
            self.peers.insert(peer, limit);
        }
        admits
    }

    /// Number of the second that contains `now`. The numbers start at one, because a `window` that was never used
    /// contains the number zero.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

const NO_PEER: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const EVENTS_PER_SECOND: u64 = 10;
const PEERS_REMEMBERED: u64 = 10_000;
const ONCE_A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn an_event_is_admitted_once_per_interval_and_rejected_ones_do_not_extend_it() {
        let start = Instant::now().into_std();
        let at = |millis| start + Duration::from_millis(millis);
        let mut limit = RateLimit::default();
        let mut admits = |millis| limit.admits(Duration::from_secs(1), at(millis));
        assert!(admits(0));
        assert!(!admits(500));
        assert!(!admits(999));
        assert!(admits(1_000));
        assert!(!admits(1_999));
    }

    #[test]
    fn each_key_has_an_interval_of_its_own_until_it_is_forgotten() {
        let now = Instant::now().into_std();
        let mut limit = KeyedRateLimit::default();
        let admits = |limit: &mut KeyedRateLimit<_>, key| limit.admits(&key, ONCE_A_MINUTE, now);
        assert!(admits(&mut limit, "a"));
        assert!(admits(&mut limit, "b"));
        assert!(!admits(&mut limit, "a"));
        limit.forget(&"a");
        assert!(admits(&mut limit, "a"));
        limit.retain(|key| *key == "a");
        assert!(!admits(&mut limit, "a"));
        assert!(admits(&mut limit, "b"));
    }

    fn peer(number: u64) -> Option<IpAddr> {
        Some(IpAddr::V4(
            (u32::try_from(number).unwrap() + 0x1400_0000).into(),
        ))
    }

    #[test]
    fn a_peer_is_admitted_once_a_minute_with_the_number_of_events_left_out() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        assert_eq!(limit.admits(peer(1), start), Some(0));
        for second in 0..60 {
            assert_eq!(
                limit.admits(peer(1), start + Duration::from_secs(second)),
                None
            );
        }
        assert_eq!(limit.admits(peer(1), start + ONCE_A_MINUTE), Some(60));
    }

    #[test]
    fn ipv6_peers_are_limited_by_their_64_bit_prefix() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        let admits = |text: &str| limit.admits(Some(text.parse().unwrap()), start).is_some();
        assert!(admits("2a01:1:2:3::1"));
        assert!(!admits("2a01:1:2:3:ffff::2"));
        assert!(admits("2a01:1:2:4::1"));
    }

    #[test]
    fn an_ipv4_peer_is_the_same_in_ipv6_notation() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        let admits = |text: &str| limit.admits(Some(text.parse().unwrap()), start).is_some();
        assert!(admits("20.0.0.1"));
        assert!(!admits("::ffff:20.0.0.1"));
        assert!(admits("::ffff:20.0.0.2"));
        assert!(limit.admits(None, start).is_some());
    }

    #[test]
    fn a_flood_is_admitted_ten_times_a_second() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        let mut logged = 0;
        let mut left_out = 0;
        for number in 0..20_000 {
            let now = start + Duration::from_millis(number / 2);
            if let Some(count) = limit.admits(peer(number), now) {
                logged += 1;
                left_out += count;
            }
        }
        assert_eq!(logged, 100, "ten seconds");
        assert!(
            logged + left_out <= 20_000 && left_out > 17_000,
            "{left_out}"
        );
    }

    #[test]
    fn events_without_a_peer_are_limited_as_if_from_one() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        assert_eq!(limit.admits(None, start), Some(0));
        assert_eq!(limit.admits(None, start), None);
    }

    #[test]
    fn a_flood_of_peers_uses_no_more_memory_than_the_bound() {
        let start = Instant::now();
        let limit = PeerRateLimit::new(start);
        for number in 0..4 * PEERS_REMEMBERED {
            let second = Duration::from_secs(number / EVENTS_PER_SECOND);
            limit.admits(peer(number), start + second);
        }
        limit.peers.run_pending_tasks();
        assert!(limit.peers.entry_count() <= PEERS_REMEMBERED);
    }
}
