//! Rule 6: when a question is given up, and when every host is resolved.
//!
//! Giving a host up turns "try again" (503) into a final 403 for its servers. If a host is given up too early,
//! callbacks are refused for good. If it is given up too late, there are only more retries. The rule therefore
//! ignores time in which the question was not asked, answers from before a restart, and in most cases answers of
//! another zone.

use std::time::Instant;

use super::{
    AllowSet, after, index::Validity, question_state::QuestionState, question_view::QuestionView,
};
use crate::Family;

impl AllowSet {
    /// Returns the spans of time in which every host is resolved for a family.
    pub(super) fn resolved_spans(&self, family: Family) -> Vec<Validity> {
        // An empty list must answer `Unresolved`, not `NotListed`.
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
    /// the two spans.
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
        // The question was not asked shortly before `from`, so the host may have recovered long ago.
        if failing.next_by < from {
            return None;
        }
        let until = self.others_answer_until(from)?;
        Some(Validity {
            from: Some(from),
            until: Some(until),
        })
    }

    /// Returns the time until which answers of other hosts confirm that this host is given up from `from` on.
    fn others_answer_until(self, from: Instant) -> Option<Instant> {
        let confirms_until = |state: &QuestionState| {
            let answer = state.last_answer.as_ref();
            let answer = answer.filter(|answer| !answer.restored)?;
            // While the question of an answer fails, that answer does not show that DNS still answers.
            let succeeds = state.failing.is_none();
            let fresh_until = succeeds.then(|| state.fresh_until(answer, self.rules));
            // An answer after the end of the window is evidence for as long as that answer is in use. Otherwise an
            // outage of the other host would turn the verdict back to `Unresolved`.
            let is_later = from <= answer.answered_at;
            fresh_until.max(is_later.then(|| state.stale_until(self.rules)))
        };
        // A host that is alone in its zone would otherwise never be given up.
        let any_zone = self.others_of_zone().next().is_none();
        self.others()
            .filter(|other| any_zone || other.name.is_of_same_zone(&self.host.name))
            .flat_map(|other| other.questions.iter().filter_map(confirms_until))
            .max()
    }
}
