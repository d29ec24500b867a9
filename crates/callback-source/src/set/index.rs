//! What a request reads: every admitted address with the time until which it is.

use std::{cmp::Reverse, net::IpAddr, time::Instant};

use crate::{
    Family, Freshness, HostName,
    set::address_table::{AddressTable, Key},
};

/// AddressTable addresses, and the spans of time in which every host is known, by family.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    v4: AddressTable<u32, Admission>,
    v6: AddressTable<u128, Admission>,
    known: [Known; 2],
}

/// The spans of time in which every host is known for a family. There is one, unless a host is given
/// up, so the first is in place: reading it follows no pointer.
#[derive(Clone, Debug)]
struct Known {
    first: Validity,
    later: Box<[Validity]>,
}

/// One reason to admit one address. An address can have several, the best first.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) address: IpAddr,
    pub(crate) freshness: Freshness,
    pub(crate) host: HostName,
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

/// A half-open span of time; `None` is unbounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) from: Option<Instant>,
    pub(crate) until: Option<Instant>,
}

impl Index {
    /// `known` gives the spans in which every host is known, by family.
    pub(crate) fn new(rows: Vec<Admission>, known: [Vec<Validity>; 2], now: Instant) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for row in rows {
            match row.address {
                IpAddr::V4(address) => v4.push((address.to_bits(), row)),
                IpAddr::V6(address) => v6.push((address.to_bits(), row)),
            }
        }
        Self {
            v4: sort(v4),
            v6: sort(v6),
            known: known.map(|spans| Known::new(spans, now)),
        }
    }

    /// The best reason to admit a peer, whose address must be in canonical form.
    pub(crate) fn find(&self, peer: IpAddr, now: Instant) -> Option<&Admission> {
        match peer {
            IpAddr::V4(peer) => find(&self.v4, peer.to_bits(), now),
            IpAddr::V6(peer) => find(&self.v6, peer.to_bits(), now),
        }
    }

    /// Whether every host is known for the family of a peer, whose address must be in canonical form,
    /// so that "not listed" can be said.
    pub(crate) fn is_known(&self, peer: IpAddr, now: Instant) -> bool {
        let family = match peer {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let known = &self.known[family as usize];
        #[cfg(callback_source_simulation)]
        let known = match crate::simulation::planted(crate::simulation::Fault::FamiliesSwapped) {
            true => &self.known[1 - family as usize],
            false => known,
        };
        known.first.contains(now) || known.later.iter().any(|span| span.contains(now))
    }

    /// Every row, those whose time is over included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Admission> {
        self.v4.iter().chain(self.v6.iter())
    }
}

/// Sorts by address, and the best reason of an address to the end.
fn sort<K: Key>(mut rows: Vec<(K, Admission)>) -> AddressTable<K, Admission> {
    // Of two hosts that are as good a reason, the first is named.
    rows.reverse();
    rows.sort_by_key(|(key, row)| (*key, Reverse(row.freshness)));
    AddressTable::new(rows)
}

fn find<K: Key>(rows: &AddressTable<K, Admission>, peer: K, now: Instant) -> Option<&Admission> {
    let listed = rows.up_to(peer).iter().rev();
    #[cfg(callback_source_simulation)]
    if crate::simulation::planted(crate::simulation::Fault::WindowEndIncluded) {
        let mut listed = listed.take_while(|(address, _)| *address == peer);
        return listed.find(|(_, row)| now <= row.until).map(|(_, row)| row);
    }
    listed
        .take_while(|(address, _)| *address == peer)
        .map(|(_, row)| row)
        .find(|row| now < row.until)
}

impl Known {
    fn new(spans: Vec<Validity>, now: Instant) -> Self {
        let never = Validity {
            from: Some(now),
            until: Some(now),
        };
        let mut spans = spans.into_iter();
        Self {
            first: spans.next().unwrap_or(never),
            later: spans.collect(),
        }
    }
}

impl Validity {
    pub(crate) const ALWAYS: Self = Self {
        from: None,
        until: None,
    };

    pub(crate) fn until(until: Instant) -> Self {
        Self {
            until: Some(until),
            ..Self::ALWAYS
        }
    }

    /// The spans that both have in common.
    pub(crate) fn in_both(one: &[Self], other: &[Self]) -> Vec<Self> {
        let pairs = one
            .iter()
            .flat_map(|one| other.iter().map(|other| one.and(*other)));
        pairs.filter(|span| !span.is_empty()).collect()
    }

    fn and(self, other: Self) -> Self {
        let until = match (self.until, other.until) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        Self {
            from: self.from.max(other.from),
            until,
        }
    }

    fn is_empty(self) -> bool {
        matches!((self.from, self.until), (Some(from), Some(until)) if until <= from)
    }

    pub(crate) fn contains(self, now: Instant) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}
