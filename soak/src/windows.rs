//! The windows of the list under test, so short that each ends many times in a run.

use std::time::Duration;

pub(crate) const MIN_TTL: Duration = Duration::from_secs(1);
pub(crate) const MAX_TTL: Duration = Duration::from_secs(2);
pub(crate) const LINGER: Duration = Duration::from_secs(3);
pub(crate) const STALE: Duration = Duration::from_secs(8);
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(2);
pub(crate) const QUESTION_LIMIT: Duration = Duration::from_secs(3);
pub(crate) const MAX_ADDRESSES: usize = 256;

/// The longest time from the end of a TTL to the refreshed answer: a second, the jitter, the time limit.
pub(crate) const REFRESH: Duration = Duration::from_millis(1_000 + 500 + 3_000);

/// The longest time that an address lingers. It lasts until an answer with the greatest TTL has been refreshed, which
/// is longer than [`LINGER`].
pub(crate) const MAX_LINGER: Duration = Duration::from_millis(2_000 + 4_500);

/// The time by which the list may lag behind the oracle on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// The time without a fault after which the list must know the zone.
///
/// It consists of a question that was pending when the last fault ended, the longest pause after that question (the
/// greatest TTL, the second after it, the jitter), a successful question, and slack.
pub(crate) const CALM_AFTER: Duration = Duration::from_millis(3_000 + 3_200 + 1_000 + 1_500);
