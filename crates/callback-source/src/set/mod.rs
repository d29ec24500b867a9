//! The set of addresses that may call: answers and time in, verdicts out.
//!
//! [`AllowSet`] is pure. It has no clock, does no I/O and never waits; every rule below is a
//! function of what was applied and of the `now` that is passed in.
//!
//! 1. **Answer.** Its addresses are admitted until its TTL, clamped, has ended; then the question is
//!    due again, and the expired answer stays in use while it is refreshed: for a second, the jitter
//!    and the time limit of a question.
//! 2. **Linger.** An address that left the answer stays admitted for the linger window from the answer
//!    (or believed denial) that first omits it, and at least until that answer has been refreshed: one
//!    answer that omits an address never takes it away. The end is fixed at that moment. A believed
//!    denial is due again within a quarter of the linger window while addresses of its family linger.
//!    An address that was no longer admitted does not linger, and with a linger window of zero none does.
//! 3. **Stale.** While questions fail, the last valid answer stays in use for the stale window from the
//!    end of its TTL. Linger and stale are independent: either open window admits.
//! 4. **Denial.** "No such name" or "no such record" for a question that has been answered is believed
//!    once another host of the same zone gave an answer that is not older than the denial, and is
//!    unexpired; then the addresses linger and go. It does not matter whether the last answer is still
//!    in use. For a question that has never been answered, or whose last valid outcome was a denial, any
//!    unexpired answer of another host will do, and for "no such record" one of the same host's other
//!    family. Otherwise the denial counts as a failed lookup. It is reconsidered whenever another
//!    answer arrives, until a newer response to the same question replaces it.
//!
//!    Two hosts are of the same zone if their names share the parent domain, and it is not a public
//!    suffix: it has at least two labels, and is not a second level such as `co.uk`.
//! 5. **Families** are independent: a failing AAAA neither drops nor freshens A, and NXDOMAIN speaks for
//!    the family that was asked for; the other has its own question. If only one family is looked up, the
//!    other has no questions, holds nothing, and every host is known for it.
//! 6. **Given up.** A question is given up when it has failed for the whole stale window: from the
//!    first failure, and not before the end of its last answer's TTL. It then no longer makes verdicts
//!    [`Unresolved`](RejectionKind::Unresolved).
//!    - Time in which nothing was asked does not count. If the next failure comes later than the question
//!      was due, by more than a refresh can take, the window starts anew with it; a pause of up to the
//!      greatest TTL, and of up to a quarter of the stale window, is not a gap. Nor is a question given
//!      up by time alone if its last failure is longer ago than that. A restart starts the window anew.
//!    - While no host answers, none is given up. There must be an answer of another host, not restored,
//!      that is current, with its question not failing; or one that came after the end of the window, for
//!      as long as it is itself in use. If the set has other hosts of the same zone, it must be one of
//!      theirs: a zone that does not answer at all is not confirmed by another one.
//! 7. **Special-purpose addresses** in an answer are dropped; an answer of nothing else, and one of too
//!    many addresses, is a failure. Addresses that a DNS64 made up count as no record.

mod address_table;
mod index;
pub(crate) mod networks;
mod special_purpose;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use networks::NetworkError;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{
    Allowed, Answer, Family, Freshness, HostName, Question, Rejection, RejectionKind, ResolveError,
    ResolveErrorKind, Verdict,
    set::index::{Admission, Index, Validity},
    set::networks::Networks,
    set::special_purpose::{is_made_up_from_ipv4, is_special},
    verdict::Source,
};

/// The windows and bounds of an [`AllowSet`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// The least TTL of an answer; a lesser one counts as this. Default 5 s.
    pub min_ttl: Duration,
    /// The greatest TTL of an answer; a greater one counts as this. Default 1 h.
    pub max_ttl: Duration,
    /// How long an address stays admitted after it left the answer; at least until the answer that
    /// omits it has been refreshed. Zero: not at all. Default 1 h.
    pub linger: Duration,
    /// For how long the last valid answer still counts while questions fail. Default 24 h.
    pub stale_for: Duration,
    /// The longest pause between two tries of a failing question. Default 60 s.
    pub max_backoff: Duration,
    /// How many addresses an answer may hold. Default 256.
    pub max_addresses: usize,
    /// How many addresses of one host may linger at a time. Default 1,024.
    pub max_lingering: usize,
    /// How long a question may take; an expired answer stays in use while it is refreshed. Default 5 s.
    pub question_time_limit: Duration,
    /// The only family that is looked up; `None` for both. Peers of the other family are
    /// [`NotListed`](RejectionKind::NotListed), unless a static network admits them. Default `None`.
    pub only_family: Option<Family>,
    /// Whether special-purpose addresses (loopback, private, documentation …) are taken from
    /// answers. Default `false`; only for tests.
    pub insecure_allow_special_addresses: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(60 * 60),
            linger: Duration::from_secs(60 * 60),
            stale_for: Duration::from_secs(24 * 60 * 60),
            max_backoff: Duration::from_secs(60),
            max_addresses: 256,
            max_lingering: 1024,
            question_time_limit: Duration::from_secs(5),
            only_family: None,
            insecure_allow_special_addresses: false,
        }
    }
}

impl Rules {
    /// A TTL within the bounds. Where they cross, the least one counts.
    fn clamp(&self, ttl: Duration) -> Duration {
        ttl.min(self.max_ttl).max(self.min_ttl)
    }

    /// How long a refresh can take after the TTL has ended.
    fn refresh_time(&self) -> Duration {
        let begins = LAST_SECOND + MAX_JITTER;
        begins.saturating_add(self.question_time_limit)
    }

    /// The time by which an address that left an answer, or was denied, stops lingering. `ttl_ends`
    /// is the end of the TTL of what omits it: with less, one answer that omits an address would
    /// take it away although the next one names it again.
    fn linger_ends(&self, left_at: Instant, ttl_ends: Instant) -> Instant {
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::LingerWithoutRefresh) {
            return after(left_at, self.linger);
        }
        after(left_at, self.linger).max(after(ttl_ends, self.refresh_time()))
    }

    /// The time until which a denial holds. While addresses linger, it is asked again well before they
    /// go.
    fn denied_until(&self, error: &ResolveError, denied_at: Instant, lingers: bool) -> Instant {
        let ttl = self.clamp(error.negative_ttl().unwrap_or(NEGATIVE_TTL));
        let most = match lingers {
            true => (self.linger / 4).max(self.min_ttl),
            false => ttl,
        };
        after(denied_at, ttl.min(most))
    }

    fn asks(&self, family: Family) -> bool {
        self.only_family.is_none_or(|only| only == family)
    }

    /// The families that are looked up.
    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let only = self.only_family;
        let asked = move |family: &Family| only.is_none_or(|only| only == *family);
        Family::ALL.into_iter().filter(asked)
    }
}

/// The set of addresses that may call. See the [module docs](self) for its rules.
#[derive(Clone, Debug)]
pub struct AllowSet {
    rules: Rules,
    hosts: Vec<Host>,
    networks: Networks,
    networks_since: Instant,
    all_tried: bool,
    index: Index,
}

impl AllowSet {
    /// A set of these hosts and static networks, of which nothing has been asked yet.
    ///
    /// # Errors
    ///
    /// Networks that make up a whole address family, such as `0.0.0.0/0`.
    pub fn new(
        rules: Rules,
        hosts: impl IntoIterator<Item = HostName>,
        networks: &[IpNet],
        now: Instant,
    ) -> Result<Self, NetworkError> {
        let mut set = Self {
            rules,
            hosts: Vec::new(),
            networks: Networks::new(networks)?,
            networks_since: now,
            all_tried: false,
            index: Index::new(Vec::new(), [Vec::new(), Vec::new()], now),
        };
        set.replace_hosts(hosts, now);
        Ok(set)
    }

    /// Takes in what came of a question that was asked, and says what is worth reporting.
    ///
    /// A question that the set does not ask, about another host or family, changes nothing.
    pub fn apply(
        &mut self,
        question: &Question,
        outcome: Result<Answer, ResolveError>,
        now: Instant,
    ) -> Vec<Notice> {
        let Some(at) = self.position(&question.host) else {
            return Vec::new();
        };
        if !self.rules.asks(question.family) {
            return Vec::new();
        }
        let mut notices = Vec::new();
        self.end_windows(now);
        self.hosts[at].records[question.family as usize]
            .dropped
            .clear();
        match self.accept(at, question, outcome, &mut notices) {
            Ok(answer) => self.answered(at, question.family, answer, now, &mut notices),
            Err(error)
                if error.is_denial() && self.believes(at, question.family, &error, now, now) =>
            {
                self.denied(at, question.family, &error, now, now, &mut notices);
            }
            Err(error) => self.failed(at, question, error, now, &mut notices),
        }
        self.hosts[at].records[question.family as usize].attempted = true;
        self.settle(now, &mut notices);
        notices
    }

    /// Lets go of what is over. To be called at [`next_change_at`](Self::next_change_at), so that
    /// changes are reported when they happen; verdicts are right without it.
    pub fn expire(&mut self, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.settle(now, &mut notices);
        notices
    }

    /// Takes into account that the machine slept for this long, which `Instant` does not count: all
    /// that happened before moves into the past by that time.
    ///
    /// Nothing was asked meanwhile, so a question that failed before does not count as having failed
    /// for that time.
    pub fn slept(&mut self, slept: Duration, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        let back = |at: &mut Instant| *at = before(*at, slept);
        back(&mut self.networks_since);
        for host in &mut self.hosts {
            for lingering in host.lingering.values_mut() {
                back(&mut lingering.left_at);
                back(&mut lingering.until);
            }
            for records in &mut host.records {
                back(&mut records.stale_from);
                back(&mut records.due_at);
                if let Some(held) = &mut records.held {
                    back(&mut held.answered_at);
                    back(&mut held.ttl_ends);
                }
                if let Some(failing) = &mut records.failing {
                    back(&mut failing.since);
                    // The order of denials and answers stays as it was.
                    back(&mut failing.at);
                    failing.run_since = now;
                }
            }
        }
        self.settle(now, &mut notices);
        notices
    }

    /// Replaces the hosts. Those that stay keep their answers; the addresses of those that go are
    /// refused at once.
    pub fn replace_hosts(
        &mut self,
        hosts: impl IntoIterator<Item = HostName>,
        now: Instant,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let before = std::mem::take(&mut self.hosts).into_iter();
        let mut before: BTreeMap<_, _> = before.map(|host| (host.name.clone(), host)).collect();
        let mut named = BTreeSet::new();
        for name in hosts {
            if named.insert(name.clone()) {
                let kept = before.remove(&name);
                self.hosts
                    .push(kept.unwrap_or_else(|| Host::new(name, now)));
            }
        }
        for host in before.into_values() {
            notices.extend(host.changes(&BTreeSet::new(), now));
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::HostsKept) {
            return notices;
        }
        self.settle(now, &mut notices);
        notices
    }

    /// Whether a peer may call.
    pub fn verdict(&self, peer: IpAddr, now: Instant) -> Verdict {
        let peer = peer.to_canonical();
        if let Some(row) = self.index.find(peer, now) {
            return Verdict::Allow(Allowed {
                peer,
                source: Source::Host(row.host.clone()),
                freshness: row.freshness,
                since: row.since,
            });
        }
        if !self.networks.is_empty()
            && let Some(network) = self.networks.find(peer)
        {
            return Verdict::Allow(Allowed {
                peer,
                source: Source::Network(network),
                freshness: Freshness::Static,
                since: self.networks_since,
            });
        }
        let kind = if self.index.is_known(peer, now) {
            RejectionKind::NotListed
        } else {
            RejectionKind::Unresolved
        };
        Verdict::Reject(Rejection::new(kind, Some(peer)))
    }

    /// Whether every question was tried once to an end, and an address or a static network is in
    /// force. Once ready, a set is not ready again only when nothing is in force.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.all_tried
            && (!self.networks.is_empty() || self.index.rows().any(|row| now < row.until))
    }

    /// Whether every question was tried once to an end, answered or not.
    #[must_use]
    pub fn is_attempted(&self) -> bool {
        self.all_tried
    }

    /// The hosts, in the order in which they were given.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().map(|host| &host.name)
    }

    /// The static networks, merged and sorted.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.networks.iter()
    }

    /// The addresses that DNS admits at this moment, sorted, each once.
    #[must_use]
    pub fn addresses(&self, now: Instant) -> BTreeSet<IpAddr> {
        self.index
            .rows()
            .filter(|row| now < row.until)
            .map(|row| row.address)
            .collect()
    }

    /// Every question, and when it is due.
    pub fn questions(&self) -> impl Iterator<Item = (Question, Instant)> {
        self.hosts.iter().flat_map(|host| {
            self.rules.families().map(|family| {
                let question = Question {
                    host: host.name.clone(),
                    family,
                };
                (question, host.records[family as usize].due_at)
            })
        })
    }

    /// When a question is due; `None` if its host is not in the set.
    pub(crate) fn due_at(&self, question: &Question) -> Option<Instant> {
        self.records(question).map(|records| records.due_at)
    }

    /// The next time at which a window ends.
    #[must_use]
    pub fn next_change_at(&self, now: Instant) -> Option<Instant> {
        self.index
            .rows()
            .map(|row| row.until)
            .filter(|until| now < *until)
            .min()
    }

    /// How each host is doing.
    #[must_use]
    pub fn health(&self, now: Instant) -> Vec<HostHealth> {
        let host_health = |(at, host): (usize, &Host)| HostHealth {
            host: host.name.clone(),
            addresses: host.admitted(&self.rules, now),
            families: Family::ALL.map(|family| self.family_health(at, family, now)),
        };
        self.hosts.iter().enumerate().map(host_health).collect()
    }

    /// What a restart should know.
    pub(crate) fn save(&self) -> Vec<PersistedHost> {
        let saved = |host: &Host, family: Family| {
            let records = &host.records[family as usize];
            PersistedQuestion {
                family,
                stale_from: records.stale_from,
                denied: records.denied,
                answer: records.held.clone(),
            }
        };
        let hosts = self.hosts.iter().map(|host| PersistedHost {
            host: host.name.clone(),
            records: Family::ALL.map(|family| saved(host, family)).into(),
            lingering: host.saved_lingering(),
        });
        hosts.collect()
    }

    /// Takes in what was saved before a restart, with its original times: no window is stretched.
    /// What does not hold by the rules of today is left out, and so is what is no longer a host.
    pub(crate) fn restore(&mut self, saved: Vec<PersistedHost>, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        let rules = &self.rules;
        let most_ttl = rules.clamp(Duration::MAX);
        let admissible =
            |address: &IpAddr| rules.insecure_allow_special_addresses || !is_special(*address);
        let mut hosts: BTreeMap<_, _> = self
            .hosts
            .iter_mut()
            .map(|host| (host.name.clone(), host))
            .collect();
        for saved in saved {
            let Some(host) = hosts.get_mut(&saved.host) else {
                continue;
            };
            for of in saved.records {
                if !rules.asks(of.family) {
                    continue;
                }
                let records = &mut host.records[of.family as usize];
                records.stale_from = of.stale_from.min(now);
                if let Some(mut held) = of.answer {
                    held.restored = true;
                    held.answered_at = held.answered_at.min(now);
                    held.ttl_ends = held.ttl_ends.min(after(held.answered_at, most_ttl));
                    #[cfg(callback_source_simulation)]
                    if crate::simulation::planted(crate::simulation::Fault::RestoredRenewed) {
                        (held.answered_at, held.ttl_ends) =
                            (now, after(now, rules.clamp(held.ttl)));
                    }
                    held.addresses = held.addresses.into_iter().filter(admissible).collect();
                    records.stale_from = held.ttl_ends;
                    records.answered = true;
                    let holds = 1..=rules.max_addresses;
                    records.held = Some(held).filter(|held| holds.contains(&held.addresses.len()));
                } else {
                    records.denied = of.denied;
                }
            }
            let restored = |(address, saved): (IpAddr, PersistedLingering)| {
                let lingering = Lingering {
                    left_at: saved.left_at,
                    until: saved.until(rules),
                };
                (address, lingering)
            };
            let mut lingering: Vec<_> = saved.lingering.into_iter().map(restored).collect();
            // What is over must not take the place of what lingers.
            lingering.retain(|(address, Lingering { left_at, until })| {
                let lingers = *left_at <= now && now < *until;
                lingers && rules.asks(Family::of(*address)) && admissible(address)
            });
            lingering.sort_by_key(|(_, lingering)| std::cmp::Reverse(lingering.left_at));
            lingering.truncate(rules.max_lingering);
            host.lingering = lingering.into_iter().collect();
        }
        self.settle(now, &mut notices);
        notices
    }

    pub(crate) fn is_unasked(&self, question: &Question) -> bool {
        self.records(question)
            .is_some_and(|records| !records.attempted)
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    fn records(&self, question: &Question) -> Option<&QuestionState> {
        let at = self.position(&question.host)?;
        if !self.rules.asks(question.family) {
            return None;
        }
        Some(&self.hosts[at].records[question.family as usize])
    }

    fn position(&self, name: &HostName) -> Option<usize> {
        self.hosts.iter().position(|host| host.name == *name)
    }

    /// Rule 7, and an answer without an address is a denial.
    fn accept(
        &mut self,
        at: usize,
        question: &Question,
        outcome: Result<Answer, ResolveError>,
        notices: &mut Vec<Notice>,
    ) -> Result<Answer, ResolveError> {
        let answer = outcome?;
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::SpecialAdmitted)
            && !answer.addresses().is_empty()
        {
            return Ok(answer);
        }
        if answer.addresses().len() > self.rules.max_addresses {
            return Err(ResolveError::new(ResolveErrorKind::TooManyAddresses));
        }
        let ttl = answer.ttl();
        let recorded = answer.addresses().iter().copied();
        let answer = Answer::new(recorded.filter(|ip| !is_made_up_from_ipv4(*ip)), ttl);
        if answer.addresses().is_empty() {
            return Err(ResolveError::new(ResolveErrorKind::NoData).with_negative_ttl(ttl));
        }
        if self.rules.insecure_allow_special_addresses {
            return Ok(answer);
        }
        let (dropped, kept): (Vec<_>, Vec<_>) = answer
            .addresses()
            .iter()
            .partition(|address| is_special(**address));
        if !dropped.is_empty() {
            let records = &mut self.hosts[at].records[question.family as usize];
            records.dropped.clone_from(&dropped);
            notices.push(Notice::Dropped {
                question: question.clone(),
                addresses: dropped,
            });
        }
        if kept.is_empty() {
            return Err(ResolveError::new(ResolveErrorKind::OnlySpecialAddresses));
        }
        Ok(Answer::new(kept, answer.ttl()))
    }

    /// Rule 4. In a zone that denies everything, hosts that have not been asked again yet must not
    /// bear out the denials of those that have.
    fn believes(
        &self,
        at: usize,
        family: Family,
        error: &ResolveError,
        denied_at: Instant,
        now: Instant,
    ) -> bool {
        let host = &self.hosts[at];
        let takes_addresses = host.records[family as usize].answered;
        let bears_out = |other: &Host| {
            let current = |of: &&QuestionState| of.is_current(now);
            let mut answers = other
                .records
                .iter()
                .filter(current)
                .filter_map(|of| of.held.as_ref());
            match takes_addresses {
                // That another zone is well says nothing about this one.
                true => {
                    other.name.is_of_same_zone(&host.name)
                        && answers.any(|held| denied_at <= held.answered_at)
                }
                false => answers.next().is_some(),
            }
        };
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::DenialBelievedEarly) {
            let answers = |of: &QuestionState| of.is_current(now);
            let mut all = self.hosts.iter().flat_map(|host| &host.records);
            return all.any(answers);
        }
        let mut others = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        if others.any(|(_, other)| bears_out(other)) {
            return true;
        }
        error.kind() == ResolveErrorKind::NoData
            && !takes_addresses
            && host.records.iter().any(|records| records.is_current(now))
    }

    fn answered(
        &mut self,
        at: usize,
        family: Family,
        answer: Answer,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        let host = &mut self.hosts[at];
        let records = &mut host.records[family as usize];
        let ttl_ends = after(now, self.rules.clamp(answer.ttl()));
        let held = LastAnswer {
            addresses: answer.addresses().into(),
            ttl: answer.ttl(),
            answered_at: now,
            ttl_ends,
            restored: false,
        };
        let before = records.held.replace(held);
        records.answered = true;
        records.denied = false;
        records.stale_from = ttl_ends;
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::StaleFromAnswer) {
            records.stale_from = now;
        }
        records.due_at = ttl_ends;
        if let Some(failing) = records.failing.take() {
            let question = Question {
                host: host.name.clone(),
                family,
            };
            notices.push(Notice::Recovered {
                question,
                failing_since: failing.since,
            });
        }
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::LingerRestarted) {
            for lingering in host.lingering.values_mut() {
                lingering.left_at = now;
                lingering.until = self.rules.linger_ends(now, ttl_ends);
            }
        }
        for address in answer.addresses() {
            host.lingering.remove(address);
        }
        if let Some(before) = before {
            let left = before.addresses.iter().copied();
            let left = left
                .filter(|address| !answer.addresses().contains(address))
                .collect();
            host.linger(left, ttl_ends, &self.rules, now, notices);
        }
    }

    /// `denied_at` is the time of the denial, `now` the time at which it is believed.
    fn denied(
        &mut self,
        at: usize,
        family: Family,
        error: &ResolveError,
        denied_at: Instant,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        let host = &mut self.hosts[at];
        let records = &mut host.records[family as usize];
        let left = records.held.take().map(|held| held.addresses.into());
        let left: Vec<IpAddr> = left.unwrap_or_default();
        let lingers = !left.is_empty()
            || host
                .lingering
                .keys()
                .any(|address| Family::of(*address) == family);
        let ttl_ends = self.rules.denied_until(error, denied_at, lingers);
        host.linger(left, ttl_ends, &self.rules, now, notices);
        let records = &mut host.records[family as usize];
        records.answered = false;
        records.denied = true;
        records.stale_from = ttl_ends;
        records.failing = None;
        records.due_at = ttl_ends;
    }

    fn failed(
        &mut self,
        at: usize,
        question: &Question,
        error: ResolveError,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        let records = &mut self.hosts[at].records[question.family as usize];
        let (since, run_since, times) = match &records.failing {
            Some(before) => {
                let run_since = match now <= before.next_by {
                    true => before.run_since,
                    false => now,
                };
                (before.since, run_since, before.times.saturating_add(1))
            }
            None => (now, now, 1),
        };
        let first = self.rules.min_ttl.max(MIN_BACKOFF);
        let backoff = first
            .saturating_mul(1 << (times - 1).min(16))
            .min(self.rules.max_backoff);
        records.due_at = after(now, backoff.max(first));
        let pause = self.rules.max_ttl.min(self.rules.stale_for / 4);
        let next_by = after(records.due_at, self.rules.refresh_time()).max(after(now, pause));
        notices.push(Notice::Failed {
            question: question.clone(),
            error: error.clone(),
            times,
        });
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::FailureForgets) {
            records.held = None;
        }
        records.failing = Some(Failing {
            since,
            run_since,
            next_by,
            times,
            at: now,
            error,
        });
    }

    /// Takes away what is over, so that nothing that is no longer admitted can come back.
    fn end_windows(&mut self, now: Instant) {
        for host in &mut self.hosts {
            host.lingering.retain(|_, lingering| now < lingering.until);
            for records in &mut host.records {
                if records.stale_until(&self.rules) <= now {
                    records.held = None;
                    records.denied = false;
                }
            }
        }
    }

    fn settle(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        self.end_windows(now);
        self.believe_late(now, notices);
        let asked = |host: &Host| {
            let mut families = self.rules.families();
            families.all(|family| host.records[family as usize].attempted)
        };
        self.all_tried |= self.hosts.iter().all(asked);
        for host in &mut self.hosts {
            let admitted = host.admitted(&self.rules, now);
            notices.extend(host.changes(&admitted, now));
            host.announced = admitted;
        }
        let rows = self
            .hosts
            .iter()
            .flat_map(|host| host.rows(&self.rules))
            .collect();
        // An empty list must answer `Unresolved`, not `NotListed`.
        let start = match self.hosts.is_empty() && self.networks.is_empty() {
            true => Vec::new(),
            false => vec![Validity::ALWAYS],
        };
        let known = Family::ALL.map(|family| {
            let asked = self.rules.asks(family);
            (0..self.hosts.len())
                .filter(|_| asked)
                .map(|at| self.known(at, family))
                .fold(start.clone(), |all, host| Validity::in_both(&all, &host))
        });
        self.index = Index::new(rows, known, now);
    }

    /// Rule 4: makes the order in which the answers of one round arrive irrelevant.
    fn believe_late(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        // All are judged before one is acted on: it must not matter which host is named first.
        let mut believed = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            for family in Family::ALL {
                if let Some(failing) = &host.records[family as usize].failing
                    && failing.error.is_denial()
                    && self.believes(at, family, &failing.error, failing.at, now)
                {
                    believed.push((at, family, failing.error.clone(), failing.at));
                }
            }
        }
        for (at, family, error, denied_at) in believed {
            self.denied(at, family, &error, denied_at, now, notices);
        }
    }

    /// The spans in which a host is known for a family: it answered, or was denied, or is given up.
    /// There can be a gap between the two.
    fn known(&self, at: usize, family: Family) -> Vec<Validity> {
        let records = &self.hosts[at].records[family as usize];
        let heard = records.held.is_some() || records.denied;
        let heard = heard.then(|| Validity::until(records.stale_until(&self.rules)));
        heard.into_iter().chain(self.given_up(at, family)).collect()
    }

    /// Rule 6: the span in which a question is given up.
    fn given_up(&self, at: usize, family: Family) -> Option<Validity> {
        let records = &self.hosts[at].records[family as usize];
        let failing = records.failing.as_ref()?;
        let stale_from = records.stale_from.max(failing.run_since);
        #[cfg(callback_source_simulation)]
        if crate::simulation::planted(crate::simulation::Fault::GivenUpByTimeUnasked) {
            return self
                .others_answer_until(at, failing.since)
                .map(|until| Validity {
                    from: Some(after(records.stale_from, self.rules.stale_for)),
                    until: Some(until),
                });
        }
        let from = after(stale_from, self.rules.stale_for);
        // Nothing was asked shortly before: it may have recovered long ago.
        if failing.next_by < from {
            return None;
        }
        let until = self.others_answer_until(at, from)?;
        Some(Validity {
            from: Some(from),
            until: Some(until),
        })
    }

    /// The time until which the answers of others confirm that a host is given up from `from` on.
    fn others_answer_until(&self, at: usize, from: Instant) -> Option<Instant> {
        let name = &self.hosts[at].name;
        let others = || self.hosts.iter().filter(|other| other.name != *name);
        let same_zone = |other: &&Host| other.name.is_of_same_zone(name);
        // A host that is alone in its zone would otherwise never be given up.
        let any_zone = !others().any(|other| same_zone(&other));
        let confirms = |records: &QuestionState| {
            let held = records.held.as_ref().filter(|held| !held.restored)?;
            let current = records.failing.is_none();
            let current = current.then(|| records.current_until(held, &self.rules));
            let later = from <= held.answered_at;
            current.max(later.then(|| records.stale_until(&self.rules)))
        };
        others()
            .filter(|other| any_zone || same_zone(other))
            .flat_map(|other| other.records.iter().filter_map(confirms))
            .max()
    }

    /// What stays in use of a question that fails.
    pub(crate) fn standing(&self, question: &Question, now: Instant) -> Option<Standing> {
        let at = self.position(&question.host)?;
        let records = &self.hosts[at].records[question.family as usize];
        let until = records.stale_until(&self.rules);
        let is_known = records.held.is_some() || records.denied;
        Some(match self.family_health(at, question.family, now).state {
            QuestionStatus::GivenUp => Standing::GivenUp,
            _ if until <= now => Standing::Over,
            _ if !is_known => Standing::Unknown,
            _ => Standing::InUse {
                until,
                restored: records.held.as_ref().is_some_and(|held| held.restored),
            },
        })
    }

    fn family_health(&self, at: usize, family: Family, now: Instant) -> FamilyHealth {
        let records = &self.hosts[at].records[family as usize];
        let counts = now < records.stale_until(&self.rules);
        let held = records.held.as_ref().filter(|_| counts);
        let given_up = || {
            self.given_up(at, family)
                .is_some_and(|span| span.contains(now))
        };
        FamilyHealth {
            family,
            state: match &records.failing {
                _ if !self.rules.asks(family) => QuestionStatus::NotAsked,
                Some(_) if given_up() => QuestionStatus::GivenUp,
                Some(_) => QuestionStatus::Failing,
                None if held.is_some() => QuestionStatus::Answered,
                None if records.denied && counts => QuestionStatus::Denied,
                None if records.attempted => QuestionStatus::Expired,
                None => QuestionStatus::Unasked,
            },
            addresses: held.map_or_else(Vec::new, |held| held.addresses.to_vec()),
            ttl: held.map(|held| held.ttl),
            answered_at: held.map(|held| held.answered_at),
            dropped: records.dropped.clone(),
            failing_since: records.failing.as_ref().map(|failing| failing.since),
            last_error: records
                .failing
                .as_ref()
                .map(|failing| failing.error.clone()),
        }
    }
}

/// Something that happened to a set and that its operator should know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// Addresses were added or removed.
    Changed(SetChange),
    /// A question failed, for the `times`th time in a row.
    Failed {
        /// The question.
        question: Question,
        /// Why it failed; a denial, if it was one that is not believed.
        error: ResolveError,
        /// How often in a row it has failed now.
        times: u32,
    },
    /// A question that had failed was answered.
    Recovered {
        /// The question.
        question: Question,
        /// Since when it had failed.
        failing_since: Instant,
    },
    /// Special-purpose addresses were dropped from an answer.
    Dropped {
        /// The question.
        question: Question,
        /// The addresses that were dropped.
        addresses: Vec<IpAddr>,
    },
    /// More addresses of a host linger than may; the oldest were let go before their time.
    LingerLimitReached {
        /// The host.
        host: HostName,
        /// How many were let go.
        dropped: usize,
    },
}

/// The addresses of one host that were added to the set or left it.
///
/// An address that left the answer but lingers has not left the set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetChange {
    /// The host.
    pub host: HostName,
    /// The addresses that are admitted now and were not before, sorted.
    pub added: Vec<IpAddr>,
    /// The addresses that were admitted before and are not now, sorted.
    pub removed: Vec<IpAddr>,
    /// When it happened.
    pub at: Instant,
}

/// How one host is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostHealth {
    /// The host.
    pub host: HostName,
    /// The addresses that it admits at this moment, lingering ones included.
    pub addresses: BTreeSet<IpAddr>,
    /// Its two questions, A and AAAA.
    pub families: [FamilyHealth; 2],
}

/// How one question is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FamilyHealth {
    /// The family that is asked for.
    pub family: Family,
    /// How the question stands.
    pub state: QuestionStatus,
    /// The addresses of the last valid answer, sorted, while it counts.
    pub addresses: Vec<IpAddr>,
    /// The TTL of the last valid answer as the servers gave it, while it counts.
    pub ttl: Option<Duration>,
    /// When the last valid answer came, while it counts.
    pub answered_at: Option<Instant>,
    /// The special-purpose addresses that were dropped from the last outcome.
    pub dropped: Vec<IpAddr>,
    /// Since when the question fails.
    pub failing_since: Option<Instant>,
    /// Why it failed last.
    pub last_error: Option<ResolveError>,
}

/// How a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuestionStatus {
    /// Nothing has come of it yet.
    Unasked,
    /// The last outcome is an answer.
    Answered,
    /// The last outcome is a believed denial: there are no such addresses.
    Denied,
    /// The last outcome is a failure; an earlier answer may still count.
    Failing,
    /// It has failed for the whole stale window while other hosts answer, and is given up.
    GivenUp,
    /// The last answer is past its window, and nothing has come since.
    Expired,
    /// The list looks up the other family only.
    NotAsked,
}

impl QuestionStatus {
    /// The name in lower case, for JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Failing => "failing",
            Self::GivenUp => "failed",
            Self::Expired => "expired",
            Self::NotAsked => "not-asked",
        }
    }
}

#[derive(Clone, Debug)]
struct Host {
    name: HostName,
    records: [QuestionState; 2],
    lingering: BTreeMap<IpAddr, Lingering>,
    /// What was last reported as admitted.
    announced: BTreeSet<IpAddr>,
}

/// An address that left the answer.
#[derive(Clone, Copy, Debug)]
struct Lingering {
    left_at: Instant,
    until: Instant,
}

/// What is known of one question.
#[derive(Clone, Debug)]
struct QuestionState {
    /// The last valid answer, while it counts.
    held: Option<LastAnswer>,
    /// The last valid outcome was an answer, even if its window is over.
    answered: bool,
    /// The last valid answer was a believed denial.
    denied: bool,
    /// The last outcome was a failure.
    failing: Option<Failing>,
    /// Special-purpose addresses that were dropped from the last outcome.
    dropped: Vec<IpAddr>,
    /// Where the stale window starts: the end of the last valid answer's TTL, or the start.
    stale_from: Instant,
    attempted: bool,
    due_at: Instant,
}

/// A valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastAnswer {
    pub(crate) addresses: Box<[IpAddr]>,
    /// As the servers gave it.
    pub(crate) ttl: Duration,
    pub(crate) answered_at: Instant,
    /// The end of the TTL, clamped.
    pub(crate) ttl_ends: Instant,
    pub(crate) restored: bool,
}

/// What stays in use of a question that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its last answer, or believed denial.
    InUse { until: Instant, restored: bool },
    /// Nothing: it has not been answered yet.
    Unknown,
    /// Nothing any more, or not for the whole stale window.
    Over,
    /// Nothing, and verdicts do without it.
    GivenUp,
}

/// What is saved of a host across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PersistedHost {
    pub(crate) host: HostName,
    pub(crate) records: Vec<PersistedQuestion>,
    pub(crate) lingering: BTreeMap<IpAddr, PersistedLingering>,
}

impl PersistedHost {
    /// Moves all times into the past, as [`AllowSet::slept`] does.
    pub(crate) fn slept(&mut self, slept: Duration) {
        let back = |at: &mut Instant| *at = before(*at, slept);
        for records in &mut self.records {
            back(&mut records.stale_from);
            if let Some(held) = &mut records.answer {
                back(&mut held.answered_at);
                back(&mut held.ttl_ends);
            }
        }
        for lingering in self.lingering.values_mut() {
            back(&mut lingering.left_at);
            lingering.until.iter_mut().for_each(back);
        }
    }
}

/// What is saved of an address that left the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PersistedLingering {
    pub(crate) left_at: Instant,
    /// `None` in files of older versions: the linger window after it left.
    pub(crate) until: Option<Instant>,
}

impl PersistedLingering {
    /// The end by the rules of today, which may be stricter than those that it was saved by.
    pub(crate) fn until(self, rules: &Rules) -> Instant {
        if rules.linger.is_zero() {
            return self.left_at;
        }
        let most_ttl = rules.clamp(Duration::MAX);
        let longest = rules.linger_ends(self.left_at, after(self.left_at, most_ttl));
        let until = self
            .until
            .unwrap_or_else(|| after(self.left_at, rules.linger));
        until.min(longest)
    }
}

/// What is saved of a question across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PersistedQuestion {
    pub(crate) family: Family,
    pub(crate) stale_from: Instant,
    pub(crate) denied: bool,
    pub(crate) answer: Option<LastAnswer>,
}

#[derive(Clone, Debug)]
struct Failing {
    /// The first failure since the last valid outcome.
    since: Instant,
    /// The first failure after which the question was asked without a gap.
    run_since: Instant,
    /// When the next outcome is expected at the latest. A later one leaves a gap in which nothing was
    /// asked: a restart, a suspended machine, a late refresher.
    next_by: Instant,
    times: u32,
    /// When it failed last, and why.
    at: Instant,
    error: ResolveError,
}

impl Host {
    fn new(name: HostName, now: Instant) -> Self {
        let unasked = QuestionState {
            held: None,
            answered: false,
            denied: false,
            failing: None,
            dropped: Vec::new(),
            stale_from: now,
            attempted: false,
            due_at: now,
        };
        Self {
            name,
            records: [unasked.clone(), unasked],
            lingering: BTreeMap::new(),
            announced: BTreeSet::new(),
        }
    }

    fn linger(
        &mut self,
        left: Vec<IpAddr>,
        ttl_ends: Instant,
        rules: &Rules,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        if rules.linger.is_zero() {
            return;
        }
        let until = rules.linger_ends(now, ttl_ends);
        for address in left {
            // Answers to both questions can name one address, and the other one may have omitted it with a
            // longer TTL.
            let earlier = self
                .lingering
                .get(&address)
                .map(|lingering| lingering.until);
            let lingering = Lingering {
                left_at: now,
                until: earlier.map_or(until, |earlier| earlier.max(until)),
            };
            self.lingering.insert(address, lingering);
        }
        let crowd = self.lingering.len().saturating_sub(rules.max_lingering);
        if crowd == 0 {
            return;
        }
        let mut oldest: Vec<_> = self
            .lingering
            .iter()
            .map(|(address, lingering)| (lingering.left_at, *address))
            .collect();
        oldest.sort_unstable();
        for (_, address) in &oldest[..crowd] {
            self.lingering.remove(address);
        }
        notices.push(Notice::LingerLimitReached {
            host: self.name.clone(),
            dropped: crowd,
        });
    }

    fn rows(&self, rules: &Rules) -> Vec<Admission> {
        let mut rows = Vec::new();
        let mut push = |address, freshness, since, until| {
            let host = self.name.clone();
            rows.push(Admission {
                address,
                freshness,
                host,
                since,
                until,
            });
        };
        for records in &self.records {
            let Some(held) = &records.held else { continue };
            let stale_until = records.stale_until(rules);
            for address in held.addresses.iter().copied() {
                if held.restored {
                    push(address, Freshness::Restored, held.answered_at, stale_until);
                } else {
                    push(
                        address,
                        Freshness::Fresh,
                        held.answered_at,
                        records.current_until(held, rules),
                    );
                    push(address, Freshness::Stale, held.answered_at, stale_until);
                }
            }
        }
        for (address, lingering) in &self.lingering {
            push(
                *address,
                Freshness::Lingering,
                lingering.left_at,
                lingering.until,
            );
        }
        rows
    }

    fn saved_lingering(&self) -> BTreeMap<IpAddr, PersistedLingering> {
        let saved = |lingering: &Lingering| PersistedLingering {
            left_at: lingering.left_at,
            until: Some(lingering.until),
        };
        let lingering = self.lingering.iter();
        lingering
            .map(|(address, lingering)| (*address, saved(lingering)))
            .collect()
    }

    fn admitted(&self, rules: &Rules, now: Instant) -> BTreeSet<IpAddr> {
        let rows = self.rows(rules).into_iter();
        rows.filter(|row| now < row.until)
            .map(|row| row.address)
            .collect()
    }

    fn changes(&self, admitted: &BTreeSet<IpAddr>, now: Instant) -> Option<Notice> {
        let change = SetChange {
            host: self.name.clone(),
            added: admitted.difference(&self.announced).copied().collect(),
            removed: self.announced.difference(admitted).copied().collect(),
            at: now,
        };
        let changed = !change.added.is_empty() || !change.removed.is_empty();
        changed.then_some(Notice::Changed(change))
    }
}

impl QuestionState {
    /// Whether a valid answer of DNS itself is current: its TTL has not ended. An answer whose refresh
    /// is under way does not tell whether DNS still answers at all.
    fn is_current(&self, now: Instant) -> bool {
        let held = self.held.as_ref().filter(|held| !held.restored);
        held.is_some_and(|held| now < held.ttl_ends)
    }

    fn current_until(&self, held: &LastAnswer, rules: &Rules) -> Instant {
        match self.failing {
            Some(_) => held.ttl_ends,
            None => after(held.ttl_ends, rules.refresh_time()),
        }
    }

    /// When the last valid answer stops to count.
    fn stale_until(&self, rules: &Rules) -> Instant {
        let stale_until = after(self.stale_from, rules.stale_for);
        match (&self.held, &self.failing) {
            (_, None) => stale_until.max(after(self.stale_from, rules.refresh_time())),
            _ => stale_until,
        }
    }
}

/// Adds a duration that may be as long as somebody configured it.
pub(crate) fn after(instant: Instant, duration: Duration) -> Instant {
    instant
        .checked_add(duration)
        .unwrap_or_else(|| instant + FAR)
}

/// Takes off a time that the machine slept. On the systems that tell it every time can be moved so far
/// into the past.
pub(crate) fn before(instant: Instant, slept: Duration) -> Instant {
    instant.checked_sub(slept).unwrap_or(instant)
}

/// How long a resolver can hand out records whose TTL has ended by our clock: a refresh begins that
/// much later.
pub(crate) const LAST_SECOND: Duration = Duration::from_secs(1);

/// The most that is added to the wait for a refresh by chance.
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(500);

const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// For a denial without an SOA record.
const NEGATIVE_TTL: Duration = Duration::from_secs(60);

/// As good as for ever, and safe to add.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
