//! The secret of a webhook, from where other users of the machine cannot see it.

use std::{
    env::{self, VarError},
    fs::File,
    io::{self, Read},
    path::Path,
};

use callback_source::signature::Secret;

use crate::{Error, args::SecretArgs};

/// Reads the secret.
pub(crate) fn read(args: &SecretArgs) -> Result<Secret, Error> {
    let text = match &args.secret_file {
        Some(path) => of_file(path)?,
        None => env::var(VARIABLE).map_err(|error| match error {
            VarError::NotPresent => Error::NoSecret,
            VarError::NotUnicode(_) => Error::SecretNotText("the secret in the environment"),
        })?,
    };
    Ok(Secret::new(text)?)
}

fn of_file(path: &Path) -> Result<String, Error> {
    // A path such as `/dev/zero` does not end. The text is not copied, so that nothing of it stays
    // behind when it is wiped.
    let mut text = String::with_capacity(LONGEST);
    let read = File::open(path)
        .and_then(|file| file.take(LONGEST as u64).read_to_string(&mut text))
        .and_then(|length| match length {
            LONGEST => Err(io::Error::new(io::ErrorKind::InvalidData, "too long")),
            _ => Ok(()),
        });
    read.map_err(|cause| Error::Read {
        what: "the secret",
        path: path.to_owned(),
        cause,
    })?;
    // Editors and `echo` put it there.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

const VARIABLE: &str = "CALLBACK_SOURCE_WEBHOOK_SECRET";
const LONGEST: usize = 8 * 1024;
