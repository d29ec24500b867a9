//! Schedules: sequences of events of a set.

use std::time::Duration;

use ipnet::IpNet;

use super::fixtures::{HOSTS, MAPPED, pool};
use crate::{Answer, Family, Question, ResolveError, ResolveErrorKind, set::Rules};

/// Hosts and networks of a set.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) hosts: Vec<usize>,
    pub(super) network: bool,
}

impl Setting {
    pub(super) fn networks(&self) -> Vec<IpNet> {
        let network = "8.8.4.4/31".parse().expect("a network");
        if self.network {
            vec![network]
        } else {
            Vec::new()
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) advance: Advance,
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Advance {
    Not,
    By(Duration),
    /// Advances to one of the times at which a verdict may change, or to one millisecond before or after it.
    Near {
        pick: u8,
        side: Side,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Before,
    At,
    After,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Wait,
    Ask(Asked, Outcome),
    /// Asks every question about every host, in the order of [`HOSTS`].
    Round(Vec<Outcome>),
    /// Outage in which hosts fail one after the other, `stagger` rounds apart.
    Outage {
        order: Vec<usize>,
        stagger: u8,
        rounds: u8,
        gap: Gap,
        /// Outcome of the questions about hosts that do not fail yet, or `None` if these questions are not asked.
        others: Option<Outcome>,
    },
    Expire,
    Replace(Vec<usize>),
    Restart {
        hosts: Option<Vec<usize>>,
        down: Advance,
        /// Rules after the restart, or `None` for the same rules.
        rules: Option<Rules>,
    },
}

/// The time between two rounds of an outage.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gap {
    /// The longest pause that is never a gap in the sense of rule 6, or one millisecond more.
    Longest {
        more: bool,
    },
    By(Duration),
}

impl Gap {
    pub(super) fn advance(self, rules: &Rules) -> Advance {
        Advance::By(match self {
            Self::Longest { more } => {
                let longest = rules.max_ttl.min(rules.stale_for / 4);
                longest + Duration::from_millis(more.into())
            }
            Self::By(time) => time,
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) host: usize,
    pub(super) family: Family,
}

impl Asked {
    pub(super) fn question(self) -> Question {
        Question {
            host: HOSTS[self.host].clone(),
            family: self.family,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An answer with the addresses of the pool whose bits are set in `mask`.
    Answer {
        mask: u8,
        ttl: Duration,
        /// Adds [`MAPPED`], whatever the family.
        mapped: bool,
    },
    Error(ResolveErrorKind, Option<Duration>),
}

impl Outcome {
    pub(super) fn outcome(&self, family: Family) -> Result<Answer, ResolveError> {
        match self {
            Self::Answer { mask, ttl, mapped } => {
                let addresses = pool(family)
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| mask & (1 << at) != 0)
                    .map(|(_, address)| address);
                let foreign = mapped.then(|| *MAPPED);
                let addresses = addresses.chain(foreign);
                Ok(Answer::new(addresses, *ttl))
            }
            Self::Error(kind, None) => Err(ResolveError::new(*kind)),
            Self::Error(kind, Some(ttl)) => Err(ResolveError::new(*kind).with_negative_ttl(*ttl)),
        }
    }
}
