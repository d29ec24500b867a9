//! Whose address counts.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap};

use crate::{Rejection, RejectionKind};

/// Says whose address counts for a request.
///
/// There is no default: it is the deployer's decision. A closure will do; `None` counts as
/// [`RejectionKind::NoPeer`]:
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
/// Who reads headers must know that anybody can send them: use them only when the connection's own
/// peer is a proxy of yours, and then take the entry that this proxy wrote.
pub trait PeerIp {
    /// The address that counts.
    ///
    /// # Errors
    ///
    /// Why there is none. The request is then refused, or tagged, for this reason.
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

/// The peer of the TCP connection, as axum's `into_make_service_with_connect_info::<SocketAddr>()`
/// passes it on; axum's `MockConnectInfo` counts where it is missing, for tests.
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

/// The peer of the connection as a plain [`SocketAddr`] in the request's extensions, where a server
/// without axum puts it.
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
