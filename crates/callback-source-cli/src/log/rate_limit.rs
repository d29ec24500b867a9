//! Rate limit for log lines that callers can cause.
//!
//! The limit applies to warnings about the server as a whole, such as a warning that all connections are in use. The
//! library limits its own events per peer.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Rate limit of one line a minute.
#[derive(Debug, Default)]
pub(crate) struct OncePerMinute(Mutex<Option<Instant>>);

impl OncePerMinute {
    /// Returns whether a line may be logged now.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = last.is_none_or(|last| last + A_MINUTE <= now);
        if admitted {
            *last = Some(now);
        }
        admitted
    }
}

const A_MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_one_line_a_minute() {
        let limit = OncePerMinute::default();
        let start = Instant::now();
        let admitted = [0, 1, 59, 60, 61, 119, 120].map(|seconds| {
            let now = start + Duration::from_secs(seconds);
            limit.admits(now)
        });
        assert_eq!(admitted, [true, false, false, true, false, false, true]);
    }
}
