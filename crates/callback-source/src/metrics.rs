//! Every counter and gauge of the library. Without the feature `metrics` they do nothing.
#![cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "the macros below expand to nothing")
)]

#[cfg(feature = "metrics")]
use std::time::Duration;

macro_rules! counter {
    ($name:literal $(, $label:literal => $value:expr)?) => {
        #[cfg(feature = "metrics")]
        ::metrics::counter!($name $(, $label => $value)?).increment(1);
    };
}

/// Counts an admission by the source check. Its label is a literal, which does not allocate.
pub(crate) fn source_allowed() {
    counter!("callback_source_verdicts_total", "verdict" => "allow");
}

/// Counts a rejection by the source check, with its reason.
pub(crate) fn source_rejected(reason: &'static str) {
    counter!("callback_source_verdicts_total", "verdict" => reason);
}

/// Counts a verdict of a message check: `valid`, or the reason of the rejection.
#[cfg(feature = "signature")]
pub(crate) fn message_verdict(verdict: &'static str) {
    counter!("callback_source_proofs_total", "verdict" => verdict);
}

/// Counts a failure of the store of replay marks, by the call that failed.
#[cfg(feature = "signature")]
pub(crate) fn replay_store_failure(operation: &'static str) {
    counter!("callback_source_replay_store_failures_total", "operation" => operation);
}

/// Counts a connection of a trusted proxy, by the content of its PROXY protocol header.
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(crate) fn proxy_header(outcome: &'static str) {
    counter!("callback_source_proxy_headers_total", "outcome" => outcome);
}

/// Counts a lookup: `answer`, or the reason of the failure.
#[cfg(feature = "metrics")]
pub(crate) fn lookup(outcome: &'static str) {
    counter!("callback_source_lookups_total", "outcome" => outcome);
}

/// Counts a change of the addresses of a host.
pub(crate) fn set_changed() {
    counter!("callback_source_changes_total");
}

/// Updates the gauges of the set: the number of admitted addresses, and the age of the oldest answer.
#[cfg(feature = "metrics")]
pub(crate) fn set(addresses: usize, oldest_answer: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    ::metrics::gauge!("callback_source_addresses").set(addresses as f64);
    ::metrics::gauge!("callback_source_oldest_answer_age_seconds").set(oldest_answer.as_secs_f64());
}
