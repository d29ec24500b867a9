//! State of a set that survives a restart.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    AllowSet, LastAnswer, Notice, Rules, after, before,
    host::{Host, Lingering},
    question_state::QuestionState,
    special_purpose::is_special,
};
use crate::{Family, HostName};

/// Persisted state of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PersistedHost {
    pub(crate) host: HostName,
    pub(crate) questions: Vec<PersistedQuestion>,
    pub(crate) lingering: BTreeMap<IpAddr, PersistedLingering>,
}

/// Persisted state of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PersistedQuestion {
    pub(crate) family: Family,
    pub(crate) stale_from: Instant,
    pub(crate) denied: bool,
    /// True if the last valid outcome was an answer, even if the answer is no longer in use.
    pub(crate) had_answer: bool,
    pub(crate) answer: Option<LastAnswer>,
}

/// Persisted state of an address that left the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PersistedLingering {
    pub(crate) left_at: Instant,
    /// End of the window. `None` in files from older versions of this crate. The end is then `left_at` plus the linger
    /// window.
    pub(crate) until: Option<Instant>,
}

impl AllowSet {
    /// Returns the state that a restart restores.
    pub(crate) fn save(&self) -> Vec<PersistedHost> {
        self.hosts.iter().map(Host::save).collect()
    }

    /// Restores the state from before a restart. Restored times are never later than they were, so that no window
    /// becomes longer. State that the current rules do not allow is dropped, as is the state of hosts that are not in
    /// the set.
    pub(crate) fn restore(&mut self, saved: Vec<PersistedHost>, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        let hosts = self.hosts.iter_mut();
        let mut hosts: BTreeMap<_, _> = hosts.map(|host| (host.name.clone(), host)).collect();
        for saved in saved {
            if let Some(host) = hosts.get_mut(&saved.host) {
                host.restore(saved, &self.rules, now);
            }
        }
        self.settle(now, &mut notices);
        notices
    }
}

impl Host {
    fn save(&self) -> PersistedHost {
        let question = |family| {
            let state = self.state(family);
            PersistedQuestion {
                family,
                stale_from: state.stale_from,
                denied: state.denied,
                had_answer: state.had_answer,
                answer: state.last_answer.clone(),
            }
        };
        let lingering = self.lingering.iter().map(|(address, lingering)| {
            let saved = PersistedLingering {
                left_at: lingering.left_at,
                until: Some(lingering.until),
            };
            (*address, saved)
        });
        PersistedHost {
            host: self.name.clone(),
            questions: Family::ALL.map(question).into(),
            lingering: lingering.collect(),
        }
    }

    fn restore(&mut self, saved: PersistedHost, rules: &Rules, now: Instant) {
        for question in saved.questions {
            if rules.asks(question.family) {
                self.state_mut(question.family)
                    .restore(question, rules, now);
            }
        }
        let lingering = saved.lingering.into_iter();
        let mut lingering: Vec<_> = lingering
            .map(|(address, saved)| (address, saved.restored(rules)))
            .collect();
        // Addresses whose windows have ended are removed before `max_lingering` is applied. Otherwise such an address
        // could displace an address that lingers.
        lingering.retain(|(address, Lingering { left_at, until })| {
            let lingers = *left_at <= now && now < *until;
            lingers && rules.asks(Family::from_ip(*address)) && rules.admit(*address)
        });
        lingering.sort_by_key(|(_, lingering)| Reverse(lingering.left_at));
        lingering.truncate(rules.max_lingering);
        self.lingering = lingering.into_iter().collect();
    }
}

impl QuestionState {
    fn restore(&mut self, saved: PersistedQuestion, rules: &Rules, now: Instant) {
        let Some(mut answer) = saved.answer else {
            self.stale_from = saved.stale_from.min(now);
            self.denied = saved.denied;
            // Without this flag, an answer of another zone would confirm a denial after the restart (rule 4).
            self.had_answer = saved.had_answer;
            return;
        };
        let most_ttl = rules.clamp(Duration::MAX);
        answer.restored = true;
        answer.answered_at = answer.answered_at.min(now);
        answer.ttl_ends = answer.ttl_ends.min(after(answer.answered_at, most_ttl));
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::RestoredRenewed) {
            (answer.answered_at, answer.ttl_ends) = (now, after(now, rules.clamp(answer.ttl)));
        }
        let addresses = answer.addresses.into_iter();
        answer.addresses = addresses.filter(|address| rules.admit(*address)).collect();
        self.stale_from = answer.ttl_ends;
        self.had_answer = true;
        let is_allowed = (1..=rules.max_addresses).contains(&answer.addresses.len());
        self.last_answer = Some(answer).filter(|_| is_allowed);
    }
}

impl Rules {
    /// Returns whether the rules allow an address to be admitted.
    fn admit(&self, address: IpAddr) -> bool {
        self.insecure_allow_special_addresses || !is_special(address)
    }
}

impl PersistedHost {
    /// Moves all times into the past by the length of a sleep, as [`AllowSet::slept`] does.
    pub(crate) fn slept(&mut self, slept: Duration) {
        let back = |at: &mut Instant| *at = before(*at, slept);
        for question in &mut self.questions {
            back(&mut question.stale_from);
            if let Some(answer) = &mut question.answer {
                answer.slept(slept);
            }
        }
        for lingering in self.lingering.values_mut() {
            back(&mut lingering.left_at);
            lingering.until.iter_mut().for_each(back);
        }
    }
}

impl PersistedLingering {
    /// Returns the end of the window under the current rules. These rules may be stricter than the rules under which
    /// the state was saved.
    pub(crate) fn until(self, rules: &Rules) -> Instant {
        if rules.linger.is_zero() {
            return self.left_at;
        }
        let most_ttl = rules.clamp(Duration::MAX);
        let latest = rules.linger_until(self.left_at, after(self.left_at, most_ttl));
        let saved = self.until;
        saved
            .unwrap_or_else(|| after(self.left_at, rules.linger))
            .min(latest)
    }

    fn restored(self, rules: &Rules) -> Lingering {
        Lingering {
            left_at: self.left_at,
            until: self.until(rules),
        }
    }
}
