//! `sign`: a signed webhook as a `curl` command.
//!
//! `sign` prints the command and does not send the request. The secret therefore stays on this machine, even if curl
//! runs on another machine. The signature covers the URL, so curl's own changes to the URL are switched off.

use std::{borrow::Cow, fmt::Write, fs, io::Read, path::Path, time::SystemTime};

use callback_source::signature::webhook;

use crate::{args::SignArgs, error::Error, outcome::Outcome, output, secret};

pub(crate) fn run(args: &SignArgs) -> Result<Outcome, Error> {
    let secret = secret::read(&args.secret)?;
    let body = Body::read(args.body_file.as_deref())?;
    let date = args.date.unwrap_or_else(SystemTime::now);
    let headers = webhook::sign(&secret, &args.url, &body.bytes, date)?;

    // curl must not interpret braces or dots in the URL: the path is signed as it is.
    let mut command = format!(
        "curl --include --globoff --path-as-is {}",
        quoted(&args.url.to_string())
    );
    let mut add = |flag: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = write!(command, " \\\n  {flag} {}", quoted(value));
    };
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        add("--header", &format!("{name}: {value}"));
    }
    add("--header", "content-type: application/json; charset=utf-8");
    match &body.argument {
        BodyArgument::File(name) => add("--data-binary", &format!("@{name}")),
        BodyArgument::Text(text) => add("--data-raw", text),
    }
    command.push('\n');
    output::data(command.as_bytes())?;
    Ok(Outcome::Yes)
}

/// Body of the request, and the argument of `curl` for the body.
struct Body {
    bytes: Vec<u8>,
    argument: BodyArgument,
}

enum BodyArgument {
    File(String),
    Text(String),
}

impl Body {
    fn read(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Self::from_text(String::new()));
        };
        let failed = |cause| Error::Read {
            what: "the body",
            path: path.to_owned(),
            cause,
        };
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            let stdin = std::io::stdin().lock();
            stdin
                .take(MAX_ARGUMENT + 1)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_ARGUMENT) {
                return Err(Error::Inline("it is too long"));
            }
            return match String::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => Ok(Self::from_text(text)),
                _ => Err(Error::Inline("it is not text")),
            };
        }
        let name = path.to_str().ok_or(Error::BodyFileName)?;
        Ok(Self {
            bytes: fs::read(path).map_err(failed)?,
            argument: BodyArgument::File(name.to_owned()),
        })
    }

    fn from_text(text: String) -> Self {
        Self {
            bytes: text.clone().into_bytes(),
            argument: BodyArgument::Text(text),
        }
    }
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// Maximum size of a body in an argument, in bytes. Linux allows 128 KiB for an argument, and with `sh -c`, the whole
/// command with its quotes is one argument.
const MAX_ARGUMENT: u64 = 96 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_a_quoted_word() {
        for word in [
            "",
            "plain",
            "a b",
            "it's",
            "''",
            "$(reboot)",
            "`reboot`",
            "a\nb",
            r"a\b",
            "!x",
            "~",
            "{a,b}",
            "*",
            "a;b",
            "æ",
            "-n",
        ] {
            let script = format!("printf %s {}", quoted(word));
            let mut shell = std::process::Command::new("sh");
            let output = shell.arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
