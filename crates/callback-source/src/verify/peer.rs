//! Sources of the address that the source check judges.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap};

use crate::{Rejection, RejectionKind};

/// Source of the address that the source check judges.
///
/// The deployer must choose a source, since no default is safe. A closure can be a source, too. If the closure returns
/// `None`, the request is rejected as [`RejectionKind::NoPeer`]:
///
/// ```
/// use std::net::IpAddr;
/// use callback_source::{AllowList, verify::VerifySourceLayer};
/// use http::{Extensions, HeaderMap};
///
/// #[derive(Clone)]
/// struct Connection { peer: IpAddr }
///
/// let peer = |_: &HeaderMap, extensions: &Extensions| {
///     extensions.get::<Connection>().map(|connection| connection.peer)
/// };
/// let layer = VerifySourceLayer::rejecting(AllowList::fixed([]), peer);
/// ```
///
/// Any client can send any header. A source must read headers only if the connection's own peer is a trusted proxy, and
/// must use the entry that this proxy wrote. [`ForwardedPeer`](super::ForwardedPeer) meets both conditions.
pub trait PeerIp {
    /// Returns the client's address.
    ///
    /// # Errors
    ///
    /// Returns the reason why the client's address is not known. The request is then refused, or tagged.
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection>;
}

impl<F> PeerIp for F
where
    F: Fn(&HeaderMap, &Extensions) -> Option<IpAddr>,
{
    fn peer_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        self(headers, extensions).ok_or_else(no_peer)
    }
}

/// The peer of the TCP connection, from axum's `into_make_service_with_connect_info::<SocketAddr>()`.
///
/// It reads the `ConnectInfo` of axum 0.8. For another version, pass a closure that reads that version's
/// `ConnectInfo`.
///
/// If the `ConnectInfo` is missing, axum's `MockConnectInfo` is used, which tests can set:
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use axum::extract::connect_info::MockConnectInfo;
/// use callback_source::verify::{ConnectInfoPeer, PeerIp};
/// use http::{Extensions, HeaderMap};
///
/// let mut extensions = Extensions::new();
/// extensions.insert(MockConnectInfo("192.0.2.1:4711".parse::<SocketAddr>()?));
/// let peer = ConnectInfoPeer.peer_ip(&HeaderMap::new(), &extensions);
/// assert_eq!(peer, Ok("192.0.2.1".parse::<IpAddr>()?));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "axum")]
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectInfoPeer;

#[cfg(feature = "axum")]
impl PeerIp for ConnectInfoPeer {
    fn peer_ip(&self, _: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

        if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
            return Ok(peer.ip());
        }
        match extensions.get::<MockConnectInfo<SocketAddr>>() {
            Some(MockConnectInfo(peer)) => Ok(peer.ip()),
            None => Err(no_peer()),
        }
    }
}

/// The peer of the connection, from a plain [`SocketAddr`] in the request's extensions, for servers without axum.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use callback_source::verify::{PeerIp, SocketAddrPeer};
/// use http::{Extensions, HeaderMap};
///
/// let mut extensions = Extensions::new();
/// extensions.insert("192.0.2.1:4711".parse::<SocketAddr>()?);
/// let peer = SocketAddrPeer.peer_ip(&HeaderMap::new(), &extensions);
/// assert_eq!(peer, Ok("192.0.2.1".parse::<IpAddr>()?));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketAddrPeer;

impl PeerIp for SocketAddrPeer {
    fn peer_ip(&self, _: &HeaderMap, extensions: &Extensions) -> Result<IpAddr, Rejection> {
        extensions
            .get::<SocketAddr>()
            .map(SocketAddr::ip)
            .ok_or_else(no_peer)
    }
}

fn no_peer() -> Rejection {
    Rejection::new(RejectionKind::NoPeer, None)
}
