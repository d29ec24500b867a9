//! Static networks.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::set::address_table::{AddressTable, Key};

/// Networks in canonical form, merged into as few networks as possible.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    /// Networks by their first address, each with its last address.
    v4: AddressTable<u32, (u32, IpNet)>,
    v6: AddressTable<u128, (u128, IpNet)>,
}

impl Networks {
    /// Merges these networks.
    ///
    /// # Errors
    ///
    /// Returns an error if the networks cover a whole address family, alone or together.
    pub(crate) fn new(networks: &[IpNet]) -> Result<Self, NetworkError> {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            match canonical(*network) {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => v6.push(network),
            }
        }
        let v4 = Ipv4Net::aggregate(&v4).into_iter().map(|net| {
            let last = net.broadcast().to_bits();
            (net.network().to_bits(), (last, IpNet::V4(net)))
        });
        let v6 = Ipv6Net::aggregate(&v6).into_iter().map(|net| {
            let last = net.broadcast().to_bits();
            (net.network().to_bits(), (last, IpNet::V6(net)))
        });
        let merged = Self {
            v4: AddressTable::new(v4.collect::<Vec<_>>()),
            v6: AddressTable::new(v6.collect::<Vec<_>>()),
        };
        let whole = merged.iter().find(|network| network.prefix_len() == 0);
        whole.map_or(Ok(merged), |network| Err(NetworkError { network }))
    }

    /// Returns the network that contains an address. The address must be in canonical form.
    pub(crate) fn find(&self, address: IpAddr) -> Option<IpNet> {
        match address {
            IpAddr::V4(address) => find(&self.v4, address.to_bits()),
            IpAddr::V6(address) => find(&self.v6, address.to_bits()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().map(|(_, network)| *network);
        v4.chain(self.v6.iter().map(|(_, network)| *network))
    }
}

/// Union of networks. Each addition checks whether the union covers a whole address family.
///
/// The time to add a network grows only with the logarithm of the number of networks. Merging all networks after each
/// addition would make a long list of networks slow to configure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cover {
    /// Last address of each range, by its first address. Ranges neither overlap nor touch.
    v4: BTreeMap<u128, u128>,
    v6: BTreeMap<u128, u128>,
}

impl Cover {
    /// Adds a network.
    ///
    /// # Errors
    ///
    /// Returns an error if the network, alone or with the networks added before, covers a whole address family.
    pub(crate) fn add(&mut self, network: IpNet) -> Result<(), NetworkError> {
        let (is_whole, whole) = match canonical(network) {
            IpNet::V4(network) => {
                let first = network.network().to_bits().into();
                let last = network.broadcast().to_bits().into();
                let range = add(&mut self.v4, first, last);
                let whole = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
                (range == (0, u32::MAX.into()), IpNet::V4(whole))
            }
            IpNet::V6(network) => {
                let first = network.network().to_bits();
                let last = network.broadcast().to_bits();
                let range = add(&mut self.v6, first, last);
                let whole = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
                (range == (0, u128::MAX), IpNet::V6(whole))
            }
        };
        match is_whole {
            true => Err(NetworkError { network: whole }),
            false => Ok(()),
        }
    }
}

/// Adds a range and returns the merged range that contains it.
fn add(ranges: &mut BTreeMap<u128, u128>, mut first: u128, mut last: u128) -> (u128, u128) {
    let touching = |ranges: &BTreeMap<u128, u128>, last: u128| {
        let (at, end) = ranges.range(..=last.saturating_add(1)).next_back()?;
        Some((*at, *end))
    };
    while let Some((at, end)) = touching(ranges, last)
        && first <= end.saturating_add(1)
    {
        ranges.remove(&at);
        first = first.min(at);
        last = last.max(end);
    }
    ranges.insert(first, last);
    (first, last)
}

fn find<K: Key>(networks: &AddressTable<K, (K, IpNet)>, address: K) -> Option<IpNet> {
    // The networks do not overlap, so only the last network that starts at or before the address can contain it.
    let (_, (last, network)) = networks.up_to(address).last()?;
    (address <= *last).then_some(*network)
}

/// Error for networks that contain every address of a family, so that no peer of that family would be refused.
///
/// ```
/// use std::time::Instant;
/// use callback_source::{AllowSet, set::Rules};
///
/// let halves = ["0.0.0.0/1".parse().unwrap(), "128.0.0.0/1".parse().unwrap()];
/// let error = AllowSet::new(Rules::default(), [], &halves, Instant::now()).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "network `0.0.0.0/0` contains every address; list specific networks"
/// );
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("network `{network}` contains every address; list specific networks")]
pub struct NetworkError {
    network: IpNet,
}

crate::debug::debug_by_message!(NetworkError);

/// Returns the canonical form of a network. A network of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) becomes the
/// corresponding IPv4 network.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED_PREFIX => match v6.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new(address, v6.prefix_len() - MAPPED_PREFIX)
                .map_or(network, |v4| IpNet::V4(v4.trunc())),
            None => network.trunc(),
        },
        IpNet::V4(_) | IpNet::V6(_) => network.trunc(),
    }
}

const MAPPED_PREFIX: u8 = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Result<Networks, NetworkError> {
        Networks::new(
            &texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<_>>(),
        )
    }

    fn find(set: &Networks, address: &str) -> Option<String> {
        set.find(address.parse().unwrap())
            .map(|network| network.to_string())
    }

    #[test]
    fn finds_the_network_at_both_edges_and_not_next_to_them() {
        let set = networks(&["212.93.32.0/19", "185.218.228.0/22", "2a01:111::/32"]).unwrap();
        assert_eq!(find(&set, "212.93.32.0").as_deref(), Some("212.93.32.0/19"));
        assert_eq!(
            find(&set, "212.93.63.255").as_deref(),
            Some("212.93.32.0/19")
        );
        assert_eq!(
            find(&set, "185.218.231.255").as_deref(),
            Some("185.218.228.0/22")
        );
        assert_eq!(
            find(&set, "2a01:111:ffff::").as_deref(),
            Some("2a01:111::/32")
        );
        for outside in [
            "212.93.31.255",
            "212.93.64.0",
            "185.218.227.255",
            "1.1.1.1",
            "2a01:112::",
        ] {
            assert_eq!(find(&set, outside), None, "{outside}");
        }
    }

    #[test]
    fn overlapping_and_touching_networks_are_one() {
        let set = networks(&["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3/32", "10.1.0.7/16"]).unwrap();
        assert_eq!(find(&set, "10.1.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(set.iter().count(), 1);
    }

    #[test]
    fn a_network_of_mapped_addresses_is_the_ipv4_network() {
        let set = networks(&["::ffff:192.0.2.0/120"]).unwrap();
        assert_eq!(find(&set, "192.0.2.9").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(find(&set, "192.0.3.9"), None);
    }

    #[test]
    fn a_network_that_is_larger_than_the_mapped_addresses_stays_ipv6() {
        let set = networks(&["::ffff:192.0.2.0/95"]).unwrap();
        assert_eq!(find(&set, "::fffe:1:2").as_deref(), Some("::fffe:0:0/95"));
        assert_eq!(find(&set, "192.0.2.9"), None);
    }

    #[test]
    fn a_whole_family_is_rejected_in_every_spelling() {
        for all in [
            &["0.0.0.0/0"][..],
            &["::/0"],
            &["::ffff:0:0/96"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["10.0.0.0/8", "1.2.3.4/0"],
        ] {
            assert!(networks(all).is_err(), "{all:?}");
            assert!(added(all).is_err(), "{all:?}");
        }
    }

    fn added(texts: &[&str]) -> Result<(), NetworkError> {
        let mut cover = Cover::default();
        let mut texts = texts.iter();
        texts.try_for_each(|text| cover.add(text.parse().unwrap()))
    }

    #[test]
    fn networks_added_in_any_order_complete_a_family_only_with_the_last_one() {
        // Networks that together cover the IPv4 family except its last address.
        let halves = (1..=32).map(|length| {
            let first = u32::MAX - (u32::MAX >> (length - 1));
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(first), length).unwrap())
        });
        let halves: Vec<_> = halves.collect();
        let last: IpNet = "255.255.255.255/32".parse().unwrap();
        for order in [halves.clone(), halves.iter().rev().copied().collect()] {
            let mut cover = Cover::default();
            for network in order {
                assert_eq!(cover.add(network), Ok(()), "{network}");
            }
            let error = cover.add(last).unwrap_err();
            assert_eq!(error.network, "0.0.0.0/0".parse::<IpNet>().unwrap());
        }
    }

    #[cfg(unix)]
    #[test]
    fn ten_times_the_networks_take_less_than_forty_times_as_long() {
        use rustix::time::{ClockId, clock_gettime};

        // Measures the CPU time of this thread, so that other programs do not affect the result.
        let spent = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let time = |count: u32| {
            let tries = (0..3).map(|_| {
                let start = spent();
                let mut cover = Cover::default();
                let mut all = Vec::new();
                for number in 0..count {
                    let address = Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1));
                    let network = IpNet::from(IpAddr::V4(address));
                    cover.add(network).unwrap();
                    all.push(network);
                }
                Networks::new(&all).unwrap();
                spent() - start
            });
            tries.min().unwrap()
        };
        let (few, many) = (time(1_000), time(10_000));
        assert!(many < few * 40, "{few} ns, {many} ns");
    }

    proptest! {
        #[test]
        fn contains_the_addresses_of_each_network_and_no_others(
            given in prop::collection::vec((0..4_u32, any::<u16>(), 9..=32_u8), 0..40),
            asked in prop::collection::vec((0..4_u32, any::<u16>()), 40),
        ) {
            let v4 = |high: u32, low: u16| Ipv4Addr::from_bits(high << 24 | u32::from(low));
            let v6 = |high: u32, low: u16| Ipv6Addr::from_bits(u128::from(v4(high, low).to_bits()) << 96);
            let nets: Vec<IpNet> = given
                .iter()
                .flat_map(|(high, low, length)| {
                    let four = Ipv4Net::new(v4(*high, *low), *length).unwrap();
                    let six = Ipv6Net::new(v6(*high, *low), *length).unwrap();
                    [four.into(), six.into()]
                })
                .collect();
            let set = Networks::new(&nets).unwrap();
            let mut cover = Cover::default();
            for net in &nets {
                prop_assert_eq!(cover.add(*net), Ok(()));
            }
            for (high, low) in asked {
                for address in [IpAddr::from(v4(high, low)), v6(high, low).into()] {
                    let expected = nets.iter().any(|net| net.contains(&address));
                    prop_assert_eq!(set.find(address).is_some(), expected);
                    prop_assert!(set.find(address).is_none_or(|net| net.contains(&address)));
                }
            }
        }
    }
}
