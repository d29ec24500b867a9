//! Guard against deliveries that were accepted before.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{Entry, Expiry, ops::compute::Op, policy::EvictionPolicy, sync::Cache};
use tokio::time::Instant;

use super::replay_store::{Marked, ReplayStore, SharedMarks, Unaccepted};
use crate::{MessageRejection, MessageRejectionKind, check::Acceptance};

/// Memory of accepted signatures, so that the same request is not accepted twice within the window of its date.
///
/// It remembers only the signature. The `webhook-id` is not signed, so a replay could change it. A retry of the
/// provider is signed anew with a new date.
///
/// ```
/// use std::{convert::Infallible, time::SystemTime};
/// use bytes::Bytes;
/// use callback_source::signature::{ReplayGuard, Secret, VerifySignatureLayer, webhook};
/// use http::{Request, Response, Uri};
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let merchant = service_fn(async |request: Request<Full<Bytes>>| {
///     Ok::<_, Infallible>(Response::new(request.into_body()))
/// });
/// let secret = Secret::new("of the registration")?;
/// let service = VerifySignatureLayer::rejecting(secret.clone())
///     .replay_guard(ReplayGuard::default())
///     .layer(merchant);
///
/// let url = Uri::from_static("https://shop.example/webhooks");
/// let headers = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
/// for status in [200, 409] {
///     let mut request = Request::post("/webhooks").body(Full::from("paid"))?;
///     *request.headers_mut() = headers.clone();
///     assert_eq!(service.clone().oneshot(request).await?.status(), status);
/// }
/// # Ok(())
/// # }
/// ```
///
/// A delivery is marked right before the inner service is called. By then the inner service is ready, and the body has
/// been read and has the signed hash. The delivery is accepted from then on, whatever the response is. A proxy that
/// repeats the request gets 409, but the provider's own retry does not. Of two copies that arrive at the same time,
/// only one is accepted. The mark is withdrawn in these cases:
///
/// - a layer or an extractor of this crate further inside refused the delivery, for example because of the
///   [`Policy`](crate::Policy) of [`RequireVerified`](crate::require::RequireVerified);
/// - the inner service failed with an error, or panicked;
/// - the sender disconnected while the delivery waited in a layer of this crate further inside;
/// - behind a tagging layer, the sender disconnected before [`RequireVerified`](crate::require::RequireVerified) or
///   an extractor ([`VerifiedCallback`](crate::VerifiedCallback), [`MessageVerdict`](crate::MessageVerdict)) admitted
///   the delivery.
///
/// In other cases, the mark stays if the sender disconnects after the mark was set, since the handler may have done its
/// work. Within axum's `Router`, every service reports at once that it is ready, and waits only after it is called.
/// Therefore, put layers that make requests wait, such as a concurrency limit, outside of a rejecting signature layer.
///
/// The memory is bounded. When the memory is full, the signature that was used longest ago is forgotten. Clones share
/// the memory.
///
/// # Several replicas
///
/// Other processes do not share the memory, so each replica would accept the same delivery once. With a
/// [`ReplayStore`], the replicas share marks ([`with_store`](Self::with_store)). The guard checks its own memory first.
/// Then it sets the mark in the store with one call, right before the inner service is called. A mark in the store is
/// withdrawn in the same cases as in memory.
///
/// If the store fails, or does not respond within its [time limit](Self::store_time_limit), the delivery is admitted,
/// since a guard must not cause an outage. A WARN event and the counter `callback_source_replay_store_failures_total`
/// report the failure. The guard still refuses repetitions of the deliveries that its own memory contains. With
/// [`require_store`](Self::require_store), a failure of the store results in 503.
#[derive(Clone)]
pub struct ReplayGuard {
    accepted: Cache<[u8; 32], Accepted>,
    marks: Arc<AtomicU64>,
    store: Option<Arc<SharedMarks>>,
    store_time_limit: Duration,
    is_store_required: bool,
}

/// Time at which a signature was accepted, by tokio's clock. moka uses another clock (see `answer_cache`).
#[derive(Clone, Copy)]
struct Accepted {
    mark: u64,
    at: Instant,
    keep: Duration,
}

impl Accepted {
    fn is_over(&self) -> bool {
        self.keep <= self.at.elapsed()
    }
}

impl ReplayGuard {
    /// Creates a guard that remembers at most `capacity` signatures. A capacity of 0 is raised to 1. Default: 100,000.
    ///
    /// A signature is remembered for twice the [window](super::VerifySignatureLayer::window) plus a minute, which is 11
    /// minutes by default. The default capacity is enough for 150 deliveries per second in that time. At a higher rate,
    /// the guard can forget signatures that are still within the window.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self {
            accepted: Cache::builder()
                .max_capacity(capacity.max(1))
                // moka's default policy may reject new entries when the cache is full. Their deliveries could then be
                // accepted twice.
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(ByWindow)
                .build(),
            marks: Arc::default(),
            store: None,
            store_time_limit: STORE_TIME_LIMIT,
            is_store_required: false,
        }
    }

    /// Shares the marks with other processes. See [`ReplayStore`] for an example.
    #[must_use]
    pub fn with_store(mut self, store: impl ReplayStore) -> Self {
        self.store = Some(Arc::new(SharedMarks::new(store)));
        self
    }

    /// Sets the longest time for which a delivery waits for the store. Default: 500 ms.
    #[must_use]
    pub fn store_time_limit(mut self, limit: Duration) -> Self {
        self.store_time_limit = limit;
        self
    }

    /// Refuses deliveries with 503 and `Retry-After` while the store is not available, for handlers that must never
    /// see a delivery twice. The provider tries again, but an outage of the store then delays every webhook.
    ///
    /// ```
    /// use callback_source::signature::{ReplayGuard, ReplayStore};
    ///
    /// fn strict_guard(store: impl ReplayStore) -> ReplayGuard {
    ///     ReplayGuard::default().with_store(store).require_store()
    /// }
    /// ```
    #[must_use]
    pub fn require_store(mut self) -> Self {
        self.is_store_required = true;
        self
    }

    /// Accepts a signature, unless it was accepted within the window, by this process or by another process that
    /// shares the store.
    ///
    /// # Errors
    ///
    /// Returns the reason why the delivery is refused.
    pub(super) async fn accept(
        &self,
        signature: [u8; 32],
        window: Duration,
    ) -> Result<Acceptance, MessageRejection> {
        let stored = self.mark_in_store(&signature, window).await?;
        // There must be no `await` from here to the call of the inner service. If another copy was accepted meanwhile,
        // the mark in the store is withdrawn.
        let mark = self.mark(signature, window).ok_or_else(replay)?;
        Ok(match stored.map(Unaccepted::accept) {
            Some(stored) => Acceptance::new(move || {
                mark.withdraw();
                stored.withdraw();
            }),
            None => mark,
        })
    }

    /// Sets the mark in the store. Returns `None` if the guard has no store, or if the store is not required and cannot
    /// have stored the mark.
    async fn mark_in_store(
        &self,
        signature: &[u8; 32],
        window: Duration,
    ) -> Result<Option<Unaccepted>, MessageRejection> {
        let Some(store) = &self.store else {
            return Ok(None);
        };
        let marked = store.mark(signature, keep(window), self.store_time_limit);
        match marked.await {
            Marked::Stored(stored) => Ok(Some(stored)),
            Marked::Replay => Err(replay()),
            Marked::Unavailable(_, error) if self.is_store_required => {
                store.failed("mark", &error, "deliveries are refused with 503");
                Err(MessageRejection::with_cause(
                    MessageRejectionKind::ReplayStoreUnavailable,
                    Arc::new(error),
                ))
            }
            Marked::Unavailable(stored, error) => {
                store.failed("mark", &error, "deliveries are let through");
                Ok(stored)
            }
        }
    }

    /// Returns `true` for a signature that this process still remembers.
    pub(super) fn is_accepted(&self, signature: &[u8; 32]) -> bool {
        let accepted = self.accepted.get(signature);
        accepted.is_some_and(|accepted| !accepted.is_over())
    }

    /// Accepts a signature, unless this process still remembers it. Of several simultaneous attempts, only one gets the
    /// mark.
    fn mark(&self, signature: [u8; 32], window: Duration) -> Option<Acceptance> {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        let accepted = Accepted {
            mark,
            at: Instant::now(),
            keep: keep(window),
        };
        // `or_insert` looks up and inserts in two steps, so two simultaneous requests could both insert their mark.
        let entry = self.accepted.entry(signature);
        let kept = entry.or_insert_with_if(|| accepted, Accepted::is_over);
        (kept.value().mark == mark).then(|| {
            let guard = self.clone();
            Acceptance::new(move || guard.withdraw(signature, mark))
        })
    }

    fn withdraw(&self, signature: [u8; 32], mark: u64) {
        // Another request may have marked the signature, if this mark was withdrawn before or has expired.
        let withdraw = |entry: Option<Entry<_, Accepted>>| match entry {
            Some(entry) if entry.value().mark == mark => Op::Remove,
            _ => Op::Nop,
        };
        let entry = self.accepted.entry(signature);
        let _ = entry.and_compute_with(withdraw);
    }
}

impl Default for ReplayGuard {
    /// A guard that remembers at most 100,000 signatures.
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl fmt::Debug for ReplayGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayGuard")
            .field("accepted", &self.accepted.entry_count())
            .field("has_store", &self.store.is_some())
            .finish_non_exhaustive()
    }
}

/// Returns the time for which a signature is remembered. The date of a request may be ahead of the clock by one window.
/// The request stays valid until one window after its date.
fn keep(window: Duration) -> Duration {
    window
        .saturating_mul(2)
        .saturating_add(MARGIN)
        .min(MAX_KEPT)
}

pub(super) fn replay() -> MessageRejection {
    MessageRejection::new(MessageRejectionKind::Replay)
}

/// Expiry policy by which moka removes a signature at the end of its `keep` time.
struct ByWindow;

impl Expiry<[u8; 32], Accepted> for ByWindow {
    fn expire_after_create(
        &self,
        _: &[u8; 32],
        accepted: &Accepted,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(accepted.keep)
    }

    // The default implementation keeps the expiry of the previous value.
    fn expire_after_update(
        &self,
        _: &[u8; 32],
        accepted: &Accepted,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(accepted.keep)
    }
}

/// Default time limit of the store. It is only a small part of the ten seconds for which the Webhooks API waits for the
/// whole response.
const STORE_TIME_LIMIT: Duration = Duration::from_millis(500);

const MARGIN: Duration = Duration::from_secs(60);

/// Longest time that is passed to moka, which panics above a thousand years.
const MAX_KEPT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, atomic::AtomicUsize};

    use tokio::time::advance;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_one_of_many_attempts_at_the_same_time_gets_the_mark() {
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
                        if guard.mark(signature, WINDOW).is_some() {
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
            assert!(guard.mark([number; 32], WINDOW).is_some());
            guard.accepted.run_pending_tasks();
            assert!(guard.is_accepted(&[number; 32]), "{number}");
            assert!(guard.mark([number; 32], WINDOW).is_none(), "{number}");
        }
        assert!(guard.accepted.entry_count() <= 10);
    }

    #[test]
    fn the_longest_window_does_not_panic() {
        assert!(ReplayGuard::new(0).mark([1; 32], Duration::MAX).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_signature_is_remembered_for_two_windows_and_a_minute() {
        let guard = ReplayGuard::default();
        assert!(guard.mark([1; 32], WINDOW).is_some());
        advance(2 * WINDOW + MARGIN - SECOND).await;
        assert!(guard.is_accepted(&[1; 32]) && guard.mark([1; 32], WINDOW).is_none());
        advance(SECOND).await;
        assert!(!guard.is_accepted(&[1; 32]));
        // The signature is then remembered again, for the same time.
        assert!(guard.mark([1; 32], WINDOW).is_some());
        advance(2 * WINDOW + MARGIN - SECOND).await;
        assert!(guard.is_accepted(&[1; 32]) && guard.mark([1; 32], WINDOW).is_none());
    }

    #[test]
    fn moka_keeps_a_signature_for_two_windows_and_a_minute() {
        let guard = ReplayGuard::default();
        let keep = |window| {
            guard.mark([1; 32], window).unwrap().withdraw();
            let mark = guard.mark([1; 32], window).unwrap();
            let accepted = guard.accepted.get(&[1; 32]).unwrap();
            mark.withdraw();
            let now = Instant::now().into_std();
            let created = ByWindow.expire_after_create(&[1; 32], &accepted, now);
            let updated = ByWindow.expire_after_update(&[1; 32], &accepted, now, None);
            assert_eq!(created, updated);
            created
        };
        assert_eq!(keep(WINDOW), Some(2 * WINDOW + MARGIN));
        assert_eq!(keep(SECOND), Some(2 * SECOND + MARGIN));
        // moka panics if an entry is kept for a thousand years.
        let year = Duration::from_secs(366 * 86_400);
        assert_eq!(keep(Duration::MAX), Some(year));
    }

    #[test]
    fn a_withdrawn_mark_leaves_that_of_another_request() {
        let guard = ReplayGuard::default();
        let first = guard.mark([1; 32], WINDOW).unwrap();
        first.withdraw();
        assert!(!guard.is_accepted(&[1; 32]));
        let second = guard.mark([1; 32], WINDOW).unwrap();
        first.withdraw();
        assert!(guard.is_accepted(&[1; 32]));
        second.withdraw();
        assert!(!guard.is_accepted(&[1; 32]));
    }
}
