//! Refusals that have not been written to the journal yet, by peer and reason.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use callback_source::{Rejection, RejectionKind};

use crate::journal::{Event, time_text};

/// Refusals that are not in the journal yet, and peers that may be listed later. The memory for both is bounded.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tallies: HashMap<(Option<IpAddr>, &'static str), Tally>,
    unlisted: HashMap<IpAddr, Tally>,
    /// The peers of `unlisted`, in the order of their first refusal.
    order: VecDeque<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Tally {
    fn new(at: SystemTime) -> Self {
        Self {
            count: 0,
            first: at,
            last: at,
        }
    }

    fn add(&mut self, at: SystemTime) {
        self.count += 1;
        self.last = at;
    }
}

impl Refusals {
    pub(super) fn record(&self, rejection: &Rejection, at: SystemTime) {
        let peer = rejection.peer().map(|peer| peer.to_canonical());
        let reason = rejection.kind().as_str();
        let mut state = self.state();
        let key = match state.tallies.contains_key(&(peer, reason)) {
            false if state.tallies.len() >= MAX_PEERS => (None, reason),
            _ => (peer, reason),
        };
        state
            .tallies
            .entry(key)
            .or_insert_with(|| Tally::new(at))
            .add(at);
        if rejection.kind() == RejectionKind::NotListed
            && let Some(peer) = peer
        {
            state.remember(peer, at);
        }
    }

    /// Removes and returns the refusals since the last call.
    pub(super) fn take(&self) -> Vec<Event> {
        let tallies = std::mem::take(&mut self.state().tallies);
        let mut tallies: Vec<_> = tallies.into_iter().collect();
        tallies.sort_by_key(|(_, tally)| tally.first);
        let events = tallies
            .into_iter()
            .map(|((peer, reason), tally)| Event::Refused {
                peer,
                reason: reason.to_owned(),
                count: tally.count,
                first: time_text(tally.first),
                last: time_text(tally.last),
            });
        events.collect()
    }

    /// Removes and returns the refusals of a peer that is a server of `host` now.
    pub(super) fn take_listed(&self, address: IpAddr, host: &str) -> Option<Event> {
        let mut state = self.state();
        let tally = state.unlisted.remove(&address)?;
        state.order.retain(|peer| *peer != address);
        Some(Event::RefusedThenListed {
            peer: Some(address),
            host: host.to_owned(),
            refusals: tally.count,
            last_refused: time_text(tally.last),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, peer: IpAddr, at: SystemTime) {
        if !self.unlisted.contains_key(&peer) {
            self.order.push_back(peer);
            if self.order.len() > MAX_UNLISTED
                && let Some(oldest) = self.order.pop_front()
            {
                self.unlisted.remove(&oldest);
            }
        }
        self.unlisted
            .entry(peer)
            .or_insert_with(|| Tally::new(at))
            .add(at);
    }
}

/// Maximum number of pairs of peer and reason per minute that get separate lines. Further refusals share one line per
/// reason.
const MAX_PEERS: usize = 256;

/// Maximum number of refused peers that are remembered. These peers need about 300 KiB.
const MAX_UNLISTED: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use callback_source::AllowList;

    use super::*;

    fn rejection(peer: [u8; 4]) -> Rejection {
        let verdict = AllowList::fixed(["192.0.2.1".parse().unwrap()]).verdict(peer.into());
        verdict.rejection().cloned().unwrap()
    }

    #[test]
    fn refusals_of_one_peer_are_one_event_with_their_times() {
        let refusals = Refusals::default();
        let start = SystemTime::UNIX_EPOCH;
        for seconds in [0, 5, 9] {
            refusals.record(
                &rejection([20, 0, 0, 1]),
                start + Duration::from_secs(seconds),
            );
        }
        let expected = Event::Refused {
            peer: Some([20, 0, 0, 1].into()),
            reason: "not-listed".to_owned(),
            count: 3,
            first: "1970-01-01T00:00:00Z".to_owned(),
            last: "1970-01-01T00:00:09Z".to_owned(),
        };
        assert_eq!(refusals.take(), [expected]);
        assert_eq!(refusals.take(), []);
        let listed = refusals.take_listed([20, 0, 0, 1].into(), "a.example");
        let Some(Event::RefusedThenListed {
            refusals: count, ..
        }) = listed
        else {
            panic!("{listed:?}");
        };
        assert_eq!(count, 3);
        assert_eq!(
            refusals.take_listed([20, 0, 0, 1].into(), "a.example"),
            None
        );
    }

    #[test]
    fn refusals_of_ever_new_peers_use_a_bounded_amount_of_memory() {
        let refusals = Refusals::default();
        let at = SystemTime::UNIX_EPOCH;
        for number in 0..10_000_u32 {
            let [_, b, c, d] = number.to_be_bytes();
            refusals.record(&rejection([20, b, c, d]), at);
        }
        let state = refusals.state();
        assert_eq!(
            (state.unlisted.len(), state.order.len()),
            (MAX_UNLISTED, MAX_UNLISTED)
        );
        drop(state);
        let events = refusals.take();
        assert_eq!(events.len(), MAX_PEERS + 1);
        let counts = events.iter().map(|event| match event {
            Event::Refused { count, .. } => *count,
            _ => 0,
        });
        assert_eq!(counts.sum::<u64>(), 10_000);
    }
}
