//! Second implementation of the rules: the verdicts and statuses that follow from the state at a given time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use super::{
    fixtures::zone,
    rules::{Model, ModelHost, ModelQuestion, Reason, Valid, refresh},
};
use crate::{Family, Freshness, Question, set::QuestionStatus};

impl Model {
    /// Returns whether the last valid outcome of a question is in use.
    pub(super) fn in_window(&self, question: &ModelQuestion, now: Instant) -> bool {
        question.valid.ttl_end().is_some_and(|ttl_end| {
            now < ttl_end + self.rules.stale_for
                || question.run.is_none() && now < ttl_end + refresh(&self.rules)
        })
    }

    /// Returns whether a question has an answer that was not restored and whose TTL has not ended.
    pub(super) fn is_current(question: &ModelQuestion, now: Instant) -> bool {
        matches!(
            question.valid,
            Valid::Answer { ttl_end, restored: false, .. } if now < ttl_end
        )
    }

    pub(super) fn reasons(&self, address: IpAddr, now: Instant) -> Vec<Reason> {
        let address = address.to_canonical();
        let of = |host| self.reasons_of(host, address, now);
        let mut reasons: Vec<_> = self.hosts.iter().flat_map(of).collect();
        if reasons.is_empty()
            && let Some(network) = self.networks.iter().find(|net| net.contains(&address))
        {
            reasons.push(Reason {
                freshness: Freshness::Static,
                host: None,
                network: Some(*network),
                since: self.networks_since,
            });
        }
        reasons
    }

    pub(super) fn reasons_of(
        &self,
        host: &ModelHost,
        address: IpAddr,
        now: Instant,
    ) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let mut push = |freshness, since| {
            reasons.push(Reason {
                freshness,
                host: Some(host.name.clone()),
                network: None,
                since,
            });
        };
        for question in &host.questions {
            if let Valid::Answer {
                addresses,
                at,
                ttl_end,
                restored,
            } = &question.valid
                && addresses.contains(&address)
                && self.in_window(question, now)
            {
                let refreshing = question.run.is_none() && now < *ttl_end + refresh(&self.rules);
                let freshness = match (*restored, now < *ttl_end || refreshing) {
                    (true, _) => Freshness::Restored,
                    (false, true) => Freshness::Fresh,
                    (false, false) => Freshness::Stale,
                };
                push(freshness, *at);
            }
        }
        if let Some(left) = host.left.get(&address)
            && now < left.until
        {
            push(Freshness::Lingering, left.at);
        }
        reasons
    }

    pub(super) fn admitted_by(&self, host: &ModelHost, now: Instant) -> BTreeSet<IpAddr> {
        let in_use = host
            .questions
            .iter()
            .flat_map(|question| question.valid.addresses());
        in_use
            .chain(host.left.keys().copied())
            .filter(|address| !self.reasons_of(host, *address, now).is_empty())
            .collect()
    }

    pub(super) fn addresses(&self, now: Instant) -> BTreeSet<IpAddr> {
        let of = |host| self.admitted_by(host, now);
        self.hosts.iter().flat_map(of).collect()
    }

    pub(super) fn is_resolved(&self, family: Family, now: Instant) -> bool {
        (!self.hosts.is_empty() || !self.networks.is_empty())
            && self.hosts.iter().all(|host| {
                !self.asks(family)
                    || self.in_window(host.question(family), now)
                    || self.is_given_up(host, family, now)
            })
    }

    pub(super) fn is_given_up(&self, host: &ModelHost, family: Family, now: Instant) -> bool {
        let question = host.question(family);
        let Some(run) = &question.run else {
            return false;
        };
        let end = question.window_start.max(run.unbroken_since) + self.rules.stale_for;
        if now < end || run.next_by < end || self.in_window(question, now) {
            return false;
        }
        let here = zone(&host.name);
        let others: Vec<_> = self
            .hosts
            .iter()
            .filter(|other| other.name != host.name)
            .collect();
        let same_zone: Vec<_> = others
            .iter()
            .copied()
            .filter(|other| here.is_some() && zone(&other.name) == here)
            .collect();
        let asked = if same_zone.is_empty() {
            others
        } else {
            same_zone
        };
        asked
            .iter()
            .flat_map(|other| &other.questions)
            .any(|question| {
                let Valid::Answer {
                    at,
                    ttl_end,
                    restored: false,
                    ..
                } = question.valid
                else {
                    return false;
                };
                let is_well = question.run.is_none() && now < ttl_end + refresh(&self.rules);
                is_well || at >= end && self.in_window(question, now)
            })
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.all_attempted && (!self.networks.is_empty() || !self.addresses(now).is_empty())
    }

    pub(super) fn due(&self) -> BTreeMap<Question, Instant> {
        let mut due = BTreeMap::new();
        for host in &self.hosts {
            for family in Family::ALL {
                if !self.asks(family) {
                    continue;
                }
                let question = Question {
                    host: host.name.clone(),
                    family,
                };
                due.insert(question, host.question(family).due);
            }
        }
        due
    }

    /// Returns the statuses that a question may have.
    pub(super) fn states(
        &self,
        host: &ModelHost,
        family: Family,
        now: Instant,
    ) -> Vec<QuestionStatus> {
        let question = host.question(family);
        if !self.asks(family) {
            return vec![QuestionStatus::NotAsked];
        }
        if question.run.is_some() {
            return if self.is_given_up(host, family, now) {
                vec![QuestionStatus::GivenUp]
            } else {
                vec![QuestionStatus::Failing]
            };
        }
        match question.valid {
            Valid::Answer { .. } if self.in_window(question, now) => vec![QuestionStatus::Answered],
            Valid::Denial { .. } if self.in_window(question, now) => vec![QuestionStatus::Denied],
            _ if question.attempted => vec![QuestionStatus::Expired],
            _ => vec![QuestionStatus::Expired, QuestionStatus::Unasked],
        }
    }

    /// Returns every time at which a verdict or a status may change.
    pub(super) fn boundaries(&self) -> Vec<Instant> {
        let mut times = Vec::new();
        for host in &self.hosts {
            times.extend(host.left.values().map(|left| left.until));
            for question in &host.questions {
                times.push(question.due);
                times.push(question.window_start + self.rules.stale_for);
                if let Some(ttl_end) = question.valid.ttl_end() {
                    times.push(ttl_end);
                    times.push(ttl_end + refresh(&self.rules));
                    times.push(ttl_end + self.rules.stale_for);
                }
                if let Some(run) = &question.run {
                    times.push(run.next_by);
                    times.push(run.unbroken_since + self.rules.stale_for);
                    times.extend(run.denial.map(|denial| denial.ttl_end));
                }
            }
        }
        times
    }
}
