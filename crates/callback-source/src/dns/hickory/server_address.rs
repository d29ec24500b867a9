//! Parser of DNS server addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Parses the address of a DNS server. The default port is 53.
///
/// Accepted: `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` and `[2001:db8::53]:5353`. A link-local IPv6 address
/// needs its zone, by name or index: `fe80::1%eth0`, `[fe80::1%2]:53`. Zone names work on Linux only.
///
/// The unspecified address is replaced by the loopback address.
///
/// ```
/// use callback_source::parse_dns_server;
///
/// assert_eq!(parse_dns_server("192.0.2.53").unwrap(), "192.0.2.53:53".parse().unwrap());
/// assert!(parse_dns_server("dns.example").is_err());
/// assert!(parse_dns_server("fe80::1").is_err());
/// ```
///
/// # Errors
///
/// Returns an error for any other text, an unknown zone, or port 0.
pub fn parse_dns_server(text: &str) -> Result<SocketAddr, DnsServerError> {
    parse(text, zone_index)
}

/// Error for an invalid address of a DNS server. The message names the fix.
///
/// ```
/// use callback_source::{DnsServerError, parse_dns_server};
///
/// let error = parse_dns_server("fe80::1").unwrap_err();
/// assert_eq!(error, DnsServerError::NoZone);
/// assert!(error.to_string().contains("such as `fe80::1%eth0`"));
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsServerError {
    /// The text is not an address.
    #[error(
        "give an address such as `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53` or `fe80::1%eth0`"
    )]
    NotAnAddress,
    /// The IPv6 address is link-local, and its zone is missing.
    #[error("a link-local address needs its zone, such as `fe80::1%eth0` or `[fe80::1%2]:53`")]
    NoZone,
    /// The zone is neither a valid index nor the name of a network interface that the operating system lists in
    /// `/proc`.
    #[error("unknown zone `{}`; give the index of a network interface, such as `fe80::1%2`", .0.escape_default())]
    UnknownZone(String),
    /// The port is 0.
    #[error("port 0 is invalid; leave the port out for 53")]
    PortZero,
}

crate::debug::debug_by_message!(DnsServerError);

/// Parses an address. `zone_index` returns the index of a network interface by its name.
pub(super) fn parse(
    text: &str,
    zone_index: impl Fn(&str) -> Option<u32>,
) -> Result<SocketAddr, DnsServerError> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(DnsServerError::NotAnAddress)?;
            match port {
                "" => (address, None),
                port => {
                    let port = port.strip_prefix(':').ok_or(DnsServerError::NotAnAddress)?;
                    (address, Some(port))
                }
            }
        }
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port {
        None => DNS_PORT,
        // `parse` alone would accept a sign.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_err(|_| DnsServerError::NotAnAddress)?
        }
        Some(_) => return Err(DnsServerError::NotAnAddress),
    };
    let (address, zone) = match address.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (address, None),
    };
    let server = match (address.parse::<IpAddr>(), zone) {
        (Ok(IpAddr::V6(address)), Some(zone)) => {
            let index = match zone.bytes().all(|byte| byte.is_ascii_digit()) {
                true => zone.parse().ok(),
                false => zone_index(zone),
            };
            let index = index
                .filter(|index| *index != 0)
                .ok_or_else(|| DnsServerError::UnknownZone(zone.to_owned()))?;
            SocketAddrV6::new(address, port, 0, index).into()
        }
        (Ok(IpAddr::V6(address)), None) if address.is_unicast_link_local() => {
            return Err(DnsServerError::NoZone);
        }
        (Ok(address), None) => SocketAddr::new(address, port),
        _ => return Err(DnsServerError::NotAnAddress),
    };
    match port {
        0 => Err(DnsServerError::PortZero),
        _ => Ok(reachable(server)),
    }
}

/// Returns the source address of a server's answers. Packets to the unspecified address are answered from the loopback
/// address. Packets to an IPv4-mapped address are answered from the IPv4 address.
pub(super) fn reachable(server: SocketAddr) -> SocketAddr {
    match server.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, server.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, server.port()).into(),
        IpAddr::V4(ip) => (ip, server.port()).into(),
        // `server` is returned unchanged, because it may contain a zone.
        IpAddr::V6(_) => server,
    }
}

/// Returns the index of a network interface by its name.
pub(super) fn zone_index(name: &str) -> Option<u32> {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    index_in(&interfaces, name)
}

/// Finds the index of an interface in the text of `/proc/net/if_inet6`. Each line contains the address, interface
/// index, prefix length, scope and flags in hexadecimal, and then the interface name.
fn index_in(interfaces: &str, name: &str) -> Option<u32> {
    interfaces.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let index = fields.nth(1)?;
        let found = fields.nth(3)? == name;
        found.then(|| u32::from_str_radix(index, 16).ok()).flatten()
    })
}

const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_with_and_without_a_port() {
        for (text, expected) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("[192.0.2.53]:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
            ("::ffff:192.0.2.53", "192.0.2.53:53"),
            ("[::ffff:192.0.2.53]:54", "192.0.2.53:54"),
            ("0.0.0.0", "127.0.0.1:53"),
            ("::", "[::1]:53"),
            ("[::]:54", "[::1]:54"),
            ("fe80::1%2", "[fe80::1%2]:53"),
            ("fe80::1%eth0", "[fe80::1%7]:53"),
            ("[fe80::1%eth0]:54", "[fe80::1%7]:54"),
            ("[fe80::1%1]:53", "[fe80::1%1]:53"),
            ("ff02::fb%2", "[ff02::fb%2]:53"),
        ] {
            assert_eq!(
                parse(text, only_eth0),
                Ok(expected.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_other_texts_with_the_reason() {
        use DnsServerError::{NoZone, NotAnAddress, PortZero, UnknownZone};
        for (text, expected) in [
            ("", NotAnAddress),
            ("dns.example", NotAnAddress),
            ("192.0.2", NotAnAddress),
            ("192.0.2.53:", NotAnAddress),
            ("192.0.2.53:+53", NotAnAddress),
            ("192.0.2.53:99999", NotAnAddress),
            ("192.0.2.53%eth0", NotAnAddress),
            ("[2001:db8::53", NotAnAddress),
            ("[2001:db8::53]53", NotAnAddress),
            ("2001:db8::53:", NotAnAddress),
            ("192.0.2.53:0", PortZero),
            ("[2001:db8::53]:0", PortZero),
            ("fe80::1", NoZone),
            ("[fe80::1]:53", NoZone),
            ("fe80::1%", UnknownZone(String::new())),
            ("fe80::1%0", UnknownZone("0".to_owned())),
            ("fe80::1%eth9", UnknownZone("eth9".to_owned())),
            ("fe80::1%4294967296", UnknownZone("4294967296".to_owned())),
        ] {
            assert_eq!(parse(text, only_eth0), Err(expected), "{text}");
        }
    }

    #[test]
    fn finds_the_index_of_an_interface() {
        let interfaces = "00000000000000000000000000000001 01 80 10 80       lo\n\
                          fe80000000000000021a4afffe000001 1f 40 20 80     eth0\n\
                          20010db8000000000000000000000001 1f 40 00 80     eth0\n";
        assert_eq!(index_in(interfaces, "lo"), Some(1));
        assert_eq!(index_in(interfaces, "eth0"), Some(31));
        assert_eq!(index_in(interfaces, "eth"), None);
        assert_eq!(index_in("garbage\n\n", "eth0"), None);
    }

    fn only_eth0(name: &str) -> Option<u32> {
        (name == "eth0").then_some(7)
    }
}
