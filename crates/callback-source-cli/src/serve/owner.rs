//! Owner of a connection.
//!
//! Permits are shared among owners, not among connections: a client that opens many connections must not displace a
//! client that opens a single connection.

use std::net::{IpAddr, Ipv6Addr};

/// Owner of a connection. Owners share the permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A trusted proxy, or the proxy at a Unix socket.
    Trusted,
    /// The client in a PROXY header that is still unread.
    Unknown,
    /// Any other address. IPv6 addresses are grouped by /64, since a single host usually has a whole /64.
    Address(IpAddr),
}

impl Owner {
    pub(super) fn address(ip: IpAddr) -> Self {
        Self::Address(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & NETWORK_64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

const NETWORK_64: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_an_address_or_a_network_of_ipv6() {
        let at = |text: &str| Owner::address(text.parse().unwrap());
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("2001:db8:1:2::7"), at("2001:db8:1:2:ffff::1"));
        assert_ne!(at("2001:db8:1:2::7"), at("2001:db8:1:3::7"));
    }
}
