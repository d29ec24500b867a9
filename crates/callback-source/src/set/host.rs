//! State of one host: its two questions, and the addresses that left their answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Notice, Rules, SetChange, after, before,
    index::{Admission, admitted_at},
    question_state::QuestionState,
};
use crate::{Answer, Family, Freshness, HostName, Question, ResolveError};

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: HostName,
    /// States of the A and the AAAA question, in the order of [`Family::ALL`].
    pub(super) questions: [QuestionState; 2],
    pub(super) lingering: BTreeMap<IpAddr, Lingering>,
    /// Addresses that were admitted at the last report of changes.
    reported: BTreeSet<IpAddr>,
}

/// Linger window of an address that left the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lingering {
    pub(super) left_at: Instant,
    pub(super) until: Instant,
}

impl Host {
    pub(super) fn new(name: HostName, now: Instant) -> Self {
        let unasked = QuestionState::new(now);
        Self {
            name,
            questions: [unasked.clone(), unasked],
            lingering: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Applies an answer, which must not be empty.
    pub(super) fn answer(
        &mut self,
        family: Family,
        answer: &Answer,
        rules: &Rules,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        self.report_recovery(family, notices);
        let ttl_ends = after(now, rules.clamp(answer.ttl()));
        let replaced = self.state_mut(family).answer(answer, ttl_ends, now);
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::LingerRestarted) {
            for lingering in self.lingering.values_mut() {
                lingering.left_at = now;
                lingering.until = rules.linger_until(now, ttl_ends);
            }
        }
        for address in answer.addresses() {
            self.lingering.remove(address);
        }
        if let Some(replaced) = replaced {
            let left = replaced.addresses.into_iter();
            let left = left.filter(|address| !answer.addresses().contains(address));
            self.linger(left, ttl_ends, rules, now, notices);
        }
    }

    /// Applies a denial that arrived at `denied_at` and is believed now.
    pub(super) fn deny(
        &mut self,
        family: Family,
        error: &ResolveError,
        denied_at: Instant,
        rules: &Rules,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        self.report_recovery(family, notices);
        let denied = self.state_mut(family).last_answer.take();
        let lingers = denied.is_some()
            || self
                .lingering
                .keys()
                .any(|address| Family::from_ip(*address) == family);
        let ttl_ends = rules.denied_until(error, denied_at, lingers);
        let left = denied.into_iter().flat_map(|answer| answer.addresses);
        self.linger(left, ttl_ends, rules, now, notices);
        self.state_mut(family).deny(ttl_ends);
    }

    fn report_recovery(&self, family: Family, notices: &mut Vec<Notice>) {
        if let Some(failing) = &self.state(family).failing {
            notices.push(Notice::Recovered {
                question: self.question(family),
                failing_since: failing.since,
            });
        }
    }

    /// Applies a failed lookup, or a denial that is not believed.
    pub(super) fn fail(
        &mut self,
        family: Family,
        error: ResolveError,
        rules: &Rules,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        let times = self.state_mut(family).fail(error.clone(), rules, now);
        notices.push(Notice::Failed {
            question: self.question(family),
            error,
            times,
        });
    }

    /// Starts the linger windows of addresses that left the answer. `ttl_ends` is the end of the TTL of the answer or
    /// denial that omits them.
    fn linger(
        &mut self,
        left: impl Iterator<Item = IpAddr>,
        ttl_ends: Instant,
        rules: &Rules,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        if rules.linger.is_zero() {
            return;
        }
        let until = rules.linger_until(now, ttl_ends);
        for address in left {
            // The answers to both questions can contain the same address. An earlier answer to the other question may
            // have omitted the address, and may have a longer TTL.
            let earlier = self.lingering.get(&address);
            let lingering = Lingering {
                left_at: now,
                until: earlier.map_or(until, |earlier| earlier.until.max(until)),
            };
            self.lingering.insert(address, lingering);
        }
        let dropped = self.lingering.len().saturating_sub(rules.max_lingering);
        if dropped == 0 {
            return;
        }
        let lingering = self.lingering.iter();
        let mut oldest: Vec<_> = lingering
            .map(|(address, lingering)| (lingering.left_at, *address))
            .collect();
        oldest.sort_unstable();
        for (_, address) in &oldest[..dropped] {
            self.lingering.remove(address);
        }
        notices.push(Notice::LingerLimitReached {
            host: self.name.clone(),
            dropped,
        });
    }

    /// Moves the times of the host into the past by the length of a sleep.
    pub(super) fn slept(&mut self, slept: Duration, now: Instant) {
        for lingering in self.lingering.values_mut() {
            lingering.left_at = before(lingering.left_at, slept);
            lingering.until = before(lingering.until, slept);
        }
        for state in &mut self.questions {
            state.slept(slept, now);
        }
    }

    /// Removes every outcome and address whose window has ended, so that an address that is no longer admitted cannot
    /// come back.
    pub(super) fn end_windows(&mut self, rules: &Rules, now: Instant) {
        self.lingering.retain(|_, lingering| now < lingering.until);
        for state in &mut self.questions {
            state.end_windows(rules, now);
        }
    }

    /// Returns the difference between these addresses and the addresses of the last report, or `None` if they are
    /// equal.
    pub(super) fn report(&mut self, admitted: BTreeSet<IpAddr>, now: Instant) -> Option<Notice> {
        let change = SetChange {
            host: self.name.clone(),
            added: admitted.difference(&self.reported).copied().collect(),
            removed: self.reported.difference(&admitted).copied().collect(),
            at: now,
        };
        self.reported = admitted;
        let changed = !change.added.is_empty() || !change.removed.is_empty();
        changed.then_some(Notice::Changed(change))
    }

    pub(super) fn state_mut(&mut self, family: Family) -> &mut QuestionState {
        &mut self.questions[family as usize]
    }

    pub(super) fn state(&self, family: Family) -> &QuestionState {
        &self.questions[family as usize]
    }

    /// Returns the question about this host for a family.
    pub(super) fn question(&self, family: Family) -> Question {
        Question {
            host: self.name.clone(),
            family,
        }
    }

    /// Returns every reason to admit an address of this host, each with the time at which it ends.
    pub(super) fn admissions(&self, rules: &Rules) -> Vec<Admission> {
        let mut admissions = Vec::new();
        let mut push = |address, freshness, since, until| {
            let host = self.name.clone();
            admissions.push(Admission {
                address,
                freshness,
                host,
                since,
                until,
            });
        };
        for state in &self.questions {
            let Some(answer) = &state.last_answer else {
                continue;
            };
            let since = answer.answered_at;
            let fresh_until = state.fresh_until(answer, rules);
            let stale_until = state.stale_until(rules);
            for address in answer.addresses.iter().copied() {
                if answer.restored {
                    push(address, Freshness::Restored, since, stale_until);
                } else {
                    push(address, Freshness::Fresh, since, fresh_until);
                    push(address, Freshness::Stale, since, stale_until);
                }
            }
        }
        for (address, lingering) in &self.lingering {
            let Lingering { left_at, until } = *lingering;
            push(*address, Freshness::Lingering, left_at, until);
        }
        admissions
    }

    pub(super) fn admitted(&self, rules: &Rules, now: Instant) -> BTreeSet<IpAddr> {
        admitted_at(&self.admissions(rules), now).collect()
    }
}
