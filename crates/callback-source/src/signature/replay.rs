//! Which deliveries were accepted already.

use std::{fmt, time::Duration};

use moka::{Expiry, policy::EvictionPolicy, sync::Cache};

/// Remembers the signatures that were accepted, while their dates are within the window, so that the
/// very same request is not accepted twice.
///
/// What is remembered is the signature alone: the `webhook-id` is not signed, so that a replay could
/// change it, and a retry is signed anew with a new date. A delivery counts as accepted when the
/// inner service is called, whatever that answers: a proxy that sends the same request again is
/// refused, the provider's own retry is not.
///
/// It is bounded; when it is full the signature that was used longest ago is forgotten. It is per
/// process: replicas do not know of each other. Clones share what they remember.
#[derive(Clone)]
pub struct ReplayGuard {
    accepted: Cache<[u8; 32], Duration>,
}

impl ReplayGuard {
    /// Remembers at most so many signatures.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            accepted: Cache::builder()
                .max_capacity(capacity.max(1))
                // The default policy turns newcomers away when full, which would let them through twice.
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(ByWindow)
                .build(),
        }
    }

    /// Whether the signature is seen for the first time within the window; of several that ask at the
    /// same time, one is told so.
    pub(super) fn is_first(&self, signature: [u8; 32], window: Duration) -> bool {
        // A request may be dated ahead by the window, and counts until the window after that.
        let keep = window.saturating_mul(2).saturating_add(MARGIN).min(LONGEST);
        // `or_insert` looks and inserts in two steps, which would tell two at once that they are the first.
        self.accepted
            .entry(signature)
            .or_insert_with(|| keep)
            .is_fresh()
    }
}

impl Default for ReplayGuard {
    /// Remembers at most 100,000 signatures.
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl fmt::Debug for ReplayGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayGuard")
            .field("accepted", &self.accepted.entry_count())
            .finish()
    }
}

/// Lets moka forget a signature when its date has left the window.
struct ByWindow;

#[expect(
    clippy::disallowed_types,
    reason = "the type is part of moka's interface"
)]
impl Expiry<[u8; 32], Duration> for ByWindow {
    fn expire_after_create(
        &self,
        _: &[u8; 32],
        keep: &Duration,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(*keep)
    }
}

const MARGIN: Duration = Duration::from_secs(60);

/// moka takes no more than a thousand years.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn of_many_that_come_at_once_one_is_the_first() {
        const ROUNDS: u16 = 2_000;
        let guard = ReplayGuard::default();
        let start = Barrier::new(4);
        let firsts = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for round in 0..ROUNDS {
                        let mut signature = [7; 32];
                        signature[..2].copy_from_slice(&round.to_be_bytes());
                        start.wait();
                        if guard.is_first(signature, WINDOW) {
                            firsts.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(firsts.into_inner(), usize::from(ROUNDS));
    }

    #[test]
    fn a_full_guard_still_remembers_the_newest() {
        let guard = ReplayGuard::new(10);
        for number in 0..=255 {
            assert!(guard.is_first([number; 32], WINDOW));
            guard.accepted.run_pending_tasks();
            assert!(!guard.is_first([number; 32], WINDOW), "{number}");
        }
        assert!(guard.accepted.entry_count() <= 10);
    }

    #[test]
    fn the_longest_window_is_no_panic() {
        assert!(ReplayGuard::new(0).is_first([1; 32], Duration::MAX));
    }
}
