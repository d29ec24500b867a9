//! The client behind proxies.
//!
//! When the connection's peer is a [trusted proxy](TrustedProxies), the address that counts is what
//! that proxy says; [`ForwardedPeer`] reads it from exactly one configured source:
//!
//! 1. A peer that is not trusted is the client itself. No header is read. Loopback and private peers
//!    are peers like any other.
//! 2. `X-Forwarded-For` and `Forwarded` (RFC 7239) are lists: all lines in order, one entry per hop. The
//!    walk goes from the right, where the nearest proxy has written, over trusted hops; the first entry
//!    that is not trusted is the client. What stands further left was written by the client, or
//!    passed on from it, and is not looked at.
//! 3. A single-value header such as `X-Real-IP` names the client.
//! 4. The request is refused (400) when the header is
//!    [missing](RejectionKind::ForwardedMissing), an entry on the walk is
//!    [no address](RejectionKind::ForwardedMalformed), [every hop is trusted](RejectionKind::ForwardedAllTrusted),
//!    the walk is [longer than 32 hops](RejectionKind::ForwardedTooManyHops), or a single-value header
//!    [appears twice](RejectionKind::ForwardedDuplicate). It is never the leftmost entry, and never the proxy.
//!
//! An entry is an address, with or without a port: `192.0.2.1`, `192.0.2.1:443`, `[2001:db8::1]`,
//! `[2001:db8::1]:443`, `2001:db8::1`; in `Forwarded` the port may be obfuscated (`"192.0.2.1:_gazonk"`).
//! Names are not resolved; zones, octal or shortened quads, empty elements, and unspecified, multicast and
//! broadcast addresses are no addresses of clients. The entry `unix:` of a list is a hop only
//! [on request](TrustedProxies::with_unix_sockets), and never a client.
//!
//! # Deployment caveat
//!
//! The proxy must write the header that is configured, and must not let through what the client sent
//! under that name (single-value), or must append to it (lists). Trust the proxy's own addresses, not
//! the network it stands in.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

use super::{PeerIp, UnixPeer};
use crate::{NetworkError, Rejection, RejectionKind, set::networks::Networks};

/// Proxies whose forwarding headers are trusted.
///
/// Cloning is one reference count.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    networks: Arc<Networks>,
    unix_sockets: bool,
}

impl TrustedProxies {
    /// Trusts these networks; an address is a network of one.
    ///
    /// # Errors
    ///
    /// Networks that make up a whole address family, such as `0.0.0.0/0`: anybody could then name
    /// themselves.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        let networks: Vec<_> = networks.into_iter().collect();
        Networks::new(&networks).map(|networks| Self {
            networks: Arc::new(networks),
            unix_sockets: false,
        })
    }

    /// Trusts no address: where the only proxy is the one at a [Unix socket](super::UnixPeer).
    #[must_use]
    pub fn none() -> Self {
        Self {
            networks: Arc::default(),
            unix_sockets: false,
        }
    }

    /// Trusts the entry `unix:` of a list as well, and goes on to the entry on its left.
    ///
    /// nginx writes it into `X-Forwarded-For`, and into `Forwarded` if it is told to, for a client that
    /// came over a Unix socket: the proxy in front of nginx on the same machine. It counts as any other
    /// trusted hop, only while everything to its right is trusted. It is never the client, and nothing
    /// in a header that holds one address. Without this it is refused as malformed.
    ///
    /// Whoever may write to that socket says what stands to the left of the entry. Put it into a directory
    /// that only the outer proxy's user can enter.
    ///
    /// ```
    /// use callback_source::verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies};
    /// use http::HeaderMap;
    /// use std::net::IpAddr;
    ///
    /// let nginx: IpAddr = "10.0.0.7".parse()?;
    /// let proxies = TrustedProxies::new([nginx.into()])?.with_unix_sockets();
    /// let peer = ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies);
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert("x-forwarded-for", "192.0.2.66, 192.0.2.1, unix:".parse()?);
    /// assert_eq!(peer.client(nginx, &headers), Ok("192.0.2.1".parse::<IpAddr>()?));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_unix_sockets(mut self) -> Self {
        self.unix_sockets = true;
        self
    }

    /// Whether an address is one of a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.holds(address.to_canonical())
    }

    fn holds(&self, canonical: IpAddr) -> bool {
        self.networks.find(canonical).is_some()
    }
}

/// The client as a trusted proxy names it; the connection's peer where it is none. See the
/// [module docs](self) for the rules.
///
/// ```
/// use callback_source::verify::{ForwardedPeer, PeerIp, SocketAddrPeer, TrustedProxies};
/// use http::{Extensions, HeaderMap};
/// use std::net::{IpAddr, SocketAddr};
///
/// let proxies = TrustedProxies::new(["10.0.0.0/24".parse()?])?;
/// let peer = ForwardedPeer::x_forwarded_for(SocketAddrPeer, proxies);
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "192.0.2.66, 192.0.2.1".parse()?);
/// let mut extensions = Extensions::new();
///
/// extensions.insert("10.0.0.7:4711".parse::<SocketAddr>()?);
/// assert_eq!(peer.peer_ip(&headers, &extensions), Ok("192.0.2.1".parse::<IpAddr>()?));
///
/// extensions.insert("192.0.2.99:4711".parse::<SocketAddr>()?);
/// assert_eq!(peer.peer_ip(&headers, &extensions), Ok("192.0.2.99".parse::<IpAddr>()?));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ForwardedPeer<P> {
    connection: P,
    proxies: TrustedProxies,
    source: ForwardedSource,
}

/// Where a trusted proxy names the client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ForwardedSource {
    XForwardedFor,
    Forwarded,
    Single(HeaderName),
}

impl<P> ForwardedPeer<P> {
    /// Reads `X-Forwarded-For`. `connection` says who the peer of the connection is.
    pub fn x_forwarded_for(connection: P, proxies: TrustedProxies) -> Self {
        Self {
            connection,
            proxies,
            source: ForwardedSource::XForwardedFor,
        }
    }

    /// Reads `Forwarded` (RFC 7239), of which only `for` counts.
    pub fn forwarded(connection: P, proxies: TrustedProxies) -> Self {
        Self {
            connection,
            proxies,
            source: ForwardedSource::Forwarded,
        }
    }

    /// Reads a header that holds one address: `X-Real-IP`, `CF-Connecting-IP`, `True-Client-IP`,
    /// `Fly-Client-IP`, …
    ///
    /// The names of the two list headers mean those: they are read as
    /// [`x_forwarded_for`](Self::x_forwarded_for) and [`forwarded`](Self::forwarded) do.
    pub fn header(connection: P, proxies: TrustedProxies, name: HeaderName) -> Self {
        let source = if name == X_FORWARDED_FOR {
            ForwardedSource::XForwardedFor
        } else if name == header::FORWARDED {
            ForwardedSource::Forwarded
        } else {
            ForwardedSource::Single(name)
        };
        Self {
            connection,
            proxies,
            source,
        }
    }

    /// The client of a connection from `peer` with these headers.
    ///
    /// # Errors
    ///
    /// Why a trusted proxy's word cannot be taken.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Rejection> {
        self.walk(peer, headers, |_, _| {})
    }

    /// Like [`client`](Self::client), and tells each hop on the way, nearest first, with whether it is
    /// trusted; the first is the peer itself. A hop at a Unix socket has no address and is not told.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub fn walk(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        mut hop: impl FnMut(IpAddr, bool),
    ) -> Result<IpAddr, Rejection> {
        let peer = peer.to_canonical();
        let trusted = self.proxies.holds(peer);
        hop(peer, trusted);
        if !trusted {
            return Ok(peer);
        }
        self.walk_header(headers, hop)
            .map_err(|kind| Rejection::new(kind, Some(peer)))
    }

    fn walk_header(
        &self,
        headers: &HeaderMap,
        mut hop: impl FnMut(IpAddr, bool),
    ) -> Result<IpAddr, RejectionKind> {
        let is_trusted = |address| {
            let trusted = self.proxies.holds(address);
            hop(address, trusted);
            trusted
        };
        match &self.source {
            ForwardedSource::XForwardedFor => walk_list(
                headers.get_all(&X_FORWARDED_FOR),
                PlainEntries,
                self.proxies.unix_sockets,
                is_trusted,
            ),
            ForwardedSource::Forwarded => walk_list(
                headers.get_all(header::FORWARDED),
                ForwardedEntries,
                self.proxies.unix_sockets,
                is_trusted,
            ),
            ForwardedSource::Single(name) => single(headers.get_all(name), is_trusted),
        }
    }
}

impl ForwardedPeer<UnixPeer> {
    /// Like [`walk`](Self::walk) for a connection to a Unix socket: the peer is a trusted proxy without
    /// an address, so the first hop is what it says.
    ///
    /// # Errors
    ///
    /// Why the proxy's word cannot be taken.
    pub fn walk_behind_socket(
        &self,
        headers: &HeaderMap,
        hop: impl FnMut(IpAddr, bool),
    ) -> Result<IpAddr, Rejection> {
        self.walk_header(headers, hop)
            .map_err(|kind| Rejection::new(kind, None))
    }
}

impl<P: PeerIp> PeerIp for ForwardedPeer<P> {
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        self.client(self.connection.peer_ip(headers, extensions)?, headers)
    }
}

/// A request that did not come over a Unix socket has no peer here: it is refused.
impl PeerIp for ForwardedPeer<UnixPeer> {
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        if !UnixPeer::is_peer(extensions) {
            return Err(Rejection::new(RejectionKind::NoPeer, None));
        }
        self.walk_behind_socket(headers, |_, _| {})
    }
}

/// How a line of a list header falls into entries.
trait Entries {
    /// Takes the last entry off a line: what stands before it, and its address.
    fn last<'a>(&self, line: &'a [u8]) -> (Option<&'a [u8]>, Option<IpAddr>);

    /// Whether an entry is a hop at a Unix socket.
    fn is_unix_socket(&self, entry: &[u8]) -> bool;
}

fn walk_list<'a>(
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

fn single<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    mut is_trusted: impl FnMut(IpAddr) -> bool,
) -> Result<IpAddr, RejectionKind> {
    let mut lines = lines.into_iter();
    let line = lines.next().ok_or(RejectionKind::ForwardedMissing)?;
    if lines.next().is_some() {
        return Err(RejectionKind::ForwardedDuplicate);
    }
    let address = address(trim(line.as_bytes())).ok_or(RejectionKind::ForwardedMalformed)?;
    if is_trusted(address) {
        return Err(RejectionKind::ForwardedAllTrusted);
    }
    Ok(address)
}

/// `X-Forwarded-For`: addresses between commas.
struct PlainEntries;

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

/// `Forwarded`: elements between commas outside of quotes, of pairs between semicolons.
struct ForwardedEntries;

impl Entries for ForwardedEntries {
    // From the right, so that a quote that the client left open cannot swallow what a proxy wrote
    // behind it.
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

/// A quoted string that is not opened or not closed.
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

/// The node of the one `for` of an element (RFC 7239 section 4).
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
            // An address needs no escapes, so that one with them is none.
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

/// Whether bytes can stand in a quoted string (RFC 9110 section 5.6.4): no bare quote, no open escape.
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

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_token_char =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token_char)
}

/// An address, with or without a port, which may be obfuscated (RFC 7239 section 6).
fn node(text: &[u8]) -> Option<IpAddr> {
    // No address has this byte in it, and the name of an obfuscated node begins with it.
    let Some(underscore) = text.iter().position(|byte| *byte == b'_') else {
        let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let is_longer = MAX_PORT_DIGITS < digits.count();
        return address(text).filter(|_| !is_longer);
    };
    let (name, port) = text.split_at(underscore);
    let name = name.strip_suffix(b":")?;
    let is_port_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let is_port = 1 < port.len() && port.iter().all(is_port_byte);
    // A port of its own before it is one too many, and an IPv6 address stands in brackets.
    let is_name = !name.contains(&b':') || (name.starts_with(b"[") && name.ends_with(b"]"));
    (is_port && is_name).then(|| address(name))?
}

/// An address, with or without a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    // No entry is longer; this also bounds the work.
    if text.len() > MAX_ENTRY {
        return None;
    }
    // Most entries; the standard library takes the same, and three times as long.
    if text.len() <= MAX_QUAD
        && let Some(address) = quad(text)
    {
        return usable_client(IpAddr::V4(address));
    }
    let text = str::from_utf8(text).ok()?;
    let address = match text.strip_prefix('[') {
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
    };
    usable_client(address)
}

/// Four numbers without leading zeros, and nothing else.
fn quad(text: &[u8]) -> Option<Ipv4Addr> {
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

/// The canonical form of an address that a client can have.
pub(super) fn usable_client(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_client = !address.is_unspecified() && !address.is_multicast() && !is_broadcast;
    is_client.then_some(address)
}

fn is_port(text: &str) -> bool {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Takes off spaces and tabs, and nothing else.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What nginx writes for a client at a Unix socket.
const UNIX_SOCKET: &[u8] = b"unix:";

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Entries that are present do not count, entries that are walked over do.
const MAX_HOPS: usize = 32;

/// RFC 7239 section 6.
const MAX_PORT_DIGITS: usize = 5;

/// `255.255.255.255`
const MAX_QUAD: usize = 15;

/// `[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535`, and some.
const MAX_ENTRY: usize = 64;

#[cfg(test)]
mod tests;
