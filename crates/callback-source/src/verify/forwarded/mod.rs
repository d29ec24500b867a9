//! The client behind proxies, and the proxies that are trusted to name it.

mod entry;
mod walk;

#[cfg(feature = "proxy-protocol")]
pub(super) use entry::usable_client;

use std::{net::IpAddr, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::IpNet;

use self::{
    entry::{address, address_with_port},
    walk::{ForwardedEntries, PlainEntries, single, walk_list},
};
use super::{PeerIp, UnixPeer};
use crate::{NetworkError, Rejection, RejectionKind, set::networks::Networks};

/// Proxies whose forwarding headers are trusted.
///
/// Cloning only increments a reference count.
///
/// ```
/// use callback_source::verify::TrustedProxies;
///
/// let proxies = TrustedProxies::new(["10.0.0.0/24".parse()?])?;
/// assert!(proxies.contains("10.0.0.7".parse()?));
/// assert!(TrustedProxies::new(["0.0.0.0/0".parse()?]).is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    networks: Arc<Networks>,
    unix_sockets: bool,
}

impl TrustedProxies {
    /// Trusts the proxies in these networks. A single address is a network of one address.
    ///
    /// # Errors
    ///
    /// Returns an error for networks that cover a whole address family, such as `0.0.0.0/0`. With such networks, any
    /// client could choose its address.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworkError> {
        let networks: Vec<_> = networks.into_iter().collect();
        Networks::new(&networks).map(|networks| Self {
            networks: Arc::new(networks),
            unix_sockets: false,
        })
    }

    /// Trusts no address. This value is for services whose only proxy connects to a Unix socket. See
    /// [`UnixPeer`](super::UnixPeer) for an example.
    #[must_use]
    pub fn none() -> Self {
        Self {
            networks: Arc::default(),
            unix_sockets: false,
        }
    }

    /// Trusts the list entry `unix:` as well. The walk through the header then continues with the entry to the left of
    /// `unix:`.
    ///
    /// nginx writes `unix:` for a client that connects over a Unix socket, such as a proxy in front of nginx on the
    /// same machine. nginx writes this entry into `X-Forwarded-For`, and into `Forwarded` if so configured. Like any
    /// other hop, the entry is reached only if every entry to its right is trusted. It is never the client, and it is
    /// malformed in a single-value header. Without this option, it is malformed in a list, too.
    ///
    /// Any process that may write to that socket can choose the entries to the left of `unix:`. Put the socket into a
    /// directory that only the system accounts of nginx and the outer proxy can enter.
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

    /// Returns `true` for the address of a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_trusted(address.to_canonical())
    }

    fn is_trusted(&self, canonical: IpAddr) -> bool {
        self.networks.find(canonical).is_some()
    }
}

/// The client that a trusted proxy names, or else the connection's peer.
///
/// A `ForwardedPeer` reads the client from exactly one configured header:
///
/// 1. A peer that is not a [trusted proxy](TrustedProxies) is the client itself, and no header is read. This rule also
///    applies to loopback and private addresses.
/// 2. `X-Forwarded-For` and `Forwarded` (RFC 7239) are lists with one entry per hop. All lines of the header form one
///    list. The walk starts at the right end, where the nearest proxy has written, and passes over trusted hops. The
///    first entry on this walk that is not trusted is the client. Entries further left may be forged, and are ignored.
/// 3. A single-value header such as `X-Real-IP` names the client.
/// 4. The request is refused (400) if the header is [missing](RejectionKind::ForwardedMissing), if an entry on the walk
///    is [not an address](RejectionKind::ForwardedMalformed), if [every hop is
///    trusted](RejectionKind::ForwardedAllTrusted), if the walk is [longer than 32
///    hops](RejectionKind::ForwardedTooManyHops), or if a single-value header [appears
///    twice](RejectionKind::ForwardedDuplicate). In these cases, neither the leftmost entry nor the proxy is treated as
///    the client.
///
/// An entry is an address, with or without a port: `192.0.2.1`, `192.0.2.1:443`, `[2001:db8::1]`, `[2001:db8::1]:443`,
/// `2001:db8::1`. In `Forwarded` the port may be obfuscated (`"192.0.2.1:_gazonk"`). Names are not resolved. IPv6
/// zones, octal or shortened IPv4 addresses, empty elements, and unspecified, multicast and broadcast addresses are
/// malformed. The list entry `unix:` is a hop only if [this is enabled](TrustedProxies::with_unix_sockets), and is
/// never the client.
///
/// # Deployment caveat
///
/// The proxy must write the header that is configured. The proxy must replace a single-value header that the client
/// sent, or append its entry to a list header. Trust the proxy's own addresses, not the network that it is part of.
///
/// # Example
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

/// The header that names the client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ForwardedSource {
    XForwardedFor,
    Forwarded,
    Single(HeaderName),
}

impl<P> ForwardedPeer<P> {
    /// Reads the client from `X-Forwarded-For`. `connection` determines the peer of the connection. See the
    /// [type](Self) for an example.
    pub fn x_forwarded_for(connection: P, proxies: TrustedProxies) -> Self {
        Self {
            connection,
            proxies,
            source: ForwardedSource::XForwardedFor,
        }
    }

    /// Reads the client from the parameter `for` of `Forwarded` (RFC 7239).
    ///
    /// ```
    /// use callback_source::verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies};
    /// use http::HeaderMap;
    /// use std::net::IpAddr;
    ///
    /// let haproxy: IpAddr = "10.0.0.7".parse()?;
    /// let peer = ForwardedPeer::forwarded(SocketAddrPeer, TrustedProxies::new([haproxy.into()])?);
    ///
    /// // The sender wrote the first line, and HAProxy the second one. The other list header is not read.
    /// let mut headers = HeaderMap::new();
    /// headers.append("forwarded", "for=192.0.2.66".parse()?);
    /// headers.append("forwarded", r#"proto=https;for="[2001:db8::1]:4711""#.parse()?);
    /// headers.insert("x-forwarded-for", "192.0.2.66".parse()?);
    /// assert_eq!(peer.client(haproxy, &headers), Ok("2001:db8::1".parse::<IpAddr>()?));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn forwarded(connection: P, proxies: TrustedProxies) -> Self {
        Self {
            connection,
            proxies,
            source: ForwardedSource::Forwarded,
        }
    }

    /// Reads the client from a single-value header: `X-Real-IP`, `CF-Connecting-IP`, `True-Client-IP`, `Fly-Client-IP`,
    /// …
    ///
    /// The value of `CloudFront-Viewer-Address` always ends with a port, even after an IPv6 address without brackets.
    ///
    /// With the name `X-Forwarded-For` or `Forwarded`, the header is read as a list, as with
    /// [`x_forwarded_for`](Self::x_forwarded_for) and [`forwarded`](Self::forwarded).
    ///
    /// ```
    /// use callback_source::{Rejection, RejectionKind};
    /// use callback_source::verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies};
    /// use http::{HeaderMap, HeaderName};
    /// use std::net::IpAddr;
    ///
    /// let nginx: IpAddr = "10.0.0.7".parse()?;
    /// let proxies = TrustedProxies::new([nginx.into()])?;
    /// let x_real_ip = HeaderName::from_static("x-real-ip");
    /// let peer = ForwardedPeer::header(SocketAddrPeer, proxies, x_real_ip.clone());
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.append(&x_real_ip, "192.0.2.1".parse()?);
    /// assert_eq!(peer.client(nginx, &headers), Ok("192.0.2.1".parse::<IpAddr>()?));
    ///
    /// // A proxy that adds the header, and does not replace that of the sender.
    /// headers.append(&x_real_ip, "192.0.2.66".parse()?);
    /// let refused = peer.client(nginx, &headers).map_err(|rejection| rejection.kind());
    /// assert_eq!(refused, Err(RejectionKind::ForwardedDuplicate));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
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

    /// Returns the client of a connection from `peer` with these headers.
    ///
    /// # Errors
    ///
    /// Returns the reason why a trusted proxy's header does not name the client. See rule 4 of [`ForwardedPeer`].
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Rejection> {
        self.walk(peer, headers, |_, _| {})
    }

    /// Like [`client`](Self::client), but also calls `hop` for each hop on the walk, nearest first. The arguments are
    /// the address of the hop, and `true` if the hop is trusted. The first hop is the peer itself. A hop at a Unix
    /// socket has no address and is left out.
    ///
    /// The hops show where a configuration is wrong:
    ///
    /// ```
    /// use callback_source::verify::{ForwardedPeer, SocketAddrPeer, TrustedProxies};
    /// use http::HeaderMap;
    /// use std::net::IpAddr;
    ///
    /// // The load balancer in front of nginx is not trusted, so it is taken for the client.
    /// let nginx: IpAddr = "10.0.0.7".parse()?;
    /// let peer = ForwardedPeer::x_forwarded_for(SocketAddrPeer, TrustedProxies::new([nginx.into()])?);
    /// let mut headers = HeaderMap::new();
    /// headers.insert("x-forwarded-for", "192.0.2.1, 10.0.1.2".parse()?);
    ///
    /// let mut hops = Vec::new();
    /// let client = peer.walk(nginx, &headers, |hop, trusted| hops.push((hop.to_string(), trusted)));
    /// assert_eq!(hops, [("10.0.0.7".to_owned(), true), ("10.0.1.2".to_owned(), false)]);
    /// assert_eq!(client, Ok("10.0.1.2".parse::<IpAddr>()?));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error in the same cases as [`client`](Self::client).
    pub fn walk(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        mut hop: impl FnMut(IpAddr, bool),
    ) -> Result<IpAddr, Rejection> {
        let peer = peer.to_canonical();
        let trusted = self.proxies.is_trusted(peer);
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
            let trusted = self.proxies.is_trusted(address);
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
            ForwardedSource::Single(name) if *name == CLOUDFRONT => {
                single(headers.get_all(name), address_with_port, is_trusted)
            }
            ForwardedSource::Single(name) => single(headers.get_all(name), address, is_trusted),
        }
    }
}

impl ForwardedPeer<UnixPeer> {
    /// Like [`walk`](Self::walk), for a connection to a Unix socket. The peer is a trusted proxy without an address,
    /// so the first hop is the last entry of the proxy's header.
    ///
    /// # Errors
    ///
    /// Returns the reason why the proxy's header does not name the client. See rule 4 of [`ForwardedPeer`].
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

/// Rejects a request as [`NoPeer`](RejectionKind::NoPeer) if it did not arrive over a Unix socket.
impl PeerIp for ForwardedPeer<UnixPeer> {
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        if !UnixPeer::is_peer(extensions) {
            return Err(Rejection::new(RejectionKind::NoPeer, None));
        }
        self.walk_behind_socket(headers, |_, _| {})
    }
}

/// Name of a header whose value always ends with a port, and whose IPv6 addresses have no brackets.
static CLOUDFRONT: HeaderName = HeaderName::from_static("cloudfront-viewer-address");

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests;
