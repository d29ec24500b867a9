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
        let outcome = timeout(MAX_CALL, marking).await.unwrap_or_else(late);
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
        let removed = timeout(MAX_CALL, removing).await.unwrap_or_else(late);
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
const MAX_CALL: Duration = Duration::from_secs(30);

const ONCE_A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
