//! Oracle that knows which verdict an address must get, or that either verdict is right.
//!
//! The soak test reports each change of the zone to the oracle before the change, and each outcome of a question before
//! the list gets the outcome. For each address, the oracle has the span in which the address is surely admitted, and a
//! later time until which it may be admitted. Between the end of the span and that time, either verdict is right.
//! Either verdict is also right if the rules depend on more than one host, for example on whether a denial is believed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use callback_source::{Answer, Family, HostName, Question, ResolveError, ResolveErrorKind};
use fastrand::Rng;
use tokio::time::Instant;

use crate::windows::{
    CALM_AFTER, LINGER, MAX_ADDRESSES, MAX_LINGER, MAX_TTL, MIN_TTL, QUESTION_LIMIT, REFRESH,
    SLACK, STALE,
};

/// See the [module docs](self).
#[derive(Debug)]
pub(crate) struct Oracle {
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    hosts: Vec<Host>,
    /// The key consists of an address and the index of a host.
    listed: HashMap<(IpAddr, usize), Listed>,
    zone: HashMap<(IpAddr, usize), InZone>,
    /// The start of the current period in which no server is faulty.
    calm_since: Option<Instant>,
    asked: BTreeMap<Question, AskedLog>,
    wrong_answers: Vec<String>,
}

#[derive(Debug)]
struct Host {
    name: HostName,
    versions: VecDeque<Version>,
    /// The start of the span in which the A question surely has an answer. While this is true for all hosts, the list
    /// can decide about IPv4 peers.
    known_from: Option<Instant>,
    known_until: Option<Instant>,
    /// The start of the current period in which the zone has a valid answer, for each family.
    answering_since: [Option<Instant>; 2],
}

/// The addresses that a host has in the zone for a span of time.
#[derive(Debug)]
struct Version {
    addresses: BTreeSet<IpAddr>,
    until: Option<Instant>,
}

/// The conclusions about an address from the answers that the list got.
#[derive(Clone, Copy, Debug)]
struct Listed {
    surely_from: Instant,
    surely_until: Instant,
    perhaps_until: Instant,
    /// True if the last valid answer contains the address. `None` after a denial that may have been believed.
    in_answer: Option<bool>,
}

/// The conclusion about an address from the zone alone.
#[derive(Clone, Copy, Debug)]
enum InZone {
    Since(Instant),
    Left(Instant),
}

#[derive(Debug, Default)]
struct AskedLog {
    times: u64,
    last: Option<Instant>,
    shortest_pause: Option<Duration>,
}

/// The right verdict on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Must {
    Admit,
    Refuse,
    Either,
}

/// The oracle's knowledge about an address when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expectation {
    sent: Instant,
    surely_until: Option<Instant>,
    is_known: bool,
    known_until: Option<Instant>,
}

/// The numbers of questions that the list sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) asked: u64,
    pub(crate) questions: u64,
    pub(crate) most_of_one: u64,
    pub(crate) shortest_pause: Option<Duration>,
}

impl Oracle {
    pub(crate) fn new(hosts: impl IntoIterator<Item = HostName>) -> Self {
        let host = |name| Host {
            name,
            versions: VecDeque::new(),
            known_from: None,
            known_until: None,
            answering_since: [None; 2],
        };
        Self {
            state: RwLock::new(State {
                hosts: hosts.into_iter().map(host).collect(),
                listed: HashMap::new(),
                zone: HashMap::new(),
                calm_since: None,
                asked: BTreeMap::new(),
                wrong_answers: Vec::new(),
            }),
        }
    }

    /// Records whether all servers work. Must be called before the servers fail and after they have recovered.
    pub(crate) fn calm(&self, calm: bool) {
        self.write().calm_since = calm.then(Instant::now);
    }

    /// Records a new version of the addresses of a host. Must be called before the servers have the new version.
    /// [`published`](Self::published) must be called afterwards.
    pub(crate) fn publishing(&self, host: usize, addresses: BTreeSet<IpAddr>) {
        let now = Instant::now();
        let mut state = self.write();
        let versions = &mut state.hosts[host].versions;
        versions.retain(|version| {
            version
                .until
                .is_none_or(|until| now < until + QUESTION_LIMIT + SLACK)
        });
        versions.push_back(Version {
            addresses,
            until: None,
        });
    }

    pub(crate) fn published(&self, host: usize) {
        let now = Instant::now();
        let state = &mut *self.write();
        let of = &mut state.hosts[host];
        let Some(current) = of.versions.len().checked_sub(1) else {
            return;
        };
        for version in of.versions.range_mut(..current) {
            version.until.get_or_insert(now);
        }
        let addresses = &of.versions[current].addresses;
        for family in Family::ALL {
            let count = addresses
                .iter()
                .filter(|address| Family::from_ip(**address) == family)
                .count();
            let since = &mut of.answering_since[family as usize];
            if (1..=MAX_ADDRESSES).contains(&count) {
                since.get_or_insert(now);
            } else {
                *since = None;
            }
        }
        let answering = of.answering_since;
        for ((address, of), seen) in &mut state.zone {
            if *of == host
                && matches!(seen, InZone::Since(_))
                && (!addresses.contains(address)
                    || answering[Family::from_ip(*address) as usize].is_none())
            {
                *seen = InZone::Left(now);
            }
        }
        for address in addresses {
            if answering[Family::from_ip(*address) as usize].is_some() {
                let seen = state.zone.entry((*address, host));
                let seen = seen.or_insert(InZone::Since(now));
                if matches!(seen, InZone::Left(_)) {
                    *seen = InZone::Since(now);
                }
            }
        }
    }

    pub(crate) fn asked(&self, question: &Question) {
        let now = Instant::now();
        let mut state = self.write();
        let log = state.asked.entry(question.clone()).or_default();
        log.times += 1;
        if let Some(last) = log.last.replace(now) {
            let pause = now - last;
            log.shortest_pause = Some(log.shortest_pause.map_or(pause, |least| least.min(pause)));
        }
    }

    /// Records the outcome of a question. Must be called before the list gets the outcome.
    pub(crate) fn outcome(
        &self,
        question: &Question,
        asked_at: Instant,
        outcome: &Result<Answer, ResolveError>,
    ) {
        let now = Instant::now();
        let state = &mut *self.write();
        let Some(host) = state
            .hosts
            .iter()
            .position(|host| host.name == question.host)
        else {
            return;
        };
        match outcome {
            Ok(answer) => {
                state.check(host, question, answer, asked_at);
                let count = answer.addresses().len();
                if (1..=MAX_ADDRESSES).contains(&count) {
                    state.answered(host, question.family, answer, now);
                }
            }
            Err(error) if error.is_denial() => {
                let both = error.kind() == ResolveErrorKind::NxDomain;
                state.denied(host, question.family, both, now);
            }
            Err(_) => {}
        }
    }

    /// Returns an address that is in the zone.
    pub(crate) fn in_zone(&self, rng: &mut Rng) -> Option<IpAddr> {
        let state = self.read();
        let listed = state.zone.iter();
        let listed: Vec<_> = listed
            .filter(|(_, seen)| matches!(seen, InZone::Since(_)))
            .map(|((address, _), _)| *address)
            .collect();
        rng.choice(listed)
    }

    /// Returns the oracle's knowledge about an address. Must be called before a request from the address is sent.
    pub(crate) fn expect(&self, peer: IpAddr) -> Expectation {
        let sent = Instant::now();
        let state = self.read();
        Expectation {
            sent,
            surely_until: state.surely_until(peer, sent),
            is_known: state.is_settled_in(peer, sent),
            known_until: state.known_until(sent),
        }
    }

    /// Returns the right verdict on a request. Must be called after the response to the request has arrived.
    pub(crate) fn must(&self, peer: IpAddr, expected: Expectation) -> Must {
        let answered = Instant::now();
        let state = self.read();
        let until = expected.surely_until;
        let surely = until.is_some_and(|until| answered < until)
            && state.surely_until(peer, answered).is_some();
        let settled = expected.is_known && state.is_settled_in(peer, answered);
        if surely || settled {
            return Must::Admit;
        }
        if state.is_out(peer, expected.sent) {
            return Must::Refuse;
        }
        Must::Either
    }

    /// Returns true if the list could decide, so that an undecided verdict is wrong.
    pub(crate) fn must_decide(&self, expected: Expectation) -> bool {
        let now = Instant::now();
        expected.known_until.is_some_and(|until| now < until)
            && self.read().known_until(now).is_some()
    }

    /// Returns a text with the oracle's knowledge about an address, for a report.
    pub(crate) fn describe(&self, peer: IpAddr) -> String {
        let now = Instant::now();
        let since = |at: Instant| {
            let ago = now.saturating_duration_since(at).as_secs_f64();
            ago - at.saturating_duration_since(now).as_secs_f64()
        };
        let state = self.read();
        let mut text = match state.calm_since {
            Some(at) => format!("calm for {:.3} s;", since(at)),
            None => "not calm;".to_owned(),
        };
        for (at, host) in state.hosts.iter().enumerate() {
            let listed = state.listed.get(&(peer, at));
            let zone = state.zone.get(&(peer, at));
            if listed.is_none() && zone.is_none() {
                continue;
            }
            let listed = listed.map(|listed| {
                format!(
                    "surely {:.3} to {:.3}, perhaps to {:.3}, in the answer {:?}",
                    -since(listed.surely_from),
                    -since(listed.surely_until),
                    -since(listed.perhaps_until),
                    listed.in_answer,
                )
            });
            let zone = zone.map(|zone| match zone {
                InZone::Since(at) => format!("in the zone since {:.3}", -since(*at)),
                InZone::Left(at) => format!("left the zone at {:.3}", -since(*at)),
            });
            let parts: Vec<_> = listed.into_iter().chain(zone).collect();
            text += &format!(" {}: {};", host.name, parts.join(", "));
        }
        text
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let state = self.read();
        let logs = state.asked.values();
        Traffic {
            asked: logs.clone().map(|log| log.times).sum(),
            questions: state.asked.len() as u64,
            most_of_one: logs.clone().map(|log| log.times).max().unwrap_or_default(),
            shortest_pause: logs.filter_map(|log| log.shortest_pause).min(),
        }
    }

    /// Returns the answers that match no version of the zone.
    pub(crate) fn wrong_answers(&self) -> Vec<String> {
        self.read().wrong_answers.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records an error unless the answer equals the zone's addresses at some time during the lookup.
    fn check(&mut self, host: usize, question: &Question, answer: &Answer, asked_at: Instant) {
        let got: BTreeSet<_> = answer.addresses().iter().copied().collect();
        let mut versions = self.hosts[host].versions.iter();
        let explained = versions.any(|version| {
            let of_family = version
                .addresses
                .iter()
                .filter(|address| Family::from_ip(**address) == question.family);
            version.until.is_none_or(|until| asked_at <= until) && of_family.eq(&got)
        });
        if !explained && self.wrong_answers.len() < MAX_REPORTED {
            self.wrong_answers.push(format!("{question}: {got:?}"));
        }
    }

    fn answered(&mut self, host: usize, family: Family, answer: &Answer, now: Instant) {
        let ttl = answer.ttl().clamp(MIN_TTL, MAX_TTL);
        let lingers = LINGER.max(ttl + REFRESH);
        for ((address, of), listed) in &mut self.listed {
            if *of != host
                || Family::from_ip(*address) != family
                || listed.in_answer == Some(false)
                || answer.addresses().contains(address)
            {
                continue;
            }
            if listed.in_answer == Some(true) && now + SLACK < listed.surely_until {
                listed.surely_until = now + lingers;
            }
            if now <= listed.perhaps_until {
                // An earlier denial, with a longer TTL, may have been believed.
                listed.perhaps_until = now + SLACK + MAX_LINGER;
            }
            listed.in_answer = Some(false);
        }
        for address in answer.addresses() {
            let before = self.listed.get(&(*address, host));
            // The list gets this answer later. Until then, the older answer must stay in use.
            let kept = before.filter(|listed| now + SLACK < listed.surely_until);
            let listed = Listed {
                surely_from: kept.map_or(now + SLACK, |listed| listed.surely_from),
                surely_until: now + MIN_TTL + STALE,
                perhaps_until: now + SLACK + MAX_TTL + STALE,
                in_answer: Some(true),
            };
            self.listed.insert((*address, host), listed);
        }
        if family == Family::V4 {
            let host = &mut self.hosts[host];
            let kept = host.known_until.is_some_and(|until| now + SLACK < until);
            if !kept || host.known_from.is_none() {
                host.known_from = Some(now + SLACK);
            }
            host.known_until = Some(now + MIN_TTL + STALE);
        }
    }

    fn denied(&mut self, host: usize, family: Family, both: bool, now: Instant) {
        for ((address, of), listed) in &mut self.listed {
            if *of != host || !(both || Family::from_ip(*address) == family) {
                continue;
            }
            if listed.in_answer == Some(true) {
                let lingers = LINGER.max(MIN_TTL + REFRESH);
                listed.surely_until = listed.surely_until.min(now + lingers);
                // The denial may be believed as late as the end of the stale window.
                listed.perhaps_until += MAX_LINGER;
                listed.in_answer = None;
            }
        }
    }

    fn surely_until(&self, peer: IpAddr, now: Instant) -> Option<Instant> {
        let spans = (0..self.hosts.len()).filter_map(|host| self.listed.get(&(peer, host)));
        spans
            .filter(|listed| listed.surely_from <= now && now < listed.surely_until)
            .map(|listed| listed.surely_until)
            .max()
    }

    /// Returns true if the list must admit the address. The address must have been in the zone for long enough, and all
    /// servers must have been without fault for long enough.
    fn is_settled_in(&self, peer: IpAddr, now: Instant) -> bool {
        let long_ago = |at: Instant| at + CALM_AFTER < now;
        self.calm_since.is_some_and(long_ago)
            && (0..self.hosts.len()).any(|host| match self.zone.get(&(peer, host)) {
                Some(InZone::Since(at)) => long_ago(*at),
                _ => false,
            })
    }

    /// Returns true if the list must refuse the address: no host has listed it, or its windows have surely ended.
    fn is_out(&self, peer: IpAddr, sent: Instant) -> bool {
        (0..self.hosts.len()).all(|host| {
            let by_answers = self
                .listed
                .get(&(peer, host))
                .is_none_or(|listed| listed.perhaps_until < sent);
            by_answers || self.is_out_of_zone(peer, host, sent)
        })
    }

    fn is_out_of_zone(&self, peer: IpAddr, host: usize, sent: Instant) -> bool {
        let left = match self.zone.get(&(peer, host)) {
            None => return true,
            Some(InZone::Since(_)) => return false,
            Some(InZone::Left(left)) => *left,
        };
        if left + QUESTION_LIMIT + SLACK + MAX_TTL + STALE + MAX_LINGER < sent {
            return true;
        }
        let answering = self.hosts[host].answering_since[Family::from_ip(peer) as usize];
        let (Some(calm), Some(answering)) = (self.calm_since, answering) else {
            return false;
        };
        left.max(calm).max(answering) + CALM_AFTER + MAX_LINGER < sent
    }

    fn known_until(&self, now: Instant) -> Option<Instant> {
        let mut earliest = None;
        for host in &self.hosts {
            let (Some(from), Some(until)) = (host.known_from, host.known_until) else {
                return None;
            };
            if now < from || until <= now {
                return None;
            }
            earliest = Some(earliest.map_or(until, |at: Instant| at.min(until)));
        }
        earliest
    }
}

pub(crate) const MAX_REPORTED: usize = 20;
