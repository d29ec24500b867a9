//! Where secrets and tokens come from.

use std::{collections::HashMap, fmt, future::Future, time::Duration};

use moka::future::Cache;
use tokio::time::Instant;

use super::{Secret, SecretUnavailable, Secrets, Token};

/// Gives the secrets ([`Secret`]) or tokens (`T` = [`Token`]) that count for a request.
///
/// `id` says which: of the signature layer the `webhook-id` of the registration, of the token layer the
/// path, and of both what `select_by` makes of the request (a sale unit, an order). It is not proven
/// yet. The sources:
///
/// - a [`Secret`] or [`Token`], or [`Secrets`] of several: all are tried, whatever the id;
/// - a `HashMap` by id;
/// - a closure that gives a future of them, best within [`CachedSecrets`].
///
/// No secrets for an id refuse the request; an error is answered with 503, since it may be a genuine one.
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
    /// The secrets for a request; none if none is known.
    ///
    /// # Errors
    ///
    /// They cannot be had right now.
    fn secrets(
        &self,
        id: Option<&str>,
    ) -> impl Future<Output = Result<Secrets<T>, SecretUnavailable>> + Send;
}

impl<F, Fut, T, E> SecretSource<T> for F
where
    F: Fn(Option<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Secrets<T>, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
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

/// Remembers for a while what a [`SecretSource`] said.
///
/// One look-up at a time for each id; all who wait for it share what comes of it. Failures are not
/// remembered, and that there is no secret for an id is for at most ten seconds. At most 10,000 ids
/// are remembered, those asked for most.
pub struct CachedSecrets<S, T = Secret> {
    source: S,
    remembered: Cache<String, Loaded<T>>,
    ttl: Duration,
}

/// What was loaded, and when: moka's clock is not ours, see `answer_cache`.
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
    /// Remembers for `ttl`, at most a day: for so long a secret counts that was withdrawn at its source.
    #[must_use]
    pub fn new(source: S, ttl: Duration) -> Self {
        let ttl = ttl.min(A_DAY);
        Self {
            source,
            remembered: Cache::builder()
                .max_capacity(IDS_REMEMBERED)
                .time_to_live(ttl)
                .build(),
            ttl,
        }
    }

    fn is_fresh(&self, loaded: &Loaded<T>) -> bool {
        let ttl = if loaded.secrets.is_empty() {
            self.ttl.min(UNKNOWN_REMEMBERED)
        } else {
            self.ttl
        };
        loaded.at.elapsed() < ttl
    }
}

impl<S, T> SecretSource<T> for CachedSecrets<S, T>
where
    S: SecretSource<T>,
    T: Send + Sync + 'static,
{
    async fn secrets(&self, id: Option<&str>) -> Result<Secrets<T>, SecretUnavailable> {
        // The layers never ask for an empty id.
        let key = id.unwrap_or_default();
        if let Some(loaded) = self.remembered.get(key).await {
            if self.is_fresh(&loaded) {
                return Ok(loaded.secrets);
            }
            // Only if it is still the old one: another request may have replaced it meanwhile.
            let forget = |entry: Option<moka::Entry<String, Loaded<T>>>| {
                let is_old = entry.is_some_and(|entry| !self.is_fresh(entry.value()));
                std::future::ready(if is_old {
                    moka::ops::compute::Op::Remove
                } else {
                    moka::ops::compute::Op::Nop
                })
            };
            let entry = self.remembered.entry_by_ref(key);
            let _ = entry.and_compute_with(forget).await;
        }
        let load = async {
            let secrets = self.source.secrets(id).await?;
            let at = Instant::now();
            Ok(Loaded { secrets, at })
        };
        let loaded = self.remembered.try_get_with_by_ref(key, load).await;
        loaded
            .map(|loaded| loaded.secrets)
            .map_err(|error: std::sync::Arc<SecretUnavailable>| (*error).clone())
    }
}

impl<S, T> fmt::Debug for CachedSecrets<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedSecrets")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

const IDS_REMEMBERED: u64 = 10_000;
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A registration that was just made must not be refused for long.
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

    /// A source that takes a second and counts its calls.
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
    async fn a_secret_is_looked_up_again_when_its_time_ends() {
        let (cached, calls) = counted(|_| Ok(secrets()));
        for (pause, expected) in [(Duration::ZERO, 1), (TTL - SECOND / 2, 1), (SECOND / 2, 2)] {
            advance(pause).await;
            assert_eq!(cached.secrets(Some("a")).await.unwrap().len(), 1);
            assert_eq!(calls.load(Ordering::Relaxed), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_wait_and_not_remembered() {
        let (cached, calls) = counted(|_| Err("the vault is sealed"));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let cached = Arc::clone(&cached);
                tokio::spawn(async move { cached.secrets(Some("a")).await })
            })
            .collect();
        for task in waiting {
            let error = task.await.unwrap().unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(cause, "the vault is sealed");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        cached.secrets(Some("a")).await.unwrap_err();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_secret_is_remembered_for_ten_seconds_only() {
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
    async fn a_look_up_whose_request_leaves_is_made_by_the_next() {
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
