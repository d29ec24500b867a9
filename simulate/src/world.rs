//! The provider's zone, the two DNS servers that a merchant uses, and a log of the questions to them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use callback_source::{
    Answer, Family, HostName, Question, Resolve, ResolveError, ResolveErrorKind,
};
use fastrand::Rng;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    oracle::{
        Callers, Given, Ms, Outcome, REFRESH_TIME, Right, Rules, Worlds, caller, everybody,
        family_of, is_test_server,
    },
    schedule::{HOSTS, Mood, POOL, Schedule},
};

/// Shared handle to the state of a simulation.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    pub(crate) news: Arc<Notify>,
    start: Instant,
}

/// State of a simulation and its results so far.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) worlds: Worlds,
    pub(crate) hosts: u8,
    /// Number of replacements of the hosts.
    pub(crate) replaced: u32,
    /// The latest replacement that added or removed each host.
    moved: [u32; HOSTS as usize],
    rules: Rules,
    zone: Vec<Vec<(Ms, Zone)>>,
    gone: [Vec<(Ms, bool)>; HOSTS as usize],
    pub(crate) servers: [Server; 2],
    /// Number of changes to the zone and the servers.
    pub(crate) weather: u64,
    /// Lookups of the real resolver.
    pub(crate) flights: [crate::network::Flight; 2 * HOSTS as usize],
    asked: [AskLog; 2 * HOSTS as usize],
    /// The questions about the watched host, by family.
    watched: [WatchLog; 2],
    /// Serial number of the running process.
    pub(crate) life: u32,
    /// Time of the last request of a caller that may have been unlisted.
    pub(crate) unlisted_at: Ms,
    rng: Rng,
    pub(crate) seed: u64,
    pub(crate) tally: Tally,
    pub(crate) violation: Option<Violation>,
}

/// Records of a zone for a question.
#[derive(Clone, Copy, Debug, Default)]
struct Zone {
    addresses: u8,
    ttl: u32,
}

/// One of the DNS servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) mood: Mood,
    pub(crate) latency: u32,
    pub(crate) lag: u32,
}

/// Times of a question in this process: those of its last lookup, and the earliest and latest time of its next lookup.
#[derive(Clone, Copy, Debug, Default)]
struct AskLog {
    asked: Option<Ms>,
    in_flight: bool,
    finished: Option<(Ms, Outcome)>,
    earliest: Ms,
    latest: Option<Ms>,
}

/// The lookups of a question about the watched host in this process.
#[derive(Clone, Copy, Debug, Default)]
struct WatchLog {
    asked: Option<Ms>,
    /// The time until which the last answer is certain to be in use.
    named_until: Option<Ms>,
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) undecided: u64,
    pub(crate) either: u64,
    pub(crate) requests: u64,
    pub(crate) waited: u64,
    pub(crate) questions: u64,
    /// Number of messages from the real resolver to the servers.
    pub(crate) messages: u64,
    pub(crate) processes: u64,
    /// Checksum of all verdicts and questions, which does not depend on their order within a moment.
    pub(crate) trace: u64,
}

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) at: Ms,
    pub(crate) class: Class,
    pub(crate) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    WrongAdmission,
    WrongRefusal,
    WrongIndecision,
    /// A refusal has a wrong reason.
    WrongReason,
    /// A question went out too often or too early.
    AskedTooOften,
    /// The seed caused more questions than allowed.
    TooManyQuestions,
    /// A question went out too late.
    AskedTooLate,
    /// A caller waited too long, or was refused too early.
    Waiting,
    /// A response does not match any verdict.
    Response,
    /// The result of a lookup does not follow from the responses.
    Lookup,
}

impl Violation {
    /// Formats the violation in a single line.
    pub(crate) fn of_seed(&self, seed: u64) -> String {
        let Self { at, class, detail } = self;
        let detail = detail.lines().next().unwrap_or_default();
        format!("seed {seed}, at {at} ms: {class:?}, {detail}")
    }

    /// Returns whether the violation appears only at the end, so that it cannot be shrunk.
    pub(crate) fn is_bound(&self) -> bool {
        self.class == Class::TooManyQuestions
    }
}

impl Shared {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let rules = Rules::from(&schedule.setting);
        let hosts = schedule.setting.hosts;
        let server = Server {
            mood: Mood::Well,
            latency: 0,
            lag: 0,
        };
        Self {
            state: Arc::new(Mutex::new(State {
                worlds: Worlds::new(rules, hosts, 0),
                hosts,
                replaced: 0,
                moved: [0; HOSTS as usize],
                rules,
                zone: vec![vec![(Ms::MIN, Zone::default())]; 2 * usize::from(HOSTS)],
                gone: std::array::from_fn(|_| vec![(Ms::MIN, false)]),
                servers: [server; 2],
                weather: 0,
                flights: Default::default(),
                asked: [AskLog::default(); 2 * HOSTS as usize],
                watched: Default::default(),
                life: 0,
                unlisted_at: Ms::MIN / 2,
                rng: Rng::with_seed(schedule.seed),
                seed: schedule.seed,
                tally: Tally::default(),
                violation: None,
            })),
            news: Arc::new(Notify::new()),
            start: Instant::now(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Ms {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(Ms::MAX)
    }

    pub(crate) fn instant(&self, at: Ms) -> Instant {
        self.start + Duration::from_millis(u64::try_from(at).unwrap_or_default())
    }
}

impl State {
    pub(crate) fn set_zone(&mut self, host: u8, family: u8, addresses: u8, ttl: u32, now: Ms) {
        let history = &mut self.zone[usize::from(2 * host + family)];
        history.retain({
            let newest = history.len() - 1;
            let mut at = 0;
            move |(since, _)| {
                at += 1;
                at > newest || now - MAX_LAG <= *since
            }
        });
        history.push((now, Zone { addresses, ttl }));
    }

    pub(crate) fn set_gone(&mut self, host: u8, gone: bool, now: Ms) {
        self.gone[usize::from(host)].push((now, gone));
    }

    pub(crate) fn violated(&mut self, at: Ms, class: Class, detail: impl Into<String>) {
        let detail = detail.into();
        self.violation
            .get_or_insert(Violation { at, class, detail });
    }

    /// Compares a verdict of the list with the right verdicts.
    pub(crate) fn judge(&mut self, who: u8, given: Given, right: Right, now: Ms) {
        self.tally.trace = self
            .tally
            .trace
            .wrapping_add(mix(&[now, who.into(), given as i64]));
        match given {
            Given::Admit => self.tally.admitted += 1,
            Given::NotListed | Given::WrongEnvironment => self.tally.refused += 1,
            Given::Unresolved => self.tally.undecided += 1,
        }
        if !right.is_decided() {
            self.tally.either += 1;
        }
        let wrong = match given {
            Given::Admit => (!right.admit).then_some(Class::WrongAdmission),
            Given::NotListed | Given::WrongEnvironment => {
                (!right.not_listed).then_some(Class::WrongRefusal)
            }
            Given::Unresolved => (!right.unresolved).then_some(Class::WrongIndecision),
        };
        if let Some(class) = wrong {
            let worlds = self.worlds.describe();
            self.violated(
                now,
                class,
                format!(
                    "caller {who} ({}): {given:?}, right would be {right:?}\n{worlds}",
                    address(who)
                ),
            );
        }
    }

    /// Checks the reason of a refusal. The reason for a test server is `WrongEnvironment` while an answer contains its
    /// address. For all other callers, it is `NotListed`.
    pub(crate) fn judge_reason(&mut self, who: u8, given: Given, now: Ms) {
        let named_until = self.watched[family_of(who)].named_until;
        let named_until = named_until.filter(|_| is_test_server(who));
        let is_wrong = match given {
            Given::NotListed => named_until.is_some_and(|until| now < until),
            Given::WrongEnvironment => named_until.is_none(),
            Given::Admit | Given::Unresolved => false,
        };
        if is_wrong {
            let text = format!("caller {who}: {given:?}, named until {named_until:?}");
            self.violated(now, Class::WrongReason, text);
        }
    }

    /// Records a lookup of the watched host. Each of its questions may go out at most once per interval of on-demand
    /// refreshes, and only when an unlisted peer calls.
    fn watched_asked(&mut self, family: usize, now: Ms) {
        let interval = RECHECK.max(self.rules.min_ttl);
        let before = self.watched[family].asked.replace(now);
        let is_too_early = before.is_some_and(|before| now - before < interval);
        if is_too_early || SLACK < now - self.unlisted_at {
            let text = format!(
                "the watched host, family {family}: asked at {before:?}, unlisted peer at {}",
                self.unlisted_at
            );
            self.violated(now, Class::AskedTooOften, text);
        }
    }

    pub(crate) fn asked(&mut self, host: u8, family: usize, now: Ms) {
        self.tally.questions += 1;
        self.tally.trace =
            self.tally
                .trace
                .wrapping_add(mix(&[now, host.into(), family as i64, -1]));
        let floor = self.rules.min_ttl;
        let unlisted = now - self.unlisted_at <= RECHECK_WAIT;
        let log = &mut self.asked[usize::from(2 * host) + family];
        let gap = log.asked.map(|asked| now - asked);
        let earliest = log.earliest;
        log.asked = Some(now);
        log.in_flight = true;
        log.latest = None;
        match gap {
            Some(gap) if gap < floor => self.violated(
                now,
                Class::AskedTooOften,
                format!("host {host}, family {family}: {gap} ms after it was asked before"),
            ),
            Some(gap) if now < earliest && !(unlisted && floor.max(RECHECK) <= gap) => self
                .violated(
                    now,
                    Class::AskedTooOften,
                    format!(
                        "host {host}, family {family}: {} ms before it was due",
                        earliest - now
                    ),
                ),
            _ => {}
        }
    }

    pub(crate) fn came(&mut self, host: u8, family: usize, outcome: Outcome, now: Ms) {
        let is_configured = self.hosts >> host & 1 == 1;
        self.worlds.apply(host, family, outcome, now);
        let floor = self.rules.min_ttl.max(1_000);
        let (fewest, most_failures) = self.worlds.failures(host, family);
        let (least, most) = match outcome {
            Outcome::Answer { ttl, .. } => {
                let wait = self.rules.clamp(ttl) + LAST_SECOND;
                (wait, wait)
            }
            // The denial may be believed at once, later, or never. If it is believed, the question is repeated before
            // the addresses stop lingering.
            Outcome::Denial { ttl, .. } => {
                let wait = self.rules.clamp(ttl);
                (
                    floor.min(wait),
                    wait.max(self.rules.backoff(most_failures)) + LAST_SECOND,
                )
            }
            // After a rejected answer, the retry may go out a second after the end of the back-off.
            Outcome::Failure => (
                self.rules.backoff(fewest),
                self.rules.backoff(most_failures) + LAST_SECOND,
            ),
        };
        let log = &mut self.asked[usize::from(2 * host) + family];
        log.in_flight = false;
        log.finished = Some((now, outcome));
        log.earliest = now + least;
        log.latest = is_configured.then_some(now + most + MAX_JITTER + SLACK);
    }

    /// Checks that every question goes out in time.
    pub(crate) fn check_questions(&mut self, now: Ms) {
        for (at, log) in self.asked.into_iter().enumerate() {
            if self.hosts >> (at / 2) & 1 == 1 && log.latest.is_some_and(|latest| latest < now) {
                let late = now - log.latest.unwrap_or(now);
                let text = format!(
                    "host {}, family {}: {late} ms late, {log:?}",
                    at / 2,
                    at % 2
                );
                self.violated(now, Class::AskedTooLate, text);
            }
        }
    }

    /// Returns the questions that a request of an unlisted caller of this family would trigger now.
    pub(crate) fn due_for_unlisted(&self, family: usize, now: Ms) -> Vec<usize> {
        let wait = RECHECK.max(self.rules.min_ttl);
        let questions = (0..usize::from(HOSTS)).filter(|host| self.hosts >> host & 1 == 1);
        let questions = questions.map(|host| 2 * host + family);
        questions
            .filter(|at| {
                let log = &self.asked[*at];
                !log.in_flight && log.asked.is_some_and(|asked| asked + wait <= now)
            })
            .collect()
    }

    /// Returns whether a question went out since a time, and whether its lookup has ended.
    pub(crate) fn asked_since(&self, question: usize, since: Ms) -> (bool, bool) {
        let log = &self.asked[question];
        let asked = log.asked.is_some_and(|asked| since <= asked);
        (asked, asked && !log.in_flight)
    }

    /// Returns whether the host of a question has been configured without interruption since a replacement.
    pub(crate) fn stayed_since(&self, question: usize, replaced: u32) -> bool {
        let host = question / 2;
        self.hosts >> host & 1 == 1 && self.moved[host] <= replaced
    }

    /// Replaces the hosts. The questions of added hosts go out at once. If such a question went out shortly before, its
    /// last outcome is used instead.
    pub(crate) fn replace_hosts(&mut self, hosts: u8, now: Ms) {
        let added = hosts & !self.hosts;
        let moved = hosts ^ self.hosts;
        self.hosts = hosts;
        self.replaced += 1;
        self.worlds.replace_hosts(hosts, now);
        for host in 0..HOSTS {
            if moved >> host & 1 == 1 {
                self.moved[usize::from(host)] = self.replaced;
            }
            let is_added = added >> host & 1 == 1;
            for family in 0..2 {
                let at = usize::from(2 * host) + family;
                if hosts >> host & 1 == 0 {
                    self.asked[at].latest = None;
                }
                let log = self.asked[at];
                if !is_added || log.in_flight {
                    continue;
                }
                self.asked[at].earliest = now;
                let floor_ends = log.asked.map_or(now, |asked| asked + self.rules.min_ttl);
                self.asked[at].latest = Some(now.max(floor_ends) + REFRESH_TIME);
                if let Some((finished, outcome)) = log.finished
                    && now < floor_ends
                {
                    let age = now - finished;
                    self.came(host, family, outcome.aged(age), now);
                    let log = &mut self.asked[at];
                    log.finished = Some((finished, outcome));
                    log.earliest = floor_ends;
                    log.latest = log
                        .latest
                        .map(|latest| latest.max(floor_ends + REFRESH_TIME));
                }
            }
        }
    }

    /// Starts a process, which has not sent any question.
    pub(crate) fn new_process(&mut self, now: Ms) {
        self.life += 1;
        self.tally.processes += 1;
        self.unlisted_at = Ms::MIN / 2;
        self.asked = [AskLog::default(); 2 * HOSTS as usize];
        self.watched = Default::default();
        for at in 0..self.asked.len() {
            if self.hosts >> (at / 2) & 1 == 1 {
                self.asked[at].latest = Some(now + SLACK);
            }
        }
    }

    /// Returns the delay until an answer arrives, and the server that sends the answer. The server is `None` if no
    /// answer arrives.
    fn answers(&mut self) -> (u64, Option<usize>) {
        let mut passed = 0;
        for (at, server) in self.servers.into_iter().enumerate() {
            let lost = match server.mood {
                Mood::Silent => true,
                Mood::Lossy => self.rng.bool(),
                _ => false,
            };
            let takes = u64::from(server.latency);
            if !lost && takes < SERVER_LIMIT && !server.mood.fails() {
                return (passed + takes, Some(at));
            }
            let last = at + 1 == self.servers.len();
            if last && !lost && takes < SERVER_LIMIT {
                return (passed + takes, Some(at));
            }
            passed += match lost || SILENCE <= takes {
                true => SILENCE,
                false => takes,
            };
        }
        (passed, None)
    }

    /// Returns the time that a message to a server and its response take together, and whether one of them is lost.
    /// Over TCP, a lost packet is sent again.
    ///
    /// The result does not depend on the order of events within a millisecond, because hickory orders such events at
    /// random.
    pub(crate) fn sends(
        &mut self,
        at: usize,
        over_tcp: bool,
        question: Option<usize>,
        now: Ms,
    ) -> (u64, bool) {
        self.tally.messages += 1;
        let Server { mood, latency, .. } = self.servers[at];
        let drawn = mix(&[
            self.seed.cast_signed(),
            now,
            at as i64,
            i64::from(over_tcp),
            question.map_or(-1, |question| question as i64),
        ]);
        let lost = mood == Mood::Lossy && drawn >> 40 & 1 == 1;
        let apart = question.unwrap_or_default() + 16 * at + 32 * usize::from(over_tcp);
        let takes = u64::from(latency) + 7 + apart as u64;
        match over_tcp {
            true if lost => (takes + 1_000, false),
            _ => (takes, lost),
        }
    }

    fn view(&self, host: u8, family: u8, server: Server, now: Ms) -> (Zone, bool) {
        let then = now - Ms::from(server.lag);
        let zone = self.zone[usize::from(2 * host + family)].iter();
        let zone = zone.rev().find(|(since, _)| *since <= then);
        let gone = self.gone[usize::from(host)].iter();
        let gone = gone.rev().find(|(since, _)| *since <= then);
        (
            zone.map_or_else(Zone::default, |(_, zone)| *zone),
            gone.is_some_and(|(_, gone)| *gone),
        )
    }

    /// Returns the outcome that the list must get from the response of a server, and the response itself.
    pub(crate) fn outcome(
        &self,
        host: u8,
        family: u8,
        server: Server,
        now: Ms,
    ) -> (Outcome, Result<Answer, ResolveError>) {
        let fails = |kind| (Outcome::Failure, Err(ResolveError::new(kind)));
        let (zone, gone) = self.view(host, family, server, now);
        let ttl = Duration::from_secs(zone.ttl.into());
        let denial = |no_data| {
            // For "no data", the negative TTL is the TTL of the zone's records. Outside episodes, that TTL is long,
            // which limits the number of questions.
            let (kind, negative_ttl) = match no_data {
                true => (ResolveErrorKind::NoData, ttl),
                false => (ResolveErrorKind::NxDomain, NEGATIVE_TTL),
            };
            let error = ResolveError::new(kind).with_negative_ttl(negative_ttl);
            let ttl = ms(negative_ttl);
            (Outcome::Denial { no_data, ttl }, Err(error))
        };
        let pool = (0..POOL).filter(|number| zone.addresses >> number & 1 == 1);
        let members = pool.map(|number| caller(host, family, number));
        let mut addresses: Vec<_> = members.clone().map(address).collect();
        let private = match family {
            0 => IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1)),
            _ => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        };
        match server.mood {
            Mood::ServFail => return fails(ResolveErrorKind::ServFail),
            Mood::Refused => return fails(ResolveErrorKind::Refused),
            Mood::ErrorCode => return fails(ResolveErrorKind::ErrorCode),
            Mood::Malformed => return fails(ResolveErrorKind::Malformed),
            Mood::Truncated => return fails(ResolveErrorKind::Truncated),
            Mood::Bogus => return fails(ResolveErrorKind::Bogus),
            Mood::BrokenChain => return fails(ResolveErrorKind::BrokenChain),
            Mood::Unreachable => return fails(ResolveErrorKind::Network),
            Mood::Denies => return denial(false),
            Mood::Empty => return denial(true),
            Mood::Portal => return (Outcome::Failure, Ok(Answer::new([private], ttl))),
            Mood::TooMany => {
                let many = (0..300).map(|number| match family {
                    0 => IpAddr::V4(Ipv4Addr::from_bits(0x1414_0000 + number)),
                    _ => IpAddr::V6(Ipv6Addr::from_bits(
                        0x2a00 << 112 | u128::from(number) << 64,
                    )),
                });
                return (Outcome::Failure, Ok(Answer::new(many, ttl)));
            }
            Mood::Rebinds if zone.addresses != 0 && !gone => addresses.push(private),
            Mood::Rebinds | Mood::Well | Mood::Lossy | Mood::Silent => {}
        }
        if gone {
            return denial(false);
        }
        if addresses.is_empty() {
            return denial(true);
        }
        let set = members.fold(0, |set: Callers, who| set | 1 << who);
        let outcome = Outcome::Answer {
            addresses: set,
            ttl: ms(ttl),
        };
        (outcome, Ok(Answer::new(addresses, ttl)))
    }
}

impl Outcome {
    fn aged(self, age: Ms) -> Self {
        match self {
            Self::Answer { addresses, ttl } => Self::Answer {
                addresses,
                ttl: (ttl - age).max(0),
            },
            other => other,
        }
    }
}

impl Mood {
    /// Returns whether the resolver also asks the next server.
    fn fails(self) -> bool {
        !matches!(
            self,
            Self::Well
                | Self::Lossy
                | Self::Denies
                | Self::Empty
                | Self::Portal
                | Self::Rebinds
                | Self::TooMany
        )
    }
}

/// Resolver of one process.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) shared: Shared,
    pub(crate) life: u32,
}

impl Resolve for Scripted {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        if question.host == watched() {
            return resolve_watched(&self.shared, self.life, question.family).await;
        }
        let host = number(&question.host);
        let family = question.family as u8;
        let (takes, server) = {
            let mut state = self.shared.lock();
            if state.life != self.life {
                return Err(ResolveError::new(ResolveErrorKind::Other));
            }
            state.asked(host, family.into(), self.shared.now());
            state.answers()
        };
        let mut flight = Flight {
            resolver: self,
            host,
            family,
            landed: false,
        };
        let Some(server) = server else {
            std::future::pending::<()>().await;
            return Err(ResolveError::new(ResolveErrorKind::Timeout));
        };
        if takes != 0 {
            sleep(Duration::from_millis(takes)).await;
        }
        let now = self.shared.now();
        let mut state = self.shared.lock();
        flight.landed = true;
        let (outcome, result) = state.outcome(host, family, state.servers[server], now);
        flight.report(&mut state, outcome, now);
        result
    }
}

/// Looks up the watched host at the first server. The lookup draws no random number, so the watched host does not
/// influence the rest of a run.
pub(crate) async fn resolve_watched(
    shared: &Shared,
    life: u32,
    family: Family,
) -> Result<Answer, ResolveError> {
    let latency = {
        let mut state = shared.lock();
        if state.life != life {
            return Err(ResolveError::new(ResolveErrorKind::Other));
        }
        state.watched_asked(family as usize, shared.now());
        state.servers[0].latency
    };
    if latency != 0 {
        sleep(Duration::from_millis(latency.into())).await;
    }
    let mood = shared.lock().servers[0].mood;
    let error = match mood {
        Mood::Silent => return std::future::pending().await,
        Mood::Denies => ResolveErrorKind::NxDomain,
        Mood::Empty => ResolveErrorKind::NoData,
        Mood::Well | Mood::Lossy | Mood::Rebinds => {
            let mut state = shared.lock();
            if state.life == life {
                let now = shared.now();
                let until = now + state.rules.clamp(ms(WATCHED_TTL));
                state.watched[family as usize].named_until = Some(until);
            }
            let servers = everybody().filter(|who| is_test_server(*who));
            let servers = servers.filter(|who| family_of(*who) == family as usize);
            return Ok(Answer::new(servers.map(address), WATCHED_TTL));
        }
        _ => ResolveErrorKind::ServFail,
    };
    Err(ResolveError::new(error))
}

/// Guard that reports a question as failed if its lookup is dropped at the time limit.
struct Flight<'a> {
    resolver: &'a Scripted,
    host: u8,
    family: u8,
    landed: bool,
}

impl Flight<'_> {
    fn report(&self, state: &mut State, outcome: Outcome, now: Ms) {
        if state.life == self.resolver.life {
            state.came(self.host, self.family.into(), outcome, now);
            self.resolver.shared.news.notify_one();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.landed {
            let now = self.resolver.shared.now();
            self.report(&mut self.resolver.shared.lock(), Outcome::Failure, now);
        }
    }
}

pub(crate) fn name(host: u8) -> HostName {
    NAMES[usize::from(host)].clone()
}

/// The host that the list watches. It is in the same zone as admitted hosts. If its answers wrongly confirmed denials,
/// the simulation would detect the error.
pub(crate) fn watched() -> HostName {
    static WATCHED: LazyLock<HostName> = LazyLock::new(|| {
        let name = "callback-origin-test.production.psp.example";
        name.parse().expect("a host name")
    });
    WATCHED.clone()
}

pub(crate) fn number(host: &HostName) -> u8 {
    let number = NAMES.iter().position(|name| name == host);
    number.expect("a host of the simulation") as u8
}

pub(crate) fn host_named(name: &str) -> Option<u8> {
    let number = NAMES.iter().position(|of| of.as_str() == name);
    number.map(|number| number as u8)
}

/// Returns the address of a caller.
pub(crate) fn address(who: u8) -> IpAddr {
    match family_of(who) {
        0 => IpAddr::V4(Ipv4Addr::new(20, 0, 1, who)),
        _ => IpAddr::V6(Ipv6Addr::new(0x2a00, 0x1234, 0, who.into(), 0, 0, 0, 1)),
    }
}

pub(crate) fn ms(duration: Duration) -> Ms {
    i64::try_from(duration.as_millis()).unwrap_or(Ms::MAX)
}

/// Returns a hash of numbers that is the same in each run.
pub(crate) fn mix(numbers: &[i64]) -> u64 {
    numbers.iter().fold(0xcbf2_9ce4_8422_2325, |hash, number| {
        let mixed = (hash ^ number.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    })
}

/// Host names. The first, second and last host are in one zone. The names are so long that a name in random letter case
/// is never entirely in lower case by chance.
static NAMES: LazyLock<[HostName; HOSTS as usize]> = LazyLock::new(|| {
    let names = [
        "callback-origin-one.production.psp.example",
        "callback-origin-two.production.psp.example",
        "outgoing-notifications.merchant.other.test",
        "callback-origin-three.production.psp.example",
    ];
    names.map(|name| name.parse().expect("a host name"))
});

/// Minimum time between the last lookup of a question and an on-demand refresh of the question.
const RECHECK: Ms = 5_000;
/// Longest time that an unlisted caller waits.
pub(crate) const RECHECK_WAIT: Ms = 1_000;
const LAST_SECOND: Ms = 1_000;
const MAX_JITTER: Ms = 500;
/// A tolerance, since timers have a resolution of a millisecond.
pub(crate) const SLACK: Ms = 3;
const WATCHED_TTL: Duration = Duration::from_secs(600);
const NEGATIVE_TTL: Duration = Duration::from_secs(300);
const SILENCE: u64 = 400;
const SERVER_LIMIT: u64 = 2_000;
const MAX_LAG: Ms = 4_000_000;
