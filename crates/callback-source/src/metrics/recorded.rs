//! Metrics that are recorded with the feature `metrics`.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

#[cfg(any(
    feature = "signature",
    all(feature = "axum", feature = "proxy-protocol")
))]
use metrics::counter;
use metrics::{Key, KeyName, Label, Level, Metadata, Unit, with_recorder};

use super::SetGauges;

/// Metrics of one list.
///
/// The keys are built once, so that a request allocates nothing for its metrics. The recorder is looked up at each use,
/// as in the macros of `metrics`, since it may be installed after the list is built.
#[derive(Debug)]
pub(crate) struct ListMetrics {
    name: String,
    verdicts: Vec<(&'static str, Key)>,
    lookups: Vec<(&'static str, Key)>,
    changes: Key,
    refused_then_listed: Key,
    addresses: Key,
    last_answer: Key,
    oldest_answer: Key,
    last_admitted: Key,
    epoch: Instant,
    /// Whole seconds from `epoch` to the last admission, plus one. Zero before the first admission.
    admitted_at: AtomicU64,
}

impl ListMetrics {
    /// Registers the metrics of a list, with the counters at zero. If another list has the same name, a number is
    /// appended to the name of this list.
    pub(crate) fn new(name: &str, now: Instant) -> Self {
        let name = claim(name);
        let key = |metric| Key::from_parts(metric, vec![list(&name)]);
        let keys = |metric, label: &'static str, values: &'static [&'static str]| {
            let key = |value| {
                let labels = vec![list(&name), Label::from_static_parts(label, value)];
                (value, Key::from_parts(metric, labels))
            };
            values.iter().copied().map(key).collect::<Vec<_>>()
        };
        let metrics = Self {
            verdicts: keys(VERDICTS_TOTAL, "verdict", VERDICTS),
            lookups: keys(LOOKUPS_TOTAL, "outcome", LOOKUPS),
            changes: key(CHANGES_TOTAL),
            refused_then_listed: key(REFUSED_THEN_LISTED_TOTAL),
            addresses: key(ADDRESSES),
            last_answer: key(LAST_ANSWER),
            oldest_answer: key(OLDEST_ANSWER),
            last_admitted: key(LAST_ADMITTED),
            epoch: now,
            admitted_at: AtomicU64::new(0),
            name,
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        for (metric, description) in [
            (VERDICTS_TOTAL, "Verdicts of the source check on requests."),
            (LOOKUPS_TOTAL, "Lookups of the hosts that are admitted."),
            (CHANGES_TOTAL, "Changes of the addresses of a host."),
            (
                REFUSED_THEN_LISTED_TOTAL,
                "Addresses that were refused with 403 and joined a host's answers within the linger window after \
                 that: genuine callbacks may have been refused.",
            ),
        ] {
            describe_counter(metric, description);
        }
        for (metric, unit, description) in [
            (
                ADDRESSES,
                Unit::Count,
                "Addresses that DNS admits at this moment.",
            ),
            (
                LAST_ANSWER,
                Unit::Seconds,
                "Unix time of the newest answer of DNS that is in use; 0 while there is none.",
            ),
            (
                OLDEST_ANSWER,
                Unit::Seconds,
                "Unix time of the oldest of the answers that are in use, one of each question; 0 while there is \
                 none.",
            ),
            (
                LAST_ADMITTED,
                Unit::Seconds,
                "Unix time of the last request that the source check admitted; 0 before the first.",
            ),
        ] {
            describe_gauge(metric, unit, description);
        }
        let verdicts = self.verdicts.iter().map(|(_, key)| key);
        let lookups = self.lookups.iter().map(|(_, key)| key);
        let counters = verdicts.chain(lookups);
        for key in counters.chain([&self.changes, &self.refused_then_listed]) {
            count(key, 0);
        }
        for key in [
            &self.addresses,
            &self.last_answer,
            &self.oldest_answer,
            &self.last_admitted,
        ] {
            set(key, 0.0);
        }
    }

    /// Counts an admission by the source check.
    pub(crate) fn allowed(&self, now: Instant) {
        count(&self.verdicts[0].1, 1);
        // The wall clock is read at most once a second.
        let second = now.saturating_duration_since(self.epoch).as_secs() + 1;
        if self.admitted_at.load(Ordering::Relaxed) != second {
            self.admitted_at.store(second, Ordering::Relaxed);
            set(&self.last_admitted, unix_seconds(now, now));
        }
    }

    /// Counts a rejection by the source check, with its reason.
    pub(crate) fn rejected(&self, reason: &'static str) {
        count_one_of(&self.verdicts, reason);
    }

    /// Counts a change of the addresses of a host.
    pub(crate) fn changed(&self) {
        count(&self.changes, 1);
    }

    /// Counts an address that was refused and is now listed.
    pub(crate) fn refused_then_listed(&self) {
        count(&self.refused_then_listed, 1);
    }

    /// Counts a lookup by its outcome: `answer`, or the kind of the error.
    pub(crate) fn lookup(&self, outcome: &'static str) {
        let outcome = match LOOKUPS.contains(&outcome) {
            true => outcome,
            false => "other",
        };
        count_one_of(&self.lookups, outcome);
    }

    /// Updates the gauges of the set.
    pub(crate) fn set(&self, gauges: impl FnOnce() -> SetGauges, now: Instant) {
        let gauges = gauges();
        let time = |at: Option<Instant>| at.map_or(0.0, |at| unix_seconds(at, now));
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        set(&self.addresses, gauges.addresses as f64);
        set(&self.last_answer, time(gauges.last_answer));
        set(&self.oldest_answer, time(gauges.oldest_answer));
    }
}

impl Drop for ListMetrics {
    fn drop(&mut self) {
        names().remove(&self.name);
    }
}

#[cfg(feature = "signature")]
pub(super) fn register_messages() {
    describe_counter(
        MESSAGES_TOTAL,
        "Verdicts of the message checks on requests.",
    );
    for verdict in MESSAGES {
        counter!(MESSAGES_TOTAL, "verdict" => *verdict).increment(0);
    }
    describe_counter(
        REPLAY_STORE_FAILURES_TOTAL,
        "Failures of the store of replay marks.",
    );
    counter!(REPLAY_STORE_FAILURES_TOTAL).increment(0);
}

#[cfg(feature = "signature")]
pub(super) fn replay_store_failure() {
    counter!(REPLAY_STORE_FAILURES_TOTAL).increment(1);
}

#[cfg(feature = "signature")]
pub(super) fn message_verdict(verdict: &'static str) {
    let verdict = match verdict {
        "missing-header" => "missing",
        "duplicate-header" | "malformed-header" | "algorithm" | "signed-headers" => "malformed",
        "date-stale" | "date-ahead" => "date",
        "signature" | "content-hash" | "token" => "invalid",
        "body-too-large" | "body-timeout" | "body-aborted" => "body",
        "secret-unavailable" | "replay-store-unavailable" => "unavailable",
        verdict => verdict,
    };
    counter!(MESSAGES_TOTAL, "verdict" => verdict).increment(1);
}

#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(super) fn register_proxy_headers() {
    describe_counter(
        PROXY_HEADERS_TOTAL,
        "Connections of trusted proxies, by the content of their PROXY protocol header.",
    );
    for outcome in PROXY_HEADERS {
        counter!(PROXY_HEADERS_TOTAL, "outcome" => *outcome).increment(0);
    }
}

#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
pub(super) fn proxy_header(outcome: &'static str) {
    let outcome = match PROXY_HEADERS.contains(&outcome) {
        true => outcome,
        false => "invalid",
    };
    counter!(PROXY_HEADERS_TOTAL, "outcome" => outcome).increment(1);
}

fn list(name: &str) -> Label {
    Label::new("list", name.to_owned())
}

/// Reserves a name that no other existing list has.
fn claim(name: &str) -> String {
    let mut names = names();
    let numbered = (2..).map(|number: u64| format!("{name}-{number}"));
    let free = std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| !names.contains(name));
    let name = free.expect("there are more numbers than lists");
    names.insert(name.clone());
    name
}

fn names() -> MutexGuard<'static, BTreeSet<String>> {
    static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_one_of(keys: &[(&'static str, Key)], value: &'static str) {
    if let Some((_, key)) = keys.iter().find(|(of, _)| *of == value) {
        count(key, 1);
    }
}

fn count(key: &Key, by: u64) {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(by));
}

fn set(key: &Key, value: f64) {
    with_recorder(|recorder| recorder.register_gauge(key, &METADATA).set(value));
}

fn describe_counter(metric: &'static str, description: &'static str) {
    with_recorder(|recorder| {
        let name = KeyName::from_const_str(metric);
        recorder.describe_counter(name, Some(Unit::Count), description.into());
    });
}

fn describe_gauge(metric: &'static str, unit: Unit, description: &'static str) {
    with_recorder(|recorder| {
        let name = KeyName::from_const_str(metric);
        recorder.describe_gauge(name, Some(unit), description.into());
    });
}

/// Returns the Unix time of an instant.
fn unix_seconds(at: Instant, now: Instant) -> f64 {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH);
    let utc = utc.unwrap_or_default();
    let ago = now.saturating_duration_since(at);
    utc.saturating_sub(ago).as_secs_f64()
}

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

const VERDICTS_TOTAL: &str = "callback_source_verdicts_total";
const LOOKUPS_TOTAL: &str = "callback_source_lookups_total";
const CHANGES_TOTAL: &str = "callback_source_changes_total";
const REFUSED_THEN_LISTED_TOTAL: &str = "callback_source_refused_then_listed_total";
const ADDRESSES: &str = "callback_source_addresses";
const LAST_ANSWER: &str = "callback_source_last_answer_timestamp_seconds";
const OLDEST_ANSWER: &str = "callback_source_oldest_answer_timestamp_seconds";
const LAST_ADMITTED: &str = "callback_source_last_admitted_timestamp_seconds";
#[cfg(feature = "signature")]
const REPLAY_STORE_FAILURES_TOTAL: &str = "callback_source_replay_store_failures_total";
#[cfg(feature = "signature")]
const MESSAGES_TOTAL: &str = "callback_source_proofs_total";
#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
const PROXY_HEADERS_TOTAL: &str = "callback_source_proxy_headers_total";

/// Values of the label `verdict` of the source check. `allow` is the first value, because `allowed` uses the index 0.
const VERDICTS: &[&str] = &[
    "allow",
    "not-listed",
    "wrong-environment",
    "unresolved",
    "no-peer",
    "forwarded-missing",
    "forwarded-malformed",
    "all-trusted",
    "too-many-hops",
    "duplicate",
];

/// Values of the label `outcome` of lookups. The log shows the exact reason for an outcome that is counted as `other`.
const LOOKUPS: &[&str] = &[
    "answer", "nxdomain", "no-data", "servfail", "refused", "timeout", "network", "other",
];

#[cfg(feature = "signature")]
const MESSAGES: &[&str] = &[
    "valid",
    "missing",
    "malformed",
    "date",
    "invalid",
    "unknown-key",
    "replay",
    "body",
    "unavailable",
];

#[cfg(all(feature = "axum", feature = "proxy-protocol"))]
const PROXY_HEADERS: &[&str] = &["client", "local", "none", "closed", "timed-out", "invalid"];
