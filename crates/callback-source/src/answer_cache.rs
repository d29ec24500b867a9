//! What was asked of DNS a moment ago, so that it is not asked again.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use futures_util::FutureExt;
use moka::{
    Expiry,
    future::Cache,
    ops::compute::{CompResult, Op},
};
use tokio::time::{Instant, timeout};

use crate::{Answer, Question, Resolve, ResolveError, ResolveErrorKind};

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
}

/// What came of a question.
pub(crate) enum Asked {
    /// It was asked just now.
    Now(Result<Answer, ResolveError>),
    /// It was asked at this time, which is not long enough ago to ask again.
    Before(Instant),
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
        }
    }

    /// Asks, unless what came of it last is younger than `max_age` or than the floor.
    pub(crate) async fn ask(&self, question: Question, max_age: Duration) -> Asked {
        let max_age = max_age.max(self.floor);
        let replace = async |entry: Option<moka::Entry<Question, Outcome>>| {
            let asked_at = Instant::now();
            if entry.is_some_and(|entry| asked_at - entry.value().asked_at < max_age) {
                return Op::Nop;
            }
            let result = self.resolve(question.clone()).await;
            let ttl = match &result {
                Ok(answer) => answer.ttl(),
                Err(error) => error.negative_ttl().unwrap_or_default(),
            };
            let keep = ttl.clamp(LEAST_KEPT, LONGEST_KEPT).max(max_age);
            Op::Put(Outcome {
                asked_at,
                keep,
                result,
            })
        };
        match self
            .outcomes
            .entry(question.clone())
            .and_compute_with(replace)
            .await
        {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) => {
                Asked::Now(entry.into_value().result)
            }
            CompResult::Unchanged(entry) | CompResult::Removed(entry) => {
                Asked::Before(entry.into_value().asked_at)
            }
            CompResult::StillNone(_) => Asked::Before(Instant::now()),
        }
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
    keep: Duration,
    result: Result<Answer, ResolveError>,
}

/// Lets moka forget an outcome after its own time. moka's clock is not read here.
struct ByTtl;

#[expect(
    clippy::disallowed_types,
    reason = "the type is part of moka's interface"
)]
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

/// Longer than any age that is asked for, so that expiry never shortens the floor.
const LEAST_KEPT: Duration = Duration::from_secs(60);

/// An outcome is of no use after this, since the list clamps TTLs itself.
const LONGEST_KEPT: Duration = Duration::from_secs(60 * 60);
