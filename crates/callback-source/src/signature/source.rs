//! Sources of secrets and tokens.

use std::{collections::HashMap, error::Error, fmt, future::Future, sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::time::Instant;

use super::{Secret, Secrets, Token};
use crate::{MessageRejection, MessageRejectionKind};

/// Source of the secrets ([`Secret`]) or tokens (`T` = [`Token`]) for a request.
///
/// Secrets and tokens are looked up by an id. In the signature layer, the id is the `webhook-id` of the registration.
/// In the token layer, it is the path. In both layers, `select_by` can replace this id with another, such as the id of
/// a sale unit or an order. The id has not been verified. The following are sources:
///
/// - a [`Secret`], a [`Token`], or a list of them ([`Secrets`]), which is used for every id;
/// - a `HashMap` whose keys are the ids;
/// - a closure that returns a future of [`Secrets`]. Wrap the closure in [`CachedSecrets`], which caches the secrets in
///   bounded memory.
///
/// A request is refused if its id has no secrets. An error results in 503, since the request may be genuine.
///
/// ```
/// use std::{collections::HashMap, io, time::Duration};
/// use callback_source::signature::{CachedSecrets, Secret, Secrets, VerifySignatureLayer};
///
/// let one = Secret::new("of the only registration")?;
/// VerifySignatureLayer::rejecting(one.clone());
///
/// let id = "683c3fbe-6bd8-44e0-b9ef-a8b1a4aa0b0c".to_owned();
/// VerifySignatureLayer::rejecting(HashMap::from([(id, Secrets::from(one))]));
///
/// async fn from_vault(id: &str) -> io::Result<Secrets> {
/// #   let _ = id;
///     // …
///     Ok(Secrets::default())
/// }
/// let vault = |id: Option<String>| async move {
///     match id {
///         Some(id) => from_vault(&id).await,
///         None => Ok(Secrets::default()),
///     }
/// };
/// VerifySignatureLayer::rejecting(CachedSecrets::new(vault, Duration::from_secs(60)));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub trait SecretSource<T = Secret>: Send + Sync + 'static {
    /// Looks up the secrets for a request. An empty list means that the id is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the secrets are not available right now.
    fn secrets(
        &self,
        id: Option<&str>,
    ) -> impl Future<Output = Result<Secrets<T>, SecretUnavailable>> + Send;
}

impl<F, Fut, T, E> SecretSource<T> for F
where
    F: Fn(Option<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Secrets<T>, E>> + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    async fn secrets(&self, id: Option<&str>) -> Result<Secrets<T>, SecretUnavailable> {
        self(id.map(str::to_owned))
            .await
            .map_err(SecretUnavailable::new)
    }
}

impl SecretSource for Secret {
    async fn secrets(&self, _: Option<&str>) -> Result<Secrets, SecretUnavailable> {
        Ok(self.clone().into())
    }
}

impl SecretSource<Self> for Token {
    async fn secrets(&self, _: Option<&str>) -> Result<Secrets<Self>, SecretUnavailable> {
        Ok(self.clone().into())
    }
}

impl<T: Send + Sync + 'static> SecretSource<T> for Secrets<T> {
    async fn secrets(&self, _: Option<&str>) -> Result<Self, SecretUnavailable> {
        Ok(self.clone())
    }
}

impl<T: Send + Sync + 'static> SecretSource<T> for HashMap<String, Secrets<T>> {
    async fn secrets(&self, id: Option<&str>) -> Result<Secrets<T>, SecretUnavailable> {
        let known = id.and_then(|id| self.get(id));
        Ok(known.cloned().unwrap_or_default())
    }
}

/// Error for secrets that are not available: their store failed, or did not respond in time.
///
/// The cause is the [`source`](Error::source). It is logged, so it must not contain secrets.
///
/// A custom source returns this error for a failure, and an empty list for an unknown id. The layers respond with 503
/// to a failure, and with 401 to an unknown id:
///
/// ```
/// use std::{collections::HashMap, io, sync::RwLock};
/// use callback_source::signature::{Secret, SecretSource, SecretUnavailable, Secrets};
///
/// /// Secrets that the admin pages of the shop can change.
/// struct Registrations(RwLock<HashMap<String, Secrets>>);
///
/// impl SecretSource for Registrations {
///     async fn secrets(&self, id: Option<&str>) -> Result<Secrets, SecretUnavailable> {
///         let registrations = self.0.read().map_err(|_| SecretUnavailable::new("an update failed"))?;
///         Ok(id.and_then(|id| registrations.get(id)).cloned().unwrap_or_default())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let one = ("683c3fbe".to_owned(), Secrets::from(Secret::new("of the registration")?));
/// let registrations = Registrations(RwLock::new(HashMap::from([one])));
/// assert_eq!(registrations.secrets(Some("683c3fbe")).await?.len(), 1);
/// assert!(registrations.secrets(None).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SecretUnavailable(Arc<dyn Error + Send + Sync>);

impl SecretUnavailable {
    /// Creates an error with this cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into().into())
    }
}

impl fmt::Display for SecretUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secrets are not available")
    }
}

impl Error for SecretUnavailable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl From<SecretUnavailable> for MessageRejection {
    fn from(unavailable: SecretUnavailable) -> Self {
        Self::with_cause(MessageRejectionKind::SecretUnavailable, unavailable.0)
    }
}

/// Cache in front of a [`SecretSource`].
///
/// Only one lookup at a time runs for each id, and all waiting requests share its outcome. Failures are not cached.
/// An id without secrets is cached for at most ten seconds.
///
/// Callers choose the ids, so the memory is bounded in bytes. Ids that have secrets may use 16 MiB, which suffices for
/// about 15,000 ids with one secret each. Ids that have no secrets may use 1 MiB. When the memory is full, the ids that
/// are looked up most often stay. An id of more than 1,024 bytes is treated as unknown, without a lookup.
///
/// ```
/// use std::{io, sync::{Arc, atomic::{AtomicU32, Ordering}}, time::Duration};
/// use callback_source::signature::{CachedSecrets, Secret, SecretSource, Secrets};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lookups = Arc::new(AtomicU32::new(0));
/// let counter = Arc::clone(&lookups);
/// let vault = move |_: Option<String>| {
///     counter.fetch_add(1, Ordering::Relaxed);
///     async { Secret::new("of the registration").map(Secrets::from).map_err(io::Error::other) }
/// };
/// // A secret that is withdrawn must stop working within a minute.
/// let cached = CachedSecrets::new(vault, Duration::from_secs(60));
/// for (pause, expected) in [(0, 1), (30, 1), (30, 2)] {
///     tokio::time::sleep(Duration::from_secs(pause)).await;
///     assert_eq!(cached.secrets(Some("683c3fbe")).await?.len(), 1);
///     assert_eq!(lookups.load(Ordering::Relaxed), expected);
/// }
/// # Ok(())
/// # }
/// ```
pub struct CachedSecrets<S, T = Secret> {
    source: S,
    known: Cache<String, Loaded<T>>,
    /// Ids without secrets, with the time of their lookup.
    unknown: Cache<String, Instant>,
    ttl: Duration,
}

/// Secrets with the time of their lookup. The time is stored here, since moka uses another clock (see `answer_cache`).
struct Loaded<T> {
    secrets: Secrets<T>,
    at: Instant,
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Self {
            secrets: self.secrets.clone(),
            at: self.at,
        }
    }
}

impl<S, T> CachedSecrets<S, T>
where
    S: SecretSource<T>,
    T: Send + Sync + 'static,
{
    /// Creates a cache whose entries stay for at most `ttl`, or for at most a day if `ttl` is longer. While the entry
    /// of an id stays, a secret that the source has withdrawn is still accepted, and a secret that the source has added
    /// to the id is refused.
    ///
    /// There is no default: only the deployer knows how fast a withdrawn secret must stop working.
    #[must_use]
    pub fn new(source: S, ttl: Duration) -> Self {
        let ttl = ttl.min(A_DAY);
        Self {
            source,
            known: Cache::builder()
                .max_capacity(MAX_KNOWN)
                .weigher(|id: &String, loaded: &Loaded<T>| {
                    weight(id).saturating_add(weight_of_secrets(loaded.secrets.len()))
                })
                .time_to_live(ttl)
                .build(),
            unknown: Cache::builder()
                .max_capacity(MAX_UNKNOWN)
                .weigher(|id: &String, _: &Instant| weight(id))
                .time_to_live(ttl.min(UNKNOWN_REMEMBERED))
                .build(),
            ttl,
        }
    }

    fn is_fresh(&self, loaded: &Loaded<T>) -> bool {
        loaded.at.elapsed() < self.ttl
    }
}

impl<S, T> SecretSource<T> for CachedSecrets<S, T>
where
    S: SecretSource<T>,
    T: Send + Sync + 'static,
{
    async fn secrets(&self, id: Option<&str>) -> Result<Secrets<T>, SecretUnavailable> {
        // The layers never look up an empty id, so the empty key stands for a missing id.
        let key = id.unwrap_or_default();
        if MAX_ID < key.len() {
            return Ok(Secrets::default());
        }
        if let Some(loaded) = self.known.get(key).await {
            if self.is_fresh(&loaded) {
                return Ok(loaded.secrets);
            }
            // Removes only an expired entry, since another request may have replaced the entry meanwhile.
            let forget = |entry: Option<moka::Entry<String, Loaded<T>>>| {
                let is_old = entry.is_some_and(|entry| !self.is_fresh(entry.value()));
                std::future::ready(if is_old {
                    moka::ops::compute::Op::Remove
                } else {
                    moka::ops::compute::Op::Nop
                })
            };
            let entry = self.known.entry_by_ref(key);
            let _ = entry.and_compute_with(forget).await;
        }
        if let Some(at) = self.unknown.get(key).await
            && at.elapsed() < self.ttl.min(UNKNOWN_REMEMBERED)
        {
            return Ok(Secrets::default());
        }
        // All requests that wait share an error, but errors are not cached.
        let load = async {
            let secrets = self.source.secrets(id).await.map_err(Missing::Failed)?;
            let at = Instant::now();
            if secrets.is_empty() {
                self.unknown.insert(key.to_owned(), at).await;
                return Err(Missing::Unknown);
            }
            Ok(Loaded { secrets, at })
        };
        match self.known.try_get_with_by_ref(key, load).await {
            Ok(loaded) => Ok(loaded.secrets),
            Err(missing) => match &*missing {
                Missing::Unknown => Ok(Secrets::default()),
                Missing::Failed(error) => Err(error.clone()),
            },
        }
    }
}

/// The reason why no secrets were loaded.
enum Missing {
    Unknown,
    Failed(SecretUnavailable),
}

/// Returns the estimated size of an entry with this id, without its secrets.
fn weight(id: &str) -> u32 {
    let length = u32::try_from(id.len()).unwrap_or(u32::MAX);
    length.saturating_add(OF_AN_ENTRY)
}

fn weight_of_secrets(count: usize) -> u32 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    count.saturating_mul(OF_A_SECRET)
}

impl<S, T> fmt::Debug for CachedSecrets<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedSecrets")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Maximum total size of the entries whose ids have secrets, in bytes.
const MAX_KNOWN: u64 = 16 * 1024 * 1024;
const MAX_UNKNOWN: u64 = 1024 * 1024;

/// Maximum length of an id, in bytes. By default, the id in the token layer is the request's path. A path with an order
/// number is shorter than this limit.
const MAX_ID: usize = 1024;

/// Estimated size of an entry without its id and secrets, in bytes. It includes moka's own part.
const OF_AN_ENTRY: u32 = 512;

/// Estimated size of a secret, in bytes.
const OF_A_SECRET: u32 = 512;

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest time for which an unknown id is cached. It is short, since deliveries for a new registration must not be
/// refused for long.
const UNKNOWN_REMEMBERED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TTL: Duration = Duration::from_secs(60);

    type Outcome = Result<Secrets, &'static str>;

    /// Returns a cache in front of a source that responds after a second, and the number of calls to that source.
    fn counted(
        outcome: impl Fn(Option<String>) -> Outcome + Send + Sync + 'static,
    ) -> (Arc<CachedSecrets<impl SecretSource>>, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let source = move |id: Option<String>| {
            counter.fetch_add(1, Ordering::Relaxed);
            let outcome = outcome(id);
            async move {
                sleep(SECOND).await;
                outcome
            }
        };
        (Arc::new(CachedSecrets::new(source, TTL)), calls)
    }

    fn secrets() -> Secrets {
        Secret::new("a").unwrap().into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_looked_up_again_after_its_cache_time() {
        let (cached, calls) = counted(|_| Ok(secrets()));
        for (pause, expected) in [(Duration::ZERO, 1), (TTL - SECOND / 2, 1), (SECOND / 2, 2)] {
            advance(pause).await;
            assert_eq!(cached.secrets(Some("a")).await.unwrap().len(), 1);
            assert_eq!(calls.load(Ordering::Relaxed), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_the_requests_that_wait_and_not_cached() {
        let (cached, calls) = counted(|_| Err("the vault is sealed"));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let cached = Arc::clone(&cached);
                tokio::spawn(async move { cached.secrets(Some("a")).await })
            })
            .collect();
        for task in waiting {
            let error = task.await.unwrap().unwrap_err();
            let cause = Error::source(&error).unwrap().to_string();
            assert_eq!(cause, "the vault is sealed");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        cached.secrets(Some("a")).await.unwrap_err();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_without_secrets_is_cached_for_only_ten_seconds() {
        let (cached, calls) = counted(|_| Ok(Secrets::default()));
        for (pause, expected) in [
            (Duration::ZERO, 1),
            (UNKNOWN_REMEMBERED - SECOND, 1),
            (SECOND, 2),
        ] {
            advance(pause).await;
            assert!(cached.secrets(Some("a")).await.unwrap().is_empty());
            assert_eq!(calls.load(Ordering::Relaxed), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_id_has_its_own_secrets() {
        let (cached, _) = counted(|id| match id.as_deref() {
            Some("a") => Ok(secrets()),
            _ => Ok(Secrets::default()),
        });
        assert_eq!(cached.secrets(Some("a")).await.unwrap().len(), 1);
        assert!(cached.secrets(Some("b")).await.unwrap().is_empty());
        assert!(cached.secrets(None).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_of_more_than_1024_bytes_is_unknown_without_a_lookup() {
        let (cached, calls) = counted(|_| Ok(secrets()));
        let longest = "x".repeat(MAX_ID);
        assert_eq!(cached.secrets(Some(&longest)).await.unwrap().len(), 1);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        for length in [MAX_ID + 1, 60_000] {
            let id = "x".repeat(length);
            assert!(cached.secrets(Some(&id)).await.unwrap().is_empty());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_ids_use_two_megabytes_at_most_and_displace_no_known_one() {
        let (cached, _) = counted(|id| match id {
            Some(id) if id.starts_with("known") => Ok(secrets()),
            Some(id) if id.starts_with("failing") => Err("no such table"),
            _ => Ok(Secrets::default()),
        });
        for number in 0..100 {
            let id = format!("known {number}");
            for _ in 0..10 {
                assert_eq!(cached.secrets(Some(&id)).await.unwrap().len(), 1);
            }
        }
        let filler = "x".repeat(MAX_ID);
        for number in 0..4_000 {
            let id = &format!("{number} {filler}")[..MAX_ID];
            assert!(cached.secrets(Some(id)).await.unwrap().is_empty());
            let id = format!("failing {number} {}", &filler[..900]);
            cached.secrets(Some(&id)).await.unwrap_err();
        }
        cached.known.run_pending_tasks().await;
        cached.unknown.run_pending_tasks().await;
        assert_eq!(cached.known.entry_count(), 100);
        assert!(cached.unknown.weighted_size() <= 1 << 20);
        let unknown = cached.unknown.entry_count();
        assert!((500..=700).contains(&unknown), "{unknown}");
    }

    #[tokio::test(start_paused = true)]
    async fn known_secrets_are_bounded_in_bytes() {
        let (cached, _) = counted(|_| {
            Ok([secrets()[0].clone(), secrets()[0].clone()]
                .into_iter()
                .collect())
        });
        for number in 0..12_000 {
            let id = format!("{number:0>900}");
            cached.secrets(Some(&id)).await.unwrap();
        }
        cached.known.run_pending_tasks().await;
        assert!(cached.known.weighted_size() <= 16 << 20);
        let known = cached.known.entry_count();
        let most = (16 << 20) / (900 + 3 * 512);
        assert!((most - 500..=most).contains(&known), "{known}");
    }

    #[test]
    fn an_error_of_a_source_has_a_text_and_a_cause() {
        let error = SecretUnavailable::new("down");
        assert_eq!(error.to_string(), "the secrets are not available");
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("down")
        );
    }

    #[test]
    fn a_withdrawn_secret_is_cached_for_a_day_at_most() {
        let day = Duration::from_secs(86_400);
        let ttl = |ttl| CachedSecrets::<_, Secret>::new(secrets(), ttl).ttl;
        assert_eq!(ttl(day + Duration::from_secs(1)), day);
        assert_eq!(
            ttl(day - Duration::from_secs(1)),
            day - Duration::from_secs(1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_withdrawn_is_accepted_until_its_cache_time_ends() {
        let (cached, calls) = {
            let gone = std::sync::atomic::AtomicBool::new(false);
            counted(move |_| match gone.swap(true, Ordering::Relaxed) {
                false => Ok(secrets()),
                true => Ok(Secrets::default()),
            })
        };
        assert_eq!(cached.secrets(Some("a")).await.unwrap().len(), 1);
        advance(TTL).await;
        for _ in 0..2 {
            assert!(cached.secrets(Some("a")).await.unwrap().is_empty());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_whose_request_is_dropped_is_repeated_by_the_next() {
        let (cached, calls) = counted(|_| Ok(secrets()));
        let leader = tokio::spawn({
            let cached = Arc::clone(&cached);
            async move { cached.secrets(Some("a")).await }
        });
        tokio::task::yield_now().await;
        leader.abort();
        assert_eq!(cached.secrets(Some("a")).await.unwrap().len(), 1);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
