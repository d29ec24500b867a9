//! Cache of the last result of each question. It enforces the refresh interval floor.
//!
//! The cache has two purposes. It allows only one lookup of a question at a time, through moka's entry API. It also
//! keeps results for a limited time, for a host that is removed and put back. The [schedule](super::schedule) decides
//! when a question is asked, and never selects a question that is in flight. The refresher passes the refresh interval
//! floor with each question.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use moka::{
    Expiry,
    future::Cache,
    ops::compute::{CompResult, Op},
};
use tokio::time::timeout;

use crate::{
    Answer, Question, Resolve, ResolveError, ResolveErrorKind, list::clock::now, set::before,
};

/// The last result of each question, including failures.
///
/// When an entry is read, its age is measured with tokio's clock. moka's own expiry only frees memory.
pub(crate) struct AnswerCache {
    entries: Cache<Question, Entry>,
    resolver: Box<dyn DynResolve>,
    time_limit: Duration,
    /// The sum of all sleeps of the machine, in nanoseconds. `Instant` does not include sleeps.
    slept: AtomicU64,
}

/// The last lookup of a question.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The time at which the question was asked, minus the time that the machine has slept since then.
    pub(crate) asked_at: Instant,
    pub(crate) outcome: Outcome,
}

/// Result of a call of `AnswerCache::ask`.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The result of the lookup that this call made.
    New(Result<Answer, ResolveError>),
    /// The result of a lookup that was made less than the refresh interval floor ago. The TTL is reduced by the age of
    /// the answer.
    Cached(Result<Answer, ResolveError>),
}

impl AnswerCache {
    /// Creates an empty cache. `time_limit` is the time limit of each call of the resolver.
    pub(crate) fn new(resolver: impl Resolve, time_limit: Duration) -> Self {
        Self {
            // No capacity limit, because a full moka cache can reject new entries. The configured hosts limit the
            // number of questions.
            entries: Cache::builder().expire_after(ByTtl).build(),
            resolver: Box::new(resolver),
            time_limit,
            slept: AtomicU64::new(0),
        }
    }

    /// Asks a question, unless it was asked less than `floor` ago.
    pub(crate) async fn ask(&self, question: Question, floor: Duration) -> Lookup {
        let replace = async |last: Option<moka::Entry<Question, Entry>>| {
            let (asked_at, slept) = (now(), self.slept.load(Ordering::Relaxed));
            let is_recent = |last: &Entry| asked_at - self.awake(last, last.asked_at) < floor;
            if last.is_some_and(|last| is_recent(last.value())) {
                #[cfg(callback_source_simulation)]
                let share = !crate::simulation::planted(crate::simulation::Fault::RefreshNotShared);
                #[cfg(not(callback_source_simulation))]
                let share = true;
                if share {
                    return Op::Nop;
                }
            }
            let result = self.resolve(question.clone()).await;
            let ttl = match &result {
                Ok(answer) => answer.ttl(),
                Err(error) => error.negative_ttl().unwrap_or_default(),
            };
            Op::Put(Entry {
                asked_at,
                answered_at: now(),
                slept,
                // At least `floor`, so that moka's expiry never shortens the refresh interval floor.
                keep: ttl.clamp(MIN_KEPT, MAX_KEPT).max(floor),
                result,
            })
        };
        let computed = self
            .entries
            .entry(question.clone())
            .and_compute_with(replace)
            .await;
        match computed {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) => {
                let entry = entry.into_value();
                Lookup {
                    asked_at: self.awake(&entry, entry.asked_at),
                    outcome: Outcome::New(entry.result),
                }
            }
            CompResult::Unchanged(entry) | CompResult::Removed(entry) => {
                let entry = entry.into_value();
                let answered_at = self.awake(&entry, entry.answered_at);
                let age = now().saturating_duration_since(answered_at);
                let rest = |answer: Answer| {
                    let ttl = answer.ttl().saturating_sub(age);
                    Answer::new(answer.addresses().iter().copied(), ttl)
                };
                Lookup {
                    asked_at: self.awake(&entry, entry.asked_at),
                    outcome: Outcome::Cached(entry.result.map(rest)),
                }
            }
            // Unreachable: the closure returns `Nop` only for an existing entry.
            CompResult::StillNone(_) => Lookup {
                asked_at: now(),
                outcome: Outcome::Cached(Err(ResolveError::new(ResolveErrorKind::Other))),
            },
        }
    }

    /// Adds a sleep of the machine to the age of every entry.
    pub(crate) fn slept(&self, slept: Duration) {
        let slept = u64::try_from(slept.as_nanos()).unwrap_or(u64::MAX);
        self.slept.fetch_add(slept, Ordering::Relaxed);
    }

    /// Returns `at`, a time of the entry, minus the time that the machine has slept since the entry's question was
    /// asked.
    fn awake(&self, entry: &Entry, at: Instant) -> Instant {
        let slept = self.slept.load(Ordering::Relaxed) - entry.slept;
        before(at, Duration::from_nanos(slept))
    }

    /// Calls the resolver once. The call ends within the time limit, unless the resolver blocks the thread. A lookup
    /// that never ended would block every later lookup of the question.
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        // Both the call of `resolve` and its future may panic.
        let call = AssertUnwindSafe(async { self.resolver.resolve(question).await });
        match timeout(self.time_limit, call.catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                let error = ResolveError::new(ResolveErrorKind::Panicked);
                Err(error.with_cause(text.unwrap_or_else(|| "no message".to_owned())))
            }
            Err(_) => Err(ResolveError::new(ResolveErrorKind::Timeout)),
        }
    }
}

impl std::fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerCache")
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Entry {
    asked_at: Instant,
    answered_at: Instant,
    /// The sum of all sleeps of the machine up to the time when the question was asked, in nanoseconds.
    slept: u64,
    keep: Duration,
    result: Result<Answer, ResolveError>,
}

/// Expires each entry after the time in its field `keep`. The times that moka passes as arguments are ignored.
struct ByTtl;

impl Expiry<Question, Entry> for ByTtl {
    fn expire_after_create(&self, _: &Question, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.keep)
    }

    // The default implementation keeps the expiry of the old entry, so a refreshed entry would be removed too early.
    fn expire_after_update(
        &self,
        _: &Question,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.keep)
    }
}

/// Dyn-compatible form of [`Resolve`].
trait DynResolve: Send + Sync {
    fn resolve(
        &self,
        question: Question,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, ResolveError>> + Send + '_>>;
}

impl<R: Resolve> DynResolve for R {
    fn resolve(
        &self,
        question: Question,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, ResolveError>> + Send + '_>> {
        Box::pin(Resolve::resolve(self, question))
    }
}

/// The minimum time for which moka keeps an entry, so that moka's clock never shortens the refresh interval
/// floor.
const MIN_KEPT: Duration = Duration::from_secs(60);

/// The maximum time for which moka keeps an entry, unless the refresh interval floor is longer. An entry that is older
/// than the floor is never used.
const MAX_KEPT: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::Family;

    const SECOND: Duration = Duration::from_secs(1);
    const FLOOR: Duration = Duration::from_secs(5);

    fn question() -> Question {
        Question {
            host: "h.test".parse().unwrap(),
            family: Family::V4,
        }
    }

    fn answer(ttl: u64) -> Answer {
        Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(ttl))
    }

    /// Returns a cache and the number of calls of its resolver. Each call takes one second.
    fn counted(outcome: Result<Answer, ResolveError>) -> (Arc<AnswerCache>, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let resolver = move |_: Question| {
            counter.fetch_add(1, Ordering::Relaxed);
            let outcome = outcome.clone();
            async move {
                sleep(SECOND).await;
                outcome
            }
        };
        (Arc::new(AnswerCache::new(resolver, FLOOR)), calls)
    }

    async fn is_asked(cache: &AnswerCache) -> bool {
        matches!(cache.ask(question(), FLOOR).await.outcome, Outcome::New(_))
    }

    fn new(lookup: Lookup) -> Result<Answer, ResolveError> {
        match lookup.outcome {
            Outcome::New(result) => result,
            Outcome::Cached(result) => panic!("cached: {result:?}"),
        }
    }

    fn cached(lookup: Lookup) -> Result<Answer, ResolveError> {
        match lookup.outcome {
            Outcome::New(result) => panic!("new: {result:?}"),
            Outcome::Cached(result) => result,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_at_most_once_per_interval_floor_whatever_its_result() {
        let failure = ResolveError::new(ResolveErrorKind::ServFail);
        for outcome in [Ok(answer(0)), Ok(answer(3600)), Err(failure)] {
            let (cache, calls) = counted(outcome);
            assert!(is_asked(&cache).await);
            advance(FLOOR - SECOND - Duration::from_millis(1)).await;
            assert!(!is_asked(&cache).await);
            advance(Duration::from_millis(1)).await;
            assert!(
                is_asked(&cache).await,
                "one interval floor after it was asked"
            );
            assert!(!is_asked(&cache).await, "asked again");
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn moka_drops_an_entry_after_its_own_time_not_after_that_of_its_predecessor() {
        let entry = Entry {
            asked_at: now(),
            answered_at: now(),
            slept: 0,
            keep: 70 * SECOND,
            result: Ok(answer(70)),
        };
        let now = now();
        let created = ByTtl.expire_after_create(&question(), &entry, now);
        let updated = ByTtl.expire_after_update(&question(), &entry, now, Some(SECOND));
        assert_eq!([created, updated], [Some(entry.keep); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cached_result_has_the_time_of_its_lookup_and_the_rest_of_its_ttl() {
        let (cache, _) = counted(Ok(answer(60)));
        let start = now();
        assert_eq!(cache.ask(question(), FLOOR).await.asked_at, start);
        advance(3 * SECOND).await;
        let lookup = cache.ask(question(), FLOOR).await;
        assert_eq!(lookup.asked_at, start);
        // The lookup took one second, so the answer is three seconds old.
        assert_eq!(cached(lookup).unwrap().ttl(), 57 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_of_the_machine_adds_to_the_age_of_an_entry() {
        let (cache, calls) = counted(Ok(answer(60)));
        let start = now();
        assert!(is_asked(&cache).await);
        cache.slept(2 * SECOND);
        let lookup = cache.ask(question(), FLOOR).await;
        assert_eq!(lookup.asked_at, start - 2 * SECOND);
        assert_eq!(cached(lookup).unwrap().ttl(), 58 * SECOND);
        cache.slept(2 * SECOND);
        assert!(is_asked(&cache).await, "one interval floor ago");
        assert!(!is_asked(&cache).await, "the sleep was before it");
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_the_same_moment_share_one_flight() {
        let (cache, calls) = counted(Ok(answer(60)));
        let asking = (0..100).map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { is_asked(&cache).await })
        });
        let asking: Vec<_> = asking.collect();
        let mut asked = 0;
        for task in asking {
            asked += usize::from(task.await.unwrap());
        }
        assert_eq!((asked, calls.load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn another_caller_asks_when_the_first_one_leaves() {
        let (cache, calls) = counted(Ok(answer(60)));
        let leader = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { is_asked(&cache).await }
        });
        tokio::task::yield_now().await;
        leader.abort();
        assert!(is_asked(&cache).await);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_never_ends_is_cancelled_at_the_time_limit() {
        let resolver = |_: Question| std::future::pending::<Result<Answer, ResolveError>>();
        let cache = AnswerCache::new(resolver, 2 * SECOND);
        let started = now();
        let error = new(cache.ask(question(), FLOOR).await).expect_err("it never ends");
        assert_eq!(error.kind(), ResolveErrorKind::Timeout);
        assert_eq!(now() - started, 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_the_call_or_in_its_future_is_a_failure_with_its_message() {
        let in_call =
            |_: Question| -> std::future::Ready<Result<Answer, ResolveError>> { panic!("at once") };
        let later = |_: Question| async {
            tokio::task::yield_now().await;
            if FLOOR > SECOND {
                panic!("a bit {}", "later");
            }
            Ok(answer(60))
        };
        let caches = [
            (AnswerCache::new(in_call, FLOOR), "at once"),
            (AnswerCache::new(later, FLOOR), "a bit later"),
        ];
        for (cache, text) in caches {
            let error = new(cache.ask(question(), FLOOR).await).expect_err("it is a failure");
            assert_eq!(error.kind(), ResolveErrorKind::Panicked);
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert_eq!(cause.as_deref(), Some(text));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn families_of_one_host_are_different_questions() {
        let (cache, calls) = counted(Ok(answer(60)));
        for family in Family::ALL {
            let question = Question {
                family,
                ..question()
            };
            assert!(new(cache.ask(question, FLOOR).await).is_ok());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
