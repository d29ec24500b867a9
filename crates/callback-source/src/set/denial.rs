//! Rule 4: the evidence that a denial needs to be believed.
//!
//! A captive portal, a split horizon or a broken zone can deny every name. A provider, in contrast, does not withdraw
//! all of its servers at once. A denial is therefore believed only if an answer shows that DNS works.

use std::time::Instant;

use super::{
    AllowSet, Notice, host::Host, question_state::LastAnswer, question_view::QuestionView,
};
use crate::{Family, ResolveError, ResolveErrorKind};

impl QuestionView<'_> {
    /// Returns whether an error that arrived at `denied_at` is a denial that is believed now.
    pub(super) fn believes(self, error: &ResolveError, denied_at: Instant, now: Instant) -> bool {
        if !error.is_denial() {
            return false;
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::DenialBelievedEarly) {
            let mut hosts = self.others().chain([self.host]);
            return hosts.any(|host| current_answers(host, now).next().is_some());
        }
        if self.state().had_answer {
            // An answer that is older than the denial does not confirm the denial. In a zone that denies everything, an
            // answer that has not been refreshed yet must not confirm the denial of another host. An answer of another
            // zone shows nothing about this zone.
            let mut answers = self
                .others_of_zone()
                .flat_map(|other| current_answers(other, now));
            return answers.any(|answer| denied_at <= answer.answered_at);
        }
        // The denial cannot remove an address, so less evidence is enough.
        let mut others = self.others();
        if others.any(|other| current_answers(other, now).next().is_some()) {
            return true;
        }
        error.kind() == ResolveErrorKind::NoData && current_answers(self.host, now).next().is_some()
    }
}

impl AllowSet {
    /// Reconsiders denials that were not believed, so that the order in which the answers of one refresh
    /// arrive does not matter.
    pub(super) fn believe_late(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        // All denials are judged before any denial is applied, so that the order of the hosts does not matter.
        let mut believed = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            for family in Family::ALL {
                if let Some(failing) = &host.state(family).failing
                    && self
                        .view(at, family)
                        .believes(&failing.error, failing.at, now)
                {
                    believed.push((at, family, failing.error.clone(), failing.at));
                }
            }
        }
        for (at, family, error, denied_at) in believed {
            self.hosts[at].deny(family, &error, denied_at, &self.rules, now, notices);
        }
    }
}

/// Returns the unexpired answers of a host, without answers that were restored after a restart.
fn current_answers(host: &Host, now: Instant) -> impl Iterator<Item = &LastAnswer> {
    let questions = host.questions.iter();
    questions.filter_map(move |state| state.current_answer(now))
}
