//! What a request reads: every admitted address with the time until which it is, and the static
//! networks.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;
use tokio::time::Instant;

use crate::{
    Family, Freshness,
    host_name::Lanes,
    networks::Networks,
    ranges::{Key, Ranges},
};

/// Addresses and networks, and the span of time in which every host is known, by family.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// What admits the addresses of each range, those of IPv4 before those of IPv6.
    reasons: Box<[Reasons]>,
    rows: Box<[Row]>,
    known: [Span; 2],
}

/// One reason to admit one address. An address can have several, the best first.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) address: IpAddr,
    pub(crate) freshness: Freshness,
    pub(crate) host: Lanes,
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

/// Why a peer is admitted.
pub(crate) enum Listed<'a> {
    Row(&'a Row),
    Network(&'a IpNet),
}

/// A half-open span of time; `None` is unbounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Option<Instant>,
    pub(crate) until: Option<Instant>,
}

impl Index {
    /// `known` gives the span in which every host is known, by family.
    pub(crate) fn new(rows: Vec<Row>, networks: &Networks, known: [Span; 2]) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for row in rows {
            match row.address {
                IpAddr::V4(address) => v4.push((address.to_bits(), row)),
                IpAddr::V6(address) => v6.push((address.to_bits(), row)),
            }
        }
        let mut reasons = Vec::new();
        let mut rows = Vec::new();
        Self {
            v4: lay_out(v4, networks.v4(), &mut reasons, &mut rows),
            v6: lay_out(v6, networks.v6(), &mut reasons, &mut rows),
            reasons: reasons.into(),
            rows: rows.into(),
            known,
        }
    }

    /// The best reason to admit a peer: an answer of DNS before a static network.
    pub(crate) fn find(&self, peer: IpAddr, now: Instant) -> Option<Listed<'_>> {
        let at = match canonical(peer) {
            IpAddr::V4(peer) => self.v4.find(peer.to_bits())?,
            IpAddr::V6(peer) => self.v4.len() + self.v6.find(peer.to_bits())?,
        };
        let reasons = self.reasons.get(at)?;
        let rows = self.rows.get(reasons.rows.clone())?;
        match rows.iter().find(|row| now < row.until) {
            Some(row) => Some(Listed::Row(row)),
            None => reasons.network.as_ref().map(Listed::Network),
        }
    }

    /// Whether every host is known for a family, so that "not listed" can be said.
    pub(crate) fn is_known(&self, family: Family, now: Instant) -> bool {
        self.known[family as usize].contains(now)
    }

    /// Every row, those whose time is over included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }
}

/// `IpAddr::to_canonical` on the whole number, which takes half as many instructions as byte by byte.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0xffff => IpAddr::V4((v6.to_bits() as u32).into()),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

#[derive(Clone, Debug)]
struct Reasons {
    rows: Range<usize>,
    network: Option<IpNet>,
}

/// The addresses and networks of one family in one search: each address is a range of its own, which
/// parts the network that it lies in.
fn lay_out<K: Key>(
    mut addresses: Vec<(K, Row)>,
    networks: impl Iterator<Item = (K, K, IpNet)>,
    reasons: &mut Vec<Reasons>,
    rows: &mut Vec<Row>,
) -> Ranges<K> {
    addresses.sort_by_key(|(key, row)| (*key, row.freshness));
    let mut ranges = Vec::new();
    let mut push = |first, last, rows, network| {
        ranges.push((first, last));
        reasons.push(Reasons { rows, network });
    };
    let mut end = rows.len();
    let mut groups = addresses
        .chunk_by(|(one, _), (two, _)| one == two)
        .map(|group| {
            let start = end;
            end += group.len();
            (group[0].0, start..end)
        })
        .peekable();
    for (first, last, network) in networks {
        while let Some((address, rows)) = groups.next_if(|(address, _)| *address < first) {
            push(address, address, rows, None);
        }
        let mut rest = Some(first);
        while let Some((address, rows)) = groups.next_if(|(address, _)| *address <= last) {
            if let Some(first) = rest.filter(|first| *first < address) {
                push(first, address.before(), 0..0, Some(network));
            }
            push(address, address, rows, Some(network));
            rest = address.next();
        }
        if let Some(first) = rest.filter(|first| *first <= last) {
            push(first, last, 0..0, Some(network));
        }
    }
    for (address, rows) in groups {
        push(address, address, rows, None);
    }
    rows.extend(addresses.into_iter().map(|(_, row)| row));
    Ranges::new(ranges)
}

impl Span {
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

    pub(crate) fn never(now: Instant) -> Self {
        Self {
            from: Some(now),
            until: Some(now),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        let until = match (self.until, other.until) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        Self {
            from: self.from.max(other.from),
            until,
        }
    }

    fn contains(self, now: Instant) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_in_a_network_falls_back_on_it_when_its_time_is_over() {
        let now = Instant::now();
        let over = now + Duration::from_secs(1);
        let row = |address: &str| Row {
            address: address.parse().unwrap(),
            freshness: Freshness::Fresh,
            host: Lanes::new(&"callback.example.com".parse().unwrap()),
            since: now,
            until: over,
        };
        let listed = [
            "198.18.0.0",
            "198.18.0.7",
            "198.18.0.8",
            "198.18.0.255",
            "198.17.255.255",
            "198.18.2.0",
            "255.255.255.255",
        ];
        let rows = listed.iter().copied().map(row).collect();
        let networks = ["198.18.0.0/24", "198.18.1.5/32", "255.255.255.0/24"];
        let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
        let networks = Networks::new(&networks).unwrap();
        let index = Index::new(rows, &networks, [Span::ALWAYS; 2]);
        let find = |address: &str, now| match index.find(address.parse().unwrap(), now) {
            Some(Listed::Row(row)) => row.address.to_string(),
            Some(Listed::Network(network)) => network.to_string(),
            None => String::from("none"),
        };
        for address in listed {
            assert_eq!(find(address, now), address);
        }
        for (address, network) in [
            ("198.18.0.0", "198.18.0.0/24"),
            ("198.18.0.1", "198.18.0.0/24"),
            ("198.18.0.7", "198.18.0.0/24"),
            ("198.18.0.9", "198.18.0.0/24"),
            ("198.18.0.254", "198.18.0.0/24"),
            ("198.18.0.255", "198.18.0.0/24"),
            ("198.18.1.5", "198.18.1.5/32"),
            ("255.255.255.0", "255.255.255.0/24"),
            ("255.255.255.255", "255.255.255.0/24"),
            ("198.17.255.255", "none"),
            ("198.18.1.4", "none"),
            ("198.18.1.6", "none"),
            ("198.18.2.0", "none"),
            ("0.0.0.0", "none"),
        ] {
            assert_eq!(find(address, over), network, "{address}");
        }
    }
}
