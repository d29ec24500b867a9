//! All counters and gauges of the library. Without the feature `metrics`, the functions of this module do nothing.
//!
//! Callers and DNS cannot add series, because the name of a list is the only label value that is not a constant. A
//! recorder may be installed after the first list is built. Such a recorder misses the initial zeros of the counters.
#![cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "the functions below do nothing")
)]

#[cfg(feature = "metrics")]
mod recorded;

use std::time::Instant;

#[cfg(feature = "metrics")]
pub(crate) use self::recorded::ListMetrics;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::unrecorded::ListMetrics;

/// Gauges of a set.
#[cfg_attr(
    not(any(feature = "metrics", test)),
    expect(dead_code, reason = "not recorded")
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetGauges {
    pub(crate) addresses: usize,
    /// Time of the newest answer in use.
    pub(crate) last_answer: Option<Instant>,
    /// Time of the oldest answer in use.
    pub(crate) oldest_answer: Option<Instant>,
}

/// Registers the counters of the message checks.
#[cfg(feature = "signature")]
pub(crate) fn register_messages() {
    #[cfg(feature = "metrics")]
    recorded::register_messages();
}

/// Counts a verdict of a message check: `valid`, or the reason for the rejection.
#[cfg(feature = "signature")]
pub(crate) fn message_verdict(verdict: &'static str) {
    #[cfg(feature = "metrics")]
    recorded::message_verdict(verdict);
}

/// Registers the counters of the PROXY protocol.
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(crate) fn register_proxy_headers() {
    #[cfg(feature = "metrics")]
    recorded::register_proxy_headers();
}

/// Counts a failure of the store of replay marks.
#[cfg(feature = "signature")]
pub(crate) fn replay_store_failure() {
    #[cfg(feature = "metrics")]
    recorded::replay_store_failure();
}

/// Counts an attempt to read the PROXY protocol header of a trusted proxy, by the outcome of the attempt.
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(crate) fn proxy_header(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    recorded::proxy_header(outcome);
}

#[cfg(not(feature = "metrics"))]
mod unrecorded {
    use std::time::Instant;

    use super::SetGauges;

    /// Metrics of one list.
    #[derive(Debug)]
    pub(crate) struct ListMetrics;

    impl ListMetrics {
        pub(crate) fn new(name: &str, now: Instant) -> Self {
            Self
        }

        pub(crate) fn allowed(&self, now: Instant) {}

        pub(crate) fn rejected(&self, reason: &'static str) {}

        pub(crate) fn changed(&self) {}

        pub(crate) fn refused_then_listed(&self) {}

        pub(crate) fn lookup(&self, outcome: &'static str) {}

        pub(crate) fn set(&self, gauges: impl FnOnce() -> SetGauges, now: Instant) {}
    }
}
