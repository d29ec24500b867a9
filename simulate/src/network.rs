//! The real [`HickoryResolver`] and two DNS servers on a network in memory.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use callback_source::{
    Answer, HickoryResolver, Question, Resolve, ResolveError, ResolveErrorKind,
    simulation::{self, Sent},
};
use tokio::time::sleep;

use crate::{
    oracle::{Callers, Ms, Outcome, everybody},
    schedule::Mood,
    wire::{Alias, Query, Said, TARGET},
    world::{
        Class, Server, Shared, State, address, host_named, mix, ms, number, resolve_watched,
        watched,
    },
};

/// Attaches the servers to the network of this thread.
pub(crate) fn connect(shared: &Shared, seed: u64) {
    simulation::set_network(Some(Arc::new(Network {
        shared: shared.clone(),
        seed,
    })));
}

/// Returns the addresses of the servers in query order. They are not read from a configuration file, because that would
/// happen on another thread, whose time is not simulated.
pub(crate) fn servers() -> impl Iterator<Item = SocketAddr> {
    SERVERS.iter().map(|server| (*server, 53).into())
}

struct Network {
    shared: Shared,
    seed: u64,
}

impl simulation::Network for Network {
    fn send(&self, server: SocketAddr, sent: Sent<'_>) -> simulation::Response {
        let at = SERVERS.iter().position(|of| IpAddr::V4(*of) == server.ip());
        let Some(at) = at else {
            return Box::pin(async { Err(io::ErrorKind::HostUnreachable.into()) });
        };
        let shared = self.shared.clone();
        let now = shared.now();
        let habit = Habit::of(self.seed, at, now);
        let (over_udp, query) = match sent {
            Sent::Packet(packet) => (true, Query::read(packet)),
            Sent::Message(message) => (false, Query::read(message)),
            Sent::Connection => (false, None),
        };
        let is_connection = sent == Sent::Connection;
        let question = query.as_ref().and_then(question_of);
        let (takes, lost) = shared.lock().sends(at, !over_udp, question, now);
        Box::pin(async move {
            let silent = over_udp
                && match habit {
                    Habit::NoUdp => true,
                    Habit::SilentToEdns => query.as_ref().is_some_and(|query| query.edns.is_some()),
                    _ => false,
                };
            if lost || silent {
                return std::future::pending().await;
            }
            sleep(Duration::from_millis(takes)).await;
            let now = shared.now();
            let mood = shared.lock().servers[at].mood;
            match mood {
                Mood::Silent => return std::future::pending().await,
                Mood::Unreachable => return Err(io::ErrorKind::NetworkUnreachable.into()),
                _ => {}
            }
            if is_connection {
                return match habit == Habit::NoTcp || mood == Mood::Truncated {
                    true => Err(io::ErrorKind::ConnectionRefused.into()),
                    false => Ok(Vec::new()),
                };
            }
            let Some(query) = query else {
                return Err(io::Error::other(
                    "a question that the simulation cannot read",
                ));
            };
            Ok(respond(
                &mut shared.lock(),
                at,
                habit,
                &query,
                over_udp,
                now,
            ))
        })
    }
}

/// Returns the response of a server to a message.
fn respond(
    state: &mut State,
    at: usize,
    habit: Habit,
    query: &Query,
    over_udp: bool,
    now: Ms,
) -> Vec<u8> {
    let Some(question) = question_of(query) else {
        return query.respond(&Said::Code(REFUSED), over_udp, false).0;
    };
    let host = (question / 2) as u8;
    let (_, result) = state.outcome(host, query.family, state.servers[at], now);
    let alias = match habit {
        _ if is_target(query) => Alias::None,
        Habit::JoinedAlias => Alias::Joined,
        Habit::AliasApart => Alias::Apart,
        _ => Alias::None,
    };
    let other = match habit {
        Habit::NoEdns if query.edns.is_some() => Some(Said::Code(FORMERR)),
        Habit::LowerCaseOnly if !query.is_lower_case => Some(Said::Denial {
            no_data: false,
            ttl: u32::try_from(FALSE_DENIAL.as_secs()).unwrap_or(u32::MAX),
        }),
        Habit::Truncates if over_udp && result.is_ok() => Some(Said::Truncated),
        _ => None,
    };
    let is_true = other.is_none();
    let said = other.unwrap_or_else(|| said(&result, alias));
    let respells = habit == Habit::Respells;
    let (message, cut) = query.respond(&said, over_udp, respells);
    // An answer in random case shows that the server accepts any letter case of the name. The resolver remembers this
    // for an hour. If the server begins to deny names in random case within that hour, its denials are believed.
    if habit == Habit::LowerCaseOnly && !query.is_lower_case && now % Habit::LASTS <= SPELLED {
        let denial = ResolveError::new(ResolveErrorKind::NxDomain);
        let denial = denial.with_negative_ttl(FALSE_DENIAL);
        state.flights[question].said.push(Response {
            result: Err(denial),
            settles: false,
            link: Link::None,
        });
    }
    if is_true && !cut {
        // Over UDP without EDNS, the resolver may need two responses that agree.
        let alone = !over_udp || query.edns.is_some();
        let misspelled = respells && !query.is_lower_case;
        let settles = alone && !misspelled && alias != Alias::Apart;
        let link = match alias {
            _ if is_target(query) => Link::Target,
            Alias::Apart => Link::Alias,
            _ => Link::None,
        };
        state.flights[question].said.push(Response {
            result,
            settles,
            link,
        });
    }
    message
}

fn is_target(query: &Query) -> bool {
    query.name.starts_with(TARGET)
}

/// Returns the question of the list for which the resolver sent a message.
fn question_of(query: &Query) -> Option<usize> {
    let target = query.name.strip_prefix(TARGET);
    let host = host_named(target.unwrap_or(&query.name))?;
    Some(usize::from(2 * host + query.family))
}

fn said(result: &Result<Answer, ResolveError>, alias: Alias) -> Said {
    let seconds = |ttl: Duration| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    match result {
        Ok(answer) => Said::Addresses {
            addresses: answer.addresses().to_vec(),
            ttl: seconds(answer.ttl()),
            alias,
        },
        Err(error) => match error.kind() {
            ResolveErrorKind::NoData | ResolveErrorKind::NxDomain => Said::Denial {
                no_data: error.kind() == ResolveErrorKind::NoData,
                ttl: seconds(error.negative_ttl().unwrap_or_default()),
            },
            ResolveErrorKind::Refused => Said::Code(REFUSED),
            ResolveErrorKind::ErrorCode => Said::Code(NOTAUTH),
            ResolveErrorKind::BrokenChain => Said::Loop,
            ResolveErrorKind::Malformed => Said::Garbage,
            ResolveErrorKind::Truncated => Said::Truncated,
            // The server reports any other failure as SERVFAIL, like a validating resolver.
            _ => Said::Code(SERVFAIL),
        },
    }
}

/// Behavior of a server that does not depend on its mood. It is drawn anew after each period of [`Habit::LASTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    None,
    JoinedAlias,
    AliasApart,
    /// Refuses EDNS.
    NoEdns,
    SilentToEdns,
    /// A firewall drops UDP.
    NoUdp,
    NoTcp,
    /// Truncates answers over UDP.
    Truncates,
    /// Denies names that are not in lower case.
    LowerCaseOnly,
    /// Repeats the question in lower case.
    Respells,
}

impl Habit {
    const LASTS: Ms = 20 * 24 * 60 * 60 * 1_000;

    const ALL: [Self; 12] = [
        Self::None,
        Self::None,
        Self::None,
        Self::JoinedAlias,
        Self::AliasApart,
        Self::NoEdns,
        Self::SilentToEdns,
        Self::NoUdp,
        Self::NoTcp,
        Self::Truncates,
        Self::LowerCaseOnly,
        Self::Respells,
    ];

    fn of(seed: u64, server: usize, now: Ms) -> Self {
        let drawn = mix(&[seed.cast_signed(), server as i64, now / Self::LASTS]);
        Self::ALL[(drawn >> 32) as usize % Self::ALL.len()]
    }
}

/// TTL of the denial of a name that is not in lower case.
const FALSE_DENIAL: Duration = Duration::from_secs(300);

/// Time for which the resolver remembers that a server accepts any letter case of a name.
const SPELLED: Ms = 60 * 60 * 1_000;

/// The resolver of one process.
pub(crate) struct Wired {
    pub(crate) resolver: HickoryResolver,
    pub(crate) shared: Shared,
    pub(crate) life: u32,
}

impl Resolve for Wired {
    async fn resolve(&self, question: Question) -> Result<Answer, ResolveError> {
        // The watched host is resolved without hickory, because the two DNS servers of this module have no records of
        // this host.
        if question.host == watched() {
            return resolve_watched(&self.shared, self.life, question.family).await;
        }
        let host = number(&question.host);
        let family = question.family as u8;
        {
            let mut state = self.shared.lock();
            if state.life != self.life {
                return Err(ResolveError::new(ResolveErrorKind::Other));
            }
            state.asked(host, family.into(), self.shared.now());
            let weather = state.weather;
            state.flights[usize::from(2 * host + family)] = Flight {
                weather,
                said: Vec::new(),
            };
        }
        let mut landing = Landing {
            wired: self,
            host,
            family,
            landed: false,
        };
        let result = self.resolver.resolve(question).await;
        landing.landed = true;
        landing.report(Some(&result));
        result
    }
}

/// A lookup of the real resolver.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Number of changes to the zone and the servers when the lookup began.
    weather: u64,
    /// The servers' responses that may explain the result of this lookup.
    said: Vec<Response>,
}

#[derive(Debug)]
struct Response {
    result: Result<Answer, ResolveError>,
    /// For an answer, true if hickory must accept it.
    settles: bool,
    link: Link,
}

/// Place of a response in a chain of two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    /// The alias, without the addresses.
    Alias,
    /// The records of the alias's target.
    Target,
}

/// Guard that reports a question as failed if its lookup is dropped at the time limit.
struct Landing<'a> {
    wired: &'a Wired,
    host: u8,
    family: u8,
    landed: bool,
}

impl Landing<'_> {
    fn report(&self, result: Option<&Result<Answer, ResolveError>>) {
        let Self { host, family, .. } = *self;
        let Wired { shared, life, .. } = self.wired;
        let now = shared.now();
        let mut state = shared.lock();
        if state.life != *life {
            return;
        }
        if let Err(problem) = explained(&mut state, host, family, now, result) {
            let text = format!("host {host}, family {family}: {problem}, {result:?}");
            state.violated(now, Class::Lookup, text);
        }
        state.came(host, family.into(), outcome(result), now);
        shared.news.notify_one();
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.landed {
            self.report(None);
        }
    }
}

/// Checks that the result of a lookup follows from the responses of the servers.
fn explained(
    state: &mut State,
    host: u8,
    family: u8,
    now: Ms,
    result: Option<&Result<Answer, ResolveError>>,
) -> Result<(), &'static str> {
    let Flight { weather, said } =
        std::mem::take(&mut state.flights[usize::from(2 * host + family)]);
    let answers = || said.iter().filter_map(|said| said.result.as_ref().ok());
    let errors = || said.iter().filter_map(|said| said.result.as_ref().err());
    match result {
        Some(Ok(answer)) => {
            let same = |of: &Answer| of.addresses() == answer.addresses();
            // If the resolver needs two answers over UDP, it uses only the addresses that are in both answers.
            let agreed = |one: &Answer| {
                answers().any(|other| {
                    let both = one.addresses().iter().copied();
                    let both = both.filter(|address| other.addresses().contains(address));
                    both.eq(answer.addresses().iter().copied())
                })
            };
            if !answers().any(|of| same(of) || agreed(of)) {
                return Err("no server gave this answer");
            }
            match answers().any(|of| of.ttl() == answer.ttl()) {
                true => Ok(()),
                false => Err("no server gave this TTL"),
            }
        }
        Some(Err(error)) if error.is_denial() => {
            let aliases = || {
                let aliases = said.iter().filter(|said| said.link == Link::Alias);
                aliases.filter_map(|said| said.result.as_ref().ok())
            };
            let explains = |response: &Response| match &response.result {
                Err(of) if of.kind() == error.kind() => match response.link {
                    // The denial of the target is valid no longer than the alias, because the alias may change.
                    Link::Target => aliases().any(|alias| {
                        let ttl = of.negative_ttl().map(|ttl| ttl.min(alias.ttl()));
                        error.negative_ttl() == ttl
                    }),
                    _ => error.negative_ttl() == of.negative_ttl(),
                },
                _ => false,
            };
            match said.iter().any(explains) {
                true => Ok(()),
                false => Err("no server gave this denial"),
            }
        }
        _ => {
            if said.iter().any(|said| said.settles && said.result.is_ok()) {
                return Err("the lookup failed although a server answered");
            }
            // A CNAME loop is a final response.
            let loops = |of: &ResolveError| of.kind() == ResolveErrorKind::BrokenChain;
            if errors().any(loops) {
                return Ok(());
            }
            // NXDOMAIN for the target of an alias is final, too. The name in the question exists, so the response is
            // not a denial.
            let dangles = |response: &Response| {
                let denies = |of: &ResolveError| of.kind() == ResolveErrorKind::NxDomain;
                response.link == Link::Target && response.result.as_ref().is_err_and(denies)
            };
            let is_broken =
                matches!(result, Some(Err(error)) if error.kind() == ResolveErrorKind::BrokenChain);
            if is_broken && said.iter().any(dangles) {
                return Ok(());
            }
            let mut servers = state.servers.iter().enumerate();
            let well = servers.any(|(at, server)| {
                let habit = Habit::of(state.seed, at, now);
                let cut = habit == Habit::NoTcp && server.mood == Mood::TooMany;
                is_well(server) && !cut
            });
            match well && weather == state.weather {
                true => Err("the lookup failed although a server works"),
                false => Ok(()),
            }
        }
    }
}

/// Returns whether the server certainly sends an answer or a denial.
fn is_well(server: &Server) -> bool {
    let answers = match server.mood {
        Mood::Well | Mood::Rebinds | Mood::Portal | Mood::TooMany | Mood::Denies | Mood::Empty => {
            true
        }
        Mood::ServFail
        | Mood::Refused
        | Mood::ErrorCode
        | Mood::Malformed
        | Mood::Truncated
        | Mood::Bogus
        | Mood::BrokenChain
        | Mood::Unreachable
        | Mood::Silent
        | Mood::Lossy => false,
    };
    answers && server.latency <= 300 && server.lag == 0
}

/// Returns the outcome that the list must receive.
fn outcome(result: Option<&Result<Answer, ResolveError>>) -> Outcome {
    match result {
        Some(Ok(answer)) if answer.addresses().len() <= MAX_ADDRESSES => {
            let named = |who: &u8| answer.addresses().contains(&address(*who));
            let addresses = everybody().filter(named);
            match addresses.fold(0, |set: Callers, who| set | 1 << who) {
                0 => Outcome::Failure,
                addresses => Outcome::Answer {
                    addresses,
                    ttl: ms(answer.ttl()),
                },
            }
        }
        Some(Err(error)) if error.is_denial() => Outcome::Denial {
            no_data: error.kind() == ResolveErrorKind::NoData,
            ttl: ms(error.negative_ttl().unwrap_or_default()),
        },
        _ => Outcome::Failure,
    }
}

const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)];

/// Maximum number of addresses in an answer that the list accepts.
const MAX_ADDRESSES: usize = 256;

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;
const NOTAUTH: u8 = 9;
