//! Second implementation of the rules of [`AllowSet`](crate::AllowSet): state changes caused by outcomes and time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::fixtures::{DAY, is_private, zone};
use crate::{
    Answer, Family, Freshness, HostName, Question, ResolveError,
    ResolveErrorKind::{NoData, NxDomain},
    set::Rules,
};

pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) networks: Vec<IpNet>,
    pub(super) networks_since: Instant,
    pub(super) hosts: Vec<ModelHost>,
    pub(super) all_attempted: bool,
}

pub(super) struct ModelHost {
    pub(super) name: HostName,
    /// Addresses that left an answer.
    pub(super) left: BTreeMap<IpAddr, Left>,
    pub(super) questions: [ModelQuestion; 2],
}

#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) at: Instant,
    pub(super) until: Instant,
}

/// One question about one host.
pub(super) struct ModelQuestion {
    pub(super) valid: Valid,
    /// True if the last valid outcome was an answer, even if its window is over.
    pub(super) had_answer: bool,
    /// Failures since the last valid outcome.
    pub(super) run: Option<Run>,
    pub(super) attempted: bool,
    pub(super) due: Instant,
    pub(super) window_start: Instant,
}

/// Last valid outcome of a question.
pub(super) enum Valid {
    Nothing,
    Answer {
        addresses: BTreeSet<IpAddr>,
        at: Instant,
        ttl_end: Instant,
        restored: bool,
    },
    Denial {
        ttl_end: Instant,
    },
}

pub(super) struct Run {
    pub(super) since: Instant,
    /// Time of the failure since which the question has been asked without a gap.
    pub(super) unbroken_since: Instant,
    /// Deadline for the next outcome: a later outcome follows a gap.
    pub(super) next_by: Instant,
    pub(super) times: u32,
    /// The last failure, if it is a denial that is not believed.
    pub(super) denial: Option<Denial>,
}

#[derive(Clone, Copy)]
pub(super) struct Denial {
    pub(super) whole_name: bool,
    pub(super) at: Instant,
    pub(super) ttl_end: Instant,
}

/// One reason to admit an address.
#[derive(Debug)]
pub(super) struct Reason {
    pub(super) freshness: Freshness,
    pub(super) host: Option<HostName>,
    pub(super) network: Option<IpNet>,
    pub(super) since: Instant,
}

/// Events that the set must report after an outcome.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) failed: Option<u32>,
    pub(super) recovered: BTreeMap<Question, Instant>,
    pub(super) special: Vec<IpAddr>,
    pub(super) limit_reached: BTreeMap<HostName, usize>,
}

impl Model {
    pub(super) fn new(
        rules: Rules,
        hosts: &[HostName],
        networks: Vec<IpNet>,
        now: Instant,
    ) -> Self {
        let mut model = Self {
            rules,
            networks,
            networks_since: now,
            hosts: hosts.iter().map(|name| ModelHost::new(name, now)).collect(),
            all_attempted: false,
        };
        model.settle(now, &mut Report::default());
        model
    }

    pub(super) fn apply(
        &mut self,
        question: &Question,
        outcome: &Result<Answer, ResolveError>,
        now: Instant,
    ) -> Report {
        let mut report = Report::default();
        if !self.asks(question.family) {
            return report;
        }
        let Some(host) = self
            .hosts
            .iter()
            .position(|host| host.name == question.host)
        else {
            return report;
        };
        let family = question.family;
        self.hosts[host].question_mut(family).attempted = true;
        match self.classify(outcome, now, &mut report.special) {
            Classified::Answer(addresses, ttl_end) => {
                self.report_recovery(host, family, &mut report);
                self.replace_valid(
                    host,
                    family,
                    Valid::Answer {
                        addresses,
                        at: now,
                        ttl_end,
                        restored: false,
                    },
                    now,
                    &mut report,
                );
                self.hosts[host].question_mut(family).due = ttl_end;
                self.hosts[host].question_mut(family).run = None;
            }
            Classified::Denial(denial) if self.is_believable(host, family, denial, now) => {
                self.believe(host, family, denial, now, &mut report);
            }
            Classified::Denial(denial) => {
                report.failed = Some(self.fail(host, family, Some(denial), now));
            }
            Classified::Failure => report.failed = Some(self.fail(host, family, None, now)),
        }
        self.settle(now, &mut report);
        report
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.settle(now, &mut Report::default());
    }

    pub(super) fn replace_hosts(&mut self, hosts: &[HostName], now: Instant) {
        let mut before = std::mem::take(&mut self.hosts);
        for name in hosts {
            let kept = before.iter().position(|host| host.name == *name);
            self.hosts.push(match kept {
                Some(at) => before.swap_remove(at),
                None => ModelHost::new(name, now),
            });
        }
        self.settle(now, &mut Report::default());
    }

    /// Simulates a restart, which restores the state under the current rules.
    pub(super) fn restart(&mut self, hosts: &[HostName], now: Instant) {
        let rules = self.rules.clone();
        let most_ttl = rules.max_ttl.max(rules.min_ttl);
        let is_kept =
            |address: &IpAddr| rules.insecure_allow_special_addresses || !is_private(*address);
        let is_asked = |address: &IpAddr| {
            rules
                .only_family
                .is_none_or(|only| only == Family::from_ip(*address))
        };
        let new = Self::new(rules.clone(), hosts, self.networks.clone(), now);
        let before = std::mem::replace(self, new);
        for mut host in before.hosts {
            let Some(restored) = self.hosts.iter_mut().find(|new| new.name == host.name) else {
                continue;
            };
            let mut left: Vec<_> = host
                .left
                .iter()
                .map(|(address, left)| (*address, *left))
                .collect();
            for (_, left) in &mut left {
                let latest = left.at + rules.linger.max(most_ttl + refresh(&rules));
                left.until = left.until.min(latest);
            }
            left.retain(|(address, left)| {
                let lingers = !rules.linger.is_zero() && now < left.until;
                is_kept(address) && is_asked(address) && lingers
            });
            left.sort_by_key(|(address, left)| (std::cmp::Reverse(left.at), *address));
            left.truncate(rules.max_lingering);
            restored.left.extend(left);
            for family in Family::ALL {
                if rules.only_family.is_some_and(|only| only != family) {
                    continue;
                }
                let before = host.question_mut(family);
                let question = restored.question_mut(family);
                question.window_start = before.window_start.min(now);
                question.had_answer = before.had_answer;
                question.valid = match std::mem::replace(&mut before.valid, Valid::Nothing) {
                    Valid::Nothing => Valid::Nothing,
                    Valid::Answer {
                        mut addresses,
                        at,
                        ttl_end,
                        ..
                    } => {
                        let ttl_end = ttl_end.min(at + most_ttl);
                        addresses.retain(is_kept);
                        question.had_answer = true;
                        question.window_start = ttl_end;
                        if addresses.is_empty() || addresses.len() > rules.max_addresses {
                            Valid::Nothing
                        } else {
                            Valid::Answer {
                                addresses,
                                at,
                                ttl_end,
                                restored: true,
                            }
                        }
                    }
                    Valid::Denial { ttl_end } => Valid::Denial {
                        ttl_end: ttl_end.min(now),
                    },
                };
            }
        }
        self.settle(now, &mut Report::default());
    }

    pub(super) fn asks(&self, family: Family) -> bool {
        self.rules.only_family.is_none_or(|only| only == family)
    }

    pub(super) fn classify(
        &self,
        outcome: &Result<Answer, ResolveError>,
        now: Instant,
        special: &mut Vec<IpAddr>,
    ) -> Classified {
        let until = |ttl: Duration| now + ttl.clamp(self.rules.min_ttl, self.rules.max_ttl);
        match outcome {
            Ok(answer) if answer.addresses().is_empty() => Classified::Denial(Denial {
                whole_name: false,
                at: now,
                ttl_end: until(answer.ttl()),
            }),
            Ok(answer) if answer.addresses().len() > self.rules.max_addresses => {
                Classified::Failure
            }
            Ok(answer) => {
                let mut addresses: BTreeSet<_> = answer.addresses().iter().copied().collect();
                if !self.rules.insecure_allow_special_addresses {
                    special.extend(addresses.iter().filter(|address| is_private(**address)));
                    addresses.retain(|address| !is_private(*address));
                }
                if addresses.is_empty() {
                    Classified::Failure
                } else {
                    Classified::Answer(addresses, until(answer.ttl()))
                }
            }
            Err(error) => match error.kind() {
                NxDomain | NoData => Classified::Denial(Denial {
                    whole_name: error.kind() == NxDomain,
                    at: now,
                    ttl_end: until(error.negative_ttl().unwrap_or(Duration::from_secs(60))),
                }),
                _ => Classified::Failure,
            },
        }
    }

    fn report_recovery(&self, host: usize, family: Family, report: &mut Report) {
        let host = &self.hosts[host];
        if let Some(run) = &host.question(family).run {
            let host = host.name.clone();
            report
                .recovered
                .insert(Question { host, family }, run.since);
        }
    }

    pub(super) fn fail(
        &mut self,
        host: usize,
        family: Family,
        denial: Option<Denial>,
        now: Instant,
    ) -> u32 {
        let floor = self.rules.min_ttl.max(Duration::from_secs(1));
        let times = match &self.hosts[host].question(family).run {
            None => 1,
            Some(run) => run.times + 1,
        };
        let mut pause = floor;
        for _ in 1..times {
            pause = (pause * 2).min(DAY);
        }
        let due = now + pause.min(self.rules.max_backoff).max(floor);
        let tolerated = self.rules.max_ttl.min(self.rules.stale_for / 4);
        let next_by = (now + tolerated).max(due + refresh(&self.rules));
        let question = self.hosts[host].question_mut(family);
        question.due = due;
        question.run = Some(match &question.run {
            None => Run {
                since: now,
                unbroken_since: now,
                next_by,
                times,
                denial,
            },
            Some(run) => Run {
                since: run.since,
                unbroken_since: if now > run.next_by {
                    now
                } else {
                    run.unbroken_since
                },
                next_by,
                times,
                denial,
            },
        });
        times
    }

    pub(super) fn is_believable(
        &self,
        host: usize,
        family: Family,
        denial: Denial,
        now: Instant,
    ) -> bool {
        let had_answer = self.hosts[host].question(family).had_answer;
        let here = zone(&self.hosts[host].name);
        let others = self.hosts.iter().enumerate().filter(|(at, _)| *at != host);
        let confirmed = others.into_iter().any(|(_, other)| {
            let same_zone = here.is_some() && zone(&other.name) == here;
            other.questions.iter().any(|question| {
                let later = matches!(question.valid, Valid::Answer { at, .. } if at >= denial.at);
                Self::is_current(question, now) && (!had_answer || later && same_zone)
            })
        });
        let sibling = self.hosts[host].question(other(family));
        confirmed || !denial.whole_name && !had_answer && Self::is_current(sibling, now)
    }

    pub(super) fn believe(
        &mut self,
        host: usize,
        family: Family,
        denial: Denial,
        now: Instant,
        report: &mut Report,
    ) {
        self.report_recovery(host, family, report);
        let question = self.hosts[host].question(family);
        let in_use = self.in_window(question, now) && !question.valid.addresses().is_empty();
        let mut left = self.hosts[host].left.iter();
        let lingers =
            left.any(|(address, left)| Family::from_ip(*address) == family && now < left.until);
        let mut ttl_end = denial.ttl_end;
        if in_use || lingers {
            let soon = (self.rules.linger / 4).max(self.rules.min_ttl);
            ttl_end = ttl_end.min(denial.at + soon);
        }
        self.replace_valid(host, family, Valid::Denial { ttl_end }, now, report);
        let question = self.hosts[host].question_mut(family);
        question.due = ttl_end;
        question.run = None;
    }

    /// Replaces the last valid outcome of a question. Addresses that leave the answer while the old outcome is in use
    /// start to linger.
    pub(super) fn replace_valid(
        &mut self,
        host: usize,
        family: Family,
        valid: Valid,
        now: Instant,
        report: &mut Report,
    ) {
        let in_use = self.in_window(self.hosts[host].question(family), now);
        let linger = self.rules.linger;
        let ttl_end = valid.ttl_end().expect("the outcome is valid");
        let until = (now + linger).max(ttl_end + refresh(&self.rules));
        let host = &mut self.hosts[host];
        let question = host.question_mut(family);
        question.window_start = ttl_end;
        question.had_answer = matches!(valid, Valid::Answer { .. });
        let before = std::mem::replace(&mut question.valid, valid).addresses();
        let after = host.question(family).valid.addresses();
        if in_use && !linger.is_zero() {
            for gone in before.difference(&after) {
                // The answers to both questions may have contained the address.
                let earlier = host.left.get(gone).map(|left| left.until);
                let until = earlier.map_or(until, |earlier| earlier.max(until));
                host.left.insert(*gone, Left { at: now, until });
            }
        }
        host.left
            .retain(|address, left| !after.contains(address) && now < left.until);
        while host.left.len() > self.rules.max_lingering {
            let oldest = host
                .left
                .iter()
                .min_by_key(|(address, left)| (left.at, **address));
            let oldest = *oldest.expect("more than none").0;
            host.left.remove(&oldest);
            *report.limit_reached.entry(host.name.clone()).or_default() += 1;
        }
    }

    /// Removes every valid outcome whose window has ended, and applies each denial that is believed now.
    pub(super) fn settle(&mut self, now: Instant, report: &mut Report) {
        for host in 0..self.hosts.len() {
            for family in Family::ALL {
                if !self.in_window(self.hosts[host].question(family), now) {
                    self.hosts[host].question_mut(family).valid = Valid::Nothing;
                }
            }
        }
        let mut believable = Vec::new();
        for host in 0..self.hosts.len() {
            for family in Family::ALL {
                let run = self.hosts[host].question(family).run.as_ref();
                if let Some(denial) = run.and_then(|run| run.denial)
                    && self.is_believable(host, family, denial, now)
                {
                    believable.push((host, family, denial));
                }
            }
        }
        for (host, family, denial) in believable {
            self.believe(host, family, denial, now, report);
        }
        let asked: Vec<_> = Family::ALL
            .into_iter()
            .filter(|family| self.asks(*family))
            .collect();
        self.all_attempted |= self
            .hosts
            .iter()
            .all(|host| asked.iter().all(|family| host.question(*family).attempted));
    }
}

impl ModelHost {
    pub(super) fn new(name: &HostName, now: Instant) -> Self {
        let question = || ModelQuestion {
            valid: Valid::Nothing,
            had_answer: false,
            run: None,
            attempted: false,
            due: now,
            window_start: now,
        };
        Self {
            name: name.clone(),
            left: BTreeMap::new(),
            questions: [question(), question()],
        }
    }

    pub(super) fn question(&self, family: Family) -> &ModelQuestion {
        match family {
            Family::V4 => &self.questions[0],
            Family::V6 => &self.questions[1],
        }
    }

    pub(super) fn question_mut(&mut self, family: Family) -> &mut ModelQuestion {
        match family {
            Family::V4 => &mut self.questions[0],
            Family::V6 => &mut self.questions[1],
        }
    }
}

impl Valid {
    pub(super) fn ttl_end(&self) -> Option<Instant> {
        match self {
            Self::Nothing => None,
            Self::Answer { ttl_end, .. } | Self::Denial { ttl_end } => Some(*ttl_end),
        }
    }

    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        match self {
            Self::Answer { addresses, .. } => addresses.clone(),
            Self::Nothing | Self::Denial { .. } => BTreeSet::new(),
        }
    }
}

/// An outcome, classified by the rules.
pub(super) enum Classified {
    Answer(BTreeSet<IpAddr>, Instant),
    Denial(Denial),
    Failure,
}

/// Returns the longest time that a refresh can take after the end of a TTL: one second, the maximum jitter, and the
/// time limit of a question.
pub(super) fn refresh(rules: &Rules) -> Duration {
    Duration::from_millis(1_500) + rules.question_time_limit
}

pub(super) fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}
