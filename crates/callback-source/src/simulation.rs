//! Interface for the simulator: a wall clock that the simulator sets, a network in memory, and faults that the
//! simulator plants.
//!
//! This module is compiled only with `cfg(callback_source_simulation)`. Only the build script of the unpublished
//! package `simulate/library` sets this flag. All state is per thread, since each simulation runs on one thread.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

#[cfg(feature = "hickory")]
pub use self::network::{Network, Response, Sent, set_network};

#[cfg(feature = "hickory")]
pub(crate) mod network;

/// Faults that can be planted in the library, each at one place in the code.
///
/// These faults test the simulator, which must find each fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// An address is still admitted at the exact instant at which its window ends.
    WindowEndIncluded,
    /// The state of the other family decides whether every host is resolved.
    FamiliesSwapped,
    /// The TTL of a restored answer starts anew at the restart.
    RestoredRenewed,
    /// Any current answer is evidence for a denial, whatever its age and zone.
    DenialBelievedEarly,
    /// Each answer restarts the linger window of all lingering addresses of its host.
    LingerRestarted,
    /// The stale window starts with the answer, not with the end of its TTL.
    StaleFromAnswer,
    /// Lingering can end before the answer that omits the address has been refreshed.
    LingerWithoutRefresh,
    /// A question is given up even if it was not asked during its stale window.
    GivenUpByTimeUnasked,
    /// The addresses of removed hosts stay admitted until the next outcome of a question, or the end of a window.
    HostsKept,
    /// A failed lookup removes the last answer.
    FailureForgets,
    /// Special-purpose addresses in an answer are admitted.
    SpecialAdmitted,
    /// A request that needs a lookup does not wake the refresher.
    WakeUpLost,
    /// The request of an unlisted peer does not wait for the refresh.
    JudgedAtOnce,
    /// The answer cache ignores the refresh interval floor.
    RefreshNotShared,
    /// The result of an on-demand refresh is not applied.
    OnDemandAnswerDropped,
    /// The jitter is subtracted from the wait instead of added.
    JitterNegative,
    /// Changed addresses are not saved before a minute has passed since the previous save.
    ChangesSavedLate,
    /// The set is published before the latest change is applied to it.
    PublishedBeforeApplied,
    /// A truncated response is treated as complete.
    TruncatedTaken,
    /// A denial of a name in random letter case is believed without confirmation.
    DenialUnconfirmed,
    /// The addresses of watched hosts are admitted.
    WatchedAdmitted,
    /// Watched hosts are looked up whenever they are due, even if no unlisted peer calls.
    WatchedAskedFreely,
}

impl Fault {
    /// All faults, in the order of their declaration.
    pub const ALL: &[Self] = &[
        Self::WindowEndIncluded,
        Self::FamiliesSwapped,
        Self::RestoredRenewed,
        Self::DenialBelievedEarly,
        Self::LingerRestarted,
        Self::StaleFromAnswer,
        Self::LingerWithoutRefresh,
        Self::GivenUpByTimeUnasked,
        Self::HostsKept,
        Self::FailureForgets,
        Self::SpecialAdmitted,
        Self::WakeUpLost,
        Self::JudgedAtOnce,
        Self::RefreshNotShared,
        Self::OnDemandAnswerDropped,
        Self::JitterNegative,
        Self::ChangesSavedLate,
        Self::PublishedBeforeApplied,
        Self::TruncatedTaken,
        Self::DenialUnconfirmed,
        Self::WatchedAdmitted,
        Self::WatchedAskedFreely,
    ];
}

/// Plants a fault in the library on this thread. `None` removes the planted fault.
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Sets the wall clock of this thread. At the instant `at`, the wall clock shows the time `utc` since the Unix epoch.
/// From that instant on, it advances with tokio's clock.
pub fn set_wall_clock(at: Instant, utc: Duration) {
    WALL_CLOCK.set(Some((at, utc)));
}

/// Returns true if this thread runs a simulation, that is, if its wall clock was set.
pub(crate) fn is_simulated() -> bool {
    WALL_CLOCK.get().is_some()
}

/// Returns `now` as a time since the Unix epoch, if the wall clock of this thread was set.
pub(crate) fn utc(now: Instant) -> Option<Duration> {
    let (at, utc) = WALL_CLOCK.get()?;
    Some(match now.checked_duration_since(at) {
        Some(since) => utc + since,
        None => utc.saturating_sub(at - now),
    })
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    static WALL_CLOCK: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}
