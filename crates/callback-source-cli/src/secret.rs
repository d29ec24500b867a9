//! The secret of a webhook, from where other users of the machine cannot see it.

use std::{
    env::{self, VarError},
    fs::File,
    io::{self, Read},
    path::Path,
};

use callback_source::signature::{Secret, SecretError};

use crate::{args::SecretArgs, error::Error};

/// A secret as it was given, and what it would be without what is often copied with it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) secret: Result<Secret, SecretError>,
    /// Each with what it is without.
    pub(crate) bare: Vec<(Secret, &'static str)>,
}

/// Reads the secret.
pub(crate) fn read(args: &SecretArgs) -> Result<Secret, Error> {
    Ok(given(args)?.secret?)
}

/// Reads the secret, and what is in it.
pub(crate) fn given(args: &SecretArgs) -> Result<Given, Error> {
    let text = match &args.secret_file {
        Some(path) => from_file(path)?,
        None => from_environment()?,
    };
    // A byte order mark is what some editors begin a file with.
    let trimmed = text.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}');
    let unquoted = ['"', '\'', '`'].into_iter().find_map(|quote| {
        let rest = trimmed.strip_prefix(quote)?;
        rest.strip_suffix(quote)
    });
    let candidates = [
        (Some(trimmed), "white space"),
        (unquoted, "quotation marks"),
    ];
    let bare = candidates.into_iter().filter_map(|(bare, what)| {
        let bare = bare.filter(|bare| *bare != text)?;
        Some((Secret::new(bare).ok()?, what))
    });
    Ok(Given {
        bare: bare.collect(),
        secret: Secret::new(text),
    })
}

fn from_environment() -> Result<String, Error> {
    match env::var(VARIABLE) {
        Ok(text) if text.trim().is_empty() => Err(Error::NoSecret),
        Ok(text) => Ok(text),
        Err(VarError::NotPresent) => Err(Error::NoSecret),
        Err(VarError::NotUnicode(_)) => Err(Error::SecretNotText("the secret in the environment")),
    }
}

fn from_file(path: &Path) -> Result<String, Error> {
    // A path such as `/dev/zero` does not end. The text is not copied, so that nothing of it stays
    // behind when it is wiped.
    let mut text = String::with_capacity(MAX_LENGTH);
    let read = File::open(path)
        .and_then(|file| file.take(MAX_LENGTH as u64).read_to_string(&mut text))
        .and_then(|length| match length {
            MAX_LENGTH => Err(io::Error::new(io::ErrorKind::InvalidData, "too long")),
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
const MAX_LENGTH: usize = 8 * 1024;
