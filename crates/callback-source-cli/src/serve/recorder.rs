//! Records changes of the list and refusals of callers in the journal.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use callback_source::{AllowList, set::HostHealth};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::status::VerdictCounts;
use crate::journal::{Entry, Event, Journal};

/// Recorder that compares the list with the last state in the journal.
#[derive(Debug)]
pub(super) struct Recorder {
    list: AllowList,
    journal: Journal,
    counts: Arc<VerdictCounts>,
}

impl Recorder {
    pub(super) fn new(list: AllowList, journal: Journal, counts: Arc<VerdictCounts>) -> Self {
        Self {
            list,
            journal,
            counts,
        }
    }

    /// Records changes every second and refusals every minute, forever.
    pub(super) async fn run(self) {
        let entries = self.journal.entries(None).await.into_iter();
        // A change that happened while the server was down is recorded. An unchanged address is not recorded again.
        let mut known = View::replay(entries, Instant::now().into_std(), SystemTime::now());
        // Until every question has had a result, the list may lack an address that the provider still uses.
        self.list.attempted().await;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u64.. {
            ticks.tick().await;
            let now = Instant::now().into_std();
            let mut current = View::new(&self.list.health(), now);
            current.keep_starts(&known);
            for event in known.differences(&current, now) {
                let listed = match &event {
                    Event::Added { host, address } => {
                        self.counts.refusals().take_listed(*address, host)
                    }
                    _ => None,
                };
                self.journal.record(event);
                if let Some(listed) = listed {
                    self.journal.record(listed);
                }
            }
            known = current;
            if tick % REFUSALS_EVERY == 0 {
                record_refusals(&self.journal, &self.counts);
            }
        }
    }
}

/// Records the refusals since the last call.
pub(super) fn record_refusals(journal: &Journal, counts: &VerdictCounts) {
    for event in counts.refusals().take() {
        journal.record(event);
    }
}

/// Part of the list's state whose changes are recorded in the journal.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    admitted: BTreeSet<(String, IpAddr)>,
    /// Addresses that are admitted although no answer in use contains them.
    lingering: BTreeSet<(String, IpAddr)>,
    /// Questions that fail, by host and record type.
    failing: BTreeMap<(String, String), Outage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Outage {
    since: std::time::Instant,
    error: String,
}

impl View {
    fn new(hosts: &[HostHealth], now: std::time::Instant) -> Self {
        let mut view = Self::default();
        for host in hosts {
            let name = host.host.to_string();
            for address in &host.addresses {
                let entry = (name.clone(), *address);
                let mut families = host.families.iter();
                if !families.any(|family| family.addresses.contains(address)) {
                    view.lingering.insert(entry.clone());
                }
                view.admitted.insert(entry);
            }
            for family in &host.families {
                let Some(since) = family.failing_since else {
                    continue;
                };
                // A single lost packet is not an outage.
                if now.saturating_duration_since(since) < OUTAGE_AFTER {
                    continue;
                }
                let error = family.last_error.as_ref().map(ToString::to_string);
                let outage = Outage {
                    since,
                    error: error.unwrap_or_default(),
                };
                view.failing
                    .insert((name.clone(), family.family.to_string()), outage);
            }
        }
        view
    }

    /// Returns the state at the end of a journal. `now` and `wall` are the same moment.
    fn replay(
        entries: impl Iterator<Item = Entry>,
        now: std::time::Instant,
        wall: SystemTime,
    ) -> Self {
        let mut view = Self::default();
        for entry in entries {
            let at = entry.time();
            match entry.event {
                Event::Added { host, address } => {
                    view.admitted.insert((host, address));
                }
                Event::Left { host, address } => {
                    view.lingering.insert((host, address));
                }
                Event::Returned { host, address } => {
                    view.lingering.remove(&(host, address));
                }
                Event::Removed { host, address } => {
                    let entry = (host, address);
                    view.admitted.remove(&entry);
                    view.lingering.remove(&entry);
                }
                Event::OutageBegan {
                    host,
                    record_type,
                    error,
                } => {
                    let ago = at.and_then(|at| wall.duration_since(at).ok());
                    let since = now.checked_sub(ago.unwrap_or_default()).unwrap_or(now);
                    let outage = Outage { since, error };
                    view.failing.insert((host, record_type), outage);
                }
                Event::OutageEnded {
                    host, record_type, ..
                } => {
                    view.failing.remove(&(host, record_type));
                }
                _ => {}
            }
        }
        view
    }

    /// Takes over the start of each outage that continues. An outage from before a restart began earlier than its first
    /// failure in this process.
    fn keep_starts(&mut self, known: &Self) {
        for (question, outage) in &mut self.failing {
            if let Some(known) = known.failing.get(question) {
                outage.since = outage.since.min(known.since);
            }
        }
    }

    fn differences(&self, new: &Self, now: std::time::Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (host, address) in new.admitted.difference(&self.admitted) {
            events.push(Event::Added {
                host: host.clone(),
                address: *address,
            });
        }
        for (host, address) in new.lingering.difference(&self.lingering) {
            events.push(Event::Left {
                host: host.clone(),
                address: *address,
            });
        }
        for (host, address) in self.lingering.difference(&new.lingering) {
            if new.admitted.contains(&(host.clone(), *address)) {
                events.push(Event::Returned {
                    host: host.clone(),
                    address: *address,
                });
            }
        }
        for (host, address) in self.admitted.difference(&new.admitted) {
            events.push(Event::Removed {
                host: host.clone(),
                address: *address,
            });
        }
        for ((host, record_type), outage) in &new.failing {
            if !self
                .failing
                .contains_key(&(host.clone(), record_type.clone()))
            {
                events.push(Event::OutageBegan {
                    host: host.clone(),
                    record_type: record_type.clone(),
                    error: outage.error.clone(),
                });
            }
        }
        for ((host, record_type), outage) in &self.failing {
            if !new
                .failing
                .contains_key(&(host.clone(), record_type.clone()))
            {
                events.push(Event::OutageEnded {
                    host: host.clone(),
                    record_type: record_type.clone(),
                    seconds: now.saturating_duration_since(outage.since).as_secs(),
                });
            }
        }
        events
    }
}

const INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which refusals are recorded, in ticks of `INTERVAL`.
const REFUSALS_EVERY: u64 = 60;

/// Time after which the failures of a question are an outage. By default, a question usually fails twice in this time.
const OUTAGE_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn view(admitted: &[&str], lingering: &[&str]) -> View {
        let entries = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            addresses
                .map(|address| ("a.example".to_owned(), address))
                .collect()
        };
        View {
            admitted: entries(admitted),
            lingering: entries(lingering),
            failing: BTreeMap::new(),
        }
    }

    fn names(events: &[Event]) -> Vec<String> {
        let values = events
            .iter()
            .map(|event| serde_json::to_value(event).unwrap());
        values
            .map(|value| format!("{} {}", value["event"], value["address"]).replace('"', ""))
            .collect()
    }

    #[test]
    fn a_rotation_is_recorded_from_added_to_removed() {
        let now = Instant::now().into_std();
        let steps = [
            view(&["20.0.0.1"], &[]),
            view(&["20.0.0.1", "20.0.0.2"], &["20.0.0.1"]),
            view(&["20.0.0.1", "20.0.0.2"], &[]),
            view(&["20.0.0.1", "20.0.0.2"], &["20.0.0.1"]),
            view(&["20.0.0.2"], &[]),
        ];
        let mut events = View::default().differences(&steps[0], now);
        for pair in steps.windows(2) {
            events.extend(pair[0].differences(&pair[1], now));
        }
        assert_eq!(
            names(&events),
            [
                "added 20.0.0.1",
                "added 20.0.0.2",
                "left 20.0.0.1",
                "returned 20.0.0.1",
                "left 20.0.0.1",
                "removed 20.0.0.1",
            ]
        );
        // After a restart, the recorder knows the state from the journal, and records only changes.
        let entries = events.into_iter().zip(1..).map(|(event, id)| Entry {
            id,
            at: String::new(),
            event,
        });
        let known = View::replay(entries, now, SystemTime::now());
        assert_eq!(known.differences(&steps[4], now), []);
    }

    #[test]
    fn an_outage_is_recorded_with_its_length_also_across_a_restart() {
        let start = Instant::now().into_std();
        let after = |seconds| start + Duration::from_secs(seconds);
        let failing = |since| {
            let error = "timeout".to_owned();
            let question = ("a.example".to_owned(), "A".to_owned());
            View {
                failing: BTreeMap::from([(question, Outage { since, error })]),
                ..View::default()
            }
        };
        let length = |before: &View, seconds| match before
            .differences(&View::default(), after(seconds))[..]
        {
            [Event::OutageEnded { seconds, .. }] => seconds,
            ref other => panic!("{other:?}"),
        };
        let began = View::default().differences(&failing(start), start);
        assert_eq!(names(&began), ["outage-began null"]);
        assert_eq!(length(&failing(start), 90), 90);

        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let entry = Entry {
            id: 1,
            at: crate::journal::time_text(wall),
            event: began[0].clone(),
        };
        let restarted = wall + Duration::from_secs(60);
        let known = View::replay([entry].into_iter(), after(60), restarted);
        assert_eq!(length(&known, 90), 90);
        let mut current = failing(after(70));
        current.keep_starts(&known);
        assert_eq!(length(&current, 100), 100);
    }
}
