//! Replay marks that several processes share.

use std::{
    error::Error,
    fmt::{self, Write},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};

use super::log;
use crate::rate_limit::RateLimit;

/// Store through which the [`ReplayGuard`](super::ReplayGuard)s of several replicas share the marks of accepted
/// deliveries.
///
/// A store must support an atomic "set if absent", and an expiry. The feature `redis` provides `RedisReplayStore`. You
/// can also write a store, for example for a table in the service's own database:
///
/// ```
/// use std::time::Duration;
/// use callback_source::signature::{ReplayGuard, ReplayMark, ReplayStore, ReplayStoreError};
/// # async fn execute(_: &str, _: &[&str]) -> std::io::Result<u64> { Ok(1) }
///
/// struct Table;
///
/// impl ReplayStore for Table {
///     async fn mark(&self, mark: &ReplayMark, keep: Duration) -> Result<bool, ReplayStoreError> {
///         let until = format!("{} seconds", keep.as_secs());
///         let insert = "INSERT INTO marks VALUES ($1, $2, now() + $3::interval) ON CONFLICT DO NOTHING";
///         let rows = execute(insert, &[mark.key(), mark.owner(), &until]).await;
///         rows.map(|rows| rows == 1).map_err(ReplayStoreError::new)
///     }
///
///     async fn withdraw(&self, mark: &ReplayMark) -> Result<(), ReplayStoreError> {
///         let delete = "DELETE FROM marks WHERE key = $1 AND owner = $2";
///         let rows = execute(delete, &[mark.key(), mark.owner()]).await;
///         rows.map(drop).map_err(ReplayStoreError::new)
///     }
/// }
///
/// let guard = ReplayGuard::default().with_store(Table);
/// ```
pub trait ReplayStore: Send + Sync + 'static {
    /// Stores a mark for the time `keep`, unless the store has a mark with the same key. Returns `true` if the mark was
    /// stored.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is not available. The mark may have been stored nevertheless.
    fn mark(
        &self,
        mark: &ReplayMark,
        keep: Duration,
    ) -> impl Future<Output = Result<bool, ReplayStoreError>> + Send;

    /// Removes a mark, since its delivery was not accepted after all. A mark with another owner must stay.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is not available.
    fn withdraw(
        &self,
        mark: &ReplayMark,
    ) -> impl Future<Output = Result<(), ReplayStoreError>> + Send;
}

/// Mark of a delivery that a replica accepts. See [`ReplayStore`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayMark {
    key: String,
    owner: String,
}

impl ReplayMark {
    pub(super) fn new(signature: &[u8; 32]) -> Self {
        // A digest is stored instead of the signature, because a reader of the store must not learn a valid signature.
        let digest = Sha256::new()
            .chain_update(b"callback-source replay mark")
            .chain_update(signature)
            .finalize();
        let mut key = String::with_capacity(64);
        for byte in digest {
            let _ = write!(key, "{byte:02x}");
        }
        Self {
            key,
            owner: format!("{:032x}", fastrand::u128(..)),
        }
    }

    /// Returns the digest of the signature, in 64 hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the random number of this attempt to set the mark, in 32 hexadecimal digits.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

/// Error for a [`ReplayStore`] that is not available.
///
/// The cause is the [`source`](Error::source). It is logged, so it must not contain passwords.
#[derive(Clone)]
pub struct ReplayStoreError(Arc<dyn Error + Send + Sync>);

impl ReplayStoreError {
    /// Creates an error with this cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into().into())
    }
}

crate::debug::debug_by_message!(ReplayStoreError);

impl fmt::Display for ReplayStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store of replay marks is not available")
    }
}

impl Error for ReplayStoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// A store, with a limit on the number of calls in flight.
pub(super) struct SharedMarks {
    store: Box<dyn DynStore>,
    in_flight: Arc<Semaphore>,
    logged: Mutex<RateLimit>,
}

impl SharedMarks {
    pub(super) fn new(store: impl ReplayStore) -> Self {
        Self {
            store: Box::new(store),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            logged: Mutex::default(),
        }
    }

    /// Marks a signature, unless it is already marked, and waits for at most `limit`.
    ///
    /// The call runs in a separate task. If the call ran in the task of the request, it would be cancelled when the
    /// sender disconnects. The store could then have a mark that is never withdrawn, for a delivery that no handler has
    /// seen.
    pub(super) async fn mark(
        self: &Arc<Self>,
        signature: &[u8; 32],
        keep: Duration,
        limit: Duration,
    ) -> Marked {
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            let cause = format!("{MAX_IN_FLIGHT} calls to it have no answer yet");
            return Marked::Unavailable(None, ReplayStoreError::new(cause));
        };
        let stored = Unaccepted::new(self, ReplayMark::new(signature));
        let (respond, response) = oneshot::channel();
        let task = Arc::clone(stored.get()).run_mark(keep, permit, respond);
        stored.get().runtime.spawn(task);
        let late = |_| Ok(Err(ReplayStoreError::new("it took too long to respond")));
        match timeout(limit, response).await.unwrap_or_else(late) {
            Ok(Ok(true)) => Marked::Stored(stored),
            Ok(Ok(false)) => Marked::Replay,
            Ok(Err(error)) => Marked::Unavailable(Some(stored), error),
            // The task has panicked.
            Err(_) => Marked::Unavailable(Some(stored), ReplayStoreError::new("it panicked")),
        }
    }

    /// Counts a failure. Logs at most one failure per minute.
    pub(super) fn failed(&self, operation: &'static str, error: &ReplayStoreError, effect: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = logged.admits(ONCE_A_MINUTE, Instant::now().into_std());
        drop(logged);
        log::replay_store_failed(operation, error, effect, is_logged);
    }
}

/// Outcome of an attempt to mark a signature in a store.
pub(super) enum Marked {
    Stored(Unaccepted),
    /// The signature was marked before.
    Replay,
    /// The store failed, did not respond in time, or has too many calls in flight. This value contains the mark if the
    /// store may have stored it.
    Unavailable(Option<Unaccepted>, ReplayStoreError),
}

/// A mark in the store whose delivery has not reached the handler. The mark is withdrawn when this value is dropped.
pub(super) struct Unaccepted(Option<Arc<StoredMark>>);

impl Unaccepted {
    fn new(shared: &Arc<SharedMarks>, mark: ReplayMark) -> Self {
        Self(Some(Arc::new(StoredMark {
            shared: Arc::clone(shared),
            mark,
            state: AtomicU8::new(PENDING),
            // The mark may be withdrawn on a thread without a runtime.
            runtime: Handle::current(),
        })))
    }

    fn get(&self) -> &Arc<StoredMark> {
        self.0.as_ref().expect("only `accept` takes it, by value")
    }

    /// Keeps the mark until its `withdraw` is called.
    pub(super) fn accept(mut self) -> Arc<StoredMark> {
        self.0.take().expect("only `accept` takes it, by value")
    }
}

impl Drop for Unaccepted {
    fn drop(&mut self) {
        if let Some(stored) = &self.0 {
            stored.withdraw();
        }
    }
}

/// A mark that is in the store, or that is being stored.
///
/// `withdraw` and the task that stores the mark may run at the same time. If the mark was withdrawn while it was
/// pending, the task removes it. If the mark was already stored, `withdraw` removes it.
pub(super) struct StoredMark {
    shared: Arc<SharedMarks>,
    mark: ReplayMark,
    state: AtomicU8,
    runtime: Handle,
}

impl StoredMark {
    async fn run_mark(
        self: Arc<Self>,
        keep: Duration,
        permit: OwnedSemaphorePermit,
        respond: oneshot::Sender<Result<bool, ReplayStoreError>>,
    ) {
        let late = |_| Err(ReplayStoreError::new("it did not respond"));
        let marking = self.shared.store.mark(&self.mark, keep);
        let outcome = timeout(LONGEST_CALL, marking).await.unwrap_or_else(late);
        // After a failure, the mark may have been stored nevertheless.
        let is_stored = !matches!(outcome, Ok(false));
        let end = if is_stored { STORED } else { ABSENT };
        let exchanged =
            self.state
                .compare_exchange(PENDING, end, Ordering::AcqRel, Ordering::Acquire);
        let _ = respond.send(outcome);
        if exchanged.is_err() && is_stored {
            self.remove().await;
        }
        drop(permit);
    }

    /// Removes the mark. May be called more than once.
    pub(super) fn withdraw(self: &Arc<Self>) {
        if self.state.swap(WITHDRAWN, Ordering::AcqRel) == STORED {
            let stored = Arc::clone(self);
            self.runtime.spawn(async move { stored.remove().await });
        }
    }

    async fn remove(&self) {
        let late = |_| Err(ReplayStoreError::new("it did not respond"));
        let removing = self.shared.store.withdraw(&self.mark);
        let removed = timeout(LONGEST_CALL, removing).await.unwrap_or_else(late);
        if let Err(error) = removed {
            let effect = "a repetition of a refused delivery gets 409 until its mark ends";
            self.shared.failed("withdraw", &error, effect);
        }
    }
}

/// Version of [`ReplayStore`] that can be a trait object.
trait DynStore: Send + Sync {
    fn mark<'a>(&'a self, mark: &'a ReplayMark, keep: Duration) -> Call<'a, bool>;
    fn withdraw<'a>(&'a self, mark: &'a ReplayMark) -> Call<'a, ()>;
}

type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, ReplayStoreError>> + Send + 'a>>;

impl<S: ReplayStore> DynStore for S {
    fn mark<'a>(&'a self, mark: &'a ReplayMark, keep: Duration) -> Call<'a, bool> {
        Box::pin(ReplayStore::mark(self, mark, keep))
    }

    fn withdraw<'a>(&'a self, mark: &'a ReplayMark) -> Call<'a, ()> {
        Box::pin(ReplayStore::withdraw(self, mark))
    }
}

const PENDING: u8 = 0;
const STORED: u8 = 1;
const ABSENT: u8 = 2;
const WITHDRAWN: u8 = 3;

/// Maximum number of calls in flight. This number of calls uses about 2 MiB. Only correctly signed deliveries cause a
/// call, but a single such delivery can be repeated at will.
const MAX_IN_FLIGHT: usize = 1024;

/// Time limit of a call. It also applies after the request has stopped waiting for the call.
const LONGEST_CALL: Duration = Duration::from_secs(30);

const ONCE_A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        convert::Infallible,
        future::pending,
        sync::atomic::{AtomicBool, AtomicUsize},
        time::SystemTime,
    };

    use bytes::Bytes;
    use futures_util::FutureExt;
    use http::{Request, Response, StatusCode, Uri};
    use http_body_util::Full;
    use tokio::{
        sync::Notify,
        task::yield_now,
        time::{advance, sleep},
    };
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{
        MessageRejection, MessageRejectionKind, Policy,
        require::RequireVerifiedLayer,
        signature::{ReplayGuard, Secret, VerifySignatureLayer, webhook},
    };

    /// A store in memory, with simulated faults.
    #[derive(Clone, Default)]
    struct Memory(Arc<State>);

    #[derive(Default)]
    struct State {
        marks: Mutex<HashMap<String, (String, Instant)>>,
        calls: AtomicUsize,
        is_down: AtomicBool,
        panics: AtomicBool,
        /// `true` if calls wait until they are released, before they reach the store.
        is_slow: AtomicBool,
        release: Notify,
    }

    impl Memory {
        async fn reach(&self) -> Result<(), ReplayStoreError> {
            self.0.calls.fetch_add(1, Ordering::Relaxed);
            assert!(!self.0.panics.load(Ordering::Relaxed), "as planned");
            if self.0.is_slow.load(Ordering::Relaxed) {
                self.0.release.notified().await;
            }
            match self.0.is_down.load(Ordering::Relaxed) {
                true => Err(ReplayStoreError::new("connection refused")),
                false => Ok(()),
            }
        }

        fn len(&self) -> usize {
            self.0.marks.lock().unwrap().len()
        }
    }

    impl ReplayStore for Memory {
        async fn mark(&self, mark: &ReplayMark, keep: Duration) -> Result<bool, ReplayStoreError> {
            self.reach().await?;
            let mut marks = self.0.marks.lock().unwrap();
            let is_marked = marks
                .get(mark.key())
                .is_some_and(|(_, until)| Instant::now() < *until);
            if !is_marked {
                let until = Instant::now() + keep;
                marks.insert(mark.key().to_owned(), (mark.owner().to_owned(), until));
            }
            Ok(!is_marked)
        }

        async fn withdraw(&self, mark: &ReplayMark) -> Result<(), ReplayStoreError> {
            self.reach().await?;
            let mut marks = self.0.marks.lock().unwrap();
            if marks
                .get(mark.key())
                .is_some_and(|(owner, _)| owner == mark.owner())
            {
                marks.remove(mark.key());
            }
            Ok(())
        }
    }

    fn secret() -> Secret {
        Secret::new("of the registration").unwrap()
    }

    fn delivery(body: &'static str) -> Request<Full<Bytes>> {
        let url = Uri::from_static("https://shop.example/hooks");
        let mut request = Request::post("/hooks").body(Full::from(body)).unwrap();
        *request.headers_mut() =
            webhook::sign(&secret(), &url, body.as_bytes(), SystemTime::now()).unwrap();
        request
    }

    /// Sends a delivery to a replica with this guard. Returns the status, and the kind of the rejection.
    async fn deliver(
        guard: &ReplayGuard,
        request: Request<Full<Bytes>>,
    ) -> (StatusCode, Option<MessageRejectionKind>) {
        let handler = service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("received")))
        });
        let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(guard.clone());
        let response = layer.layer(handler).oneshot(request).await.unwrap();
        let rejection = response.extensions().get::<MessageRejection>();
        let kind = rejection.map(MessageRejection::kind);
        (response.status(), kind)
    }

    async fn status(guard: &ReplayGuard, request: Request<Full<Bytes>>) -> u16 {
        deliver(guard, request).await.0.as_u16()
    }

    /// Returns the guards of two processes that share a store.
    fn replicas(store: &Memory) -> [ReplayGuard; 2] {
        [(), ()].map(|()| ReplayGuard::default().with_store(store.clone()))
    }

    /// Lets the tasks of the store run.
    async fn settle() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_a_minute() {
        let marks = SharedMarks::new(Memory::default());
        let is_logged = || {
            marks.failed("mark", &ReplayStoreError::new("down"), "let through");
            let mut logged = *marks.logged.lock().unwrap();
            !logged.admits(Duration::from_nanos(1), Instant::now().into_std())
        };
        assert!(is_logged());
        advance(Duration::from_secs(59)).await;
        assert!(!is_logged());
        advance(Duration::from_secs(1)).await;
        assert!(is_logged());
    }

    #[test]
    fn an_error_of_a_store_has_a_text_and_a_cause() {
        let error = ReplayStoreError::new("down");
        assert_eq!(
            error.to_string(),
            "the store of replay marks is not available"
        );
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("down")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_is_accepted_by_one_of_two_replicas() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        let request = delivery("paid");
        assert_eq!(status(&first, request.clone()).await, 200);
        assert_eq!(status(&second, request.clone()).await, 409);
        assert_eq!(status(&first, request).await, 409);
        // A mark does not affect another delivery.
        assert_eq!(status(&second, delivery("refunded")).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn of_copies_at_the_same_time_one_replica_accepts_one() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        let request = delivery("paid");
        let copies = (0..8).map(|copy| {
            let guard = [&first, &second][copy % 2];
            status(guard, request.clone())
        });
        let statuses = futures_util::future::join_all(copies).await;
        let accepted = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(accepted, 1, "{statuses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_ends_with_the_window() {
        let store = Memory::default();
        let [first, _] = replicas(&store);
        assert_eq!(status(&first, delivery("paid")).await, 200);
        let (_, until) = store
            .0
            .marks
            .lock()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone();
        // Two windows of five minutes, plus a minute.
        assert_eq!(until - Instant::now(), Duration::from_secs(11 * 60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_key_of_a_mark_does_not_reveal_the_signature() {
        let store = Memory::default();
        let [first, _] = replicas(&store);
        let request = delivery("paid");
        let sent = format!("{:?}", request.headers());
        assert_eq!(status(&first, request).await, 200);
        let key = store.0.marks.lock().unwrap().keys().next().unwrap().clone();
        assert_eq!(key.len(), 64);
        assert!(!sent.contains(&key));
        let one = ReplayMark::new(&[1; 32]);
        assert_eq!(one.key(), ReplayMark::new(&[1; 32]).key());
        assert_ne!(one.owner(), ReplayMark::new(&[1; 32]).owner());
        assert_ne!(one.key(), ReplayMark::new(&[2; 32]).key());
        assert!(!one.key().contains("0101010101"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_its_store_a_guard_lets_a_delivery_through_once_per_replica() {
        for break_store in [
            |state: &State| state.is_down.store(true, Ordering::Relaxed),
            |state: &State| state.panics.store(true, Ordering::Relaxed),
        ] {
            let store = Memory::default();
            let [first, second] = replicas(&store);
            break_store(&store.0);
            let request = delivery("paid");
            assert_eq!(status(&first, request.clone()).await, 200);
            assert_eq!(status(&first, request.clone()).await, 409);
            assert_eq!(status(&second, request).await, 200);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_requires_its_store_answers_503_and_accepts_a_repetition_later() {
        let store = Memory::default();
        let [first, second] = replicas(&store).map(ReplayGuard::require_store);
        store.0.is_down.store(true, Ordering::Relaxed);
        let request = delivery("paid");
        let (status_down, kind) = deliver(&first, request.clone()).await;
        assert_eq!(status_down, StatusCode::SERVICE_UNAVAILABLE);
        let unavailable = MessageRejectionKind::ReplayStoreUnavailable;
        assert_eq!(kind, Some(unavailable));
        let rejection = MessageRejection::new(unavailable);
        assert!(rejection.retry_after().is_some());
        settle().await;
        store.0.is_down.store(false, Ordering::Relaxed);
        assert_eq!(status(&first, request.clone()).await, 200);
        assert_eq!(status(&second, request).await, 409);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_delays_a_delivery_for_the_time_limit_only() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        store.0.is_slow.store(true, Ordering::Relaxed);
        let start = Instant::now();
        let request = delivery("paid");
        assert_eq!(status(&first, request.clone()).await, 200);
        assert_eq!(start.elapsed(), Duration::from_millis(500));
        // The late mark is kept: the delivery reached its handler.
        store.0.is_slow.store(false, Ordering::Relaxed);
        store.0.release.notify_waiters();
        settle().await;
        assert_eq!(status(&second, request).await, 409);

        let patient = ReplayGuard::default()
            .with_store(store.clone())
            .store_time_limit(Duration::from_secs(2));
        store.0.is_slow.store(true, Ordering::Relaxed);
        let start = Instant::now();
        assert_eq!(status(&patient, delivery("refunded")).await, 200);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_arrives_after_a_503_is_withdrawn() {
        let store = Memory::default();
        let [first, second] = replicas(&store).map(ReplayGuard::require_store);
        store.0.is_slow.store(true, Ordering::Relaxed);
        let request = delivery("paid");
        assert_eq!(status(&first, request.clone()).await, 503);
        store.0.is_slow.store(false, Ordering::Relaxed);
        store.0.release.notify_waiters();
        settle().await;
        assert_eq!(store.len(), 0);
        assert_eq!(status(&second, request).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_leaves_while_the_store_works_leaves_no_mark() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        store.0.is_slow.store(true, Ordering::Relaxed);
        let request = delivery("paid");
        let mut left = Box::pin(status(&first, request.clone()));
        while store.0.calls.load(Ordering::Relaxed) == 0 {
            assert!((&mut left).now_or_never().is_none());
            yield_now().await;
        }
        drop(left);
        store.0.is_slow.store(false, Ordering::Relaxed);
        store.0.release.notify_waiters();
        settle().await;
        assert_eq!(store.0.calls.load(Ordering::Relaxed), 2);
        assert_eq!(store.len(), 0);
        assert_eq!(status(&second, request).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_is_refused_inside_is_accepted_by_another_replica() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        // Without a source check, the policy refuses everything.
        let handler = service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("received")))
        });
        let inner = RequireVerifiedLayer::new(Policy::Both).layer(handler);
        let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(first);
        let request = delivery("paid");
        let response = layer.layer(inner).oneshot(request.clone()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        settle().await;
        assert_eq!(store.len(), 0);
        assert_eq!(status(&second, request).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_leaves_while_the_handler_works_leaves_the_mark() {
        let store = Memory::default();
        let [first, second] = replicas(&store);
        let called = Arc::new(Notify::new());
        let handler = {
            let called = Arc::clone(&called);
            service_fn(move |_: Request<Full<Bytes>>| {
                called.notify_one();
                pending::<Result<Response<Full<Bytes>>, Infallible>>()
            })
        };
        let layer = VerifySignatureLayer::rejecting(secret()).replay_guard(first);
        let request = delivery("paid");
        let working = tokio::spawn(layer.layer(handler).oneshot(request.clone()));
        called.notified().await;
        working.abort();
        settle().await;
        assert_eq!(status(&second, request).await, 409);
    }

    #[tokio::test(start_paused = true)]
    async fn only_deliveries_with_a_valid_signature_reach_the_store() {
        let store = Memory::default();
        let [first, _] = replicas(&store);
        let mut forged = delivery("paid");
        *forged.body_mut() = Full::from("forged");
        assert_eq!(status(&first, forged).await, 401);
        let unsigned = Request::post("/hooks").body(Full::default()).unwrap();
        assert_eq!(status(&first, unsigned).await, 401);
        assert_eq!(store.0.calls.load(Ordering::Relaxed), 0);
        // A repetition that the process remembers does not cause a call either.
        let request = delivery("paid");
        assert_eq!(status(&first, request.clone()).await, 200);
        assert_eq!(status(&first, request).await, 409);
        assert_eq!(store.0.calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_one_delivery_cannot_fill_the_memory_while_the_store_is_silent() {
        let store = Memory::default();
        let [first, _] = replicas(&store);
        let first = first.require_store();
        store.0.is_slow.store(true, Ordering::Relaxed);
        let request = delivery("paid");
        let copies = (0..2 * MAX_IN_FLIGHT).map(|_| status(&first, request.clone()));
        let statuses = futures_util::future::join_all(copies).await;
        assert!(statuses.iter().all(|status| *status == 503));
        assert_eq!(store.0.calls.load(Ordering::Relaxed), MAX_IN_FLIGHT);
        // A call to a silent store releases its slot after the time limit.
        sleep(LONGEST_CALL).await;
        settle().await;
        advance(LONGEST_CALL).await;
        settle().await;
        store.0.is_slow.store(false, Ordering::Relaxed);
        assert_eq!(status(&first, delivery("refunded")).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_withdrawn_once_and_never_that_of_another_replica() {
        let store = Memory::default();
        let shared = Arc::new(SharedMarks::new(store.clone()));
        let keep = Duration::from_secs(660);
        let limit = Duration::from_millis(500);
        let Marked::Stored(first) = shared.mark(&[1; 32], keep, limit).await else {
            panic!("the store is empty")
        };
        let first = first.accept();
        advance(keep).await;
        let Marked::Stored(second) = shared.mark(&[1; 32], keep, limit).await else {
            panic!("the first mark has ended")
        };
        let second = second.accept();
        first.withdraw();
        settle().await;
        assert_eq!(store.len(), 1);
        second.withdraw();
        second.withdraw();
        settle().await;
        assert_eq!(store.len(), 0);
        assert_eq!(store.0.calls.load(Ordering::Relaxed), 4);
    }
}
