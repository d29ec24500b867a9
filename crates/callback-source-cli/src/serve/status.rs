//! `/status.json`: state of the list and of the server.
//!
//! The response contains hosts, addresses and errors, so only operators may read it: see [`endpoint`](super::endpoint)
//! and `is_local` in [`app`](super::app).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use callback_source::{AllowList, HostName, Rejection, RejectionKind};
use ipnet::IpNet;
use serde::Serialize;
use tokio::time::Instant;

use super::refusals::Refusals;
use crate::{
    follow::{FollowStatus, TargetStatus},
    log,
    report::HostReport,
};

/// Number of verdicts by kind, and the refusals that have not been written to the journal yet.
#[derive(Debug)]
pub(super) struct VerdictCounts {
    kinds: Mutex<BTreeMap<&'static str, u64>>,
    refusals: Refusals,
}

impl VerdictCounts {
    pub(super) fn allowed(&self) {
        self.count("allow");
    }

    pub(super) fn rejected(&self, rejection: &Rejection) {
        self.count(rejection.kind().as_str());
        self.refusals.record(rejection, SystemTime::now());
    }

    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    fn count(&self, verdict: &'static str) {
        let mut counts = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(verdict).or_default() += 1;
    }

    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Default for VerdictCounts {
    /// Creates the counts. The usual kinds start at zero, so that a monitor finds them.
    fn default() -> Self {
        let kinds = [
            "allow",
            RejectionKind::NotListed.as_str(),
            RejectionKind::WrongEnvironment.as_str(),
            RejectionKind::Unresolved.as_str(),
        ];
        Self {
            kinds: Mutex::new(kinds.map(|kind| (kind, 0)).into()),
            refusals: Refusals::default(),
        }
    }
}

/// Returns the state of the list and of the server as JSON.
pub(super) fn json(
    list: &AllowList,
    counts: &VerdictCounts,
    follow: &FollowStatus,
    report_only: bool,
    journal_events_dropped: u64,
    started: Instant,
) -> serde_json::Result<String> {
    let now = Instant::now().into_std();
    let set = list.snapshot();
    let hosts = list.health();
    serde_json::to_string_pretty(&Status {
        ready: set.is_ready(now),
        report_only,
        uptime_seconds: now.saturating_duration_since(started.into_std()).as_secs(),
        log_lines_dropped: log::dropped(),
        journal_events_dropped,
        verdicts: counts.all(),
        targets: follow.all(),
        refused_then_listed: hosts.iter().map(|host| host.refused_then_listed).sum(),
        addresses: set.addresses(now).into_iter().collect(),
        networks: set.networks().collect(),
        watched: set.watched().map(HostName::as_str).collect(),
        hosts: hosts
            .iter()
            .map(|host| HostReport::new(host, now))
            .collect(),
    })
}

#[derive(Serialize)]
struct Status<'a> {
    ready: bool,
    report_only: bool,
    uptime_seconds: u64,
    log_lines_dropped: u64,
    journal_events_dropped: u64,
    verdicts: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<TargetStatus>,
    /// Number of addresses that were refused with 403, and appeared in an answer within the linger window after the
    /// refusal.
    refused_then_listed: u64,
    addresses: Vec<IpAddr>,
    networks: Vec<IpNet>,
    /// Hosts that are looked up when unlisted peers call. Their addresses are never admitted.
    watched: Vec<&'a str>,
    hosts: Vec<HostReport<'a>>,
}
