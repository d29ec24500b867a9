//! Internals that the fuzz targets call.

use std::time::{Duration, Instant};

use crate::{AllowSet, list::state_file, set::model};
#[cfg(feature = "hickory")]
use crate::{Answer, Question, ResolveError, dns::hickory::chain};
#[cfg(feature = "signature")]
use crate::{MessageRejectionKind, signature::webhook};

/// The text of the state file of a set, written when `now` is `utc` since the epoch.
#[must_use]
pub fn saved(set: &AllowSet, now: Instant, utc: Duration) -> Vec<u8> {
    state_file::saved(set, now, utc)
}

/// Restores a set from the text of a state file. Returns whether the text was accepted.
pub fn restored(set: &mut AllowSet, text: &[u8], now: Instant, utc: Duration) -> bool {
    state_file::restored(set, text, now, utc).is_some()
}

/// Plays the schedule that the bytes describe on a set and on the independent model of its rules.
/// Restarts go through the text of a state file.
///
/// # Panics
///
/// If the two differ.
pub fn play(bytes: &[u8]) {
    model::play(bytes, |saved, restored, restart| {
        let utc = |at: Instant| START + (at - restart.start);
        let text = state_file::saved(saved, restart.stopped_at, utc(restart.stopped_at));
        state_file::restored(restored, &text, restart.now, utc(restart.now))
            .expect("a text that was just written is accepted")
    });
}

/// Time since the epoch at which a schedule starts.
const START: Duration = Duration::from_secs(1_780_000_000);

/// The text that a set of other hosts writes after it has read the text of a state file; `None` if the text is
/// refused.
#[must_use]
pub fn rewritten(set: &mut AllowSet, text: &[u8], now: Instant, utc: Duration) -> Option<Vec<u8>> {
    state_file::rewritten(set, text, now, utc)
}

/// The answer that follows from packets, one for each name of a chain of CNAMEs. `None` if the packets end
/// before the chain does.
#[cfg(feature = "hickory")]
pub fn followed(
    question: &Question,
    packets: impl IntoIterator<Item = Vec<u8>>,
) -> Option<Result<Answer, ResolveError>> {
    chain::followed(question, packets)
}

/// The digest in the value of an `Authorization` header.
///
/// # Errors
///
/// The reason why a webhook with this value is rejected.
#[cfg(feature = "signature")]
pub fn parse_authorization(value: &[u8]) -> Result<[u8; 32], MessageRejectionKind> {
    webhook::parse_authorization(value)
}
