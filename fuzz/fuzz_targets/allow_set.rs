//! Any sequence of events, beside a model that bounds from both sides who is admitted.

#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use callback_source::{
    AllowSet, Answer, Family, HostName, Question, ResolveError, ResolveErrorKind, fuzzing,
    set::{Notice, Rules},
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    windows: Windows,
    allow_special: bool,
    events: Vec<Event>,
}

#[derive(Arbitrary, Debug)]
struct Windows {
    min_ttl: u8,
    more_ttl: u8,
    linger: u8,
    stale_for: u8,
    max_backoff: u8,
    max_addresses: u8,
    max_lingering: u8,
    question_time_limit: u8,
}

#[derive(Arbitrary, Debug)]
enum Event {
    Answer {
        question: u8,
        addresses: Vec<u8>,
        ttl: u16,
    },
    Fail {
        question: u8,
        kind: u8,
        negative_ttl: Option<u8>,
    },
    Wait {
        ms: u16,
    },
    /// Until the next window ends, or just before.
    WaitForChange {
        just_before: bool,
    },
    Expire,
    Replace {
        hosts: u8,
    },
    Restart,
}

/// Bounds of one address by the answers of one host.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    surely_until: Instant,
    perhaps_until: Instant,
    /// In the last valid answer; `None` after a denial that may or may not have been believed.
    held: Option<bool>,
}

struct Model {
    rules: Rules,
    bounds: BTreeMap<(usize, IpAddr), Bounds>,
    /// By the notices of changes.
    announced: BTreeMap<HostName, BTreeSet<IpAddr>>,
}

fuzz_target!(|input: Input| {
    let rules = input.rules();
    let start = tokio::time::Instant::now().into_std();
    let mut now = start;
    let empty = |hosts: u8, now| {
        AllowSet::new(rules.clone(), hosts_of(hosts), &[], now).expect("no network is too wide")
    };
    let mut hosts = 0b111;
    let mut set = empty(hosts, now);
    let mut model = Model {
        rules: rules.clone(),
        bounds: BTreeMap::new(),
        announced: BTreeMap::new(),
    };
    for event in input.events.into_iter().take(200) {
        match event {
            Event::Answer {
                question,
                addresses,
                ttl,
            } => {
                let (host, question) = question_of(question);
                let addresses = addresses.into_iter().take(12);
                let addresses = addresses.map(|number| address(question.family, number));
                let answer = Answer::new(addresses, Duration::from_secs(ttl.into()));
                let notices = set.apply(&question, Ok(answer.clone()), now);
                model.announced(&notices);
                if hosts & 1 << host != 0 {
                    model.answered(host, &question, &answer, now);
                    assert_floor(&set, &question, &rules, now);
                }
            }
            Event::Fail {
                question,
                kind,
                negative_ttl,
            } => {
                let (host, question) = question_of(question);
                let kind = KINDS[usize::from(kind) % KINDS.len()];
                let mut error = ResolveError::new(kind);
                if let Some(ttl) = negative_ttl {
                    error = error.with_negative_ttl(Duration::from_secs(ttl.into()));
                }
                let notices = set.apply(&question, Err(error), now);
                model.announced(&notices);
                if hosts & 1 << host != 0 {
                    match kind {
                        ResolveErrorKind::NxDomain => model.denied(host, &Family::ALL, now),
                        ResolveErrorKind::NoData => model.denied(host, &[question.family], now),
                        _ => {}
                    }
                    assert_floor(&set, &question, &rules, now);
                }
            }
            Event::Wait { ms } => {
                let before = admitted(&set, now);
                now += Duration::from_millis(u64::from(ms) * 4);
                assert!(
                    admitted(&set, now).is_subset(&before),
                    "time alone admits nobody"
                );
            }
            Event::WaitForChange { just_before } => {
                if let Some(change) = set.next_change_at(now) {
                    assert!(now < change);
                    let before = admitted(&set, now);
                    // The state file keeps milliseconds.
                    let ms = u64::try_from((change - start).as_millis()).expect("it is soon");
                    let change = start + Duration::from_millis(ms);
                    let tick = Duration::from_millis(1);
                    let at = if just_before { change - tick } else { change };
                    now = now.max(at);
                    assert!(admitted(&set, now).is_subset(&before));
                }
            }
            Event::Expire => {
                let before = admitted(&set, now);
                model.announced(&set.expire(now));
                assert_eq!(admitted(&set, now), before, "verdicts are right without it");
            }
            Event::Replace { hosts: new } => {
                hosts = new & 0b111;
                model.announced(&set.replace_hosts(hosts_of(hosts), now));
                model.bounds.retain(|(host, _), _| hosts & 1 << host != 0);
            }
            Event::Restart => {
                let before = admitted(&set, now);
                let utc = UTC + (now - start);
                let text = fuzzing::saved(&set, now, utc);
                let mut fresh = empty(hosts, now);
                assert!(fuzzing::restored(&mut fresh, &text, now, utc));
                if refresh_time(&rules) <= rules.stale_for {
                    assert_eq!(admitted(&fresh, now), before, "restarted");
                }
                set = fresh;
                model.announced = set
                    .health(now)
                    .into_iter()
                    .map(|health| (health.host, health.addresses))
                    .collect();
                model.forget_what_is_uncertain(now);
            }
        }
        model.assert_agrees(&set, now);
    }
    let held = rules.max_ttl + rules.stale_for.max(refresh_time(&rules));
    let over = now + held + model.longest_linger() + Duration::from_secs(10);
    assert!(admitted(&set, over).is_empty(), "every window ends");
    model.announced(&set.expire(over));
    assert!(model.announced.values().all(BTreeSet::is_empty));
});

impl Input {
    fn rules(&self) -> Rules {
        let seconds = |seconds: u8| Duration::from_secs(seconds.into());
        let windows = &self.windows;
        let mut rules = Rules::default();
        rules.min_ttl = seconds(windows.min_ttl.max(1));
        rules.max_ttl = rules.min_ttl + seconds(windows.more_ttl);
        rules.linger = seconds(windows.linger);
        rules.stale_for = seconds(windows.stale_for);
        rules.max_backoff = seconds(windows.max_backoff);
        rules.max_addresses = usize::from(windows.max_addresses % 16).max(1);
        rules.max_lingering = windows.max_lingering.into();
        rules.question_time_limit = seconds(windows.question_time_limit);
        rules.insecure_allow_special_addresses = self.allow_special;
        rules
    }
}

impl Model {
    /// How long an address lingers after an answer, or a denial, with this TTL.
    fn lingers(&self, ttl: Duration) -> Duration {
        match self.rules.linger.is_zero() {
            true => Duration::ZERO,
            false => self.rules.linger.max(ttl + refresh_time(&self.rules)),
        }
    }

    fn longest_linger(&self) -> Duration {
        self.lingers(self.rules.max_ttl)
    }

    fn answered(&mut self, host: usize, question: &Question, answer: &Answer, now: Instant) {
        if answer.addresses().is_empty() {
            self.denied(host, &[question.family], now);
            return;
        }
        let mut addresses: BTreeSet<_> = answer.addresses().iter().copied().collect();
        if self.rules.max_addresses < addresses.len() {
            return;
        }
        if !self.rules.insecure_allow_special_addresses {
            addresses.retain(|address| !is_special(*address));
        }
        if addresses.is_empty() {
            return;
        }
        let ttl = answer.ttl().clamp(self.rules.min_ttl, self.rules.max_ttl);
        let crowded = self.rules.max_lingering < usize::from(ADDRESSES) * 2;
        let (lingers, longest) = (self.lingers(ttl), self.longest_linger());
        for ((of, address), bounds) in &mut self.bounds {
            if *of != host
                || Family::of(*address) != question.family
                || bounds.held == Some(false)
                || addresses.contains(address)
            {
                continue;
            }
            if bounds.held == Some(true) && now < bounds.surely_until {
                bounds.surely_until = if crowded { now } else { now + lingers };
            }
            if now < bounds.perhaps_until {
                // A denial before it may have been believed, with a longer TTL.
                let lingers = bounds.held.map_or(longest, |_| lingers);
                bounds.perhaps_until = now + lingers;
            }
            bounds.held = Some(false);
        }
        for address in addresses {
            let bounds = Bounds {
                surely_until: now + ttl + self.rules.stale_for,
                perhaps_until: now + ttl + self.rules.stale_for.max(refresh_time(&self.rules)),
                held: Some(true),
            };
            self.bounds.insert((host, address), bounds);
        }
    }

    fn denied(&mut self, host: usize, families: &[Family], now: Instant) {
        let crowded = self.rules.max_lingering < usize::from(ADDRESSES) * 2;
        let longest = self.longest_linger();
        for ((of, address), bounds) in &mut self.bounds {
            if *of != host || !families.contains(&Family::of(*address)) || bounds.held != Some(true)
            {
                continue;
            }
            let lingers = if crowded {
                now
            } else {
                now + self.rules.linger
            };
            bounds.surely_until = bounds.surely_until.min(lingers);
            // It may be believed as late as at the end of the stale window.
            bounds.perhaps_until += longest;
            bounds.held = None;
        }
    }

    /// A restart forgets failures, so that the last answer gets the time of a refresh.
    fn forget_what_is_uncertain(&mut self, now: Instant) {
        for bounds in self.bounds.values_mut() {
            if self.rules.stale_for < refresh_time(&self.rules) {
                bounds.surely_until = bounds.surely_until.min(now);
            }
        }
    }

    fn announced(&mut self, notices: &[Notice]) {
        for notice in notices {
            let Notice::Changed(change) = notice else {
                continue;
            };
            let known = self.announced.entry(change.host.clone()).or_default();
            for address in &change.added {
                assert!(known.insert(*address), "{address} was announced before");
            }
            for address in &change.removed {
                assert!(known.remove(address), "{address} was not announced");
            }
        }
    }

    fn assert_agrees(&self, set: &AllowSet, now: Instant) {
        let listed = set.addresses(now);
        for address in universe() {
            let allowed = set.verdict(address, now).is_allowed();
            assert_eq!(allowed, listed.contains(&address));
            let of_address = || {
                let bounds = self.bounds.iter();
                bounds.filter(move |((_, of), _)| *of == address)
            };
            if of_address().any(|(_, bounds)| now < bounds.surely_until) {
                assert!(
                    allowed,
                    "{address} is refused: {:?}",
                    of_address().collect::<Vec<_>>()
                );
            }
            if !of_address().any(|(_, bounds)| now < bounds.perhaps_until) {
                assert!(
                    !allowed,
                    "{address} is admitted: {:?}",
                    of_address().collect::<Vec<_>>()
                );
            }
            if is_special(address) && !self.rules.insecure_allow_special_addresses {
                assert!(!allowed);
            }
        }
        for health in set.health(now) {
            for address in &health.addresses {
                assert!(listed.contains(address));
                let known = self.announced.get(&health.host);
                assert!(known.is_some_and(|known| known.contains(address)));
            }
        }
    }
}

/// What was asked just now is not due before the floor ends.
fn assert_floor(set: &AllowSet, question: &Question, rules: &Rules, now: Instant) {
    let mut questions = set.questions();
    let (_, due_at) = questions
        .find(|(of, _)| of == question)
        .expect("it is a host");
    assert!(now + rules.min_ttl <= due_at);
}

fn admitted(set: &AllowSet, now: Instant) -> BTreeSet<IpAddr> {
    let addresses = universe();
    addresses
        .filter(|address| set.verdict(*address, now).is_allowed())
        .collect()
}

fn question_of(number: u8) -> (usize, Question) {
    let host = usize::from(number >> 1) % 3;
    let family = Family::ALL[usize::from(number & 1)];
    let name = host_name(host);
    (host, Question { host: name, family })
}

fn hosts_of(mask: u8) -> impl Iterator<Item = HostName> {
    (0..3)
        .filter(move |host| mask & 1 << host != 0)
        .map(host_name)
}

fn host_name(number: usize) -> HostName {
    format!("callback-{number}.vipps.no")
        .parse()
        .expect("it is a name")
}

/// One in four is special-purpose.
fn address(family: Family, number: u8) -> IpAddr {
    let number = number % ADDRESSES;
    let special = number % 4 == 3;
    match (family, special) {
        (Family::V4, false) => Ipv4Addr::new(20, 0, 0, number).into(),
        (Family::V4, true) => Ipv4Addr::new(10, 0, 0, number).into(),
        (Family::V6, false) => Ipv6Addr::new(0x2a01, 0x111, 0, 0, 0, 0, 0, number.into()).into(),
        (Family::V6, true) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.segments()[0] == 0xfd00,
    }
}

fn universe() -> impl Iterator<Item = IpAddr> {
    let numbers = 0..ADDRESSES;
    numbers.flat_map(|number| Family::ALL.map(|family| address(family, number)))
}

const ADDRESSES: u8 = 16;
/// When the set starts, since the epoch.
const UTC: Duration = Duration::from_secs(1_780_000_000);

/// An answer stays in use for this long after its TTL even if nothing is stale for any time.
fn refresh_time(rules: &Rules) -> Duration {
    Duration::from_millis(1_500) + rules.question_time_limit
}

const KINDS: [ResolveErrorKind; 7] = [
    ResolveErrorKind::NxDomain,
    ResolveErrorKind::NoData,
    ResolveErrorKind::ServFail,
    ResolveErrorKind::Timeout,
    ResolveErrorKind::BrokenChain,
    ResolveErrorKind::Panicked,
    ResolveErrorKind::Other,
];
