//! Connections, grouped by owner.
//!
//! Whenever a new connection arrives, a full listener searches for a connection to displace. In a flood, it does so
//! thousands of times per second. The shares are therefore kept sorted by size, and the search is bounded.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    idle::{Displaced, IdleTimer},
    owner::Owner,
};

#[derive(Debug, Default)]
pub(super) struct Shares {
    next: u64,
    /// Connections of trusted proxies, and connections whose PROXY header is still unread.
    trusted: Share,
    shares: HashMap<IpAddr, Share>,
    /// Shares of addresses by size. Among shares of equal size, the share with the oldest connection is the last.
    by_size: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    untrusted: usize,
}

/// Connections of one owner, the oldest first.
type Share = BTreeMap<u64, Arc<IdleTimer>>;

impl Shares {
    pub(super) fn len(&self) -> usize {
        self.trusted.len() + self.untrusted
    }

    /// Adds a connection, and returns its number.
    pub(super) fn add(&mut self, owner: Owner, timer: Arc<IdleTimer>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.insert(owner, id, timer);
        id
    }

    pub(super) fn insert(&mut self, owner: Owner, id: u64, timer: Arc<IdleTimer>) {
        match owner {
            Owner::Trusted | Owner::Unknown => {
                self.trusted.insert(id, timer);
            }
            Owner::Address(ip) => {
                let share = self.shares.entry(ip).or_default();
                if let Some(rank) = rank(share, ip) {
                    self.by_size.remove(&rank);
                }
                share.insert(id, timer);
                self.by_size.extend(rank(share, ip));
                self.untrusted += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, owner: Owner, id: u64) {
        match owner {
            Owner::Trusted | Owner::Unknown => {
                self.trusted.remove(&id);
            }
            Owner::Address(ip) => {
                let Some(share) = self.shares.get_mut(&ip) else {
                    return;
                };
                if let Some(rank) = rank(share, ip) {
                    self.by_size.remove(&rank);
                }
                if share.remove(&id).is_some() {
                    self.untrusted -= 1;
                }
                match rank(share, ip) {
                    Some(rank) => {
                        self.by_size.insert(rank);
                    }
                    None => {
                        self.shares.remove(&ip);
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.shares.is_empty() && self.by_size.is_empty()
    }

    /// Displaces a connection that waits for its client, in favour of a new connection of this owner. If none can be
    /// displaced, returns a connection with a request in flight, if there is one.
    pub(super) fn displace(&self, newcomer: Owner) -> Option<&IdleTimer> {
        let Some(&(largest, ..)) = self.by_size.last() else {
            return displace_from([&self.trusted], GRACE);
        };
        let (own, own_size, grace) = match newcomer {
            Owner::Trusted => (None, 0, Duration::ZERO),
            Owner::Unknown => (None, 1, GRACE),
            Owner::Address(ip) => {
                let size = self.shares.get(&ip).map_or(0, BTreeMap::len);
                (Some(ip), size, GRACE)
            }
        };
        let largest = self
            .by_size
            .iter()
            .rev()
            .take_while(|(size, ..)| *size == largest);
        let allowed = largest.filter(|(size, _, ip)| *size > own_size || Some(*ip) == own);
        displace_from(allowed.filter_map(|(.., ip)| self.shares.get(ip)), grace)
    }
}

fn rank(share: &Share, ip: IpAddr) -> Option<(usize, Reverse<u64>, IpAddr)> {
    let (oldest, _) = share.first_key_value()?;
    Some((share.len(), Reverse(*oldest), ip))
}

fn displace_from<'a>(
    shares: impl IntoIterator<Item = &'a Share>,
    grace: Duration,
) -> Option<&'a IdleTimer> {
    let mut in_flight = None;
    let connections = shares.into_iter().flat_map(BTreeMap::values);
    for timer in connections.take(MAX_SEARCHED) {
        match timer.displace_if_idle(grace) {
            Displaced::Now => return None,
            Displaced::RequestInFlight => in_flight = in_flight.or(Some(&**timer)),
            Displaced::Already | Displaced::NotYet => {}
        }
    }
    in_flight
}

/// Maximum number of connections that are searched for an idle connection.
const MAX_SEARCHED: usize = 1_000;

/// Minimum time that a connection has to deliver a request before a new connection can displace it. A new connection of
/// a trusted proxy without a PROXY header displaces the connection of another client at once.
pub(super) const GRACE: Duration = Duration::from_millis(20);
