//! `file:FORMAT:PATH`: a file with the admitted addresses.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use humantime::{format_rfc3339_seconds, parse_rfc3339};
use tokio::task::spawn_blocking;

use super::{
    content::{Content, Format, Times, is_replaceable, members},
    goal::{Carried, Goal, Plain},
    target::{Change, Mode, Syncing, Target, TargetError},
};
use crate::replace_file::{folder, replace};

/// Target that is a file. Each write replaces the whole file.
pub(super) struct FileTarget {
    name: String,
    path: PathBuf,
    format: &'static dyn Format,
    carried: Carried,
}

impl FileTarget {
    pub(super) fn new(name: String, path: PathBuf, format: &'static dyn Format) -> Self {
        Self {
            name,
            path,
            format,
            carried: Carried::default(),
        }
    }

    /// Makes the file equal to the goal, except in a dry run. The work is done on a thread that may block. Returns the
    /// change and the new content.
    pub(super) async fn sync_file(
        &mut self,
        goal: Arc<Goal>,
        mode: Mode,
    ) -> Result<(Change, Content), TargetError> {
        let mut carried = mem::take(&mut self.carried);
        let (path, format) = (self.path.clone(), self.format);
        let work = spawn_blocking(move || {
            let synced = sync(&path, format, &goal, &mut carried, mode);
            (synced, carried)
        });
        // The task fails only if it panics or if the runtime shuts down.
        let (synced, carried) = work
            .await
            .map_err(|error| TargetError::new(error.to_string()))?;
        self.carried = carried;
        synced
    }
}

impl Target for FileTarget {
    fn name(&self) -> &str {
        &self.name
    }

    fn sync(&mut self, goal: Arc<Goal>, mode: Mode) -> Syncing<'_> {
        Box::pin(async move { Ok(self.sync_file(goal, mode).await?.0) })
    }

    fn runs_command(&self) -> bool {
        true
    }
}

fn sync(
    path: &Path,
    format: &dyn Format,
    goal: &Goal,
    carried: &mut Carried,
    mode: Mode,
) -> Result<(Change, Content), TargetError> {
    for network in goal.members().keys() {
        if let Some(obstacle) = format.obstacle(*network) {
            let problem = format!("cannot write the network `{}`", Plain(*network));
            return Err(TargetError::new(problem).with_hint(obstacle));
        }
    }
    let before = read(path).map_err(|error| problem("read", path, &error))?;
    if !is_replaceable(&before) {
        let problem = format!("`{}` was not made by callback-source", path.display());
        return Err(TargetError::new(problem).with_hint("move it away, or choose another path"));
    }
    let found = members(&before);
    let times_before = Times::in_text(&before);

    let clock = Clock::now();
    let noted = times_before.as_ref().and_then(|times| {
        let kept_until = parse_rfc3339(times.kept_until.as_deref()?);
        clock.instant(kept_until.ok()?)
    });
    let mut wanted = carried.keep(&found, goal, clock.now, noted);
    let times = Times {
        made_at: format_rfc3339_seconds(clock.wall).to_string(),
        good_until: goal.good_until().map(|until| clock.text(Some(until))),
        kept_until: (!wanted.is_empty()).then(|| clock.text(carried.until())),
    };
    wanted.extend(goal.members().keys());
    let mut change = Change::between(&found, &wanted);
    let still_true = times_before
        .clone()
        .filter(|before| !is_due(before, &times, clock.wall));
    let mut content = Content {
        members: wanted,
        hosts: goal.hosts().to_vec(),
        times: still_true.unwrap_or_else(|| times.clone()),
    };
    if format.write(&content) == before {
        return Ok((change, content));
    }
    content.times = times;
    let text = format.write(&content);
    let same_body = || {
        let mut old = content.clone();
        old.times = times_before?;
        Some(format.write(&old) == before)
    };
    // If only the times in the header are renewed, `rewritten` is `false`.
    change.rewritten = change.is_none() && same_body() != Some(true);
    if mode == Mode::Write {
        replace(path, text.as_bytes(), MODE).map_err(|error| problem("write", path, &error))?;
    }
    Ok((change, content))
}

/// The present time on the monotonic clock and on the wall clock.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            now: tokio::time::Instant::now().into_std(),
            wall: SystemTime::now(),
        }
    }

    /// Formats a time in UTC. `None`, a window that never ends, becomes the last time that the format can express.
    fn text(self, time: Option<Instant>) -> String {
        let end = time.and_then(|time| {
            let left = time.saturating_duration_since(self.now);
            // A window can end after the last time that the format can express.
            self.wall.checked_add(left).filter(|end| *end < last_time())
        });
        format_rfc3339_seconds(end.unwrap_or_else(last_time)).to_string()
    }

    /// Converts a time to the monotonic clock. A time in the past is converted to the present time.
    fn instant(self, time: SystemTime) -> Option<Instant> {
        let left = time.duration_since(self.wall).unwrap_or_default();
        self.now.checked_add(left)
    }
}

/// Returns whether the header must be renewed. It must be renewed if `good_until` or `kept_until` in `current` is more
/// than a minute earlier than in `kept`, or is given in only one of the two. It must also be renewed once `good_until`
/// in `kept` is less than half as far away as in `current`. Each refresh of an answer moves `good_until` in `current` a
/// little, which must not cause a write.
fn is_due(kept: &Times, current: &Times, now: SystemTime) -> bool {
    let left = |until: &Option<String>| {
        let until = parse_rfc3339(until.as_deref()?).ok()?;
        Some(until.duration_since(now).unwrap_or_default())
    };
    let is_over = |kept: &Option<String>, current: &Option<String>, renews: bool| match (
        left(kept),
        left(current),
    ) {
        (Some(kept), Some(current)) => current + A_MINUTE < kept || (renews && kept < current / 2),
        (kept, current) => kept.is_some() != current.is_some(),
    };
    is_over(&kept.good_until, &current.good_until, true)
        || is_over(&kept.kept_until, &current.kept_until, false)
}

/// Returns the last second that the format of times can express.
fn last_time() -> SystemTime {
    parse_rfc3339("9999-12-31T23:59:59Z").expect("it is a time")
}

fn read(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        // With `NONBLOCK`, opening a named pipe does not wait for a writer.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!(
            "it is larger than {MAX_SIZE} bytes"
        )));
    }
    // A file with bytes that are not UTF-8 is damaged, or was not written by a follower.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn problem(action: &str, path: &Path, error: &io::Error) -> TargetError {
    use io::ErrorKind;

    let folder = folder(path).display();
    let hint = match error.kind() {
        ErrorKind::NotFound => format!("create the folder `{folder}`"),
        ErrorKind::PermissionDenied => {
            format!("allow this process to create files in the folder `{folder}`")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("mount a writable volume at the folder `{folder}`")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("free some space for the folder `{folder}`")
        }
        ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => {
            format!("mount the folder that the file is in, not the file alone: `{folder}`")
        }
        _ => format!("check the folder `{folder}`"),
    };
    TargetError::new(format!("cannot {action} `{}`: {error}", path.display())).with_hint(hint)
}

/// Mode of a file that did not exist. The program that reads it may run as another user.
const MODE: u32 = 0o644;

/// Maximum ignored difference between two times. The tolerance covers rounding, and TTLs that differ between two
/// resolvers.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Maximum size of a file, far more than the largest set needs.
const MAX_SIZE: u64 = 16 << 20;

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::{
        args::FileFormat,
        follow::{
            formats::writer,
            testing::{goal, net, nets, now},
        },
    };

    const DAY: u64 = 24 * 60 * 60 * 1000;

    struct File(tempfile::TempDir, Carried);

    impl File {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), Carried::default())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("callers")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap_or_default()
        }

        fn sync(&mut self, goal: &Goal) -> Result<Change, TargetError> {
            let format = writer(FileFormat::NginxAllow);
            let path = self.path();
            Ok(sync(&path, format, goal, &mut self.1, Mode::Write)?.0)
        }

        fn inode(&self) -> u64 {
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(self.path()).unwrap())
        }
    }

    #[test]
    fn a_file_is_written_only_when_its_members_change() {
        let mut file = File::new();
        let now = now();
        let change = file.sync(&goal(&[("20.0.0.1", DAY)], true, now)).unwrap();
        assert_eq!(change.added, [Plain(net("20.0.0.1"))]);
        let (first, text) = (file.inode(), file.text());
        // A refresh moves the end of the window.
        let refreshed = goal(&[("20.0.0.1", DAY + 60_000)], true, now);
        assert!(file.sync(&refreshed).unwrap().is_none());
        assert_eq!((file.inode(), file.text()), (first, text));

        let rotated = goal(&[("20.0.0.1", 60_000), ("20.0.0.2", DAY)], true, now);
        let change = file.sync(&rotated).unwrap();
        assert_eq!((change.added.len(), change.removed.len()), (1, 0));
        assert_ne!(file.inode(), first);
        let change = file.sync(&goal(&[("20.0.0.2", DAY)], true, now)).unwrap();
        assert_eq!(change.removed, [Plain(net("20.0.0.1"))]);
        assert_eq!(members(&file.text()), nets(["20.0.0.2"]));
        let left = fs::read_dir(file.0.path()).unwrap().count();
        assert_eq!(left, 1, "a temporary file is left");
    }

    #[test]
    fn a_reader_sees_the_old_or_the_new_file_as_a_whole() {
        let mut file = File::new();
        let now = now();
        let many: Vec<_> = (0..2_000)
            .map(|at| format!("20.0.{}.{}", at / 250, at % 250))
            .collect();
        let all: Vec<_> = many.iter().map(|address| (address.as_str(), DAY)).collect();
        let goals = [
            goal(&all[..1_000], true, now),
            goal(&all[1_000..], true, now),
        ];
        file.sync(&goals[0]).unwrap();
        let (path, is_over) = (file.path(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let text = fs::read_to_string(&path).unwrap();
                    assert_eq!(members(&text).len(), 1_000);
                    assert!(text.starts_with("# Made by") && text.ends_with("deny all;\n"));
                    reads += 1;
                }
                reads
            });
            for at in 1..=50 {
                file.sync(&goals[at % 2]).unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    #[test]
    fn a_header_is_renewed_when_half_of_its_time_is_over_without_a_change() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        let times = |until: SystemTime| Times {
            made_at: String::new(),
            kept_until: None,
            good_until: Some(format_rfc3339_seconds(until).to_string()),
        };
        let kept = times(at + hours(24));
        for (passed, due) in [(0, false), (11, false), (13, true), (30, true)] {
            let now = at + hours(passed);
            assert_eq!(is_due(&kept, &times(now + hours(24)), now), due, "{passed}");
        }
        // The window that ends first is that of a lingering address. No refresh extends this window.
        let now = at + hours(23);
        assert!(!is_due(&kept, &kept, now));
        // An address left the answer and lingers, so its window ends earlier.
        assert!(is_due(&kept, &times(at + hours(1)), at));
        assert!(!is_due(&kept, &times(at + hours(24) - A_MINUTE), at));
        // A restart shortened the configured windows, or the clock was ahead when the file was written.
        let carried = |until| Times {
            kept_until: Some(format_rfc3339_seconds(until).to_string()),
            ..kept.clone()
        };
        let earlier = carried(at + hours(1));
        assert!(is_due(&carried(at + hours(48)), &earlier, at));
        assert!(!is_due(&earlier, &carried(at + hours(48)), at));

        let mut file = File::new();
        let now = self::now();
        file.sync(&goal(&[("20.0.0.1", DAY / 3)], true, now))
            .unwrap();
        let before = file.text();
        let change = file.sync(&goal(&[("20.0.0.1", DAY)], true, now)).unwrap();
        assert!(change.is_none(), "{change:?}");
        assert_ne!(file.text(), before);
    }

    #[test]
    fn a_damaged_file_is_restored() {
        let mut file = File::new();
        let goal = goal(&[("20.0.0.1", DAY)], true, now());
        file.sync(&goal).unwrap();
        let whole = file.text();
        for damaged in [
            String::new(),
            whole.replace("deny all;\n", ""),
            whole.replace("20.0.0.1", "20.0.0.9"),
        ] {
            fs::write(file.path(), &damaged).unwrap();
            let change = file.sync(&goal).unwrap();
            assert!(!change.is_none(), "{damaged}");
            assert_eq!(members(&file.text()), nets(["20.0.0.1"]));
            assert!(file.text().ends_with("deny all;\n"));
        }
        fs::remove_file(file.path()).unwrap();
        assert!(!file.sync(&goal).unwrap().is_none());
        assert!(file.text().contains("20.0.0.1"));
    }

    #[test]
    fn an_undecided_set_only_adds_to_a_file() {
        let mut file = File::new();
        let now = now();
        file.sync(&goal(&[("20.0.0.1", DAY), ("20.0.0.2", DAY)], true, now))
            .unwrap();
        // A new process has not resolved the host of the second address yet.
        file.1 = Carried::default();
        let undecided = goal(&[("20.0.0.1", DAY), ("20.0.0.3", DAY)], false, now);
        let change = file.sync(&undecided).unwrap();
        assert_eq!((change.added.len(), change.removed.len()), (1, 0));
        assert_eq!(
            members(&file.text()),
            nets(["20.0.0.1", "20.0.0.2", "20.0.0.3"])
        );
        let decided = goal(&[("20.0.0.1", DAY), ("20.0.0.3", DAY)], true, now);
        let change = file.sync(&decided).unwrap();
        assert_eq!(change.removed, [Plain(net("20.0.0.2"))]);
    }

    #[test]
    fn a_file_notes_how_long_it_keeps_addresses_from_before() {
        let mut file = File::new();
        let now = now();
        fs::write(file.path(), "20.0.0.9\n").unwrap();
        let undecided = goal(&[("20.0.0.1", DAY)], false, now);
        file.sync(&undecided).unwrap();
        let noted = Times::in_text(&file.text()).unwrap().kept_until;
        let left = parse_rfc3339(&noted.clone().unwrap()).unwrap();
        let left = left.duration_since(SystemTime::now()).unwrap();
        assert!(left <= Duration::from_millis(DAY) && left > Duration::from_millis(DAY - 60_000));

        // The next process keeps the noted end, so it does not write the file.
        let (inode, day_ago) = (file.inode(), SystemTime::now() - Duration::from_millis(DAY));
        file.1 = Carried::default();
        assert!(file.sync(&undecided).unwrap().is_none());
        assert_eq!(file.inode(), inode);

        // The noted end has passed.
        let over = format_rfc3339_seconds(day_ago).to_string();
        let text = file.text().replace(&noted.unwrap(), &over);
        fs::write(file.path(), text).unwrap();
        file.1 = Carried::default();
        let change = file.sync(&undecided).unwrap();
        assert_eq!(change.removed, [Plain(net("20.0.0.9"))]);
        assert_eq!(Times::in_text(&file.text()).unwrap().kept_until, None);
    }

    #[test]
    fn a_file_of_another_program_is_left_alone() {
        let mut file = File::new();
        fs::write(file.path(), "user www-data;\n").unwrap();
        let error = file.sync(&goal(&[("20.0.0.1", DAY)], true, now()));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("was not made by callback-source; move it"),
            "{error}"
        );
        assert_eq!(file.text(), "user www-data;\n");
    }

    #[test]
    fn a_folder_or_a_pipe_is_an_error_and_not_replaced() {
        let mut file = File::new();
        let goal = goal(&[("20.0.0.1", DAY)], true, now());
        fs::create_dir(file.path()).unwrap();
        assert!(file.sync(&goal).is_err());
        fs::remove_dir(file.path()).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(file.path())
            .status();
        assert!(made.unwrap().success());
        let error = file.sync(&goal).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn the_new_file_has_the_mode_of_the_old_one() {
        let mut file = File::new();
        let now = now();
        let mode = |file: &File| fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777;
        file.sync(&goal(&[("20.0.0.1", DAY)], true, now)).unwrap();
        assert_eq!(mode(&file) & 0o022, 0);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        file.sync(&goal(&[("20.0.0.2", DAY)], true, now)).unwrap();
        assert_eq!(mode(&file), 0o640);
    }

    #[test]
    fn a_network_that_the_format_cannot_express_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        let format = writer(FileFormat::ApacheRewriteMap);
        let goal = goal(&[("20.0.0.0/24", DAY)], true, now());
        let error = sync(&path, format, &goal, &mut Carried::default(), Mode::Write);
        assert!(error.unwrap_err().problem.contains("20.0.0.0/24"));
        assert!(!path.exists());
    }
}
