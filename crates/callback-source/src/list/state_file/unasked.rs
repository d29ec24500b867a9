//! Persisted state of questions that are not asked now.
//!
//! Without this module, a start with the wrong hosts, such as the hosts of the test environment, would erase the state
//! of the right hosts within a minute.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    AllowSet, Family, HostName, Question,
    set::{PersistedHost, PersistedQuestion, Rules, after},
};

/// State of hosts that were configured before and are not configured now. This includes the state of a single family of
/// a host, if that family is no longer looked up.
///
/// This state admits no peer. It is kept with its original times, until its windows end, in case the host is configured
/// again.
#[derive(Debug, Default)]
pub(super) struct Unasked {
    /// State of hosts that were not configured at the start. This state stays in the file. Otherwise a start with the
    /// wrong hosts would erase this state, and a restart while DNS is down would then refuse callbacks of the right
    /// hosts.
    before: Vec<PersistedHost>,
    /// State of hosts that were removed while the list was running. The removal was deliberate, so the file omits this
    /// state.
    removed: Vec<PersistedHost>,
}

impl Unasked {
    /// Returns the state of the questions in `asked`, and keeps the remaining state.
    pub(super) fn start(
        &mut self,
        saved: Vec<PersistedHost>,
        asked: &HashSet<Question>,
    ) -> Vec<PersistedHost> {
        let (now, rest) = divide(saved, asked);
        self.before = rest;
        now
    }

    /// Keeps the state of the questions that are no longer asked, and returns the state of the questions that are
    /// asked again.
    pub(super) fn replace(
        &mut self,
        known: Vec<PersistedHost>,
        asked_before: &HashSet<Question>,
        asked: &HashSet<Question>,
    ) -> Vec<PersistedHost> {
        let take = |from: &mut Vec<PersistedHost>| {
            let (now, rest) = divide(std::mem::take(from), asked);
            *from = rest;
            now
        };
        let mut back = take(&mut self.removed);
        let earlier = take(&mut self.before);
        merge(&mut back, earlier);
        let (known, _) = divide(known, asked_before);
        let (_, gone) = divide(known, asked);
        merge(&mut self.removed, gone);
        back
    }

    /// Adds a sleep of the machine to the age of all kept state.
    pub(super) fn slept(&mut self, slept: Duration) {
        for saved in self.before.iter_mut().chain(&mut self.removed) {
            saved.slept(slept);
        }
    }

    /// Drops state whose windows have ended, and state of removed hosts beyond `MAX_REMOVED`.
    pub(super) fn expire(&mut self, rules: &Rules, now: Instant) {
        let current = |saved: &mut Vec<PersistedHost>| current(std::mem::take(saved), rules, now);
        let before = current(&mut self.before);
        let mut removed = current(&mut self.removed);
        removed.sort_by_key(|(ends, _)| std::cmp::Reverse(*ends));
        removed.truncate(MAX_REMOVED);
        let alone = |(_, saved)| saved;
        self.before = before.into_iter().map(alone).collect();
        self.removed = removed.into_iter().map(alone).collect();
    }

    /// Returns the state of a set together with the kept state that is written to the file. Each host occurs once.
    pub(super) fn add_to(
        &self,
        saved: Vec<PersistedHost>,
        asked: &HashSet<Question>,
    ) -> Vec<PersistedHost> {
        let (mut all, _) = divide(saved, asked);
        // A host that has just been configured again may be both in the set and in the kept state. The state in the set
        // is newer.
        let (_, rest) = divide(self.before.clone(), asked);
        merge(&mut all, rest);
        all
    }
}

/// Returns the questions of a set.
pub(super) fn asked(set: &AllowSet) -> HashSet<Question> {
    set.questions().map(|(question, _)| question).collect()
}

/// Adds to `all` the state in `more` that is missing in `all`.
fn merge(all: &mut Vec<PersistedHost>, more: Vec<PersistedHost>) {
    let hosts = all.iter().enumerate();
    let mut positions: HashMap<HostName, usize> =
        hosts.map(|(at, saved)| (saved.host.clone(), at)).collect();
    for saved in more {
        let Some(at) = positions.get(&saved.host) else {
            positions.insert(saved.host.clone(), all.len());
            all.push(saved);
            continue;
        };
        let known = &mut all[*at];
        for question in saved.questions {
            if !known
                .questions
                .iter()
                .any(|of| of.family == question.family)
            {
                known.questions.push(question);
            }
        }
        for (address, lingering) in saved.lingering {
            known.lingering.entry(address).or_insert(lingering);
        }
    }
}

/// Divides state into the state of the questions in `asked` and the remaining state.
fn divide(
    saved: Vec<PersistedHost>,
    asked: &HashSet<Question>,
) -> (Vec<PersistedHost>, Vec<PersistedHost>) {
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    for saved in saved {
        let asks = Family::ALL.map(|family| {
            asked.contains(&Question {
                host: saved.host.clone(),
                family,
            })
        });
        let is_asked = |family: Family| asks[family as usize];
        let (questions, other_questions): (Vec<_>, Vec<_>) = saved
            .questions
            .into_iter()
            .partition(|question| is_asked(question.family));
        let (lingering, other_lingering): (BTreeMap<_, _>, BTreeMap<_, _>) = saved
            .lingering
            .into_iter()
            .partition(|(address, _)| is_asked(Family::from_ip(*address)));
        for (part, questions, lingering) in [
            (&mut inside, questions, lingering),
            (&mut outside, other_questions, other_lingering),
        ] {
            if !questions.is_empty() || !lingering.is_empty() {
                let host = saved.host.clone();
                part.push(PersistedHost {
                    host,
                    questions,
                    lingering,
                });
            }
        }
    }
    (inside, outside)
}

/// Returns the state whose windows are still open, with the end of the last window of each host.
fn current(
    saved: Vec<PersistedHost>,
    rules: &Rules,
    now: Instant,
) -> Vec<(Instant, PersistedHost)> {
    let ends = |mut saved: PersistedHost| Some((ends(&mut saved, rules, now)?, saved));
    saved.into_iter().filter_map(ends).collect()
}

/// Drops the parts of a host's state whose windows have ended, and returns the end of the last window. A set that is
/// restored from this state uses no part of it after that time, unless the stale window is shorter than a refresh.
fn ends(saved: &mut PersistedHost, rules: &Rules, now: Instant) -> Option<Instant> {
    saved.questions.retain_mut(|question| {
        let stale_until = question_end(question, rules, now);
        let is_known = question.answer.is_some() || question.denied;
        is_known && now < stale_until
    });
    saved
        .lingering
        .retain(|_, saved| saved.left_at <= now && now < saved.until(rules));
    let lingering = saved.lingering.values().map(|saved| saved.until(rules));
    let questions = saved.questions.iter_mut();
    let questions = questions.map(|question| question_end(question, rules, now));
    questions.chain(lingering).max()
}

fn question_end(question: &mut PersistedQuestion, rules: &Rules, now: Instant) -> Instant {
    let longest = after(now, rules.max_ttl);
    question.stale_from = match &question.answer {
        Some(answer) => answer
            .ttl_ends
            .min(after(answer.answered_at, rules.max_ttl)),
        None => question.stale_from,
    };
    // Under the current rules, this program never writes a time after `longest`. Without the cap, a file with such a
    // time would keep the state forever.
    question.stale_from = question.stale_from.min(longest);
    after(question.stale_from, rules.stale_for)
}

/// The maximum number of removed hosts whose state is kept. It bounds the memory of a list whose hosts are replaced
/// repeatedly.
const MAX_REMOVED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::state_file::format::{
        Clocks,
        tests::{lingering_since, saved},
    };

    #[test]
    fn a_family_that_is_not_asked_is_kept_in_the_file() {
        let clocks = Clocks::now();
        let mut unasked = Unasked::default();
        let host: HostName = "h.test".parse().unwrap();
        let asked = HashSet::from([Question {
            host,
            family: Family::V6,
        }]);
        let mut all = saved(clocks);
        let lingering = "2606:4700::1".parse().unwrap();
        all[0]
            .lingering
            .insert(lingering, lingering_since(clocks.instant));
        let restored = unasked.start(all.clone(), &asked);
        assert_eq!(restored[0].questions.len(), 1);
        assert_eq!(restored[0].questions[0].family, Family::V6);
        assert_eq!(restored[0].lingering.len(), 1);
        unasked.expire(&Default::default(), clocks.instant);
        let mut again = unasked.add_to(restored, &asked);
        again[0]
            .questions
            .sort_by_key(|question| question.family as usize);
        assert_eq!(again, all);
    }

    #[test]
    fn the_kept_state_of_another_host_ages_while_the_machine_sleeps() {
        let clocks = Clocks::now();
        let mut unasked = Unasked::default();
        unasked.start(saved(clocks), &HashSet::new());
        let rules = Rules::default();
        let window = Duration::from_secs(50) + rules.stale_for;
        unasked.slept(window - Duration::from_secs(1));
        unasked.expire(&rules, clocks.instant);
        assert_eq!(unasked.add_to(Vec::new(), &HashSet::new()).len(), 1);
        unasked.slept(Duration::from_secs(1));
        unasked.expire(&rules, clocks.instant);
        assert!(unasked.add_to(Vec::new(), &HashSet::new()).is_empty());
    }

    #[test]
    fn the_state_of_removed_hosts_is_bounded() {
        let clocks = Clocks::now();
        let mut unasked = Unasked::default();
        let question = |number: u64| Question {
            host: format!("h{number}.test").parse().unwrap(),
            family: Family::V4,
        };
        let none = HashSet::new();
        for number in 0..1_000 {
            let mut known = saved(clocks);
            known[0].host = question(number).host;
            if let Some(answer) = &mut known[0].questions[0].answer {
                answer.ttl_ends += Duration::from_secs(number);
            }
            unasked.replace(known, &HashSet::from([question(number)]), &none);
            unasked.expire(&Default::default(), clocks.instant);
        }
        let mut back = |number| {
            let asked = HashSet::from([question(number)]);
            unasked.replace(Vec::new(), &none, &asked).len()
        };
        assert_eq!((0..1_000).map(&mut back).sum::<usize>(), 256);
        assert_eq!(back(999), 0, "it was returned");
        assert!(unasked.add_to(Vec::new(), &none).is_empty());
    }
}
