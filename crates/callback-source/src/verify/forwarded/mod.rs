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

mod entry;
mod walk;

#[cfg(feature = "proxy-protocol")]
pub(super) use entry::usable_client;

use std::{net::IpAddr, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::IpNet;

use self::walk::{ForwardedEntries, PlainEntries, single, walk_list};
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

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests;
