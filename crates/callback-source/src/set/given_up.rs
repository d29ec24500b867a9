//! Rule 6: the times at which a question is given up, and at which every host is resolved.
//!
//! While a host is given up, its unlisted servers get a final 403. Otherwise they would get a 503 and try again. If a
//! host is given up too early, callbacks are refused for good. If a host is given up too late, servers only retry more
//! often. The rule therefore ignores time during which the question was not asked, answers from before a restart, and
//! in most cases answers of another zone.

use std::time::Instant;

use super::{
    AllowSet, after, index::Validity, question_state::QuestionState, question_view::QuestionView,
};
use crate::Family;

impl AllowSet {
    /// Returns the spans of time in which every host is resolved for a family.
    pub(super) fn resolved_spans(&self, family: Family) -> Vec<Validity> {
        // The verdict of an empty set must be `Unresolved`, not `NotListed`.
        if self.hosts.is_empty() && self.networks.is_empty() {
            return Vec::new();
        }
        let mut spans = vec![Validity::ALWAYS];
        if self.rules.asks(family) {
            for at in 0..self.hosts.len() {
                spans = Validity::in_both(&spans, &self.view(at, family).resolved_spans());
            }
        }
        spans
    }
}

impl QuestionView<'_> {
    /// Returns the spans of time in which the question has a valid outcome or is given up. There can be a gap between
    /// these two spans.
    fn resolved_spans(self) -> Vec<Validity> {
        let state = self.state();
        let valid = state.has_valid_outcome();
        let valid = valid.then(|| Validity::until(state.stale_until(self.rules)));
        valid.into_iter().chain(self.given_up()).collect()
    }

    /// Returns the span of time in which the question is given up.
    pub(super) fn given_up(self) -> Option<Validity> {
        let state = self.state();
        let failing = state.failing.as_ref()?;
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::GivenUpByTimeUnasked) {
            let until = self.others_answer_until(failing.since)?;
            return Some(Validity {
                from: Some(after(state.stale_from, self.rules.stale_for)),
                until: Some(until),
            });
        }
        let window_starts = state.stale_from.max(failing.run_since);
        let from = after(window_starts, self.rules.stale_for);
        // If the question was not asked shortly before `from`, the host may have recovered long ago.
        if failing.next_by < from {
            return None;
        }
        let until = self.others_answer_until(from)?;
        Some(Validity {
            from: Some(from),
            until: Some(until),
        })
    }

    /// Returns the time until which answers of other hosts are evidence for giving up the question at `from`.
    fn others_answer_until(self, from: Instant) -> Option<Instant> {
        let confirms_until = |state: &QuestionState| {
            let answer = state.last_answer.as_ref();
            let answer = answer.filter(|answer| !answer.restored)?;
            // While the question of an answer fails, that answer does not show that DNS still works.
            let succeeds = state.failing.is_none();
            let fresh_until = succeeds.then(|| state.fresh_until(answer, self.rules));
            // An answer that arrived after the end of the window is evidence while it is in use. Otherwise an outage of
            // the other host would change the verdict from `NotListed` back to `Unresolved`.
            let is_later = from <= answer.answered_at;
            fresh_until.max(is_later.then(|| state.stale_until(self.rules)))
        };
        // For a host that is alone in its zone, an answer of any zone is evidence. Otherwise such a host would never be
        // given up.
        let any_zone = self.others_of_zone().next().is_none();
        self.others()
            .filter(|other| any_zone || other.name.is_of_same_zone(&self.host.name))
            .flat_map(|other| other.questions.iter().filter_map(confirms_until))
            .max()
    }
}
