//! The walk over the entries of a forwarding header, from the nearest hop to the client.
//!
//! Each proxy appends the address of its peer, so an entry is only as trustworthy as the hop to its right. The walk
//! stops at the first hop that is not trusted. All entries to the left of that hop may be forged. They are ignored,
//! even if they are malformed.

use std::net::IpAddr;

use http::HeaderValue;

use super::entry::{address, node, trim};
use crate::RejectionKind;

/// Format of a list header's lines.
pub(super) trait Entries {
    /// Splits off the last entry of a line. Returns the rest of the line before the entry, and the entry's address.
    fn last<'a>(&self, line: &'a [u8]) -> (Option<&'a [u8]>, Option<IpAddr>);

    /// Returns `true` for an entry that is a hop at a Unix socket.
    fn is_unix_socket(&self, entry: &[u8]) -> bool;
}

pub(super) fn walk_list<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue, IntoIter: DoubleEndedIterator>,
    entries: impl Entries,
    unix_sockets: bool,
    mut is_trusted: impl FnMut(IpAddr) -> bool,
) -> Result<IpAddr, RejectionKind> {
    let mut walked = 0;
    for line in lines.into_iter().rev() {
        let mut rest = Some(line.as_bytes());
        while let Some(line) = rest {
            if walked == MAX_HOPS {
                return Err(RejectionKind::ForwardedTooManyHops);
            }
            walked += 1;
            let (before, address) = entries.last(line);
            match address {
                Some(address) if is_trusted(address) => {}
                Some(address) => return Ok(address),
                None => {
                    let entry = before.map_or(line, |before| &line[before.len() + 1..]);
                    if !unix_sockets || !entries.is_unix_socket(entry) {
                        return Err(RejectionKind::ForwardedMalformed);
                    }
                }
            }
            rest = before;
        }
    }
    match walked {
        0 => Err(RejectionKind::ForwardedMissing),
        _ => Err(RejectionKind::ForwardedAllTrusted),
    }
}

/// Returns the address in a single-value header. `parse` parses the value.
pub(super) fn single<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    parse: impl FnOnce(&[u8]) -> Option<IpAddr>,
    mut is_trusted: impl FnMut(IpAddr) -> bool,
) -> Result<IpAddr, RejectionKind> {
    let mut lines = lines.into_iter();
    let line = lines.next().ok_or(RejectionKind::ForwardedMissing)?;
    if lines.next().is_some() {
        return Err(RejectionKind::ForwardedDuplicate);
    }
    let address = parse(trim(line.as_bytes())).ok_or(RejectionKind::ForwardedMalformed)?;
    if is_trusted(address) {
        return Err(RejectionKind::ForwardedAllTrusted);
    }
    Ok(address)
}

/// Entries of `X-Forwarded-For`: addresses that are separated by commas.
pub(super) struct PlainEntries;

impl Entries for PlainEntries {
    fn last<'a>(&self, line: &'a [u8]) -> (Option<&'a [u8]>, Option<IpAddr>) {
        match line.iter().rposition(|byte| *byte == b',') {
            Some(comma) => (Some(&line[..comma]), address(trim(&line[comma + 1..]))),
            None => (None, address(trim(line))),
        }
    }

    fn is_unix_socket(&self, entry: &[u8]) -> bool {
        trim(entry) == UNIX_SOCKET
    }
}

/// Entries of `Forwarded`. Commas outside of quotes separate elements, and semicolons separate the pairs of an element.
pub(super) struct ForwardedEntries;

impl Entries for ForwardedEntries {
    // The line is split from the right. Otherwise, a quote that the client left open would include the entry that a
    // proxy appended.
    fn last<'a>(&self, line: &'a [u8]) -> (Option<&'a [u8]>, Option<IpAddr>) {
        match rfind_unquoted(line, b',') {
            Ok(Some(comma)) => (Some(&line[..comma]), for_node(&line[comma + 1..], node)),
            Ok(None) => (None, for_node(line, node)),
            Err(Unbalanced) => (None, None),
        }
    }

    fn is_unix_socket(&self, entry: &[u8]) -> bool {
        for_node(entry, |node| (node == UNIX_SOCKET).then_some(())).is_some()
    }
}

/// Error for an unbalanced quotation mark.
struct Unbalanced;

fn rfind_unquoted(text: &[u8], wanted: u8) -> Result<Option<usize>, Unbalanced> {
    let mut quoted = false;
    for at in (0..text.len()).rev() {
        let byte = text[at];
        if byte == b'"' {
            let escapes = text[..at]
                .iter()
                .rev()
                .take_while(|byte| **byte == b'\\')
                .count();
            if escapes % 2 == 0 {
                quoted = !quoted;
            }
        } else if byte == wanted && !quoted {
            return Ok(Some(at));
        }
    }
    if quoted { Err(Unbalanced) } else { Ok(None) }
}

/// Returns the node in an element's parameter `for`, which must be present exactly once (RFC 7239 section 4).
fn for_node<T>(element: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let (before, pair) = match rfind_unquoted(pairs, b';').ok()? {
            Some(semicolon) => (Some(&pairs[..semicolon]), &pairs[semicolon + 1..]),
            None => (None, pairs),
        };
        rest = before;
        let pair = trim(pair);
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        let quoted = value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"");
        let is_value = if quoted {
            is_quotable(&value[1..value.len() - 1])
        } else {
            is_token(value)
        };
        if !is_token(name) || !is_value {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") {
            // An address needs no escapes, so an address with escapes is malformed.
            let node = if quoted {
                &value[1..value.len() - 1]
            } else {
                value
            };
            if found.replace(read(node)?).is_some() {
                return None;
            }
        }
    }
    found
}

/// Returns `true` for the ASCII content of a quoted string (RFC 9110 section 5.6.4), without a bare quote or an
/// unfinished escape.
fn is_quotable(text: &[u8]) -> bool {
    let mut escaped = false;
    for byte in text {
        match byte {
            _ if !matches!(byte, b'\t' | b' '..=b'~') => return false,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

/// Returns `true` for a token (RFC 9110 section 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let is_token_char =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token_char)
}

/// The entry that nginx writes for a client at a Unix socket.
const UNIX_SOCKET: &[u8] = b"unix:";

/// Maximum number of entries that the walk reads. A header may contain more entries.
const MAX_HOPS: usize = 32;
