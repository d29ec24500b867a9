//! Comparison of the set with the model, and checks of invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    fixtures::{EVERYBODY, UNLISTED},
    rules::{Report, Valid},
    trial::Trial,
};
use crate::{Family, Freshness, HostName, Question, RejectionKind, Verdict, set::Notice};

impl Trial {
    pub(super) fn check_report(&self, question: &Question, notices: &[Notice], expected: &Report) {
        let mut report = Report::default();
        for notice in notices {
            match notice {
                Notice::Changed(_) => {}
                Notice::WatchedChanged(_) => panic!("the set watches no host"),
                Notice::Failed {
                    question: failed,
                    times,
                    ..
                } => {
                    assert_eq!(failed, question);
                    report.failed = Some(*times);
                }
                Notice::Recovered {
                    question,
                    failing_since,
                } => {
                    report.recovered.insert(question.clone(), *failing_since);
                }
                Notice::Dropped {
                    question: dropped,
                    addresses,
                } => {
                    assert_eq!(dropped, question);
                    report.special = addresses.clone();
                }
                Notice::LingerLimitReached { host, dropped } => {
                    *report.limit_reached.entry(host.clone()).or_default() += dropped;
                }
            }
        }
        assert_eq!(report, *expected, "the notices of {question}");
    }

    pub(super) fn check(&mut self) {
        self.note_longest();
        for address in EVERYBODY.iter().copied() {
            self.check_verdict(address);
        }
        let now = self.now;
        assert_eq!(self.set.addresses(now), self.model.addresses(now));
        assert_eq!(self.set.is_ready(now), self.model.is_ready(now), "is_ready");
        assert!(
            self.set
                .hosts()
                .eq(self.model.hosts.iter().map(|host| &host.name))
        );
        let due: BTreeMap<_, _> = self.set.questions().collect();
        assert_eq!(due, self.model.due(), "due times, now is {now:?}");
        self.check_next_change();
        self.check_health();
        self.check_later_verdicts();
    }

    /// Compares the verdicts on unlisted peers at each later time at which a verdict may change, without a change of
    /// the set.
    pub(super) fn check_later_verdicts(&self) {
        let times: BTreeSet<_> = self.model.boundaries().into_iter().collect();
        for time in times.range(self.now..) {
            for (family, peer) in Family::ALL.into_iter().zip(*UNLISTED) {
                let kind = match self.model.is_resolved(family, *time) {
                    true => RejectionKind::NotListed,
                    false => RejectionKind::Unresolved,
                };
                let verdict = self.set.verdict(peer, *time);
                assert_eq!(
                    outline(&verdict),
                    Err(kind),
                    "{family} {:?} from now",
                    *time - self.now
                );
            }
        }
    }

    pub(super) fn check_verdict(&self, address: IpAddr) {
        let now = self.now;
        let verdict = self.set.verdict(address, now);
        let reasons = self.model.reasons(address, now);
        let best = reasons.iter().map(|reason| reason.freshness).min();
        match (&verdict, best) {
            (Verdict::Allow(allowed), Some(best)) => {
                assert_eq!(allowed.peer(), address.to_canonical());
                assert_eq!(
                    allowed.freshness(),
                    best,
                    "freshness of {address}: {reasons:?}"
                );
                assert!(
                    reasons.iter().any(|reason| reason.freshness == best
                        && reason.host.as_ref() == allowed.host()
                        && reason.network == allowed.network()
                        && reason.since == allowed.since()),
                    "{allowed:?} is not in {reasons:?}"
                );
            }
            (Verdict::Reject(rejection), None) => {
                let known = self.model.is_resolved(Family::from_ip(address), now);
                let kind = if known {
                    RejectionKind::NotListed
                } else {
                    RejectionKind::Unresolved
                };
                assert_eq!(rejection.kind(), kind, "why {address} is refused");
            }
            _ => panic!("{address}: {verdict:?}, but the model has {reasons:?}"),
        }
        self.check_invariants(
            address,
            verdict.allowed().and_then(|allowed| allowed.host()),
        );
    }

    /// Checks the invariants that do not depend on the details of the rules.
    pub(super) fn check_invariants(&self, address: IpAddr, host: Option<&HostName>) {
        let address = address.to_canonical();
        if host.is_some() {
            let longest = self.longest;
            let answered = self.last_answered.get(&address);
            assert!(
                answered.is_some_and(|answered| self.now < *answered + longest),
                "{address} was last answered at {answered:?} and is admitted at {:?}",
                self.now
            );
        }
        if let Some(until) = self.omitted.get(&address) {
            assert!(
                host.is_some() || self.now >= *until,
                "{address} was omitted by one answer and is refused before its refresh"
            );
        }
        for (question, (addresses, ttl_ends)) in &self.newest {
            assert!(
                host.is_some() || self.now >= *ttl_ends || !addresses.contains(&address),
                "{address} is in the newest answer to {question} and is refused"
            );
        }
    }

    /// Checks that no address is added or removed before the next announced change.
    pub(super) fn check_next_change(&self) {
        let next = self.set.next_change_at(self.now);
        if let Some(next) = next {
            assert!(next > self.now, "the next change is over");
        }
        let addresses = self.model.addresses(self.now);
        for time in self.model.boundaries() {
            if time > self.now && next.is_none_or(|next| time < next) {
                assert_eq!(
                    self.model.addresses(time),
                    addresses,
                    "a change at {time:?} was not announced, but {next:?}"
                );
            }
        }
    }

    pub(super) fn check_health(&self) {
        for (health, host) in self.set.health(self.now).iter().zip(&self.model.hosts) {
            assert_eq!(health.host, host.name);
            assert_eq!(health.addresses, self.model.admitted_by(host, self.now));
            for (health, family) in health.families.iter().zip(Family::ALL) {
                assert_eq!(health.family, family);
                let question = host.question(family);
                let states = self.model.states(host, family, self.now);
                assert!(
                    states.contains(&health.state),
                    "{} {family}: {:?}, not {states:?}",
                    host.name,
                    health.state
                );
                assert_eq!(
                    health.failing_since,
                    question.run.as_ref().map(|run| run.since)
                );
                let in_use: Vec<_> = match &question.valid {
                    Valid::Answer { addresses, .. } if self.model.in_window(question, self.now) => {
                        addresses.iter().copied().collect()
                    }
                    _ => Vec::new(),
                };
                assert_eq!(health.addresses, in_use, "{} {family}", host.name);
            }
        }
    }
}

/// Returns the part of a verdict that is the same for all equally good reasons.
pub(super) fn outline(verdict: &Verdict) -> Result<Freshness, RejectionKind> {
    match verdict {
        Verdict::Allow(allowed) => Ok(allowed.freshness()),
        Verdict::Reject(rejection) => Err(rejection.kind()),
    }
}
