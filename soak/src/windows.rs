//! The rules of the list under test: short, so that every window ends many times in a run.

use std::time::Duration;

pub(crate) const MIN_TTL: Duration = Duration::from_secs(1);
pub(crate) const MAX_TTL: Duration = Duration::from_secs(2);
pub(crate) const LINGER: Duration = Duration::from_secs(3);
pub(crate) const STALE: Duration = Duration::from_secs(8);
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(2);
pub(crate) const QUESTION_LIMIT: Duration = Duration::from_secs(3);
pub(crate) const MAX_ADDRESSES: usize = 256;

/// How long a refresh can take after the TTL has ended: a second, the jitter, the time limit.
pub(crate) const REFRESH: Duration = Duration::from_millis(1_000 + 500 + 3_000);

/// The longest that an address lingers: until an answer with the greatest TTL has been refreshed, which
/// is longer than [`LINGER`].
pub(crate) const MAX_LINGER: Duration = Duration::from_millis(2_000 + 4_500);

/// How late the list may hear of what the oracle has heard of, on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// After this time without a failure the list knows the zone: a question that was under way when the
/// last fault ended, the longest pause after it (the greatest TTL, the second after it, the jitter), a good
/// question, and some slack.
pub(crate) const CALM_AFTER: Duration = Duration::from_millis(3_000 + 3_200 + 1_000 + 1_500);
