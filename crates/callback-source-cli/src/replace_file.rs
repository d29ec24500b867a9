//! Replacement of a file that another program or another process reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Replaces a file, or creates it with this mode. At every moment, either the whole old file or the whole new file
/// exists.
pub(crate) fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    // The owner and the mode of a symbolic link are not kept, because another user may have created the link.
    let before = fs::symlink_metadata(path).ok();
    let before = before.filter(|before| before.is_file());
    let beside = beside(path)?;
    // A process that was killed may have left this file behind.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // `create_new` follows no link and reuses no file.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(text)?;
        if let Some(before) = before {
            keep_access(&file, &before)?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if let Err(error) = written {
        // On a full disk, the temporary file may be the file that filled it.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // An error, for example because the folder is not readable, is ignored: the file has already been replaced.
    #[cfg(unix)]
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Gives the new file the mode of the old file and, as far as permitted, its owner and group, since the program that
/// reads the file may run as another user.
#[cfg(unix)]
fn keep_access(file: &File, before: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        // Only root may change the owner. Another user may be allowed to change only the group.
        let _ = fchown(file, Some(before.uid()), Some(before.gid()))
            .or_else(|_| fchown(file, None, Some(before.gid())));
    }
    file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o777))
}

#[cfg(not(unix))]
fn keep_access(_file: &File, _before: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = name.to_owned();
    beside.push(".tmp");
    Ok(path.with_file_name(beside))
}

/// Returns the folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}
