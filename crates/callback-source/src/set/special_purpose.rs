//! Rule 7: addresses that no provider can call from.

use std::{net::IpAddr, sync::LazyLock};

use ipnet::IpNet;

use super::Rules;
use crate::{Answer, ResolveError, ResolveErrorKind};

/// Returns the part of an outcome that a set may use, and the special-purpose addresses that were dropped from the
/// outcome. An answer without addresses, or with only synthesized addresses, becomes a denial.
pub(super) fn usable(
    outcome: Result<Answer, ResolveError>,
    rules: &Rules,
) -> (Result<Answer, ResolveError>, Vec<IpAddr>) {
    let mut dropped = Vec::new();
    let usable = outcome.and_then(|answer| usable_answer(answer, rules, &mut dropped));
    (usable, dropped)
}

fn usable_answer(
    answer: Answer,
    rules: &Rules,
    dropped: &mut Vec<IpAddr>,
) -> Result<Answer, ResolveError> {
    #[cfg(callback_source_simulation)]
    if crate::simulation::planted(crate::simulation::Fault::SpecialAdmitted)
        && !answer.addresses().is_empty()
    {
        return Ok(answer);
    }
    if answer.addresses().len() > rules.max_addresses {
        return Err(ResolveError::new(ResolveErrorKind::TooManyAddresses));
    }
    let ttl = answer.ttl();
    let recorded = answer.addresses().iter().copied();
    let answer = Answer::new(recorded.filter(|address| !is_synthesized(*address)), ttl);
    if answer.addresses().is_empty() {
        return Err(ResolveError::new(ResolveErrorKind::NoData).with_negative_ttl(ttl));
    }
    if rules.insecure_allow_special_addresses {
        return Ok(answer);
    }
    let (special, kept): (Vec<_>, Vec<_>) = answer
        .addresses()
        .iter()
        .partition(|address| is_special(**address));
    *dropped = special;
    if kept.is_empty() {
        return Err(ResolveError::new(ResolveErrorKind::OnlySpecialAddresses));
    }
    Ok(Answer::new(kept, ttl))
}

/// Returns whether an address is special-purpose according to the IANA registries. An answer that contains such an
/// address is wrong or hostile. DNS must not be able to admit the merchant's own network.
///
/// Everything inside 192.0.0.0/24 and 2001::/23 is treated as special-purpose. The few globally reachable assignments
/// in these networks are anycast services, which do not send callbacks.
///
/// Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), multicast
/// (RFC 5771, RFC 4291). IPv6 outside 2000::/3 is unassigned (RFC 4291 section 2.4).
pub(crate) fn is_special(address: IpAddr) -> bool {
    let address = address.to_canonical();
    match address {
        IpAddr::V4(_) => SPECIAL_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(_) => {
            !GLOBAL_UNICAST_V6.contains(&address)
                || SPECIAL_V6.iter().any(|net| net.contains(&address))
        }
    }
}

/// Returns whether an address is in a standard prefix of DNS64: the well-known prefix (RFC 6052 section 2.1), or the
/// prefix for local use (RFC 8215). DNS64 (RFC 6147) synthesizes addresses from A records.
pub(crate) fn is_synthesized(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return false;
    };
    matches!(
        address.segments(),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..]
    )
}

static GLOBAL_UNICAST_V6: LazyLock<IpNet> = LazyLock::new(|| network("2000::/3"));

static SPECIAL_V4: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8",       // this network, RFC 791
        "10.0.0.0/8",      // private use, RFC 1918
        "100.64.0.0/10",   // shared address space (CGNAT), RFC 6598
        "127.0.0.0/8",     // loopback, RFC 1122
        "169.254.0.0/16",  // link-local, RFC 3927
        "172.16.0.0/12",   // private use, RFC 1918
        "192.0.0.0/24",    // IETF protocol assignments, RFC 6890
        "192.0.2.0/24",    // documentation, RFC 5737
        "192.31.196.0/24", // AS112, RFC 7535
        "192.52.193.0/24", // AMT, RFC 7450
        "192.88.99.0/24",  // 6to4 relay anycast, RFC 7526
        "192.168.0.0/16",  // private use, RFC 1918
        "192.175.48.0/24", // AS112, RFC 7534
        "198.18.0.0/15",   // benchmarking, RFC 2544
        "198.51.100.0/24", // documentation, RFC 5737
        "203.0.113.0/24",  // documentation, RFC 5737
        "224.0.0.0/4",     // multicast, RFC 5771
        "240.0.0.0/4",     // reserved and broadcast, RFC 1112, RFC 919
    ]
    .map(network)
    .to_vec()
});

static SPECIAL_V6: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "2001::/23",         // IETF protocol assignments with Teredo, RFC 2928, RFC 4380
        "2001:db8::/32",     // documentation, RFC 3849
        "2002::/16",         // 6to4, RFC 3056
        "2620:4f:8000::/48", // AS112, RFC 7534
        "3fff::/20",         // documentation, RFC 9637
    ]
    .map(network)
    .to_vec()
});

fn network(text: &str) -> IpNet {
    text.parse()
        .expect("the networks of this file are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_the_addresses_of_a_dns64_at_both_edges() {
        for (address, expected) in [
            ("64:ff9b::", true),
            ("64:ff9b::92d:11c7", true),
            ("64:ff9b::ffff:ffff", true),
            ("64:ff9b:0:0:0:1::", false),
            ("64:ff9a::92d:11c7", false),
            ("64:ff9b:1::", true),
            ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", true),
            ("64:ff9b:2::", false),
            ("2001:db8::92d:11c7", false),
            ("9.45.17.199", false),
        ] {
            let synthesized = is_synthesized(address.parse().unwrap());
            assert_eq!(synthesized, expected, "{address}");
        }
    }

    #[test]
    fn recognizes_the_special_purpose_networks_at_both_edges() {
        let special = [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.9",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a2d:11c7",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:1ff:ffff::",
            "2001:db8::1",
            "2002:a2d:11c7::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in special {
            assert!(is_special(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn does_not_drop_the_neighbours_of_special_networks() {
        let ordinary = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2001:db7::1",
            "2003::1",
            "2a01:111::1",
            "3ffe::1",
        ];
        for text in ordinary {
            assert!(!is_special(text.parse().unwrap()), "{text}");
        }
    }
}
