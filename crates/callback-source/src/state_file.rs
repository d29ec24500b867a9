//! What is known, kept across restarts.
//!
//! Times are in milliseconds since the Unix epoch (UTC). They are the times at which things happened,
//! not those at which they were written, so that restarting stretches no window.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    AllowSet, Family, HostName,
    allow_set::{Held, Saved, SavedRecords},
    observe::TARGET,
};

/// A file to keep a set in.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    snapshots: AtomicU64,
    /// The number of the last snapshot written: an older one never replaces a newer one.
    written: Mutex<u64>,
    /// Whether there is a file that was ignored. It may be of use once a clock is set right.
    spared: AtomicBool,
}

/// The text of a file, and its place in the order of snapshots.
pub(crate) struct Snapshot {
    number: u64,
    is_empty: bool,
    text: Vec<u8>,
}

impl StateFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            snapshots: AtomicU64::new(0),
            written: Mutex::new(0),
            spared: AtomicBool::new(false),
        }
    }

    /// What the file holds, if it can be trusted; otherwise a warning says why not.
    pub(crate) fn read(&self) -> Option<Vec<Saved>> {
        let text = match read_trusted(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                info!(target: TARGET, path = %self.path.display(), "no state file yet");
                return None;
            }
            Err(error) => {
                warn!(target: TARGET, path = %self.path.display(), %error, "state file ignored");
                self.spared.store(true, Ordering::Relaxed);
                return None;
            }
        };
        match decode(&text, Clocks::now()) {
            Ok(saved) => Some(saved),
            Err(error) => {
                warn!(target: TARGET, path = %self.path.display(), %error, "state file ignored");
                self.spared.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    pub(crate) fn snapshot(&self, set: &AllowSet) -> Snapshot {
        let saved = set.save();
        let is_heard = |of: &SavedRecords| of.denied || of.answer.is_some();
        Snapshot {
            number: self.snapshots.fetch_add(1, Ordering::Relaxed) + 1,
            is_empty: saved
                .iter()
                .all(|saved| saved.lingering.is_empty() && !saved.records.iter().any(is_heard)),
            text: encode(saved, Clocks::now()),
        }
    }

    /// Writes a snapshot unless a newer one was. A failure is reported; the next write may succeed.
    pub(crate) fn write(&self, snapshot: &Snapshot) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let spares = snapshot.is_empty && self.spared.load(Ordering::Relaxed);
        if spares || snapshot.number < *written {
            return;
        }
        match replace(&self.path, &snapshot.text) {
            Ok(()) => *written = snapshot.number,
            Err(error) => {
                warn!(
                    target: TARGET,
                    path = %self.path.display(),
                    %error,
                    "state file not written; a restart while DNS is down would refuse callbacks"
                );
            }
        }
    }
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy)]
struct Clocks {
    instant: Instant,
    /// Since the Unix epoch.
    utc: Duration,
}

impl Clocks {
    fn now() -> Self {
        let utc = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            instant: Instant::now(),
            utc,
        }
    }

    /// In whole milliseconds, never later than it was: rounding must not stretch a window either.
    fn utc_of(self, instant: Instant) -> u64 {
        millis(match instant.checked_duration_since(self.instant) {
            Some(ahead) => self.utc.saturating_add(ahead),
            None => self.utc.saturating_sub(self.instant - instant),
        })
    }

    /// Fails for a time that is too long ago for the clock of this machine.
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

/// Read before the rest, which may look different in another version.
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
    /// Missing in files of older versions.
    #[serde(default)]
    lingering_until: BTreeMap<IpAddr, u64>,
}

#[derive(Serialize, Deserialize)]
struct SavedQuestion {
    window_from: u64,
    denied: bool,
    answer: Option<SavedAnswer>,
}

#[derive(Serialize, Deserialize)]
struct SavedAnswer {
    addresses: Vec<IpAddr>,
    ttl: u64,
    answered_at: u64,
    ttl_ends: u64,
}

/// Why the text of a state file is not taken.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it is not well-formed: {0}")]
    Malformed(serde_json::Error),
    #[error("its version is {0}, and this program reads {VERSION}")]
    Version(u32),
    #[error("it was written {0:?} from now; check this machine's clock")]
    Future(Duration),
    #[error("it holds `{0}`, which is no host name")]
    Host(String),
    #[error("it holds `{0}` twice")]
    Twice(HostName),
    #[error("it tells of answers that came after it was written")]
    Order,
}

fn encode(saved: Vec<Saved>, clocks: Clocks) -> Vec<u8> {
    let question = |records: &[SavedRecords], family| {
        let records = records.iter().find(|records| records.family == family);
        SavedQuestion {
            window_from: records.map_or_else(
                || millis(clocks.utc),
                |records| clocks.utc_of(records.window_from),
            ),
            denied: records.is_some_and(|records| records.denied),
            answer: records
                .and_then(|records| records.answer.as_ref())
                .map(|held| SavedAnswer {
                    addresses: held.addresses.to_vec(),
                    ttl: millis(held.ttl),
                    answered_at: clocks.utc_of(held.answered_at),
                    ttl_ends: clocks.utc_of(held.ttl_ends),
                }),
        }
    };
    let times = |of: BTreeMap<IpAddr, Instant>| {
        of.into_iter()
            .map(|(address, at)| (address, clocks.utc_of(at)))
            .collect()
    };
    let hosts = saved.into_iter().map(|saved| SavedHost {
        host: saved.host.as_str().to_owned(),
        a: question(&saved.records, Family::V4),
        aaaa: question(&saved.records, Family::V6),
        lingering: times(saved.lingering),
        lingering_until: times(saved.lingering_until),
    });
    let document = Document {
        version: VERSION,
        written_at: millis(clocks.utc),
        hosts: hosts.collect(),
    };
    serde_json::to_vec_pretty(&document).expect("the document has only string keys")
}

fn decode(text: &[u8], clocks: Clocks) -> Result<Vec<Saved>, Unusable> {
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
    let times = |of: BTreeMap<IpAddr, u64>| {
        of.into_iter()
            .filter_map(|(address, at)| Some((address.to_canonical(), clocks.instant_of(at)?)))
            .collect()
    };
    let mut hosts: Vec<Saved> = Vec::new();
    for saved in document.hosts {
        let host: HostName = saved
            .host
            .parse()
            .map_err(|_| Unusable::Host(saved.host.escape_default().to_string()))?;
        // The answer of one with the times of the other would stretch its window.
        if hosts.iter().any(|before| before.host == host) {
            return Err(Unusable::Twice(host));
        }
        let records = [(Family::V4, saved.a), (Family::V6, saved.aaaa)];
        let answers = records.iter().filter_map(|(_, of)| of.answer.as_ref());
        let mut happened = answers
            .map(|of| of.answered_at)
            .chain(saved.lingering.values().copied());
        if happened.any(|at| latest < at) {
            return Err(Unusable::Order);
        }
        hosts.push(Saved {
            host,
            records: records
                .into_iter()
                .filter_map(|(family, of)| of.decode(family, clocks))
                .collect(),
            lingering: times(saved.lingering),
            lingering_until: times(saved.lingering_until),
        });
    }
    Ok(hosts)
}

impl SavedQuestion {
    fn decode(self, family: Family, clocks: Clocks) -> Option<SavedRecords> {
        let answer = match self.answer {
            None => None,
            Some(answer) => {
                let addresses = answer.addresses.iter().map(IpAddr::to_canonical);
                // Under the other question they would outlive its answers.
                let addresses: std::collections::BTreeSet<_> = addresses
                    .filter(|address| Family::of(*address) == family)
                    .collect();
                Some(Held {
                    addresses: addresses.into_iter().collect(),
                    ttl: Duration::from_millis(answer.ttl),
                    answered_at: clocks.instant_of(answer.answered_at)?,
                    ttl_ends: clocks.instant_of(answer.ttl_ends)?,
                    restored: true,
                })
            }
        };
        let window_from = clocks.instant_of(self.window_from)?;
        Some(SavedRecords {
            family,
            window_from,
            denied: self.denied,
            answer,
        })
    }
}

/// The text of a set's file, written when `now` is `utc` since the epoch.
#[cfg(fuzzing)]
pub(crate) fn saved(set: &AllowSet, now: Instant, utc: Duration) -> Vec<u8> {
    let instant = now;
    encode(set.save(), Clocks { instant, utc })
}

/// Restores a set from the text of a file. Says whether the text was taken.
#[cfg(fuzzing)]
pub(crate) fn restored(set: &mut AllowSet, text: &[u8], now: Instant, utc: Duration) -> bool {
    let instant = now;
    let saved = decode(text, Clocks { instant, utc });
    saved.map(|saved| set.restore(saved, now)).is_ok()
}

fn read_trusted(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;

        // Neither follow a link that somebody else has laid, nor wait for the writer of a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    check_trusted(&file)?;
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "it is larger than {LARGEST} bytes"
        )));
    }
    Ok(text)
}

#[cfg(unix)]
fn check_trusted(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        let owner = metadata.uid();
        return Err(io::Error::other(format!(
            "it belongs to user {owner}, not to user {own}"
        )));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(io::Error::other(format!(
            "others may write it (mode {mode:o}); run `chmod 600`"
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_trusted(file: &File) -> io::Result<()> {
    match file.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Replaces a file so that at every moment either the old or the new one is there, whole.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    // Left over from a process that was killed; `create_new` follows no link and takes no file over.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    #[cfg(unix)]
    {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const VERSION: u32 = 1;

/// How far two readings of the wall clock may be out of order, in milliseconds.
const CLOCK_STEP: u64 = 60_000;

/// Some ten thousand addresses. What is larger is not ours.
const LARGEST: u64 = 4 * 1024 * 1024;

#[cfg(unix)]
const WRITABLE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(utc: u64) -> Clocks {
        let utc = Duration::from_millis(utc);
        Clocks {
            instant: Instant::now(),
            utc,
        }
    }

    fn saved(clocks: Clocks) -> Vec<Saved> {
        let ago = |seconds| clocks.instant - Duration::from_secs(seconds);
        let ahead = |seconds| clocks.instant + Duration::from_secs(seconds);
        let held = Held {
            addresses: ["20.0.0.1".parse().unwrap(), "20.0.0.2".parse().unwrap()].into(),
            ttl: Duration::from_secs(60),
            answered_at: ago(10),
            ttl_ends: ahead(50),
            restored: true,
        };
        let v4 = SavedRecords {
            family: Family::V4,
            window_from: ahead(50),
            denied: false,
            answer: Some(held),
        };
        let v6 = SavedRecords {
            family: Family::V6,
            window_from: ago(300),
            denied: true,
            answer: None,
        };
        vec![Saved {
            host: "h.test".parse().unwrap(),
            records: vec![v4, v6],
            lingering: [("20.0.0.3".parse().unwrap(), ago(1800))].into(),
            lingering_until: [("20.0.0.3".parse().unwrap(), ahead(1800))].into(),
        }]
    }

    const NOW: u64 = 1_760_000_000_000;

    #[test]
    fn what_is_written_is_read_with_its_original_times() {
        let before = clocks(NOW);
        let text = encode(saved(before), before);
        // An hour later, by a process whose own clock started elsewhere.
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
        for (records, first) in state[0].records.iter().zip(&first[0].records) {
            assert!(records.window_from <= first.window_from);
            assert!(first.window_from - records.window_from < Duration::from_millis(2));
        }
        for (address, left_at) in &state[0].lingering {
            assert!(*left_at <= first[0].lingering[address]);
        }
        for (address, until) in &state[0].lingering_until {
            assert!(*until <= first[0].lingering_until[address]);
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
        assert_eq!(read[0].lingering, saved(clocks)[0].lingering);
        assert!(read[0].lingering_until.is_empty());
    }

    #[test]
    fn what_is_not_understood_or_not_possible_is_refused_with_a_reason() {
        let before = clocks(NOW);
        let good = String::from_utf8(encode(saved(before), before)).unwrap();
        let cases = [
            (String::new(), "not well-formed"),
            (good[..good.len() - 2].to_owned(), "not well-formed"),
            (
                good.replace("\"version\": 1", "\"version\": 2"),
                "version is 2",
            ),
            (good.replace("h.test", "not a host"), "no host name"),
            (good.replace("20.0.0.1", "20.0.0.300"), "not well-formed"),
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
    fn a_file_that_was_ignored_is_not_overwritten_with_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, r#"{"version": 2}"#).unwrap();
        let file = StateFile::new(path.clone());
        assert!(file.read().is_none());
        let now = Instant::now();
        let host: HostName = "h.test".parse().unwrap();
        let mut set = AllowSet::new(Default::default(), [host.clone()], &[], now).unwrap();
        file.write(&file.snapshot(&set));
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"version": 2}"#);
        let answer = crate::Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60));
        set.apply(
            &crate::Question {
                host,
                family: Family::V4,
            },
            Ok(answer),
            now,
        );
        file.write(&file.snapshot(&set));
        assert!(fs::read_to_string(&path).unwrap().contains("20.0.0.1"));
    }

    #[test]
    fn a_host_that_is_there_twice_is_refused() {
        let clocks = clocks(NOW);
        let twice = [saved(clocks), saved(clocks)].concat();
        let error = decode(&encode(twice, clocks), clocks).unwrap_err();
        assert_eq!(error.to_string(), "it holds `h.test` twice");
    }

    #[test]
    fn an_address_under_the_other_question_is_left_out() {
        let clocks = clocks(NOW);
        let text = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
        let text = text.replace("20.0.0.2", "2606:4700::1");
        let saved = decode(text.as_bytes(), clocks).unwrap();
        let held = saved[0].records[0].answer.as_ref().unwrap();
        assert_eq!(*held.addresses, ["20.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn an_older_snapshot_never_replaces_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("state.json"));
        let now = Instant::now();
        let set = |name: &str| {
            AllowSet::new(Default::default(), [name.parse().unwrap()], &[], now).unwrap()
        };
        let older = file.snapshot(&set("older.test"));
        let newer = file.snapshot(&set("newer.test"));
        file.write(&newer);
        file.write(&older);
        assert_eq!(file.read().unwrap()[0].host.as_str(), "newer.test");
    }
}
