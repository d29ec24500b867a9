//! Events of the journal.

use std::{net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Id, which increases from line to line, even if the clock was set back.
    pub(crate) id: u64,
    pub(crate) at: String,
    #[serde(flatten)]
    pub(crate) event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    Started {
        version: String,
        hosts: Vec<String>,
        networks: Vec<String>,
        report_only: bool,
    },
    Stopped {},
    Reloaded {
        changed: Vec<String>,
    },
    ReloadRefused {
        error: String,
    },
    /// The wall clock is at least a minute behind the time of the previous event.
    ClockSetBack {
        seconds: u64,
    },
    /// An address is admitted.
    Added {
        host: String,
        address: IpAddr,
    },
    /// An address left the answer, and lingers.
    Left {
        host: String,
        address: IpAddr,
    },
    /// An address that lingered is in the answer again.
    Returned {
        host: String,
        address: IpAddr,
    },
    /// An address is no longer admitted.
    Removed {
        host: String,
        address: IpAddr,
    },
    OutageBegan {
        host: String,
        record_type: String,
        error: String,
    },
    OutageEnded {
        host: String,
        record_type: String,
        seconds: u64,
    },
    /// Refusals of one peer for one reason. An event without a peer counts the refusals of many peers, or of a peer
    /// whose address was removed after the time of `--journal-keep`.
    Refused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<IpAddr>,
        reason: String,
        count: u64,
        first: String,
        last: String,
    },
    /// A peer that was refused earlier appears in an answer now.
    RefusedThenListed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<IpAddr>,
        host: String,
        refusals: u64,
        last_refused: String,
    },
}

impl Entry {
    pub(crate) fn time(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.at).ok()
    }

    /// Returns the address of the peer or server in the event, if there is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match &self.event {
            Event::Added { address, .. }
            | Event::Left { address, .. }
            | Event::Returned { address, .. }
            | Event::Removed { address, .. } => Some(*address),
            Event::Refused { peer, .. } | Event::RefusedThenListed { peer, .. } => *peer,
            _ => None,
        }
    }

    /// Removes the address of the peer, and returns whether the event had such an address.
    pub(super) fn forget_peer(&mut self) -> bool {
        match &mut self.event {
            Event::Refused { peer, .. } | Event::RefusedThenListed { peer, .. } => {
                peer.take().is_some()
            }
            _ => false,
        }
    }
}

/// Conditions by which lines are selected.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) since: Option<SystemTime>,
    pub(super) peer: Option<IpAddr>,
    /// Id of the last line that the reader already has.
    pub(super) after: Option<u64>,
}

impl Selection {
    pub(super) fn includes(&self, entry: &Entry) -> bool {
        let peer = self.peer.map(|peer| peer.to_canonical());
        self.since
            .is_none_or(|since| entry.time().is_none_or(|at| since <= at))
            && self.after.is_none_or(|after| after < entry.id)
            && (peer.is_none() || entry.address().map(|address| address.to_canonical()) == peer)
    }
}

pub(crate) fn time_text(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
