//! Lookup index: admitted addresses with their expiry.
//!
//! Every entry has its own expiry. Verdicts are therefore correct at any time, even if the refresher that removes
//! expired entries has died. There can be several reasons to admit an address: several hosts, or several windows of one
//! host. The index keeps all reasons, since the freshest reason may expire first.
//!
//! The index also stores the spans of time in which every host is resolved, instead of a flag. As time passes, even
//! without a new outcome, the verdict on an unlisted peer can change from
//! [`NotListed`](crate::RejectionKind::NotListed) to [`Unresolved`](crate::RejectionKind::Unresolved), and back.

use std::{cmp::Reverse, net::IpAddr, time::Instant};

use crate::{
    Family, Freshness, HostName,
    set::address_table::{AddressTable, Key},
};

/// Admitted addresses, and the spans of time in which every host is resolved. Apart from the index and the time, a
/// verdict depends only on the static networks and the watched hosts of a set.
#[derive(Clone, Debug)]
pub(super) struct Index {
    v4: AddressTable<u32, Admission>,
    v6: AddressTable<u128, Admission>,
    /// The spans of each family, in the order of [`Family::ALL`].
    resolved: [Resolved; 2],
}

/// Spans of time in which every host is resolved for a family. Unless a host is given up, or soon can be, there is at
/// most one span. The first span is therefore stored inline, so that it can be read without following a pointer.
#[derive(Clone, Debug)]
struct Resolved {
    first: Validity,
    later: Box<[Validity]>,
}

/// One reason to admit one address.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) address: IpAddr,
    pub(super) freshness: Freshness,
    pub(super) host: HostName,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// A half-open span of time. `None` means that the span has no bound on that side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) from: Option<Instant>,
    pub(super) until: Option<Instant>,
}

impl Index {
    /// Creates an index of these admissions. `resolved` contains the spans in which every host is resolved for each
    /// family, in the order of [`Family::ALL`].
    pub(super) fn new(
        admissions: Vec<Admission>,
        resolved: [Vec<Validity>; 2],
        now: Instant,
    ) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for admission in admissions {
            match admission.address {
                IpAddr::V4(address) => v4.push((address.to_bits(), admission)),
                IpAddr::V6(address) => v6.push((address.to_bits(), admission)),
            }
        }
        Self {
            v4: sort(v4),
            v6: sort(v6),
            resolved: resolved.map(|spans| Resolved::new(spans, now)),
        }
    }

    /// Returns the best reason to admit a peer. The address of the peer must be in canonical form.
    pub(super) fn find(&self, peer: IpAddr, now: Instant) -> Option<&Admission> {
        match peer {
            IpAddr::V4(peer) => find(&self.v4, peer.to_bits(), now),
            IpAddr::V6(peer) => find(&self.v6, peer.to_bits(), now),
        }
    }

    /// Returns whether every host is resolved for a family.
    pub(super) fn is_resolved(&self, family: Family, now: Instant) -> bool {
        let resolved = &self.resolved[family as usize];
        #[cfg(callback_source_simulation)]
        let resolved = match crate::simulation::planted(crate::simulation::Fault::FamiliesSwapped) {
            true => &self.resolved[1 - family as usize],
            false => resolved,
        };
        resolved.first.contains(now) || resolved.later.iter().any(|span| span.contains(now))
    }

    /// Returns every reason to admit any address, including expired reasons.
    pub(super) fn admissions(&self) -> impl Iterator<Item = &Admission> {
        self.v4.iter().chain(self.v6.iter())
    }
}

/// Sorts admissions by address, with the best reason for an address last.
fn sort<K: Key>(mut admissions: Vec<(K, Admission)>) -> AddressTable<K, Admission> {
    // If the best reasons of two hosts are equally good, the verdict names the host that is configured first.
    admissions.reverse();
    admissions.sort_by_key(|(key, admission)| (*key, Reverse(admission.freshness)));
    AddressTable::new(admissions)
}

fn find<K: Key>(table: &AddressTable<K, Admission>, peer: K, now: Instant) -> Option<&Admission> {
    let listed = table.up_to(peer).iter().rev();
    let mut reasons = listed
        .take_while(|(address, _)| *address == peer)
        .map(|(_, admission)| admission);
    #[cfg(callback_source_simulation)]
    if crate::simulation::planted(crate::simulation::Fault::WindowEndIncluded) {
        return reasons.find(|admission| now <= admission.until);
    }
    reasons.find(|admission| now < admission.until)
}

/// Returns the addresses that are admitted at a given time, with one item for each reason.
pub(super) fn admitted_at<'a>(
    admissions: impl IntoIterator<Item = &'a Admission>,
    now: Instant,
) -> impl Iterator<Item = IpAddr> {
    let admitted = admissions
        .into_iter()
        .filter(move |admission| now < admission.until);
    admitted.map(|admission| admission.address)
}

impl Resolved {
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
    pub(super) const ALWAYS: Self = Self {
        from: None,
        until: None,
    };

    pub(super) fn until(until: Instant) -> Self {
        Self {
            until: Some(until),
            ..Self::ALWAYS
        }
    }

    /// Returns the intersection of two lists of spans.
    pub(super) fn in_both(one: &[Self], other: &[Self]) -> Vec<Self> {
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

    pub(super) fn contains(self, now: Instant) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_freshest_reason_is_found_and_of_two_equal_ones_the_first_host() {
        let now = now();
        let admission = |host: &str, freshness, seconds| Admission {
            address: IpAddr::from([20, 0, 0, 1]),
            freshness,
            host: host.parse().unwrap(),
            since: now,
            until: now + seconds * SECOND,
        };
        let admissions = vec![
            admission("a.test", Freshness::Lingering, 9),
            admission("b.test", Freshness::Fresh, 5),
            admission("c.test", Freshness::Fresh, 7),
        ];
        let index = Index::new(admissions, Default::default(), now);
        for (second, host) in [
            (0, Some("b.test")),
            (4, Some("b.test")),
            (5, Some("c.test")),
            (7, Some("a.test")),
            (9, None),
        ] {
            let found = index.find([20, 0, 0, 1].into(), now + second * SECOND);
            let found = found.map(|admission| admission.host.as_str());
            assert_eq!(found, host, "after {second} s");
        }
        for beside in [[20, 0, 0, 0], [20, 0, 0, 2]] {
            assert!(index.find(beside.into(), now).is_none());
        }
    }

    #[test]
    fn spans_are_half_open_and_those_that_only_touch_have_nothing_in_common() {
        let now = now();
        let at = |second: u32| now + second * SECOND;
        let span = |from, until| Validity {
            from: Some(at(from)),
            until: Some(at(until)),
        };
        assert!(!span(2, 4).contains(at(1)) && span(2, 4).contains(at(2)));
        assert!(span(2, 4).contains(at(3)) && !span(2, 4).contains(at(4)));
        assert!(Validity::ALWAYS.contains(now) && !Validity::until(at(4)).contains(at(4)));

        let with_gap = [Validity::until(at(3)), span(5, 9)];
        let both = Validity::in_both(&with_gap, &[span(3, 6)]);
        let [only] = both[..] else {
            panic!("{both:?}");
        };
        assert_eq!((only.from, only.until), (Some(at(5)), Some(at(6))));
        assert_eq!(Validity::in_both(&with_gap, &[Validity::ALWAYS]).len(), 2);
    }
}
