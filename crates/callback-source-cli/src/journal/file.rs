//! The file of the journal.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use super::event::{Entry, Event, Selection, time_text};
use crate::replace_file;

/// State of the journal file in the thread that writes it.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    keep: Duration,
    open: Option<Open>,
    next_id: u64,
    last_at: Option<SystemTime>,
    /// Lines that wait for the disk.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    dropped: Arc<AtomicU64>,
    /// Time of the last removal of old peer addresses; after a failed attempt, 23 h before the attempt.
    forgot_at: Option<SystemTime>,
    is_failing: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

impl JournalFile {
    /// Creates the state without opening the file. `dropped` counts the events that are dropped.
    pub(super) fn new(path: PathBuf, keep: Duration, dropped: Arc<AtomicU64>) -> Self {
        Self {
            path,
            keep,
            open: None,
            next_id: FIRST_ID,
            last_at: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            dropped,
            forgot_at: None,
            is_failing: false,
        }
    }

    /// Opens the file. The next id follows the last id in the journal.
    pub(super) fn open(&mut self) {
        let last = entries(&self.path)
            .last()
            .or_else(|| entries(&earlier(&self.path)).last());
        if let Some(last) = last {
            self.next_id = self.next_id.max(last.id + 1);
            self.last_at = last.time();
        }
        let opened = self
            .forget(SystemTime::now())
            .and_then(|()| open(&self.path));
        self.open = self.report(opened);
    }

    /// Writes an event. If that fails, the event waits in memory for the next attempt.
    pub(super) fn append(&mut self, at: SystemTime, event: Event) {
        let last_at = self.last_at.replace(at);
        let back = last_at.and_then(|last_at| last_at.duration_since(at).ok());
        if let Some(back) = back.filter(|back| A_MINUTE <= *back) {
            let seconds = back.as_secs();
            warn!(
                seconds,
                "the clock was set back; times in the journal overlap"
            );
            self.enqueue(at, Event::ClockSetBack { seconds });
        }
        self.enqueue(at, event);
        self.write_waiting(at);
    }

    /// Tries to write the waiting lines. Also removes old peer addresses if this is due, because there may be no event
    /// for weeks.
    pub(super) fn write_waiting(&mut self, now: SystemTime) {
        if let Err(error) = self.forget_daily(now) {
            self.report::<()>(Err(error));
        }
        while let Some(line) = self.waiting.pop_front() {
            let written = self.write(&line);
            if self.report(written).is_none() {
                self.open = None;
                self.waiting.push_front(line);
                self.drop_oldest();
                return;
            }
            self.waiting_bytes -= line.len();
        }
    }

    fn drop_oldest(&mut self) {
        while self.waiting_bytes > MAX_WAITING
            && let Some(line) = self.waiting.pop_front()
        {
            self.waiting_bytes -= line.len();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that wait for the disk, oldest first.
    pub(super) fn waiting(&self) -> Vec<Vec<u8>> {
        self.waiting.iter().cloned().collect()
    }

    fn enqueue(&mut self, at: SystemTime, event: Event) {
        let entry = Entry {
            id: self.next_id,
            at: time_text(at),
            event,
        };
        self.next_id += 1;
        let Ok(mut line) = serde_json::to_vec(&entry) else {
            return;
        };
        line.push(b'\n');
        self.waiting_bytes += line.len();
        self.waiting.push_back(line);
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.size + length > MAX_SIZE)
        {
            self.open = None;
            fs::rename(&self.path, earlier(&self.path))?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        let Open { mut file, size } = open;
        // A single call writes the whole line. A process that is killed therefore leaves a torn line only at the end of
        // the file.
        file.write_all(line)?;
        self.open = Some(Open {
            file,
            size: size + length,
        });
        Ok(())
    }

    fn forget_daily(&mut self, now: SystemTime) -> io::Result<()> {
        // A clock that was set back must not postpone the removal.
        let age = self
            .forgot_at
            .map(|at| now.duration_since(at).unwrap_or(A_DAY));
        if age.is_some_and(|age| age < A_DAY) {
            return Ok(());
        }
        self.open = None;
        self.forget(now)
    }

    /// Removes the addresses of peers from lines that are older than the time of `--journal-keep`.
    fn forget(&mut self, now: SystemTime) -> io::Result<()> {
        // After a failure, the next attempt is made an hour later. Until then, lines are still written.
        self.forgot_at = now.checked_sub(A_DAY - AN_HOUR);
        let Some(oldest) = now.checked_sub(self.keep) else {
            self.forgot_at = Some(now);
            return Ok(());
        };
        for path in [earlier(&self.path), self.path.clone()] {
            let mut entries: Vec<_> = entries(&path).collect();
            let mut has_changed = false;
            for entry in &mut entries {
                if entry.time().is_some_and(|at| at < oldest) {
                    has_changed |= entry.forget_peer();
                }
            }
            if has_changed {
                replace(&path, &entries)?;
            }
        }
        self.forgot_at = Some(now);
        Ok(())
    }

    fn report<T>(&mut self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                if std::mem::take(&mut self.is_failing) {
                    info!(path = %self.path.display(), "the journal can be written again");
                }
                Some(value)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(
                        path = %self.path.display(),
                        "the journal cannot be written: {error}; up to 256 KiB of events wait in memory"
                    );
                }
                None
            }
        }
    }
}

/// Returns the lines that match `selection`, oldest first: those of the journal at `path`, then those of `waiting`.
pub(super) fn selected(path: &Path, waiting: &[Vec<u8>], selection: &Selection) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut push = |entry: &Entry| {
        if selection.includes(entry) && serde_json::to_writer(&mut lines, entry).is_ok() {
            lines.push(b'\n');
        }
    };
    let waiting = waiting.iter();
    let mut waiting: Vec<Entry> = waiting
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    for entry in entries(&earlier(path)).chain(entries(path)) {
        push(&entry);
        // The journal's thread may write a waiting line before the file is read here. The id alone does not identify a
        // line: ids start again at 1 if the file could not be read when the server started.
        waiting.retain(|line| *line != entry);
    }
    waiting.iter().for_each(push);
    lines
}

/// Returns the entries of a file. Torn lines, and lines that only a newer version can read, are skipped.
fn entries(path: &Path) -> impl Iterator<Item = Entry> + use<> {
    let file = File::open(path).ok().map(|file| file.take(2 * MAX_SIZE));
    let lines = file
        .into_iter()
        .flat_map(|file| BufReader::new(file).split(b'\n'));
    lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_slice(&line).ok())
}

fn open(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
    let mut file = options.open(path)?;
    let size = file.metadata()?.len();
    if size > 0 {
        // A killed process may have left a torn line.
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(Open { file, size })
}

fn replace(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    replace_file::replace(path, &text, MODE)
}

/// Path to which a rotation renames the file of the journal.
fn earlier(path: &Path) -> PathBuf {
    let mut earlier = path.as_os_str().to_owned();
    earlier.push(".1");
    earlier.into()
}

/// Mode of the files: readable by the group, so that its members do not need to be root.
#[cfg(unix)]
const MODE: u32 = 0o640;

/// Id of the first line of a journal.
pub(crate) const FIRST_ID: u64 = 1;

const MAX_SIZE: u64 = 4 * 1024 * 1024;
const MAX_WAITING: usize = 256 * 1024;
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AN_HOUR: Duration = Duration::from_secs(60 * 60);
/// Minimum backward step of the clock that is recorded as an event. A time service can cause smaller steps.
const A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(peer: &str) -> Event {
        Event::Refused {
            peer: Some(peer.parse().unwrap()),
            reason: "not-listed".to_owned(),
            count: 1,
            first: String::new(),
            last: String::new(),
        }
    }

    fn journal(path: &Path) -> JournalFile {
        let mut journal = JournalFile::new(path.to_owned(), 90 * A_DAY, Arc::default());
        journal.open();
        journal
    }

    fn all(path: &Path) -> Vec<Entry> {
        let lines = selected(path, &[], &Selection::default());
        let lines = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn a_torn_line_is_skipped_and_ids_continue_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        journal(&path).append(now, refused("192.0.2.1"));
        // A process was killed during a write.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"id\":2,\"at\":\"20")
            .unwrap();
        journal(&path).append(now, refused("192.0.2.2"));
        let ids: Vec<_> = all(&path).iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn the_journal_is_rotated_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = journal(&path);
        let long = Event::ReloadRefused {
            error: "x".repeat(1024 * 1024),
        };
        let now = SystemTime::now();
        for _ in 0..20 {
            journal.append(now, long.clone());
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) <= MAX_SIZE && size(&earlier(&path)) <= MAX_SIZE);
        let ids: Vec<_> = all(&path).iter().map(|entry| entry.id).collect();
        assert_eq!(ids.last(), Some(&20));
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn peer_addresses_leave_the_journal_after_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        let mut first = journal(&path);
        first.append(now - 91 * A_DAY, refused("192.0.2.1"));
        first.append(now - 89 * A_DAY, refused("192.0.2.2"));
        drop(first);
        let mut journal = journal(&path);
        let peers = || all(&path).iter().map(Entry::address).collect::<Vec<_>>();
        assert_eq!(peers(), [None, Some("192.0.2.2".parse().unwrap())]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("192.0.2.1") && text.contains("\"count\":1"),
            "{text}"
        );
        // No event occurs for two days.
        journal.write_waiting(now + 2 * A_DAY);
        assert_eq!(peers(), [None, None]);
    }

    #[test]
    fn a_failure_to_remove_peer_addresses_is_repeated_and_delays_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        journal(&path).append(now - 91 * A_DAY, refused("192.0.2.1"));
        let in_the_way = folder.path().join("journal.jsonl.tmp");
        fs::create_dir(&in_the_way).unwrap();
        let mut journal = journal(&path);
        journal.append(now, Event::Stopped {});
        let peers = || all(&path).iter().filter_map(Entry::address).count();
        assert_eq!((peers(), all(&path).len()), (1, 2));
        fs::remove_dir(&in_the_way).unwrap();
        journal.append(now + AN_HOUR / 2, Event::Stopped {});
        assert_eq!((peers(), all(&path).len()), (1, 3));
        journal.append(now + 2 * AN_HOUR, Event::Stopped {});
        assert_eq!((peers(), all(&path).len()), (0, 4));
    }

    #[cfg(unix)]
    #[test]
    fn a_group_can_read_the_journal() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        journal(&path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o737, 0o600, "{mode:o}");
    }

    #[cfg(unix)]
    #[test]
    fn a_journal_that_is_rewritten_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        journal(&path).append(now, refused("192.0.2.1"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        journal(&path).write_waiting(now + 91 * A_DAY);
        assert_eq!(all(&path)[0].address(), None, "the file is rewritten");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o604, "{mode:o}");
    }

    #[test]
    fn lines_are_selected_by_time_peer_and_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        let mut journal = journal(&path);
        journal.append(now - 2 * A_DAY, refused("192.0.2.1"));
        journal.append(now, refused("192.0.2.2"));
        journal.append(now, Event::Stopped {});
        let ids = |selection: Selection| {
            let lines = String::from_utf8(selected(&path, &[], &selection)).unwrap();
            let entries = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            entries.map(|entry: Entry| entry.id).collect::<Vec<_>>()
        };
        let since = Some(now - A_DAY);
        let peer = Some("::ffff:192.0.2.1".parse().unwrap());
        let none = Selection::default;
        assert_eq!(ids(Selection { since, ..none() }), [2, 3]);
        assert_eq!(ids(Selection { peer, ..none() }), [1]);
        assert_eq!(
            ids(Selection {
                after: Some(2),
                ..none()
            }),
            [3]
        );
    }

    #[test]
    fn events_wait_until_a_missing_folder_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("journal.jsonl");
        let mut journal = journal(&path);
        journal.append(SystemTime::now(), Event::Stopped {});
        assert_eq!(journal.waiting().len(), 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        journal.append(SystemTime::now(), Event::Stopped {});
        assert_eq!(all(&path).len(), 2);
        assert!(journal.waiting().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn events_wait_while_the_disk_is_full_and_the_oldest_are_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = journal(&path);
        let now = SystemTime::now();
        journal.append(now, refused("192.0.2.1"));
        let written = fs::read(&path).unwrap();
        // Each write to this device fails, as on a full disk.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        journal.open = None;
        for _ in 0..10 {
            journal.append(now, refused("192.0.2.2"));
        }
        assert_eq!(journal.waiting().len(), 10);
        let waiting = selected(&path, &journal.waiting(), &Selection::default());
        assert_eq!(waiting.iter().filter(|byte| **byte == b'\n').count(), 10);
        // The disk has space again. The last failed write left half of a line.
        fs::remove_file(&path).unwrap();
        fs::write(&path, [&written, &b"{\"id\":2,\"at\":"[..]].concat()).unwrap();
        let waiting = journal.waiting();
        journal.write_waiting(now);
        // The lines were written after `history` asked which lines wait, and before it read the file.
        let lines = selected(&path, &waiting, &Selection::default());
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 11);
        let ids: Vec<_> = all(&path).iter().map(|entry| entry.id).collect();
        assert_eq!(ids, (1..=11).collect::<Vec<_>>());
        assert!(journal.waiting().is_empty() && journal.waiting_bytes == 0);

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        journal.open = None;
        let error = "x".repeat(MAX_WAITING / 4);
        for _ in 0..6 {
            let error = error.clone();
            journal.append(now, Event::ReloadRefused { error });
        }
        assert_eq!(journal.waiting().len(), 3);
        assert_eq!(journal.dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_clock_that_is_set_back_is_an_event_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let now = SystemTime::now();
        let mut journal = journal(&path);
        journal.append(now, refused("192.0.2.1"));
        journal.append(now - A_DAY, refused("192.0.2.2"));
        // A time service sets the clock back by less than a minute.
        journal.append(now - A_DAY - A_MINUTE / 2, refused("192.0.2.3"));
        // The clock is set back while the server is stopped.
        self::journal(&path).append(now - 3 * A_DAY, Event::Stopped {});
        let found = all(&path);
        let ids: Vec<_> = found.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        let set_back: Vec<_> = found
            .iter()
            .filter_map(|entry| match entry.event {
                Event::ClockSetBack { seconds } => Some((entry.id, seconds / 60)),
                _ => None,
            })
            .collect();
        assert_eq!(set_back, [(2, 24 * 60), (5, 2 * 24 * 60 - 1)]);
    }
}
