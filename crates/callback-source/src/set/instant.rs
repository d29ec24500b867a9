//! Panic-free arithmetic on instants.

use std::time::{Duration, Instant};

/// Adds a duration to an instant. The duration may have any length, since the configuration sets no bound.
pub(crate) fn after(instant: Instant, duration: Duration) -> Instant {
    instant
        .checked_add(duration)
        .unwrap_or_else(|| instant + FAR)
}

/// Subtracts the length of a sleep of the machine from an instant. Systems that report the length of a sleep can
/// represent instants that far in the past.
pub(crate) fn before(instant: Instant, slept: Duration) -> Instant {
    instant.checked_sub(slept).unwrap_or(instant)
}

/// A hundred years: practically forever, and short enough to add without overflow.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_represented_is_a_hundred_years_away() {
        let now = tokio::time::Instant::now().into_std();
        let day = Duration::from_secs(86_400);
        assert_eq!(after(now, day), now + day);
        assert_eq!(after(now, Duration::MAX), now + 36_500 * day);
        assert_eq!(before(now + day, day), now);
        assert_eq!(before(now, Duration::MAX), now);
    }
}
