//! The text of a state file.
//!
//! Times are in milliseconds since the Unix epoch (UTC). Except for `written_at`, each time is the original time, not
//! the time of the write, so that a restart extends no window.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    Family, HostName,
    list::clock::now,
    set::{LastAnswer, PersistedHost, PersistedLingering, PersistedQuestion},
};

/// Readings of the monotonic clock and the wall clock at the same moment.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    pub(super) instant: Instant,
    /// Time of the wall clock since the Unix epoch.
    pub(super) utc: Duration,
}

impl Clocks {
    pub(super) fn now() -> Self {
        let instant = now();
        let utc = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        #[cfg(callback_source_simulation)]
        let utc = crate::simulation::utc(instant.into()).unwrap_or(utc);
        Self { instant, utc }
    }

    /// Converts an instant to whole milliseconds since the Unix epoch. The result is rounded down, so that rounding
    /// extends no window.
    fn utc_of(self, instant: Instant) -> u64 {
        millis(match instant.checked_duration_since(self.instant) {
            Some(ahead) => self.utc.saturating_add(ahead),
            None => self.utc.saturating_sub(self.instant - instant),
        })
    }

    /// Returns the instant of a time in milliseconds since the Unix epoch, or `None` if an `Instant` of this machine
    /// cannot represent that time.
    fn instant_of(self, utc: u64) -> Option<Instant> {
        let utc = Duration::from_millis(utc);
        match utc.checked_sub(self.utc) {
            Some(ahead) => self.instant.checked_add(ahead),
            None => self.instant.checked_sub(self.utc - utc),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    written_at: u64,
    hosts: Vec<SavedHost>,
}

/// Version of a state file. The version is read first, because the rest of the file may have another form in another
/// version.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct SavedHost {
    host: String,
    a: SavedQuestion,
    aaaa: SavedQuestion,
    lingering: BTreeMap<IpAddr, u64>,
    /// Missing in files that were written by older versions of this crate.
    #[serde(default)]
    lingering_until: BTreeMap<IpAddr, u64>,
}

#[derive(Serialize, Deserialize)]
struct SavedQuestion {
    // The key `window_from` is part of version 1 of the format.
    #[serde(rename = "window_from")]
    stale_from: u64,
    denied: bool,
    /// Written only if there is no answer, and missing in files from older versions of this crate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    had_answer: bool,
    answer: Option<SavedAnswer>,
}

#[derive(Serialize, Deserialize)]
struct SavedAnswer {
    addresses: Vec<IpAddr>,
    ttl: u64,
    answered_at: u64,
    ttl_ends: u64,
}

/// Reason why the text of a state file is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is malformed: {0}")]
    Malformed(serde_json::Error),
    #[error("its version is {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("it was written {0:?} from now; check this machine's clock")]
    Future(Duration),
    #[error("it contains the invalid host name `{0}`")]
    Host(String),
    #[error("it contains `{0}` twice")]
    Twice(HostName),
    #[error("it contains answers from after it was written")]
    Order,
}

/// Numbers of lingering addresses and of hosts that were left out of a text, because a complete text would be too large
/// to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) lingering: usize,
    pub(super) hosts: usize,
}

pub(super) fn encode(saved: Vec<PersistedHost>, clocks: Clocks) -> (Vec<u8>, Cut) {
    let encoded = |questions: &[PersistedQuestion], family| {
        let question = questions.iter().find(|question| question.family == family);
        SavedQuestion {
            stale_from: question.map_or_else(
                || millis(clocks.utc),
                |question| clocks.utc_of(question.stale_from),
            ),
            denied: question.is_some_and(|question| question.denied),
            had_answer: question
                .is_some_and(|question| question.had_answer && question.answer.is_none()),
            answer: question
                .and_then(|question| question.answer.as_ref())
                .map(|answer| SavedAnswer {
                    addresses: answer.addresses.to_vec(),
                    ttl: millis(answer.ttl),
                    answered_at: clocks.utc_of(answer.answered_at),
                    ttl_ends: clocks.utc_of(answer.ttl_ends),
                }),
        }
    };
    let times = |of: &BTreeMap<IpAddr, PersistedLingering>,
                 time: fn(&PersistedLingering) -> Option<Instant>| {
        of.iter()
            .filter_map(|(address, saved)| Some((*address, clocks.utc_of(time(saved)?))))
            .collect()
    };
    let hosts = saved.into_iter().map(|saved| SavedHost {
        host: saved.host.as_str().to_owned(),
        a: encoded(&saved.questions, Family::V4),
        aaaa: encoded(&saved.questions, Family::V6),
        lingering: times(&saved.lingering, |saved| Some(saved.left_at)),
        lingering_until: times(&saved.lingering, |saved| saved.until),
    });
    Document {
        version: VERSION,
        written_at: millis(clocks.utc),
        hosts: hosts.collect(),
    }
    .fitting(MAX_SIZE)
}

impl Document {
    /// Returns a text of at most `most` bytes. If necessary, the text omits first the line breaks and indentation, then
    /// the addresses that have lingered longest, then the last hosts.
    fn fitting(mut self, most: usize) -> (Vec<u8>, Cut) {
        const PLAIN: &str = "the document has only string keys";
        let mut cut = Cut::default();
        let text = serde_json::to_vec_pretty(&self).expect(PLAIN);
        if text.len() <= most {
            return (text, cut);
        }
        loop {
            let text = serde_json::to_vec(&self).expect(PLAIN);
            let over = text.len().saturating_sub(most);
            if over == 0 || self.hosts.is_empty() {
                return (text, cut);
            }
            match self.drop_lingering(over) {
                0 => cut.hosts += self.drop_hosts(over),
                dropped => cut.lingering += dropped,
            }
        }
    }

    /// Drops the addresses that have lingered longest, until `over` bytes are free, and returns the number of dropped
    /// addresses.
    fn drop_lingering(&mut self, over: usize) -> usize {
        let hosts = self.hosts.iter().enumerate();
        let mut oldest: Vec<_> = hosts
            .flat_map(|(at, host)| {
                let lingering = host.lingering.iter();
                lingering.map(move |(address, left_at)| (*left_at, at, *address))
            })
            .collect();
        oldest.sort_unstable();
        let mut free = 0;
        let mut dropped = 0;
        for (left_at, at, address) in oldest {
            if over <= free {
                break;
            }
            let host = &mut self.hosts[at];
            host.lingering.remove(&address);
            free += format!("\"{address}\":{left_at},").len();
            if let Some(until) = host.lingering_until.remove(&address) {
                free += format!("\"{address}\":{until},").len();
            }
            dropped += 1;
        }
        dropped
    }

    fn drop_hosts(&mut self, over: usize) -> usize {
        let mut free = 0;
        let mut dropped = 0;
        while free < over
            && let Some(host) = self.hosts.pop()
        {
            free += serde_json::to_vec(&host).map_or(0, |text| text.len() + 1);
            dropped += 1;
        }
        dropped
    }
}

pub(super) fn decode(text: &[u8], clocks: Clocks) -> Result<Vec<PersistedHost>, Unusable> {
    let Version { version } = serde_json::from_slice(text).map_err(Unusable::Malformed)?;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let document: Document = serde_json::from_slice(text).map_err(Unusable::Malformed)?;
    let written_at = document.written_at;
    let now = millis(clocks.utc);
    if now.saturating_add(CLOCK_STEP) < written_at {
        return Err(Unusable::Future(Duration::from_millis(written_at - now)));
    }
    let latest = written_at.saturating_add(CLOCK_STEP);
    let mut hosts: Vec<PersistedHost> = Vec::new();
    let mut names = HashSet::new();
    for saved in document.hosts {
        let host: HostName = saved
            .host
            .parse()
            .map_err(|_| Unusable::Host(saved.host.escape_default().to_string()))?;
        // If a host had two entries, the answer of one entry could be combined with the times of the other entry, which
        // would extend a window.
        if !names.insert(host.clone()) {
            return Err(Unusable::Twice(host));
        }
        let questions = [(Family::V4, saved.a), (Family::V6, saved.aaaa)];
        let answers = questions.iter().filter_map(|(_, of)| of.answer.as_ref());
        let mut happened = answers
            .map(|of| of.answered_at)
            .chain(saved.lingering.values().copied());
        if happened.any(|at| latest < at) {
            return Err(Unusable::Order);
        }
        hosts.push(PersistedHost {
            host,
            questions: questions
                .into_iter()
                .filter_map(|(family, of)| of.decode(family, clocks))
                .collect(),
            lingering: saved
                .lingering
                .into_iter()
                .filter_map(|(address, left_at)| {
                    let until = saved.lingering_until.get(&address);
                    let lingering = PersistedLingering {
                        left_at: clocks.instant_of(left_at)?,
                        until: until.and_then(|until| clocks.instant_of(*until)),
                    };
                    Some((address.to_canonical(), lingering))
                })
                .collect(),
        });
    }
    Ok(hosts)
}

impl SavedQuestion {
    fn decode(self, family: Family, clocks: Clocks) -> Option<PersistedQuestion> {
        let answer = match self.answer {
            None => None,
            Some(answer) => {
                let addresses = answer.addresses.iter().map(IpAddr::to_canonical);
                // Drops addresses of the other family, since an answer to the other family's question could not
                // remove them.
                let addresses: std::collections::BTreeSet<_> = addresses
                    .filter(|address| Family::from_ip(*address) == family)
                    .collect();
                Some(LastAnswer {
                    addresses: addresses.into_iter().collect(),
                    ttl: Duration::from_millis(answer.ttl),
                    answered_at: clocks.instant_of(answer.answered_at)?,
                    ttl_ends: clocks.instant_of(answer.ttl_ends)?,
                    restored: true,
                })
            }
        };
        let stale_from = clocks.instant_of(self.stale_from)?;
        Some(PersistedQuestion {
            family,
            stale_from,
            denied: self.denied,
            had_answer: self.had_answer || answer.is_some(),
            answer,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const VERSION: u32 = 1;

/// The largest backward step of the wall clock that is accepted, in milliseconds.
const CLOCK_STEP: u64 = 60_000;

/// The largest text that is written or read, in bytes. This size is enough for about a hundred thousand addresses.
pub(super) const MAX_SIZE: usize = 4 * 1024 * 1024;

#[cfg(test)]
pub(super) mod tests;
