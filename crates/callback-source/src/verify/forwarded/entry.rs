//! One entry of a forwarding header: an address, with or without a port.

use std::net::{IpAddr, Ipv4Addr};

/// Parses an address, with or without a port. The port may be obfuscated (RFC 7239 section 6).
pub(super) fn node(text: &[u8]) -> Option<IpAddr> {
    // In a valid entry, the first underscore begins an obfuscated port. An obfuscated name also begins with an
    // underscore, but is malformed.
    let Some(underscore) = text.iter().position(|byte| *byte == b'_') else {
        let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let is_longer = MAX_PORT_DIGITS < digits.count();
        return address(text).filter(|_| !is_longer);
    };
    let (name, port) = text.split_at(underscore);
    let name = name.strip_suffix(b":")?;
    let is_port_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let is_port = 1 < port.len() && port.iter().all(is_port_byte);
    // A second colon in front of the port is malformed, and an IPv6 address needs brackets.
    let is_name = !name.contains(&b':') || (name.starts_with(b"[") && name.ends_with(b"]"));
    (is_port && is_name).then(|| address(name))?
}

/// Parses an address, with or without a port.
pub(super) fn address(text: &[u8]) -> Option<IpAddr> {
    // No valid entry is longer than this limit, which also bounds the work.
    if text.len() > MAX_ENTRY {
        return None;
    }
    // Fast path for most entries. The standard library accepts the same texts, but takes three times as long.
    if text.len() <= MAX_QUAD
        && let Some(address) = quad(text)
    {
        return usable_client(IpAddr::V4(address));
    }
    usable_client(other_address(text)?)
}

/// The slow part of [`address`]. It is a separate function, so that the fast path is inlined everywhere.
fn other_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    Some(match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once(']')?;
            if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
                return None;
            }
            IpAddr::V6(address.parse().ok()?)
        }
        None => match text.split_once(':') {
            None => IpAddr::V4(text.parse().ok()?),
            Some((address, port)) if !port.contains(':') => {
                if !is_port(port) {
                    return None;
                }
                IpAddr::V4(address.parse().ok()?)
            }
            Some(_) => IpAddr::V6(text.parse().ok()?),
        },
    })
}

/// Parses an address and its port, where an IPv6 address needs no brackets. `2001:db8::1:443` is parsed as port 443 of
/// `2001:db8::1`, although the whole text is a valid address.
pub(super) fn address_with_port(text: &[u8]) -> Option<IpAddr> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    let (node, port) = (&text[..colon], &text[colon + 1..]);
    // If the text before the port has exactly one colon, it is an IPv4 address with another port.
    let colons = node.iter().filter(|byte| **byte == b':').count();
    let is_valid = is_port(str::from_utf8(port).ok()?) && colons != 1;
    is_valid.then(|| address(node))?
}

/// Parses four decimal numbers without leading zeros, with dots between them.
pub(super) fn quad(text: &[u8]) -> Option<Ipv4Addr> {
    let mut parts = text.split(|byte| *byte == b'.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        let digit = |byte: u8| u16::from(byte - b'0');
        let number = match *parts.next()? {
            [one @ b'0'..=b'9'] => digit(one),
            [ten @ b'1'..=b'9', one @ b'0'..=b'9'] => digit(ten) * 10 + digit(one),
            [hundred @ b'1'..=b'2', ten @ b'0'..=b'9', one @ b'0'..=b'9'] => {
                digit(hundred) * 100 + digit(ten) * 10 + digit(one)
            }
            _ => return None,
        };
        *octet = u8::try_from(number).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Returns the canonical form of an address, or `None` if no client can have this address.
pub(in crate::verify) fn usable_client(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_client = !address.is_unspecified() && !address.is_multicast() && !is_broadcast;
    is_client.then_some(address)
}

fn is_port(text: &str) -> bool {
    // `parse` alone would accept a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Removes spaces and tabs around a text, but no other characters.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Maximum number of digits of a port (RFC 7239 section 6).
const MAX_PORT_DIGITS: usize = 5;

/// The length of `255.255.255.255`.
const MAX_QUAD: usize = 15;

/// The length of `[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535`, plus some spare bytes.
const MAX_ENTRY: usize = 64;
