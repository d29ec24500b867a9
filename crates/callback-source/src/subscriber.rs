//! The subscriber that a peer stands for in limits per peer.

use std::net::{IpAddr, Ipv6Addr};

/// Returns the address of an IPv4 peer, or the /64 of an IPv6 peer, because one subscriber can use all addresses of a
/// /64.
pub(crate) fn subscriber(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => Ipv6Addr::from(peer.to_bits() & PREFIX_64).into(),
        peer @ IpAddr::V4(_) => peer,
    }
}

const PREFIX_64: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_of_a_64_are_one_subscriber() {
        let of = |address: &str| subscriber(address.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
