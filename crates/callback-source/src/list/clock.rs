//! The clocks: the one that tests pause, and the time that the machine has slept.

use std::time::{Duration, Instant};

/// The time by tokio's clock, which tests pause and the simulator drives.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Tells how long the machine has slept since it was last asked.
pub(crate) struct SleepClock {
    /// By how many nanoseconds the clock that counts sleep is ahead of that of `Instant`. Negative in
    /// a time namespace that sets it so.
    ahead: Box<dyn Fn() -> i64 + Send + Sync>,
    seen: i64,
}

impl SleepClock {
    /// The clocks of this system, where it has one that counts sleep.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn from_system() -> Option<Self> {
        // A simulated year would be looked at every few seconds.
        #[cfg(callback_source_simulation)]
        if crate::simulation::is_simulated() {
            return None;
        }
        use rustix::time::{ClockId, clock_gettime};

        // A pause of this thread between the two readings makes the result smaller, so the largest is
        // the nearest. Read the other way round, a pause would look like a sleep.
        let read = |clock| {
            let since = Duration::try_from(clock_gettime(clock)).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        let ahead = move || {
            let boot = read(ClockId::Boottime);
            boot.saturating_sub(read(ClockId::Monotonic))
        };
        Some(Self::new(move || ahead().max(ahead()).max(ahead())))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn from_system() -> Option<Self> {
        None
    }

    pub(crate) fn new(ahead: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            seen: ahead(),
            ahead: Box::new(ahead),
        }
    }

    /// How long the machine slept since the last call that returned a time, if it did.
    pub(crate) fn slept(&mut self) -> Option<Duration> {
        let ahead = (self.ahead)();
        let slept = u64::try_from(ahead.saturating_sub(self.seen)).ok()?;
        let slept = Duration::from_nanos(slept);
        if slept < SHORTEST {
            return None;
        }
        self.seen = ahead;
        Some(slept)
    }
}

impl std::fmt::Debug for SleepClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SleepClock")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

/// Less is the time between two readings.
const SHORTEST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    #[test]
    fn each_sleep_is_told_once_and_in_full() {
        let ahead = Arc::new(AtomicI64::new(-5_000_000_000));
        let read = Arc::clone(&ahead);
        let mut clock = SleepClock::new(move || read.load(Ordering::Relaxed));
        assert_eq!(clock.slept(), None);
        // Two short ones that add up to a long one.
        ahead.fetch_add(60_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), None);
        ahead.fetch_add(60_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), Some(Duration::from_millis(120)));
        assert_eq!(clock.slept(), None);
        ahead.fetch_add(3_600_000_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn a_reading_that_is_behind_is_not_a_sleep_afterwards() {
        let ahead = Arc::new(AtomicI64::new(0));
        let read = Arc::clone(&ahead);
        let mut clock = SleepClock::new(move || read.load(Ordering::Relaxed));
        ahead.store(-500_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), None);
        ahead.store(0, Ordering::Relaxed);
        assert_eq!(clock.slept(), None);
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn a_machine_that_is_awake_does_not_sleep() {
        let mut clock = SleepClock::from_system().unwrap();
        for _ in 0..10_000 {
            assert_eq!(clock.slept(), None);
        }
    }
}
