//! Runs of a schedule on a set and on the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    fixtures::{DAY, HOSTS, POOLS, is_private, names},
    rules::{Model, refresh},
    schedule::{Action, Advance, Asked, Outcome, Setting, Side, Step},
};
use crate::{
    AllowSet, Answer, Family, HostName, Question, ResolveError,
    ResolveErrorKind::{NoData, ServFail},
    set::{Notice, Rules},
};

/// A set and a model that take the same steps, with the facts that the invariants need.
pub(super) struct Trial {
    pub(super) set: AllowSet,
    pub(super) model: Model,
    pub(super) now: Instant,
    /// Admitted addresses of each host, derived from the reported changes alone.
    pub(super) replayed: BTreeMap<HostName, BTreeSet<IpAddr>>,
    /// For each address, the time of the last answer that contained it, whatever the host.
    pub(super) last_answered: BTreeMap<IpAddr, Instant>,
    /// Newest valid answer to each question, with the end of its TTL. A denial removes the answer.
    pub(super) newest: BTreeMap<Question, (BTreeSet<IpAddr>, Instant)>,
    /// Addresses that an answer omitted, each with the end of that answer's refresh.
    pub(super) omitted: BTreeMap<IpAddr, Instant>,
    /// The longest time for which an address can be admitted after the last answer that contained it, under any rules
    /// so far.
    pub(super) longest: Duration,
    start: Instant,
    restore: Restore,
}

/// Function that restores the state of the first set into the second set. The second set was built after the restart.
pub(crate) type Restore = fn(&AllowSet, &mut AllowSet, Restart) -> Vec<Notice>;

/// Times of a restart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    /// Start of the schedule. All other times of the schedule are a whole number of milliseconds later.
    pub(crate) start: Instant,
    pub(crate) stopped_at: Instant,
    pub(crate) now: Instant,
}

impl Trial {
    pub(super) fn new(rules: Rules, setting: &Setting, restore: Restore) -> Self {
        let now = tokio::time::Instant::now().into_std() + DAY;
        let (hosts, networks) = (names(&setting.hosts), setting.networks());
        Self {
            set: AllowSet::new(rules.clone(), hosts.clone(), &networks, now)
                .expect("the networks are not too wide"),
            model: Model::new(rules, &hosts, networks, now),
            now,
            replayed: BTreeMap::new(),
            last_answered: BTreeMap::new(),
            newest: BTreeMap::new(),
            omitted: BTreeMap::new(),
            longest: Duration::ZERO,
            start: now,
            restore,
        }
    }

    pub(super) fn take(&mut self, step: &Step) {
        self.advance(step.advance);
        match &step.action {
            Action::Wait => {}
            Action::Ask(asked, outcome) => self.ask(*asked, outcome),
            Action::Round(outcomes) => {
                let all = (0..HOSTS.len())
                    .flat_map(|host| Family::ALL.map(|family| Asked { host, family }));
                for (asked, outcome) in all.zip(outcomes) {
                    self.ask(asked, outcome);
                }
            }
            Action::Outage {
                order,
                stagger,
                rounds,
                gap,
                others,
            } => {
                for round in 0..usize::from(*rounds) {
                    self.advance(gap.advance(&self.model.rules));
                    for (place, host) in order.iter().enumerate() {
                        let fails = place * usize::from(*stagger) <= round;
                        for family in Family::ALL {
                            let asked = Asked {
                                host: *host,
                                family,
                            };
                            match (fails, others) {
                                (true, _) => self.ask(asked, &Outcome::Error(ServFail, None)),
                                (false, Some(outcome)) => self.ask(asked, outcome),
                                (false, None) => {}
                            }
                        }
                    }
                    if round % 4 == 3 {
                        self.check();
                    }
                }
            }
            Action::Expire => {
                let before = self.set.addresses(self.now);
                let notices = self.set.expire(self.now);
                let after = self.set.addresses(self.now);
                assert_eq!(after, before, "verdicts are right without `expire`");
                self.model.expire(self.now);
                self.replay(&notices);
            }
            Action::Replace(hosts) => {
                let hosts = names(hosts);
                let notices = self.set.replace_hosts(hosts.clone(), self.now);
                self.model.replace_hosts(&hosts, self.now);
                self.newest
                    .retain(|question, _| hosts.contains(&question.host));
                self.omitted.clear();
                self.replay(&notices);
            }
            Action::Restart { hosts, down, rules } => {
                let stopped_at = self.now;
                let unchanged = hosts.is_none() && rules.is_none();
                let before = self.set.addresses(stopped_at);
                self.advance(*down);
                let hosts = hosts.as_ref().map_or_else(
                    || {
                        self.model
                            .hosts
                            .iter()
                            .map(|host| host.name.clone())
                            .collect()
                    },
                    |hosts| names(hosts),
                );
                self.note_longest();
                if let Some(rules) = rules {
                    self.newest.clear();
                    self.omitted.clear();
                    self.model.rules.clone_from(rules);
                    self.note_longest();
                }
                let mut set = AllowSet::new(
                    self.model.rules.clone(),
                    hosts.clone(),
                    &self.model.networks,
                    self.now,
                )
                .expect("the networks are not too wide");
                self.replayed.clear();
                let restart = Restart {
                    start: self.start,
                    stopped_at,
                    now: self.now,
                };
                let notices = (self.restore)(&self.set, &mut set, restart);
                self.set = set;
                let rules = &self.model.rules;
                if unchanged
                    && self.now == stopped_at
                    && rules.only_family.is_none()
                    && refresh(rules) <= rules.stale_for
                {
                    let after = self.set.addresses(self.now);
                    assert_eq!(after, before, "a restart changes no verdict");
                }
                self.model.restart(&hosts, self.now);
                self.newest
                    .retain(|question, _| hosts.contains(&question.host));
                if self.model.hosts.len() < HOSTS.len() {
                    self.omitted.clear();
                }
                self.replay(&notices);
            }
        }
    }

    /// Checks that every window ends.
    pub(super) fn finish(&mut self) {
        self.note_longest();
        self.now += self.longest;
        assert!(self.set.addresses(self.now).is_empty(), "every window ends");
        let notices = self.set.expire(self.now);
        self.model.expire(self.now);
        self.replay(&notices);
    }

    pub(super) fn advance(&mut self, advance: Advance) {
        let before = self.set.addresses(self.now);
        self.now = match advance {
            Advance::Not => self.now,
            Advance::By(time) => self.now + time,
            Advance::Near { pick, side } => {
                let mut times: Vec<_> = self
                    .model
                    .boundaries()
                    .into_iter()
                    .filter_map(|time| match side {
                        Side::Before => time.checked_sub(Duration::from_millis(1)),
                        Side::At => Some(time),
                        Side::After => Some(time + Duration::from_millis(1)),
                    })
                    .filter(|time| *time > self.now)
                    .collect();
                times.sort_unstable();
                // `pick` is squared, so that nearer times are picked more often.
                let at = usize::from(pick) * usize::from(pick) * times.len() / (256 * 256);
                times.get(at).copied().unwrap_or(self.now)
            }
        };
        let after = self.set.addresses(self.now);
        assert!(after.is_subset(&before), "time alone admits no address");
    }

    pub(super) fn ask(&mut self, asked: Asked, outcome: &Outcome) {
        let question = asked.question();
        let outcome = outcome.outcome(asked.family);
        let notices = self.set.apply(&question, outcome.clone(), self.now);
        if !self.has(&question.host) || !self.model.asks(question.family) {
            assert!(
                notices.is_empty(),
                "{question} is not in the set: {notices:?}"
            );
            return;
        }
        let floor = self.now + self.model.rules.min_ttl;
        assert!(
            self.set.due_at(&question) >= Some(floor),
            "{question} is due before the refresh interval floor"
        );
        let report = self.model.apply(&question, &outcome, self.now);
        self.note(&question, &outcome);
        self.replay(&notices);
        self.check_report(&question, &notices, &report);
    }

    pub(super) fn has(&self, host: &HostName) -> bool {
        self.model.hosts.iter().any(|known| known.name == *host)
    }

    pub(super) fn note_longest(&mut self) {
        let rules = &self.model.rules;
        let most_ttl = rules.max_ttl.max(rules.min_ttl);
        let refresh = refresh(rules);
        let lingers = rules.linger.max(most_ttl + refresh);
        let longest = most_ttl + rules.stale_for.max(refresh) + lingers;
        self.longest = self.longest.max(longest);
    }

    /// Records the facts that the invariants need.
    pub(super) fn note(&mut self, question: &Question, outcome: &Result<Answer, ResolveError>) {
        let rules = &self.model.rules;
        let denied = match outcome {
            Ok(answer) if answer.addresses().is_empty() => Some(NoData),
            Err(error) if error.is_denial() => Some(error.kind()),
            _ => None,
        };
        if denied.is_some() {
            self.newest.remove(question);
        }
        let Ok(answer) = outcome else { return };
        for address in answer.addresses() {
            self.last_answered.insert(*address, self.now);
        }
        let public: BTreeSet<_> = answer
            .addresses()
            .iter()
            .copied()
            .filter(|address| rules.insecure_allow_special_addresses || !is_private(*address))
            .collect();
        if !public.is_empty() && answer.addresses().len() <= rules.max_addresses {
            let ttl_end = self.now + answer.ttl().clamp(rules.min_ttl, rules.max_ttl);
            let before = self.newest.get(question);
            let before = before.filter(|(_, ttl_end)| self.now < *ttl_end + rules.stale_for);
            if let Some((before, _)) = before
                && !rules.linger.is_zero()
                && rules.max_lingering > 2 * POOLS[0].len()
            {
                for address in before.difference(&public) {
                    // Whether a restart restores a lingering address depends on the family of the address, not of the
                    // question.
                    if self.model.asks(Family::from_ip(*address)) {
                        self.omitted.insert(*address, ttl_end + refresh(rules));
                    }
                }
            }
            for address in &public {
                self.omitted.remove(address);
            }
            self.newest.insert(question.clone(), (public, ttl_end));
        }
    }

    pub(super) fn replay(&mut self, notices: &[Notice]) {
        for notice in notices {
            let Notice::Changed(change) = notice else {
                continue;
            };
            assert_eq!(change.at, self.now);
            assert!(
                !change.added.is_empty() || !change.removed.is_empty(),
                "nothing changed: {change:?}"
            );
            let admitted = self.replayed.entry(change.host.clone()).or_default();
            for address in &change.added {
                assert!(
                    admitted.insert(*address),
                    "{address} was added before: {change:?}"
                );
            }
            for address in &change.removed {
                assert!(
                    admitted.remove(address),
                    "{address} was not present: {change:?}"
                );
            }
        }
        let mut admitted: BTreeMap<_, _> = self
            .model
            .hosts
            .iter()
            .map(|host| (host.name.clone(), self.model.admitted_by(host, self.now)))
            .collect();
        admitted.retain(|_, addresses| !addresses.is_empty());
        self.replayed.retain(|_, addresses| !addresses.is_empty());
        assert_eq!(
            self.replayed, admitted,
            "the reported changes differ from the admitted addresses"
        );
    }
}
