//! The state file on disk: the check of who may have written the file, and its atomic replacement.
//!
//! Whoever can write the file can admit any address at the next start. A crash during a write must not leave half a
//! file, because the next start reads that file. The file is therefore replaced by a rename, and never written in
//! place.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::format::MAX_SIZE;

/// Purpose for which a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The process writes this file, and admits the addresses that the file contains.
    Keeper,
    /// The file belongs to another process, which may run as another user.
    Look,
}

/// Reads a file of at most 4 MiB, unless an untrusted user may have written the file.
pub(super) fn read(path: &Path, reader: Reader) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    check_trusted(&file.metadata()?, reader)?;
    let mut text = Vec::new();
    file.take(MAX_SIZE as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_SIZE {
        return Err(io::Error::other(format!(
            "it is larger than {MAX_SIZE} bytes"
        )));
    }
    Ok(text)
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::{fs::OFlags, io::Errno};

    // With these flags, `open` does not follow a symbolic link, which another user may have created, and does not wait
    // for the writer of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    options
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            // For a symbolic link, some systems return `MLINK` in place of `LOOP`.
            Some(Errno::LOOP | Errno::MLINK) => io::Error::other("it is a symbolic link"),
            _ => error,
        })
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn check_trusted(metadata: &Metadata, reader: Reader) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    #[cfg(unix)]
    {
        let process = owner::Process::current()?;
        owner::check(&owner::Owner::of(metadata), &process, reader).map_err(io::Error::other)?;
    }
    #[cfg(not(unix))]
    let _ = reader;
    Ok(())
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// The check of the users and groups that could have written a file.
#[cfg(unix)]
mod owner {
    use std::{fs::Metadata, io, os::unix::fs::MetadataExt};

    use super::Reader;

    pub(super) struct Owner {
        pub(super) user: u32,
        pub(super) group: u32,
        pub(super) mode: u32,
    }

    pub(super) struct Process {
        pub(super) user: u32,
        /// The effective and the supplementary groups.
        pub(super) groups: Vec<u32>,
    }

    impl Owner {
        pub(super) fn of(metadata: &Metadata) -> Self {
            Self {
                user: metadata.uid(),
                group: metadata.gid(),
                mode: metadata.mode() & 0o7777,
            }
        }
    }

    impl Process {
        pub(super) fn current() -> io::Result<Self> {
            let own = rustix::process::getegid();
            let groups = rustix::process::getgroups()?.into_iter().chain([own]);
            Ok(Self {
                user: rustix::process::geteuid().as_raw(),
                groups: groups.map(rustix::process::Gid::as_raw).collect(),
            })
        }
    }

    /// Fails unless only this process's user, its groups and root could have written the file. With `Reader::Look`, the
    /// file may belong to any user and group, because the process only inspects it.
    pub(super) fn check(owner: &Owner, process: &Process, reader: Reader) -> Result<(), String> {
        let Owner { user, group, mode } = *owner;
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(format!(
                "every user can write it (mode {mode:o}); run `chmod o-w`"
            ));
        }
        if reader == Reader::Look {
            return Ok(());
        }
        let own = process.user;
        if user != own && user != ROOT {
            return Err(format!("it belongs to user {user}, not to user {own}"));
        }
        // Kubernetes' `fsGroup` makes files readable and writable by a group of the process. `fsGroup` never sets
        // write permission without read permission, so a group with only write permission is not trusted.
        let is_shared = mode & READABLE_BY_GROUP != 0 && process.groups.contains(&group);
        if mode & WRITABLE_BY_GROUP != 0 && !is_shared {
            return Err(format!(
                "group {group} can write it (mode {mode:o}), and this process is not in that group or \
                 the group cannot read it; run `chmod g-w`"
            ));
        }
        Ok(())
    }

    const ROOT: u32 = 0;
    const READABLE_BY_GROUP: u32 = 0o040;
    const WRITABLE_BY_GROUP: u32 = 0o020;
    const WRITABLE_BY_OTHERS: u32 = 0o002;

    #[cfg(test)]
    mod tests {
        use super::*;

        const OWN: u32 = 65_532;
        const OWN_GROUP: u32 = 2_000;

        fn is_trusted(user: u32, group: u32, mode: u32, reader: Reader) -> bool {
            let process = Process {
                user: OWN,
                groups: vec![OWN, OWN_GROUP],
            };
            let owner = Owner { user, group, mode };
            check(&owner, &process, reader).is_ok()
        }

        #[test]
        fn a_file_is_trusted_if_only_this_process_s_user_its_groups_and_root_can_write_it() {
            for (user, group, mode, trusted) in [
                (OWN, OWN, 0o600, true),
                (OWN, 100, 0o644, true),
                (OWN, OWN_GROUP, 0o660, true),
                (OWN, OWN, 0o620, false),
                (OWN, 100, 0o660, false),
                (OWN, 0, 0o620, false),
                (OWN, OWN_GROUP, 0o666, false),
                (OWN, OWN, 0o602, false),
                (0, 0, 0o644, true),
                (0, OWN_GROUP, 0o660, true),
                (0, 0, 0o660, false),
                (0, 0, 0o646, false),
                (1_000, OWN_GROUP, 0o640, false),
                (1_000, OWN_GROUP, 0o660, false),
            ] {
                let found = is_trusted(user, group, mode, Reader::Keeper);
                assert_eq!(found, trusted, "{user}:{group} {mode:o}");
            }
        }

        #[test]
        fn a_file_of_any_user_can_be_inspected_unless_every_user_can_write_it() {
            for mode in [0o600, 0o640, 0o660] {
                assert!(is_trusted(1_000, 1_000, mode, Reader::Look), "{mode:o}");
            }
            for mode in [0o602, 0o666, 0o622] {
                assert!(!is_trusted(1_000, 1_000, mode, Reader::Look), "{mode:o}");
                assert!(!is_trusted(OWN, OWN, mode, Reader::Look), "{mode:o}");
            }
        }
    }
}

/// Replaces a file. At no time is there an incomplete file at `path`: until the new file is complete, an existing file
/// stays unchanged.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let before = replaceable(path)?;
    let beside = beside(path)?;
    // Removes a temporary file that a killed process has left.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io::Error::new(
                error.kind(),
                format!("cannot remove `{}`: {error}", beside.display()),
            ));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    // `create_new` fails if the path exists, so the open follows no link, reuses no file and cannot block on a pipe.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    let replaced = file
        .write_all(text)
        .and_then(|()| {
            if let Some(before) = &before {
                keep_group_read(&file, before)?;
            }
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = replaced {
        // If the disk is full, the temporary file may have filled the disk.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // An error of this sync is ignored, since the file has already been replaced. For example, a folder without read
    // permission cannot be opened.
    #[cfg(unix)]
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Fails if the file evidently cannot be written. This check writes nothing, so it does not find every obstacle.
pub(super) fn obstacle(path: &Path) -> io::Result<()> {
    replaceable(path)?;
    beside(path)?;
    #[cfg(unix)]
    {
        use rustix::{
            fs::{Access, AtFlags, CWD, accessat},
            io::Errno,
        };

        let access = Access::WRITE_OK | Access::EXEC_OK;
        match accessat(CWD, folder(path), access, AtFlags::EACCESS) {
            // Not every system supports this check.
            Ok(()) | Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(unix))]
    Ok(())
}

/// Returns advice on how to fix a write error.
pub(super) fn remedy(path: &Path, error: &io::Error) -> String {
    use io::ErrorKind;

    let folder = folder(path).display();
    match error.kind() {
        ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => {
            format!("mount the folder that the file is in, not the file alone: `{folder}`")
        }
        ErrorKind::NotFound => format!("create the folder `{folder}`"),
        ErrorKind::NotADirectory => format!("`{folder}` is not a folder; choose another path"),
        ErrorKind::PermissionDenied => {
            format!("allow this process to create files in the folder `{folder}`")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("mount a writable volume at the folder `{folder}`")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("free some space for the folder `{folder}`")
        }
        ErrorKind::InvalidInput | ErrorKind::IsADirectory => {
            "choose the path of a regular file, such as `/var/lib/callback-source/state.json`"
                .to_owned()
        }
        _ => format!("check the folder `{folder}`"),
    }
}

/// Returns the metadata of the current file, if there is one. Fails if that file cannot be replaced. A symbolic link
/// can be replaced: the new file replaces the link, not its target.
fn replaceable(path: &Path) -> io::Result<Option<Metadata>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Without this check, the rename would replace a pipe, or a device such as `/dev/null`.
    if !metadata.is_file() && !metadata.is_symlink() {
        return Err(not_a_file());
    }
    if is_mount(path) {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "it is a mount point and cannot be replaced",
        ));
    }
    Ok(Some(metadata))
}

#[cfg(target_os = "linux")]
fn is_mount(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

    // Kernels before 5.8 do not report a mount. On these kernels, the rename of a mount fails with `EBUSY`.
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount(_path: &Path) -> bool {
    false
}

/// Lets the group of the old file read the new file, if that group could read the old file and this process can assign
/// the new file to that group.
#[cfg(unix)]
fn keep_group_read(file: &File, before: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    if !before.is_file() || before.mode() & READABLE_BY_GROUP == 0 {
        return Ok(());
    }
    let group = before.gid();
    // Only root and members of the group can assign a file to the group. If this process cannot, no group may read the
    // new file.
    if file.metadata()?.gid() != group && fchown(file, None, Some(group)).is_err() {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(0o600 | READABLE_BY_GROUP))
}

#[cfg(not(unix))]
fn keep_group_read(_file: &File, _before: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Returns the path of the temporary file.
fn beside(path: &Path) -> io::Result<PathBuf> {
    // The paths `/` and `..` are not paths of files, and `state/` names a folder.
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = path.file_name().filter(|_| !is_folder);
    let mut name: OsString = name.ok_or_else(not_a_file)?.to_owned();
    name.push(".tmp");
    Ok(path.with_file_name(name))
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

#[cfg(unix)]
const READABLE_BY_GROUP: u32 = 0o040;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_comes_with_its_own_advice() {
        use io::ErrorKind;

        for (kind, advice) in [
            (
                ErrorKind::ResourceBusy,
                "mount the folder that the file is in",
            ),
            (
                ErrorKind::CrossesDevices,
                "mount the folder that the file is in",
            ),
            (ErrorKind::NotFound, "create the folder `/a`"),
            (ErrorKind::NotADirectory, "`/a` is not a folder"),
            (
                ErrorKind::PermissionDenied,
                "allow this process to create files",
            ),
            (ErrorKind::ReadOnlyFilesystem, "mount a writable volume"),
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::InvalidInput, "choose the path of a regular file"),
            (ErrorKind::IsADirectory, "choose the path of a regular file"),
            (ErrorKind::Other, "check the folder `/a`"),
        ] {
            let text = remedy(Path::new("/a/state.json"), &kind.into());
            assert!(text.contains(advice), "{kind:?}: {text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_named_as_the_reason_and_a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let error = open(&link).unwrap_err();
        assert_eq!(error.to_string(), "it is a symbolic link");
        assert!(open(&file).is_ok());
        assert!(replaceable(&file.join("state.json")).is_err());
        assert!(
            replaceable(&folder.path().join("new.json"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_path_that_names_no_file_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        for path in [
            PathBuf::from("/"),
            PathBuf::from(".."),
            PathBuf::new(),
            folder.path().to_owned(),
            inside(".."),
            inside("missing/"),
        ] {
            assert!(obstacle(&path).is_err(), "{path:?}");
            assert!(replace(&path, b"text").is_err(), "{path:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_device_is_neither_read_nor_replaced() {
        use std::os::unix::fs::FileTypeExt;

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [&pipe, Path::new("/dev/null"), Path::new("/dev/zero")] {
            let error = read(path, Reader::Keeper).unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{path:?}");
            let error = replace(path, b"text").unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{path:?}");
            assert!(obstacle(path).is_err(), "{path:?}");
        }
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_or_a_pipe_at_the_temporary_name_is_not_written_to() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        let path = inside("state.json");
        fs::write(inside("victim"), "precious").unwrap();
        symlink(inside("victim"), inside("state.json.tmp")).unwrap();
        replace(&path, b"one").unwrap();
        assert_eq!(fs::read_to_string(inside("victim")).unwrap(), "precious");
        let pipe = std::process::Command::new("mkfifo")
            .arg(inside("state.json.tmp"))
            .status();
        assert!(pipe.unwrap().success());
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(!inside("state.json.tmp").exists());

        fs::create_dir(inside("state.json.tmp")).unwrap();
        let error = replace(&path, b"three").unwrap_err().to_string();
        assert!(error.contains("state.json.tmp"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let full = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .status();
        if !full.is_ok_and(|mounted| mounted.success()) {
            eprintln!(
                "SKIPPED a_full_disk_leaves_the_old_file_and_no_temporary_file: cannot mount"
            );
            return;
        }
        replace(&path, b"old").unwrap();
        let error = replace(&path, &[b'x'; 1 << 20]).unwrap_err();
        let text = fs::read_to_string(&path).unwrap();
        let files = fs::read_dir(folder.path()).unwrap().count();
        let unmounted = std::process::Command::new("umount")
            .arg(folder.path())
            .status();
        assert!(unmounted.unwrap().success());
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(remedy(&path, &error).contains("free some space"));
        assert_eq!((text.as_str(), files), ("old", 1));
    }

    #[cfg(unix)]
    #[test]
    fn the_group_can_read_the_next_file_only_if_it_could_read_the_last_one() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for (before, after) in [
            (0o600, 0o600),
            (0o640, 0o640),
            (0o660, 0o640),
            (0o644, 0o640),
        ] {
            replace(&path, b"old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            replace(&path, b"new").unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, after, "{before:o}");
            fs::remove_file(&path).unwrap();
        }
    }
}
