//! Output of the commands: data goes to stdout, everything else to stderr.
//!
//! The output of `lookup` goes into firewall scripts, which must never read a message as an address. Messages share the
//! queue of the log, so that messages and log lines stay in order.

use std::{
    fmt,
    io::{self, Write},
};

use crate::{error::Error, log};

/// Writes data to stdout. It is not an error if the reader closes the pipe early, as in `… | head`.
pub(crate) fn data(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(error)),
        _ => Ok(()),
    }
}

/// Writes data to stdout as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
    text.push(b'\n');
    data(&text)
}

/// Prints an error with its causes, and the next step if there is a hint.
pub(crate) fn failure(error: &Error) {
    let causes = causes(error);
    message("error", format_args!("{error}{causes}"));
    if let Some(hint) = error.hint() {
        message("hint", hint);
    }
}

/// Prints a message of the kind `error`, `warning`, `note` or `hint`.
pub(crate) fn message(kind: &str, text: impl fmt::Display) {
    log::write_line(format!("{kind}: {text}\n"));
}

/// Returns the causes of an error as text, each after a colon.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut above = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let own = cause.to_string();
        // Some libraries repeat the text of a cause in the text of the error above it.
        if !above.contains(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        above = own;
        next = cause.source();
    }
    text
}
