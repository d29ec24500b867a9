//! State of a single question.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Rules, after, before};
use crate::{Answer, ResolveError};

/// State of a single question after its outcomes so far.
#[derive(Clone, Debug)]
pub(super) struct QuestionState {
    /// Last valid answer, until its stale window ends.
    pub(super) last_answer: Option<LastAnswer>,
    /// True if the last valid outcome was an answer, even if its stale window is over.
    pub(super) had_answer: bool,
    /// True if the last valid outcome was a believed denial whose stale window is not over.
    pub(super) denied: bool,
    /// Failures since the last valid outcome.
    pub(super) failing: Option<Failing>,
    /// Special-purpose addresses that were dropped from the last outcome.
    pub(super) dropped: Vec<IpAddr>,
    /// Start of the stale window: the end of the last valid outcome's TTL, or the time at which the host
    /// was added.
    pub(super) stale_from: Instant,
    /// True if the question has had an outcome of any kind.
    pub(super) attempted: bool,
    pub(super) due_at: Instant,
}

/// A valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastAnswer {
    pub(crate) addresses: Box<[IpAddr]>,
    /// TTL as the servers sent it.
    pub(crate) ttl: Duration,
    pub(crate) answered_at: Instant,
    /// End of the clamped TTL.
    pub(crate) ttl_ends: Instant,
    /// True if the answer was restored after a restart.
    pub(crate) restored: bool,
}

/// Failures since the last valid outcome.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    /// Time of the first failure.
    pub(super) since: Instant,
    /// Time of the failure since which the question has been asked without a gap. The window of rule 6 starts at this
    /// time, but not before `stale_from`.
    pub(super) run_since: Instant,
    /// Deadline for the next outcome: a later outcome follows a gap. See [`Rules::next_outcome_by`].
    pub(super) next_by: Instant,
    pub(super) times: u32,
    /// Time of the last failure.
    pub(super) at: Instant,
    pub(super) error: ResolveError,
}

impl QuestionState {
    /// Creates the state of a question that has not been asked yet and is due now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_answer: None,
            had_answer: false,
            denied: false,
            failing: None,
            dropped: Vec::new(),
            stale_from: now,
            attempted: false,
            due_at: now,
        }
    }

    /// Applies an answer and returns the answer that it replaces. The clamped TTL of the new answer ends at `ttl_ends`.
    pub(super) fn answer(
        &mut self,
        answer: &Answer,
        ttl_ends: Instant,
        now: Instant,
    ) -> Option<LastAnswer> {
        self.had_answer = true;
        self.denied = false;
        self.failing = None;
        self.stale_from = ttl_ends;
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::StaleFromAnswer) {
            self.stale_from = now;
        }
        self.due_at = ttl_ends;
        self.last_answer.replace(LastAnswer {
            addresses: answer.addresses().into(),
            ttl: answer.ttl(),
            answered_at: now,
            ttl_ends,
            restored: false,
        })
    }

    /// Applies a believed denial. The TTL of the denial ends at `ttl_ends`.
    pub(super) fn deny(&mut self, ttl_ends: Instant) {
        self.last_answer = None;
        self.had_answer = false;
        self.denied = true;
        self.failing = None;
        self.stale_from = ttl_ends;
        self.due_at = ttl_ends;
    }

    /// Applies a failed lookup and returns the number of failures in a row.
    pub(super) fn fail(&mut self, error: ResolveError, rules: &Rules, now: Instant) -> u32 {
        let (since, run_since, times) = match &self.failing {
            Some(before) => {
                let run_since = match now <= before.next_by {
                    true => before.run_since,
                    false => now,
                };
                (before.since, run_since, before.times.saturating_add(1))
            }
            None => (now, now, 1),
        };
        self.due_at = after(now, rules.backoff(times));
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::FailureForgets) {
            self.last_answer = None;
        }
        self.failing = Some(Failing {
            since,
            run_since,
            next_by: rules.next_outcome_by(now, self.due_at),
            times,
            at: now,
            error,
        });
        times
    }

    /// Moves all times, except those of the window of rule 6, into the past by the length of a sleep. That window
    /// starts anew, since the question was not asked during the sleep.
    pub(super) fn slept(&mut self, slept: Duration, now: Instant) {
        let back = |at: &mut Instant| *at = before(*at, slept);
        back(&mut self.stale_from);
        back(&mut self.due_at);
        if let Some(answer) = &mut self.last_answer {
            answer.slept(slept);
        }
        if let Some(failing) = &mut self.failing {
            back(&mut failing.since);
            // This time is moved as well, so that the order of denials and answers stays as it was.
            back(&mut failing.at);
            failing.run_since = now;
        }
    }

    /// Removes a valid outcome whose stale window is over.
    pub(super) fn end_windows(&mut self, rules: &Rules, now: Instant) {
        if self.stale_until(rules) <= now {
            self.last_answer = None;
            self.denied = false;
        }
    }

    /// Returns whether the question has an answer or a believed denial. Such an outcome is in use until
    /// [`stale_until`](Self::stale_until).
    pub(super) fn has_valid_outcome(&self) -> bool {
        self.last_answer.is_some() || self.denied
    }

    /// Returns the last answer, unless it was restored after a restart or its TTL has ended. An expired answer whose
    /// refresh is under way does not show that DNS still works.
    pub(super) fn current_answer(&self, now: Instant) -> Option<&LastAnswer> {
        let answer = self.last_answer.as_ref();
        answer.filter(|answer| !answer.restored && now < answer.ttl_ends)
    }

    /// Returns the time until which an answer of this question is fresh. While the question does not fail, this time
    /// includes the time of a refresh.
    pub(super) fn fresh_until(&self, answer: &LastAnswer, rules: &Rules) -> Instant {
        match self.failing {
            Some(_) => answer.ttl_ends,
            None => after(answer.ttl_ends, rules.refresh_time()),
        }
    }

    /// Returns the time until which the last valid outcome is in use.
    pub(super) fn stale_until(&self, rules: &Rules) -> Instant {
        let stale_until = after(self.stale_from, rules.stale_for);
        // Until a lookup fails, the refresh may still be under way. During the refresh, the outcome must stay in use,
        // even if the stale window is zero.
        match self.failing {
            Some(_) => stale_until,
            None => stale_until.max(after(self.stale_from, rules.refresh_time())),
        }
    }
}

impl LastAnswer {
    pub(super) fn slept(&mut self, slept: Duration) {
        self.answered_at = before(self.answered_at, slept);
        self.ttl_ends = before(self.ttl_ends, slept);
    }
}
