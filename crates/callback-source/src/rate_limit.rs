//! Limits on log events that callers can cause.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use moka::sync::Cache;
use tokio::time::Instant;

/// Refused peers, so that each is logged once a minute and a flood cannot fill a disk.
pub(crate) struct PeerRateLimit {
    logged: Cache<IpAddr, Instant>,
    epoch: Instant,
    /// The second since the epoch, and how many events it has seen: `second << 8 | events`.
    window: AtomicU64,
    left_out: AtomicU64,
}

impl PeerRateLimit {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            logged: Cache::new(PEERS_REMEMBERED),
            epoch: now,
            window: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many refusals were left out before this one, if it is to be logged.
    pub(crate) fn admits(&self, peer: Option<IpAddr>, now: Instant) -> Option<u64> {
        let admitted = self.has_room(now) && self.is_new(peer, now) && self.takes_room(now);
        if admitted {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn has_room(&self, now: Instant) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        window >> 8 != self.second(now) || window & 0xff < EVENTS_A_SECOND
    }

    fn takes_room(&self, now: Instant) -> bool {
        let second = self.second(now);
        let take = |window: u64| match (window >> 8 == second, window & 0xff) {
            (false, _) => Some(second << 8 | 1),
            (true, events) if events < EVENTS_A_SECOND => Some(window + 1),
            (true, _) => None,
        };
        self.window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn is_new(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let peer = match peer {
            Some(IpAddr::V6(peer)) => IpAddr::V6(Ipv6Addr::from(peer.to_bits() & PREFIX_64)),
            Some(peer) => peer,
            None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let before = self.logged.get(&peer);
        if before.is_some_and(|logged| now.saturating_duration_since(logged) < ONCE_A_MINUTE) {
            return false;
        }
        self.logged.insert(peer, now);
        true
    }

    /// Counted from one, so that the first second differs from a window never used.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

const EVENTS_A_SECOND: u64 = 10;
const PEERS_REMEMBERED: u64 = 10_000;
const ONCE_A_MINUTE: Duration = Duration::from_secs(60);
const PREFIX_64: u128 = !(u64::MAX as u128);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> Option<IpAddr> {
        Some(IpAddr::V4(
            (u32::try_from(number).unwrap() + 0x1400_0000).into(),
        ))
    }

    #[test]
    fn a_refused_peer_is_logged_once_a_minute_with_the_count_of_those_left_out() {
        let start = Instant::now();
        let log = PeerRateLimit::new(start);
        assert_eq!(log.admits(peer(1), start), Some(0));
        for second in 0..60 {
            assert_eq!(
                log.admits(peer(1), start + Duration::from_secs(second)),
                None
            );
        }
        assert_eq!(log.admits(peer(1), start + ONCE_A_MINUTE), Some(60));
    }

    #[test]
    fn ipv6_peers_count_by_their_64_bit_prefix() {
        let start = Instant::now();
        let log = PeerRateLimit::new(start);
        let admits = |text: &str| log.admits(Some(text.parse().unwrap()), start).is_some();
        assert!(admits("2a01:1:2:3::1"));
        assert!(!admits("2a01:1:2:3:ffff::2"));
        assert!(admits("2a01:1:2:4::1"));
    }

    #[test]
    fn no_flood_is_logged_faster_than_ten_a_second() {
        let start = Instant::now();
        let log = PeerRateLimit::new(start);
        let mut logged = 0;
        let mut left_out = 0;
        for number in 0..20_000 {
            let now = start + Duration::from_millis(number / 2);
            if let Some(count) = log.admits(peer(number), now) {
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
    fn refusals_without_a_peer_are_limited_as_if_from_one() {
        let start = Instant::now();
        let log = PeerRateLimit::new(start);
        assert_eq!(log.admits(None, start), Some(0));
        assert_eq!(log.admits(None, start), None);
    }

    #[test]
    fn a_flood_of_peers_holds_no_more_memory_than_the_bound() {
        let start = Instant::now();
        let log = PeerRateLimit::new(start);
        for number in 0..4 * PEERS_REMEMBERED {
            let second = Duration::from_secs(number / EVENTS_A_SECOND);
            log.admits(peer(number), start + second);
        }
        log.logged.run_pending_tasks();
        assert!(log.logged.entry_count() <= PEERS_REMEMBERED);
    }
}
