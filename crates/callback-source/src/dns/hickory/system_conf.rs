//! Parser of texts in resolv.conf(5) format.
//!
//! The parser accepts the format as glibc and musl do. Where glibc and musl differ, the parser follows the more
//! tolerant one. Options that this crate does not use are not parsed. An invalid line does not affect other lines.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::from_utf8,
};

use super::server_address;

/// Part of the configuration that a resolver of absolute names uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SystemConf {
    /// Servers in order, without duplicates.
    pub(super) servers: Vec<SocketAddr>,
    /// True if the option `use-vc` is set. Queries are then sent over TCP first.
    pub(super) tcp_first: bool,
    /// True if the text names no valid server.
    pub(super) is_default: bool,
    /// The first four ignored `nameserver` lines, each with the reason.
    pub(super) void: Vec<String>,
}

impl SystemConf {
    /// Parses a text in resolv.conf(5) format. If the text names no valid server, the result contains only the server
    /// on this machine.
    ///
    /// `zone_index` returns the index of a network interface by its name.
    pub(super) fn parse(text: &[u8], zone_index: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self::default();
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let mut words = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            match words.next() {
                Some(b"nameserver") => conf.nameserver(words.next(), &zone_index),
                Some(b"options") => {
                    let mut options = words.take_while(|word| !is_comment(word));
                    conf.tcp_first |= options.any(|option| option == b"use-vc");
                }
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.is_default = true;
            conf.servers
                .push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
        }
        conf
    }

    fn nameserver(&mut self, value: Option<&[u8]>, zone_index: &impl Fn(&str) -> Option<u32>) {
        let value = value.unwrap_or_default();
        let end = value.iter().position(|byte| matches!(byte, b'#' | b';'));
        let value = &value[..end.unwrap_or(value.len())];
        let server = from_utf8(value)
            .map_err(|_| server_address::DnsServerError::NotAnAddress)
            .and_then(|text| match old_ipv4(text) {
                Some(address) => Ok(server_address::reachable((address, 53).into())),
                None => server_address::parse(text, zone_index),
            });
        match server {
            Ok(server) if self.servers.contains(&server) => {}
            Ok(server) if self.servers.len() < MAX_SERVERS => self.servers.push(server),
            Ok(server) => self.void(format!("{server}: only {MAX_SERVERS} servers are queried")),
            Err(error) => self.void(format!("{}: {error}", value.escape_ascii())),
        }
    }

    fn void(&mut self, line: String) {
        if self.void.len() < MAX_VOID {
            self.void.push(line.chars().take(MAX_VOID_LENGTH).collect());
        }
    }
}

fn is_comment(word: &[u8]) -> bool {
    matches!(word.first(), Some(b'#' | b';'))
}

/// Parses IPv4 addresses as inet_aton(3) does: `127.1`, `010.0.0.1` (octal), `0x7f.1`. A single number is refused,
/// since it is more likely a mistake than an address.
fn old_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut numbers = text.split('.').map(|number| {
        let (digits, radix) = match number.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&number[2..], 16),
            [b'0', _, ..] => (&number[1..], 8),
            _ => (number, 10),
        };
        let valid = digits.chars().all(|digit| digit.is_digit(radix));
        u32::from_str_radix(digits, radix).ok().filter(|_| valid)
    });
    let mut bits = 0_u32;
    let mut room = 32;
    while let Some(number) = numbers.next() {
        let number = number?;
        let is_last = numbers.clone().next().is_none();
        if is_last {
            return (room < 32 && number >> room == 0).then(|| Ipv4Addr::from(bits | number));
        }
        room -= 8;
        if number > 255 || room == 0 {
            return None;
        }
        bits |= number << room;
    }
    None
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Maximum number of servers. This many servers can all be queried within the default time limit of a question (5 s).
const MAX_SERVERS: usize = 8;

const MAX_VOID: usize = 4;
const MAX_VOID_LENGTH: usize = 200;

#[cfg(test)]
mod tests;
