//! Schedules from the bytes of a fuzzer.

use std::time::Duration;

use super::{
    fixtures::HOSTS,
    schedule::{Action, Advance, Asked, Gap, Outcome, Setting, Side, Step},
    trial::{Restore, Trial},
};
use crate::{
    Family,
    ResolveErrorKind::{
        self, Bogus, BrokenChain, NoData, NxDomain, Other, Panicked, ServFail, Timeout,
        TooManyAddresses,
    },
    set::Rules,
};

/// Plays the schedule that is encoded in the bytes, both on a set and on the model.
///
/// # Panics
///
/// Panics if the set and the model differ.
pub(crate) fn play(bytes: &[u8], restore: Restore) {
    let mut bytes = Bytes(bytes);
    let (rules, setting) = (bytes.rules(), bytes.setting());
    let mut trial = Trial::new(rules, &setting, restore);
    trial.check();
    for _ in 0..MAX_STEPS {
        if bytes.0.is_empty() {
            break;
        }
        trial.take(&bytes.step());
        trial.check();
    }
    trial.finish();
}

/// Bytes that are read from the front. After the last byte, each read returns zero.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Returns whole seconds, so that a quarter of a window is a whole number of milliseconds.
    fn seconds(&mut self) -> Duration {
        Duration::from_secs(self.byte().into())
    }

    fn rules(&mut self) -> Rules {
        let flags = self.byte();
        let min_ttl = self.seconds().max(Duration::from_secs(1));
        Rules {
            min_ttl,
            max_ttl: min_ttl + self.seconds(),
            linger: self.seconds(),
            stale_for: self.seconds(),
            max_backoff: self.seconds(),
            max_addresses: usize::from(self.byte() % 8),
            max_lingering: self.byte().into(),
            question_time_limit: self.seconds(),
            only_family: match flags >> 1 & 7 {
                1 => Some(Family::V4),
                2 => Some(Family::V6),
                _ => None,
            },
            insecure_allow_special_addresses: flags & 1 != 0,
        }
    }

    fn setting(&mut self) -> Setting {
        let network = self.byte() & 1 != 0;
        let hosts = self.hosts();
        Setting { hosts, network }
    }

    /// Returns the hosts whose bits are set in a mask, in the order of `HOSTS` or in reverse order.
    fn hosts(&mut self) -> Vec<usize> {
        let mask = self.byte();
        let mut hosts: Vec<_> = (0..HOSTS.len())
            .filter(|host| mask & 1 << host != 0)
            .collect();
        if mask & 0x80 != 0 {
            hosts.reverse();
        }
        hosts
    }

    fn step(&mut self) -> Step {
        let byte = self.byte();
        let action = match byte & 15 {
            0..=5 => Action::Ask(self.asked(), self.answer()),
            6..=9 => Action::Ask(self.asked(), self.error()),
            10 => Action::Round((0..2 * HOSTS.len()).map(|_| self.outcome()).collect()),
            11 => self.outage(),
            12 => Action::Expire,
            13 => Action::Replace(self.hosts()),
            14 => self.restart(),
            _ => Action::Wait,
        };
        let advance = match byte >> 4 {
            0..=7 => Advance::Not,
            _ => self.advance(),
        };
        Step { advance, action }
    }

    fn advance(&mut self) -> Advance {
        let pick = self.byte();
        let side = match self.byte() & 15 {
            0 => Side::Before,
            1 | 2 => Side::At,
            3 => Side::After,
            4 => return Advance::By(Duration::from_secs(3600) * pick.into()),
            5 | 6 => return Advance::By(Duration::from_secs(pick.into())),
            7 => return Advance::By(Duration::from_millis(self.number().into())),
            _ => return Advance::Not,
        };
        Advance::Near { pick, side }
    }

    fn asked(&mut self) -> Asked {
        let byte = self.byte();
        Asked {
            host: usize::from(byte >> 1) % HOSTS.len(),
            family: Family::ALL[usize::from(byte & 1)],
        }
    }

    fn outcome(&mut self) -> Outcome {
        match self.byte() & 3 {
            0..=2 => self.answer(),
            _ => self.error(),
        }
    }

    /// Returns an answer without an IPv4-mapped address. The state file does not keep such an address in the answer to
    /// an AAAA question.
    fn answer(&mut self) -> Outcome {
        Outcome::Answer {
            mask: self.byte(),
            ttl: Duration::from_secs(self.number().into()),
            mapped: false,
        }
    }

    fn error(&mut self) -> Outcome {
        let kind = KINDS[usize::from(self.byte()) % KINDS.len()];
        let ttl = self.byte().checked_sub(1);
        Outcome::Error(kind, ttl.map(|ttl| Duration::from_secs(ttl.into())))
    }

    fn outage(&mut self) -> Action {
        let (order, flags) = (self.hosts(), self.byte());
        Action::Outage {
            order,
            stagger: flags & 7,
            rounds: 1 + (flags >> 3 & 15),
            gap: match self.byte() {
                0 => Gap::Longest { more: false },
                1 => Gap::Longest { more: true },
                seconds => Gap::By(Duration::from_secs(seconds.into())),
            },
            others: (flags & 0x80 != 0).then(|| self.outcome()),
        }
    }

    fn restart(&mut self) -> Action {
        let flags = self.byte();
        Action::Restart {
            hosts: (flags & 1 != 0).then(|| self.hosts()),
            down: match flags & 2 {
                0 => Advance::Not,
                _ => self.advance(),
            },
            rules: (flags & 4 != 0).then(|| self.rules()),
        }
    }
}

const MAX_STEPS: usize = 200;

const KINDS: [ResolveErrorKind; 9] = [
    NxDomain,
    NoData,
    ServFail,
    Timeout,
    BrokenChain,
    Bogus,
    Panicked,
    TooManyAddresses,
    Other,
];
