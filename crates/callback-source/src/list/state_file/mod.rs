//! A file that keeps the state of a set across restarts.

mod file;
mod format;
mod unasked;

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use self::{
    file::Reader,
    format::{Clocks, Cut, MAX_SIZE, decode, encode},
    unasked::Unasked,
};
use crate::{
    AllowSet, HostName, LOG_TARGET,
    list::clock::now,
    rate_limit::RateLimit,
    set::{Notice, PersistedHost, PersistedQuestion},
};

/// State file of a list.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    reader: Reader,
    snapshots: AtomicU64,
    /// Locked while the file is written to disk.
    written: Mutex<Written>,
    /// True while the file at the path is an ignored file. Only a state with content may replace that file, because the
    /// file may become valid, for example when the clock is corrected.
    spared: AtomicBool,
    /// Never locked while the disk is read or written.
    unasked: Mutex<Unasked>,
}

/// State of the writes and of their log lines.
#[derive(Debug, Default)]
struct Written {
    /// The number of the last snapshot that was written. An older snapshot never replaces a newer snapshot.
    number: u64,
    failure_limit: RateLimit,
    /// True from the log line about a failed write until the log line about the next successful write.
    is_failing: bool,
    cut_limit: RateLimit,
}

/// Text of a state file. Snapshots are numbered in the order of their creation.
pub(crate) struct Snapshot {
    number: u64,
    is_empty: bool,
    text: Vec<u8>,
    cut: Cut,
}

impl StateFile {
    /// Returns the state file of a list in this process. The file is read and written.
    pub(crate) fn kept(path: PathBuf) -> Self {
        Self::new(path, Reader::Keeper)
    }

    /// Returns the state file of another process. The file is only read.
    pub(crate) fn looked_at(path: PathBuf) -> Self {
        Self::new(path, Reader::Look)
    }

    fn new(path: PathBuf, reader: Reader) -> Self {
        Self {
            path,
            reader,
            snapshots: AtomicU64::new(0),
            written: Mutex::default(),
            spared: AtomicBool::new(false),
            unasked: Mutex::default(),
        }
    }

    /// Restores the state of a set's hosts, and keeps the state of other hosts until their windows end. Logs the reason
    /// if the file cannot be written.
    pub(crate) fn restore(&self, set: &mut AllowSet, now: Instant) -> Vec<Notice> {
        let saved = self.read();
        if self.reader == Reader::Keeper
            && let Err(error) = file::obstacle(&self.path)
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            self.failed(&mut written, &error);
        }
        let Some(saved) = saved else {
            return Vec::new();
        };
        let saved = self.unasked().start(saved, &unasked::asked(set));
        let notices = set.restore(saved, now);
        let addresses = set.addresses(now).len();
        info!(target: LOG_TARGET, addresses, "addresses restored from the state file");
        notices
    }

    /// Replaces the hosts of a set. A host that is added again regains its state.
    pub(crate) fn replace_hosts(
        &self,
        set: &mut AllowSet,
        hosts: impl IntoIterator<Item = HostName>,
        now: Instant,
    ) -> Vec<Notice> {
        let known = set.save();
        let asked_before = unasked::asked(set);
        let mut notices = set.replace_hosts(hosts, now);
        let mut unasked = self.unasked();
        let back = unasked.replace(known, &asked_before, &unasked::asked(set));
        unasked.expire(set.rules(), now);
        notices.extend(set.restore(back, now));
        notices
    }

    /// Reads the file if it can be trusted, and otherwise logs the reason.
    fn read(&self) -> Option<Vec<PersistedHost>> {
        let path = self.path.display();
        let ignored = |error: &dyn std::error::Error| {
            warn!(target: LOG_TARGET, %path, %error, "state file ignored");
            self.spared.store(true, Ordering::Relaxed);
        };
        let text = match file::read(&self.path, self.reader) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                match self.reader {
                    Reader::Keeper => info!(target: LOG_TARGET, %path, "no state file yet"),
                    Reader::Look => {
                        warn!(target: LOG_TARGET, %path, "there is no state file")
                    }
                }
                return None;
            }
            Err(error) => {
                ignored(&error);
                return None;
            }
        };
        decode(&text, Clocks::now())
            .inspect_err(|error| ignored(error))
            .ok()
    }

    /// Adds a sleep of the machine to the age of the state of hosts that are not in the set.
    pub(crate) fn slept(&self, slept: Duration) {
        self.unasked().slept(slept);
    }

    /// Returns a snapshot of the state of a set, together with the kept state of hosts that were not configured at the
    /// start.
    pub(crate) fn snapshot(&self, set: &AllowSet) -> Snapshot {
        let clocks = Clocks::now();
        let saved = {
            let mut unasked = self.unasked();
            unasked.expire(set.rules(), clocks.instant);
            unasked.add_to(set.save(), &unasked::asked(set))
        };
        let is_heard = |of: &PersistedQuestion| of.denied || of.answer.is_some();
        let is_empty = saved
            .iter()
            .all(|saved| saved.lingering.is_empty() && !saved.questions.iter().any(is_heard));
        let (text, cut) = encode(saved, clocks);
        Snapshot {
            number: self.snapshots.fetch_add(1, Ordering::Relaxed) + 1,
            is_empty,
            text,
            cut,
        }
    }

    /// Writes a snapshot, unless a newer snapshot has been written, or an empty snapshot would replace an ignored file.
    /// A failure is only logged, since the next write may succeed.
    pub(crate) fn write(&self, snapshot: &Snapshot) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let spares = snapshot.is_empty && self.spared.load(Ordering::Relaxed);
        if spares || snapshot.number < written.number {
            return;
        }
        if let Err(error) = file::replace(&self.path, &snapshot.text) {
            self.failed(&mut written, &error);
            return;
        }
        written.number = snapshot.number;
        self.spared.store(false, Ordering::Relaxed);
        // The rate limit of the failure is not reset, so that a flapping disk does not fill the log.
        if std::mem::take(&mut written.is_failing) {
            info!(target: LOG_TARGET, path = %self.path.display(), "state file is written again");
        }
        let Cut { lingering, hosts } = snapshot.cut;
        if lingering + hosts > 0 && written.cut_limit.admits(ONCE_AN_HOUR, now()) {
            warn!(
                target: LOG_TARGET,
                path = %self.path.display(),
                lingering,
                hosts,
                "the state is larger than {MAX_SIZE} bytes: the oldest lingering addresses, and if necessary \
                 the last hosts, are left out of the state file"
            );
        }
    }

    fn failed(&self, written: &mut Written, error: &std::io::Error) {
        if !written.failure_limit.admits(ONCE_AN_HOUR, now()) {
            return;
        }
        written.is_failing = true;
        warn!(
            target: LOG_TARGET,
            path = %self.path.display(),
            %error,
            "state file not written; a restart while DNS is down would refuse callbacks; {}",
            file::remedy(&self.path, error),
        );
    }

    fn unasked(&self) -> std::sync::MutexGuard<'_, Unasked> {
        self.unasked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the text of the state file of a set. `utc` is the time from the Unix epoch to `now`.
#[cfg(fuzzing)]
pub(crate) fn saved(set: &AllowSet, now: Instant, utc: Duration) -> Vec<u8> {
    let instant = now;
    let (text, _) = encode(set.save(), Clocks { instant, utc });
    text
}

/// Restores a set from the text of a state file that may contain other hosts, and returns the text of the next write.
/// Returns `None` if the text is rejected.
#[cfg(fuzzing)]
pub(crate) fn rewritten(
    set: &mut AllowSet,
    text: &[u8],
    now: Instant,
    utc: Duration,
) -> Option<Vec<u8>> {
    let instant = now;
    let clocks = Clocks { instant, utc };
    let mut unasked = Unasked::default();
    let asked = unasked::asked(set);
    let saved = unasked.start(decode(text, clocks).ok()?, &asked);
    set.restore(saved, now);
    unasked.expire(set.rules(), now);
    let (text, _) = encode(unasked.add_to(set.save(), &asked), clocks);
    Some(text)
}

/// Restores a set from the text of a state file. Returns `None` if the text is rejected.
#[cfg(fuzzing)]
pub(crate) fn restored(
    set: &mut AllowSet,
    text: &[u8],
    now: Instant,
    utc: Duration,
) -> Option<Vec<Notice>> {
    let instant = now;
    let saved = decode(text, Clocks { instant, utc }).ok()?;
    Some(set.restore(saved, now))
}

const ONCE_AN_HOUR: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        format::tests::{encode, saved},
        *,
    };

    /// Returns a set of one host without outcomes.
    fn set(host: &str) -> AllowSet {
        AllowSet::new(Default::default(), [host.parse().unwrap()], &[], now()).unwrap()
    }

    #[test]
    fn a_file_of_the_maximum_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let file = StateFile::kept(path.clone());
        let clocks = Clocks::now();
        let good = String::from_utf8(encode(saved(clocks), clocks)).unwrap();
        for (length, is_read) in [(4 << 20, true), ((4 << 20) + 1, false)] {
            fs::write(&path, good.clone() + &" ".repeat(length - good.len())).unwrap();
            assert_eq!(file.read().is_some(), is_read, "{length}");
        }
    }

    #[test]
    fn an_ignored_file_is_not_overwritten_by_an_empty_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, r#"{"version": 2}"#).unwrap();
        let file = StateFile::kept(path.clone());
        assert!(file.read().is_none());
        let mut set = set("h.test");
        file.write(&file.snapshot(&set));
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"version": 2}"#);
        let empty = set.clone();
        let answer = crate::Answer::new(["20.0.0.1".parse().unwrap()], Duration::from_secs(60));
        let (question, _) = set.questions().next().unwrap();
        set.apply(&question, Ok(answer), now());
        file.write(&file.snapshot(&set));
        assert!(fs::read_to_string(&path).unwrap().contains("20.0.0.1"));
        // The ignored file has been replaced, so an empty state can be written now.
        file.write(&file.snapshot(&empty));
        assert!(!fs::read_to_string(&path).unwrap().contains("20.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_is_too_large_is_logged_once_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::kept(folder.path().join("state.json"));
        let set = set("h.test");
        let is_logged = |lingering, hosts| {
            let mut snapshot = file.snapshot(&set);
            snapshot.cut = Cut { lingering, hosts };
            file.write(&snapshot);
            let mut limit = file.written.lock().unwrap().cut_limit;
            !limit.admits(Duration::from_nanos(1), now())
        };
        assert!(!is_logged(0, 0));
        assert!(is_logged(2, 0));
        tokio::time::advance(Duration::from_secs(3599)).await;
        assert!(!is_logged(1, 2));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_logged(1, 2));
    }

    #[test]
    fn the_kept_state_of_another_host_ages_while_the_machine_sleeps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let clocks = Clocks::now();
        fs::write(&path, encode(saved(clocks), clocks)).unwrap();
        let file = StateFile::kept(path);
        let mut set = set("another.test");
        file.restore(&mut set, now());
        let answered_at = || {
            let text = file.snapshot(&set).text;
            let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let hosts = state["hosts"].as_array().unwrap().iter();
            let answers = hosts.filter_map(|host| host["a"]["answer"]["answered_at"].as_u64());
            answers.sum::<u64>()
        };
        let before = answered_at();
        file.slept(Duration::from_secs(1000));
        let moved = before - answered_at();
        assert!((999_900..=1_000_100).contains(&moved), "{moved} ms");
    }

    #[test]
    fn an_older_snapshot_never_replaces_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::kept(folder.path().join("state.json"));
        let older = file.snapshot(&set("older.test"));
        let newer = file.snapshot(&set("newer.test"));
        file.write(&newer);
        file.write(&older);
        assert_eq!(file.read().unwrap()[0].host.as_str(), "newer.test");
    }
}
