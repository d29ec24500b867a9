//! The windows of the list under test. They are so short that each window ends many times in a run.

use std::time::Duration;

pub(crate) const MIN_TTL: Duration = Duration::from_secs(1);
pub(crate) const MAX_TTL: Duration = Duration::from_secs(2);
pub(crate) const LINGER: Duration = Duration::from_secs(3);
pub(crate) const STALE: Duration = Duration::from_secs(8);
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(2);
pub(crate) const QUESTION_LIMIT: Duration = Duration::from_secs(3);
pub(crate) const MAX_ADDRESSES: usize = 256;

/// The longest time between the end of a TTL and the refreshed answer. It is the sum of a second, the jitter, and the
/// time limit of a question.
pub(crate) const REFRESH: Duration = Duration::from_millis(1_000 + 500 + 3_000);

/// The longest time that an address lingers. An address can linger until an answer with the greatest TTL has been
/// refreshed, which takes longer than [`LINGER`].
pub(crate) const MAX_LINGER: Duration = Duration::from_millis(2_000 + 4_500);

/// The delay after which the list must have processed an outcome, even on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// The time without a fault after which the list must know the zone.
///
/// It is the sum of four times:
///
/// - the time limit of a question that was pending when the last fault ended;
/// - the longest pause after that question: the greatest TTL, one more second, and the jitter;
/// - the time for a successful question;
/// - a tolerance.
pub(crate) const CALM_AFTER: Duration = Duration::from_millis(3_000 + 3_200 + 1_000 + 1_500);
