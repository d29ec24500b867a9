//! Secret of a webhook. It comes from a file or a variable, because other users of the machine can read a command line.
//!
//! A secret is used byte for byte. If it was copied with quotation marks or white space, no webhook matches, and
//! nothing shows why. This module therefore also returns variants without these characters, so that `verify` can name
//! the surplus characters. Only `verify` uses the variants: like the library's layer, `sign` does not correct a secret.

use std::{
    env::{self, VarError},
    fs::File,
    io::{self, Read},
    path::Path,
};

use callback_source::signature::{Secret, SecretError};

use crate::{
    args::{SECRET_VARIABLE, SecretArgs},
    error::Error,
};

/// Secret as it was given, and variants without characters that are often copied with a secret.
#[derive(Debug)]
pub(crate) struct GivenSecret {
    pub(crate) secret: Result<Secret, SecretError>,
    /// Variants of the secret, each with the name of the characters that it omits.
    pub(crate) variants: Vec<(Secret, &'static str)>,
}

/// Reads the secret.
pub(crate) fn read(args: &SecretArgs) -> Result<Secret, Error> {
    Ok(given(args)?.secret?)
}

/// Reads the secret and its variants.
pub(crate) fn given(args: &SecretArgs) -> Result<GivenSecret, Error> {
    let text = match &args.secret_file {
        Some(path) => from_file(path)?,
        None => from_environment()?,
    };
    // Some editors write a byte order mark at the start of a file.
    let trimmed = text.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}');
    let unquoted = ['"', '\'', '`'].into_iter().find_map(|quote| {
        let rest = trimmed.strip_prefix(quote)?;
        rest.strip_suffix(quote)
    });
    let candidates = [
        (Some(trimmed), "white space"),
        (unquoted, "quotation marks"),
    ];
    let variants = candidates.into_iter().filter_map(|(variant, surplus)| {
        let variant = variant.filter(|variant| *variant != text)?;
        Some((Secret::new(variant).ok()?, surplus))
    });
    Ok(GivenSecret {
        variants: variants.collect(),
        secret: Secret::new(text),
    })
}

fn from_environment() -> Result<String, Error> {
    match env::var(SECRET_VARIABLE) {
        Ok(text) if text.trim().is_empty() => Err(Error::NoSecret),
        Ok(text) => Ok(text),
        Err(VarError::NotPresent) => Err(Error::NoSecret),
        Err(VarError::NotUnicode(_)) => Err(Error::SecretNotText(
            "the secret in `CALLBACK_SOURCE_WEBHOOK_SECRET`",
        )),
    }
}

fn from_file(path: &Path) -> Result<String, Error> {
    // The length is limited, since a file such as `/dev/zero` never ends. The buffer has its full size from the start:
    // a buffer that grows would leave copies of the secret in memory that is not wiped.
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
    // Editors and `echo` add a line break.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

const MAX_LENGTH: usize = 8 * 1024;
