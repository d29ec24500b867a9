//! Internals that the fuzz targets call.

use std::time::{Duration, Instant};

use crate::{AllowSet, list::state_file, set::model};
#[cfg(feature = "hickory")]
use crate::{Answer, Question, ResolveError, dns::hickory::chain};
#[cfg(feature = "signature")]
use crate::{MessageRejectionKind, signature::webhook};

/// Returns the text of a set's state file. `utc` is `now` as a time since the Unix epoch.
#[must_use]
pub fn saved(set: &AllowSet, now: Instant, utc: Duration) -> Vec<u8> {
    state_file::saved(set, now, utc)
}

/// Restores a set from the text of a state file. Returns whether the text was accepted.
pub fn restored(set: &mut AllowSet, text: &[u8], now: Instant, utc: Duration) -> bool {
    state_file::restored(set, text, now, utc).is_some()
}

/// Plays the schedule that the bytes describe, on a set and on the independent model of the set's rules. At each
/// restart in the schedule, the text of a state file is written and read again.
///
/// # Panics
///
/// Panics if the set and the model differ.
pub fn play(bytes: &[u8]) {
    model::play(bytes, |saved, restored, restart| {
        let utc = |at: Instant| START + (at - restart.start);
        let text = state_file::saved(saved, restart.stopped_at, utc(restart.stopped_at));
        state_file::restored(restored, &text, restart.now, utc(restart.now))
            .expect("a text that was just written is accepted")
    });
}

/// Start of each schedule, as a time since the Unix epoch.
const START: Duration = Duration::from_secs(1_780_000_000);

/// Restores a set from the text of a state file that may contain other hosts than the set, and returns the text of the
/// next write. Returns `None` if the text is rejected.
#[must_use]
pub fn rewritten(set: &mut AllowSet, text: &[u8], now: Instant, utc: Duration) -> Option<Vec<u8>> {
    state_file::rewritten(set, text, now, utc)
}

/// Follows a chain of CNAMEs and returns its outcome. Each packet is the response to one query. Returns `None` if there
/// are fewer packets than the chain needs.
#[cfg(feature = "hickory")]
pub fn followed(
    question: &Question,
    packets: impl IntoIterator<Item = Vec<u8>>,
) -> Option<Result<Answer, ResolveError>> {
    chain::followed(question, packets)
}

/// Returns the signature in the value of an `Authorization` header.
///
/// # Errors
///
/// Returns the reason why a webhook with this value is rejected.
#[cfg(feature = "signature")]
pub fn parse_authorization(value: &[u8]) -> Result<[u8; 32], MessageRejectionKind> {
    webhook::parse_authorization(value)
}
