//! The clocks of a list: tokio's clock, which tests pause, and a clock that measures how long the machine has slept.

use std::time::{Duration, Instant};

/// Returns the current time of tokio's clock, which tests pause and the simulator advances.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Clock that measures how long the machine has slept.
pub(crate) struct SleepClock {
    /// Returns the nanoseconds by which the clock that includes sleep is ahead of the clock of `Instant`. A time
    /// namespace can make this number negative.
    ahead: Box<dyn Fn() -> i64 + Send + Sync>,
    seen: i64,
}

impl SleepClock {
    /// Returns the sleep clock of this system, or `None` in a simulation and on systems other than Linux and Android.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn from_system() -> Option<Self> {
        // A check every five seconds of a simulated year would make the simulation slow.
        #[cfg(callback_source_simulation)]
        if crate::simulation::is_simulated() {
            return None;
        }
        use rustix::time::{ClockId, clock_gettime};

        // A pause of this thread between the readings of the two clocks makes the result smaller, so the largest of
        // three results is the most accurate. If the clocks were read in the other order, a pause would look like a
        // sleep.
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

    /// Returns how long the machine has slept since the last call that returned `Some`, or `None` for less than 100 ms.
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

/// The shortest difference that is treated as a sleep. A shorter difference may be the time between the readings of the
/// two clocks.
const SHORTEST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    #[test]
    fn each_sleep_is_returned_once_and_in_full() {
        let ahead = Arc::new(AtomicI64::new(-5_000_000_000));
        let read = Arc::clone(&ahead);
        let mut clock = SleepClock::new(move || read.load(Ordering::Relaxed));
        assert_eq!(clock.slept(), None);
        // Two short sleeps add up to a difference that is long enough.
        ahead.fetch_add(60_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), None);
        ahead.fetch_add(60_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), Some(Duration::from_millis(120)));
        assert_eq!(clock.slept(), None);
        ahead.fetch_add(3_600_000_000_000, Ordering::Relaxed);
        assert_eq!(clock.slept(), Some(Duration::from_secs(3600)));
        ahead.fetch_add(99_999_999, Ordering::Relaxed);
        assert_eq!(clock.slept(), None);
        ahead.fetch_add(1, Ordering::Relaxed);
        assert_eq!(clock.slept(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_backward_reading_is_not_followed_by_a_sleep() {
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
    fn a_machine_that_is_awake_has_not_slept() {
        let mut clock = SleepClock::from_system().unwrap();
        for _ in 0..10_000 {
            assert_eq!(clock.slept(), None);
        }
    }
}
