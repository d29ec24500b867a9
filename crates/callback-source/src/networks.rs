//! Sets of networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::sorted::{Key, Sorted};

/// Networks in canonical form, merged where they overlap or touch, by their first addresses and with
/// their last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    v4: Sorted<u32, (u32, IpNet)>,
    v6: Sorted<u128, (u128, IpNet)>,
}

impl Networks {
    /// # Errors
    ///
    /// A network that is, or together with the others makes up, a whole address family.
    pub(crate) fn new(networks: &[IpNet]) -> Result<Self, TooWide> {
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
            v4: Sorted::new(v4.collect::<Vec<_>>()),
            v6: Sorted::new(v6.collect::<Vec<_>>()),
        };
        let whole = merged.iter().find(|network| network.prefix_len() == 0);
        whole.map_or(Ok(merged), |network| Err(TooWide { network }))
    }

    /// The network that holds an address, which must be in canonical form.
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

fn find<K: Key>(networks: &Sorted<K, (K, IpNet)>, address: K) -> Option<IpNet> {
    // They do not overlap.
    let (_, (last, network)) = networks.up_to(address).last()?;
    (address <= *last).then_some(*network)
}

/// Networks that hold every address of a family: nobody would be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{network}` holds every address there is; name the networks that are meant")]
pub struct TooWide {
    network: IpNet,
}

/// A network of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) is the IPv4 network itself.
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Result<Networks, TooWide> {
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
    fn finds_the_network_at_both_edges_and_not_beside_them() {
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
    fn a_whole_family_is_refused_in_every_spelling() {
        for all in [
            &["0.0.0.0/0"][..],
            &["::/0"],
            &["::ffff:0:0/96"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["10.0.0.0/8", "1.2.3.4/0"],
        ] {
            assert!(networks(all).is_err(), "{all:?}");
        }
    }

    #[test]
    fn an_empty_set_holds_nothing() {
        let set = networks(&[]).unwrap();
        assert!(set.is_empty());
        assert_eq!(find(&set, "0.0.0.0"), None);
        assert_eq!(find(&set, "::"), None);
    }

    proptest! {
        #[test]
        fn holds_what_one_of_the_networks_holds(
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
            for (high, low) in asked {
                for address in [IpAddr::from(v4(high, low)), v6(high, low).into()] {
                    let held = nets.iter().any(|net| net.contains(&address));
                    prop_assert_eq!(set.find(address).is_some(), held);
                    prop_assert!(set.find(address).is_none_or(|net| net.contains(&address)));
                }
            }
        }
    }
}
