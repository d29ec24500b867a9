//! Addresses in headers.
//!
//! What the parsers of `std` take and nothing else, in a third of the instructions: a proxy may have
//! written thirty of them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A quad of decimal numbers at the start of a text, and what comes after it.
pub(super) fn quad(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let (first, rest) = octet(text)?;
    let (second, rest) = octet(rest.strip_prefix(b".")?)?;
    let (third, rest) = octet(rest.strip_prefix(b".")?)?;
    let (fourth, rest) = octet(rest.strip_prefix(b".")?)?;
    Some((Ipv4Addr::new(first, second, third, fourth), rest))
}

/// An address in the notation of RFC 4291 section 2.2, without a zone.
pub(super) fn v6(text: &[u8]) -> Option<Ipv6Addr> {
    let mut bits = 0;
    let mut groups = 0;
    // What stands before the `::`, and how many groups that is.
    let mut head = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix(b"::") {
        head = Some((0, 0));
        rest = after;
    }
    while !rest.is_empty() {
        let (group, after) = hexadecimal(rest)?;
        if let [b'.', ..] = after {
            let (address, []) = quad(rest)? else {
                return None;
            };
            bits = bits << 32 | u128::from(address.to_bits());
            groups += 2;
            break;
        }
        bits = bits << 16 | u128::from(group);
        groups += 1;
        rest = match after {
            [] => after,
            [b':', b':', after @ ..] if head.is_none() => {
                head = Some((bits, groups));
                bits = 0;
                after
            }
            [b':', after @ ..] if !after.is_empty() && groups < 8 => after,
            _ => return None,
        };
    }
    match head {
        None => (groups == 8).then_some(Ipv6Addr::from_bits(bits)),
        Some(_) if groups > 7 => None,
        Some((_, 0)) => Some(Ipv6Addr::from_bits(bits)),
        Some((head, before)) => {
            let head = head << (16 * (8 - before));
            Some(Ipv6Addr::from_bits(head | bits))
        }
    }
}

fn octet(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |at: usize| {
        let digit = text.get(at)?.wrapping_sub(b'0');
        (digit < 10).then_some(u16::from(digit))
    };
    // No digit may follow a leading zero: some read that as octal.
    let (octet, digits) = match (digit(0)?, digit(1)) {
        (0, _) => (0, 1),
        (first, None) => (first, 1),
        (first, Some(second)) => match digit(2) {
            None => (first * 10 + second, 2),
            Some(third) => (first * 100 + second * 10 + third, 3),
        },
    };
    if digit(digits).is_some() {
        return None;
    }
    Some((u8::try_from(octet).ok()?, &text[digits..]))
}

/// One to four hexadecimal digits, and what comes after them.
fn hexadecimal(text: &[u8]) -> Option<(u16, &[u8])> {
    let mut group = 0;
    let mut rest = text;
    while let [byte, after @ ..] = rest
        && let Some(digit) = char::from(*byte).to_digit(16)
    {
        group = group << 4 | digit;
        rest = after;
    }
    let digits = text.len() - rest.len();
    (1..=4).contains(&digits).then_some((group as u16, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole_quad(text: &str) -> Option<Ipv4Addr> {
        let (address, rest) = quad(text.as_bytes())?;
        rest.is_empty().then_some(address)
    }

    fn check(text: &str) {
        assert_eq!(whole_quad(text), text.parse().ok(), "{text}");
        assert_eq!(v6(text.as_bytes()), text.parse().ok(), "{text}");
    }

    #[test]
    fn every_kind_of_text_is_taken_as_by_the_standard_library() {
        for text in [
            "",
            "0.0.0.0",
            "255.255.255.255",
            "256.0.0.0",
            "1.2.3.999",
            "01.2.3.4",
            "1.2.3.00",
            "1.2.3.4.5",
            "1.2.3",
            "1.2.3.",
            ".1.2.3",
            "1..2.3",
            "1.2.3.4 ",
            "+1.2.3.4",
            "0x1.2.3.4",
            "1111.1.1.1",
            "::",
            ":::",
            ":",
            "::1",
            "1::",
            "1::8",
            ":1",
            "1:",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:7::",
            "1:2:3:4:5:6::8",
            "::2:3:4:5:6:7:8",
            "::1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7:8::",
            "1::2::3",
            "1:::2",
            "1::2:",
            "::1.2.3.4",
            "::ffff:1.2.3.4",
            "1:2:3:4:5:6:1.2.3.4",
            "1:2:3:4:5:6:7:1.2.3.4",
            "1:2:3:4:5::1.2.3.4",
            "1:2:3:4:5:6::1.2.3.4",
            "1.2.3.4::",
            "::1.2.3.4:5",
            "::1.2.3.4.5",
            "::1.2.3",
            "::1.2.3.256",
            "00001::",
            "0001::",
            "ABCD:abcd::EF",
            "g::",
            "::fffff",
            "fe80::1%eth0",
            "[::1]",
            "2001:db8::/32",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_of_address_characters_is_taken_as_by_the_standard_library(
            text in "[0-9a-fA-F:.]{0,24}",
            few in "[01:.]{0,20}",
            groups in "(::)?([0-9a-f]{1,5}(:|::|\\.)){0,9}([0-9]{1,3}\\.){0,4}[0-9a-f]{0,4}",
        ) {
            check(&text);
            check(&few);
            check(&groups);
        }

        #[test]
        fn every_address_is_read_as_it_was_written(v4: u32, bits: u128, mask: u128) {
            check(&Ipv4Addr::from_bits(v4).to_string());
            check(&Ipv6Addr::from_bits(bits).to_string());
            check(&Ipv6Addr::from_bits(bits & mask & mask.rotate_left(16)).to_string());
        }
    }
}
