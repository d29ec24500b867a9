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
