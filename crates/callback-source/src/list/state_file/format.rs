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
    .fitting(LARGEST)
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
                    .filter(|address| Family::of(*address) == family)
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
pub(super) const LARGEST: usize = 4 * 1024 * 1024;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::list::clock::now;

    pub(crate) fn encode(saved: Vec<PersistedHost>, clocks: Clocks) -> Vec<u8> {
        let (text, cut) = super::encode(saved, clocks);
        assert_eq!(cut, Cut::default());
        text
    }

    fn clocks(utc: u64) -> Clocks {
        let utc = Duration::from_millis(utc);
        Clocks {
            instant: now(),
            utc,
        }
    }

    pub(crate) fn lingering_since(left_at: Instant) -> PersistedLingering {
        PersistedLingering {
            left_at,
            until: Some(left_at + Duration::from_secs(3600)),
        }
    }

    pub(crate) fn saved(clocks: Clocks) -> Vec<PersistedHost> {
        let ago = |seconds| clocks.instant - Duration::from_secs(seconds);
        let ahead = |seconds| clocks.instant + Duration::from_secs(seconds);
        let answer = LastAnswer {
            addresses: ["20.0.0.1".parse().unwrap(), "20.0.0.2".parse().unwrap()].into(),
            ttl: Duration::from_secs(60),
            answered_at: ago(10),
            ttl_ends: ahead(50),
            restored: true,
        };
        let lingering = lingering_since(ago(1800));
        let v4 = PersistedQuestion {
            family: Family::V4,
            stale_from: ahead(50),
            denied: false,
            had_answer: true,
            answer: Some(answer),
        };
        let v6 = PersistedQuestion {
            family: Family::V6,
            stale_from: ago(300),
            denied: true,
            had_answer: false,
            answer: None,
        };
        vec![PersistedHost {
            host: "h.test".parse().unwrap(),
            questions: vec![v4, v6],
            lingering: [("20.0.0.3".parse().unwrap(), lingering)].into(),
        }]
    }

    const NOW: u64 = 1_760_000_000_000;

    #[test]
    fn no_more_hosts_are_left_out_than_necessary() {
        let host = || -> SavedHost {
            let saved = serde_json::json!({
                "host": "h.test",
                "a": {"window_from": 0, "denied": false, "answer": null},
                "aaaa": {"window_from": 0, "denied": false, "answer": null},
                "lingering": {},
            });
            serde_json::from_value(saved).unwrap()
        };
        let length = serde_json::to_vec(&host()).unwrap().len();
        let dropped = |over| {
            let hosts = (0..4).map(|_| host()).collect();
            let mut document = Document {
                version: VERSION,
                written_at: NOW,
                hosts,
            };
            document.drop_hosts(over)
        };
        // A host also frees its comma.
        for (over, expected) in [
            (1, 1),
            (length + 1, 1),
            (length + 2, 2),
            (2 * length + 2, 2),
        ] {
            assert_eq!(dropped(over), expected, "{over}");
        }
    }

    #[test]
    fn a_time_after_the_write_is_believed_up_to_a_step_of_the_clock() {
        let clocks = clocks(NOW);
        let text = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
        let is_read = |answered_at: u64| {
            let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
            file["hosts"][0]["a"]["answer"]["answered_at"] = answered_at.into();
            decode(file.to_string().as_bytes(), clocks).is_ok()
        };
        assert!(is_read(NOW + CLOCK_STEP));
        assert!(!is_read(NOW + CLOCK_STEP + 1));
    }

    #[test]
    fn a_written_state_is_read_with_its_original_times() {
        let before = clocks(NOW);
        let text = encode(saved(before), before);
        // The state is read an hour later, by a process whose monotonic clock has another origin.
        let later = Clocks {
            instant: before.instant + Duration::from_secs(3600 + 7777),
            utc: Duration::from_millis(NOW + 3_600_000),
        };
        let shifted = Clocks {
            instant: before.instant + Duration::from_secs(7777),
            utc: Duration::from_millis(NOW),
        };
        assert_eq!(decode(&text, later).unwrap(), saved(shifted));
    }

    /// The test contains the keys literally, so that a renamed field of the code cannot change the format unnoticed.
    #[test]
    fn version_1_of_the_format_is_read_and_written_with_these_keys() {
        const TEXT: &str = r#"{"version":1,"written_at":1760000000000,"hosts":[{"host":"h.test","a":{"window_from":1760000050000,"denied":false,"answer":{"addresses":["20.0.0.1","20.0.0.2"],"ttl":60000,"answered_at":1759999990000,"ttl_ends":1760000050000}},"aaaa":{"window_from":1759999700000,"denied":true,"answer":null},"lingering":{"20.0.0.3":1759998200000},"lingering_until":{"20.0.0.3":1760001800000}}]}"#;
        let clocks = clocks(NOW);
        assert_eq!(decode(TEXT.as_bytes(), clocks).unwrap(), saved(clocks));
        let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
        assert_eq!(
            value(&encode(saved(clocks), clocks)),
            value(TEXT.as_bytes())
        );
    }

    #[test]
    fn a_question_whose_answer_ended_is_read_as_answered() {
        let clocks = clocks(NOW);
        let mut ended = saved(clocks);
        let question = &mut ended[0].questions[0];
        (question.answer, question.had_answer) = (None, true);
        let text = encode(ended.clone(), clocks);
        assert!(String::from_utf8_lossy(&text).contains("\"had_answer\": true"));
        assert_eq!(decode(&text, clocks).unwrap(), ended);
    }

    #[test]
    fn a_wall_clock_that_is_set_while_running_moves_no_time() {
        let before = clocks(NOW);
        for step in [-86_400_000, 86_400_000] {
            let stepped = Clocks {
                utc: Duration::from_millis(NOW.saturating_add_signed(step)),
                ..before
            };
            let text = encode(saved(before), stepped);
            assert_eq!(decode(&text, stepped).unwrap(), saved(before));
        }
    }

    #[test]
    fn no_number_of_restarts_moves_a_time_ahead() {
        let start = clocks(NOW);
        let mut state = saved(start);
        let first = state.clone();
        for restart in 1..1000u64 {
            let since = Duration::from_micros(restart * 777);
            let now = Clocks {
                instant: start.instant + since,
                utc: start.utc + since,
            };
            let text = encode(state, now);
            state = decode(&text, now).unwrap();
        }
        for (question, first) in state[0].questions.iter().zip(&first[0].questions) {
            assert!(question.stale_from <= first.stale_from);
            assert!(first.stale_from - question.stale_from < Duration::from_millis(2));
        }
        for (address, lingering) in &state[0].lingering {
            let before = first[0].lingering[address];
            assert!(lingering.left_at <= before.left_at);
            assert!(lingering.until.is_some() && lingering.until <= before.until);
        }
    }

    #[test]
    fn a_file_without_the_end_of_lingering_is_read() {
        let clocks = clocks(NOW);
        let text = encode(saved(clocks), clocks);
        let mut document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let host = document["hosts"][0].as_object_mut().unwrap();
        assert!(host.remove("lingering_until").is_some());
        let read = decode(document.to_string().as_bytes(), clocks).unwrap();
        let [lingering] = read[0].lingering.values().collect::<Vec<_>>()[..] else {
            panic!("one address lingers");
        };
        let before = saved(clocks)[0].lingering[&"20.0.0.3".parse::<IpAddr>().unwrap()];
        assert_eq!((lingering.left_at, lingering.until), (before.left_at, None));
    }

    #[test]
    fn unknown_or_impossible_content_is_refused_with_the_reason() {
        let before = clocks(NOW);
        let good = String::from_utf8(encode(saved(before), before)).unwrap();
        let cases = [
            (String::new(), "malformed"),
            (good[..good.len() - 2].to_owned(), "malformed"),
            (
                good.replace("\"version\": 1", "\"version\": 2"),
                "version is 2",
            ),
            (good.replace("h.test", "not a host"), "invalid host name"),
            (good.replace("20.0.0.1", "20.0.0.300"), "malformed"),
            (
                good.replace(&(NOW - 10_000).to_string(), &(NOW + 90_000).to_string()),
                "after it was",
            ),
        ];
        for (text, reason) in cases {
            let error = decode(text.as_bytes(), before).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let early = Clocks {
            utc: Duration::from_millis(NOW - CLOCK_STEP - 1),
            ..before
        };
        let error = decode(good.as_bytes(), early).unwrap_err().to_string();
        assert!(error.contains("check this machine's clock"), "{error}");
        let early = Clocks {
            utc: Duration::from_millis(NOW - CLOCK_STEP),
            ..before
        };
        assert!(decode(good.as_bytes(), early).is_ok());
    }

    #[test]
    fn a_text_that_would_be_too_large_loses_the_oldest_lingering_addresses_then_the_last_hosts() {
        let clocks = clocks(NOW);
        let mut all = Vec::new();
        for number in 0..20 {
            let mut saved = saved(clocks).remove(0);
            saved.host = format!("h{number}.test").parse().unwrap();
            saved.lingering = (0..500_u32)
                .map(|at| {
                    let address = IpAddr::V4((0x1400_0000 + at).into());
                    let left_at = clocks.instant - Duration::from_millis(u64::from(at));
                    (address, lingering_since(left_at))
                })
                .collect();
            all.push(saved);
        }
        let document: Document = serde_json::from_slice(&encode(all, clocks)).unwrap();
        let document = || Document {
            version: document.version,
            written_at: document.written_at,
            hosts: serde_json::from_value(serde_json::to_value(&document.hosts).unwrap()).unwrap(),
        };
        let compact = serde_json::to_vec(&document()).unwrap().len();
        let pretty = serde_json::to_vec_pretty(&document()).unwrap().len();
        for (most, lingering, hosts) in [
            (pretty, 0..=0, 0..=0),
            (pretty - 1, 0..=0, 0..=0),
            (compact, 0..=0, 0..=0),
            (compact - 1, 1..=1, 0..=0),
            (compact - 100_000, 1_500..=2_500, 0..=0),
            (10_000, 9_000..=10_000, 0..=0),
            (2_000, 10_000..=10_000, 5..=19),
        ] {
            let (text, cut) = document().fitting(most);
            assert!(text.len() <= most, "{most}");
            let left_out = format!("{cut:?} for {most} of {compact}");
            assert!(lingering.contains(&cut.lingering), "{left_out}");
            assert!(hosts.contains(&cut.hosts), "{left_out}");
            let kept = decode(&text, clocks).unwrap();
            assert_eq!(kept.len(), 20 - cut.hosts);
            // The remaining addresses have lingered for a shorter time than the dropped addresses.
            let lingering = kept.iter().flat_map(|saved| saved.lingering.values());
            let oldest = lingering.map(|saved| saved.left_at).min();
            let age = oldest.map_or(Duration::ZERO, |oldest| clocks.instant - oldest);
            let kept_each = u64::try_from((10_000 - cut.lingering).div_ceil(20)).unwrap();
            assert!(
                age <= Duration::from_millis(kept_each + 1),
                "{age:?} {left_out}"
            );
        }
    }

    #[test]
    fn a_duplicate_host_is_refused() {
        let clocks = clocks(NOW);
        let twice = [saved(clocks), saved(clocks)].concat();
        let error = decode(&encode(twice, clocks), clocks).unwrap_err();
        assert_eq!(error.to_string(), "it contains `h.test` twice");
    }

    #[test]
    fn an_address_under_the_other_question_is_left_out() {
        let clocks = clocks(NOW);
        let text = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
        let text = text.replace("20.0.0.2", "2606:4700::1");
        let saved = decode(text.as_bytes(), clocks).unwrap();
        let answer = saved[0].questions[0].answer.as_ref().unwrap();
        assert_eq!(*answer.addresses, ["20.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
