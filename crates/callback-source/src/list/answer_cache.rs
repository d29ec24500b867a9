//! What was asked of DNS a moment ago, so that it is not asked again.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use moka::{
    Expiry,
    future::Cache,
    ops::compute::{CompResult, Op},
};
use tokio::time::{Instant, timeout};

use crate::{Answer, Question, Resolve, ResolveError, ResolveErrorKind, set::before};

/// Outcomes by question, failures included.
///
/// Whatever asks, a question goes out at most once per floor, and one at a time: moka's entry API
/// gives one flight per question. Age is checked on the value, by our clock; moka's own expiry
/// only frees the memory of questions that nobody asks any more.
pub(crate) struct AnswerCache {
    outcomes: Cache<Question, Outcome>,
    resolver: Box<dyn DynResolve>,
    floor: Duration,
    time_limit: Duration,
    /// How long the machine has slept in all, in nanoseconds: `Instant` does not count it.
    slept: AtomicU64,
}

/// The outcome of a question.
pub(crate) struct Asked {
    /// When it was asked, with a sleep of the machine since then taken off.
    pub(crate) at: Instant,
    /// Whether this call asked it. Otherwise it was asked too short a time ago to ask again.
    pub(crate) is_new: bool,
    /// If it is not new, its TTL is less by its age.
    pub(crate) outcome: Result<Answer, ResolveError>,
}

impl AnswerCache {
    /// `floor` is the least time between two calls of the resolver for one question, `time_limit`
    /// how long one may take.
    pub(crate) fn new(resolver: impl Resolve, floor: Duration, time_limit: Duration) -> Self {
        // No capacity: the questions are those of the configured hosts, and moka would turn away
        // newcomers of a cache that is full.
        let outcomes = Cache::builder().expire_after(ByTtl).build();
        Self {
            outcomes,
            resolver: Box::new(resolver),
            floor,
            time_limit,
            slept: AtomicU64::new(0),
        }
    }

    /// Asks, unless the question was asked less than a floor ago.
    pub(crate) async fn ask(&self, question: Question) -> Asked {
        let replace = async |entry: Option<moka::Entry<Question, Outcome>>| {
            let (asked_at, slept) = (Instant::now(), self.slept.load(Ordering::Relaxed));
            let is_recent =
                |last: &Outcome| asked_at - self.awake(last, last.asked_at) < self.floor;
            if entry.is_some_and(|entry| is_recent(entry.value())) {
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
            Op::Put(Outcome {
                asked_at,
                answered_at: Instant::now(),
                slept,
                // moka's expiry never shortens the floor.
                keep: ttl.clamp(MIN_KEPT, MAX_KEPT).max(self.floor),
                result,
            })
        };
        let kept = self
            .outcomes
            .entry(question.clone())
            .and_compute_with(replace)
            .await;
        let (is_new, entry) = match kept {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) => (true, entry),
            CompResult::Unchanged(entry) | CompResult::Removed(entry) => (false, entry),
            CompResult::StillNone(_) => {
                return Asked {
                    at: Instant::now(),
                    is_new: false,
                    outcome: Err(ResolveError::new(ResolveErrorKind::Other)),
                };
            }
        };
        let last = entry.into_value();
        let at = self.awake(&last, last.asked_at);
        let age = self.awake(&last, last.answered_at).elapsed();
        let rest = |answer: Answer| {
            let ttl = answer.ttl().saturating_sub(age);
            Answer::new(answer.addresses().iter().copied(), ttl)
        };
        Asked {
            at,
            is_new,
            outcome: match is_new {
                true => last.result,
                false => last.result.map(rest),
            },
        }
    }

    /// Adds a sleep of the machine to the age of all outcomes.
    pub(crate) fn slept(&self, slept: Duration) {
        let slept = u64::try_from(slept.as_nanos()).unwrap_or(u64::MAX);
        self.slept.fetch_add(slept, Ordering::Relaxed);
    }

    /// A time of an outcome, with what the machine has slept since then taken off.
    fn awake(&self, outcome: &Outcome, at: Instant) -> Instant {
        let slept = self.slept.load(Ordering::Relaxed) - outcome.slept;
        before(at.into_std(), Duration::from_nanos(slept)).into()
    }

    /// One call of the resolver. It ends in time whatever the resolver does: a flight that never
    /// ended would hold up everybody who asks the same.
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        // The call itself may panic as well as the future.
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

#[derive(Clone)]
struct Outcome {
    asked_at: Instant,
    answered_at: Instant,
    /// How long the machine had slept in all when it was asked.
    slept: u64,
    keep: Duration,
    result: Result<Answer, ResolveError>,
}

/// Lets moka forget an outcome after its own time. moka's clock is not read here.
struct ByTtl;

impl Expiry<Question, Outcome> for ByTtl {
    fn expire_after_create(
        &self,
        _: &Question,
        outcome: &Outcome,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(outcome.keep)
    }

    // The default keeps the old entry's time, so that a refreshed one would vanish early.
    fn expire_after_update(
        &self,
        _: &Question,
        outcome: &Outcome,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(outcome.keep)
    }
}

/// [`Resolve`] behind a pointer.
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

impl std::fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerCache")
            .field("floor", &self.floor)
            .finish_non_exhaustive()
    }
}

/// As long as a host may be away and still be known at once when it is put back.
const MIN_KEPT: Duration = Duration::from_secs(60);

/// An outcome is of no use after this, since the list clamps TTLs itself.
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

    /// A cache whose resolver takes a second and counts its calls.
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
        (Arc::new(AnswerCache::new(resolver, FLOOR, FLOOR)), calls)
    }

    async fn is_asked(cache: &AnswerCache) -> bool {
        cache.ask(question()).await.is_new
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_goes_out_at_most_once_per_floor_whatever_came_of_it() {
        let failure = ResolveError::new(ResolveErrorKind::ServFail);
        for outcome in [Ok(answer(0)), Ok(answer(3600)), Err(failure)] {
            let (cache, calls) = counted(outcome);
            assert!(is_asked(&cache).await);
            advance(FLOOR - SECOND - Duration::from_millis(1)).await;
            assert!(!is_asked(&cache).await);
            advance(Duration::from_millis(1)).await;
            assert!(is_asked(&cache).await, "a floor after it was asked");
            assert!(!is_asked(&cache).await, "asked again");
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn moka_forgets_an_outcome_after_its_own_time_and_not_that_of_the_one_before() {
        let outcome = Outcome {
            asked_at: Instant::now(),
            answered_at: Instant::now(),
            slept: 0,
            keep: 70 * SECOND,
            result: Ok(answer(70)),
        };
        let now = Instant::now().into_std();
        let created = ByTtl.expire_after_create(&question(), &outcome, now);
        let updated = ByTtl.expire_after_update(&question(), &outcome, now, Some(SECOND));
        assert_eq!([created, updated], [Some(outcome.keep); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_from_before_tells_when_it_was_asked_and_the_rest_of_its_ttl() {
        let (cache, _) = counted(Ok(answer(60)));
        let start = Instant::now();
        assert_eq!(cache.ask(question()).await.at, start);
        advance(3 * SECOND).await;
        let asked = cache.ask(question()).await;
        assert!(!asked.is_new);
        assert_eq!(asked.at, start);
        // It took a second to come.
        assert_eq!(asked.outcome.unwrap().ttl(), 57 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_machine_slept_counts_as_age_of_an_outcome() {
        let (cache, calls) = counted(Ok(answer(60)));
        let start = Instant::now();
        assert!(is_asked(&cache).await);
        cache.slept(2 * SECOND);
        let asked = cache.ask(question()).await;
        assert_eq!((asked.is_new, asked.at), (false, start - 2 * SECOND));
        assert_eq!(asked.outcome.unwrap().ttl(), 58 * SECOND);
        cache.slept(2 * SECOND);
        assert!(is_asked(&cache).await, "a floor ago");
        assert!(!is_asked(&cache).await, "the sleep was before it");
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_one_flight() {
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
    async fn a_flight_whose_leader_leaves_is_flown_by_a_follower() {
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
    async fn a_resolver_that_never_ends_is_given_up_after_the_time_limit() {
        let resolver = |_: Question| std::future::pending::<Result<Answer, ResolveError>>();
        let cache = AnswerCache::new(resolver, FLOOR, 2 * SECOND);
        let started = Instant::now();
        let error = cache
            .ask(question())
            .await
            .outcome
            .expect_err("it never ends");
        assert_eq!(error.kind(), ResolveErrorKind::Timeout);
        assert_eq!(started.elapsed(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_with_its_message_whether_in_the_call_or_later() {
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
            (AnswerCache::new(in_call, FLOOR, FLOOR), "at once"),
            (AnswerCache::new(later, FLOOR, FLOOR), "a bit later"),
        ];
        for (cache, text) in caches {
            let error = cache
                .ask(question())
                .await
                .outcome
                .expect_err("it is a failure");
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
            assert!(cache.ask(question).await.is_new);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
