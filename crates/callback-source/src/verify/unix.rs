//! The proxy at the other end of a Unix socket.

use http::Extensions;

/// The peer of a Unix socket. It is always treated as a trusted proxy.
///
/// It has no address, so it can be used only inside a [`ForwardedPeer`](super::ForwardedPeer), which then reads the
/// configured header of every request. The request's extensions must contain a [`UnixConnection`]. axum's
/// `into_make_service_with_connect_info::<UnixConnection>()` inserts it (feature `unix-socket`). Other requests are
/// rejected with [`NoPeer`](crate::RejectionKind::NoPeer), so that the same service admits no request from a TCP
/// listener.
///
/// ```
/// use callback_source::verify::{ForwardedPeer, PeerIp, TrustedProxies, UnixConnection, UnixPeer};
/// use http::{Extensions, HeaderMap};
/// use std::net::IpAddr;
///
/// let peer = ForwardedPeer::x_forwarded_for(UnixPeer, TrustedProxies::none());
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "192.0.2.66, 192.0.2.1".parse()?);
///
/// let mut extensions = Extensions::new();
/// assert!(peer.peer_ip(&headers, &extensions).is_err());
/// extensions.insert(UnixConnection::new());
/// assert_eq!(peer.peer_ip(&headers, &extensions), Ok("192.0.2.1".parse::<IpAddr>()?));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// Example with axum:
///
/// ```no_run
/// # #[cfg(all(unix, feature = "unix-socket"))]
/// # async fn example(allow: callback_source::AllowList) -> std::io::Result<()> {
/// use axum::{Router, routing::post};
/// use callback_source::verify::{
///     ForwardedPeer, TrustedProxies, UnixConnection, UnixPeer, VerifySourceLayer,
/// };
///
/// # async fn callback() {}
/// let peer = ForwardedPeer::x_forwarded_for(UnixPeer, TrustedProxies::none());
/// let app = Router::new()
///     .route("/callback", post(callback))
///     .layer(VerifySourceLayer::rejecting(allow, peer));
/// let listener = tokio::net::UnixListener::bind("/run/merchant/callbacks.sock")?;
/// axum::serve(listener, app.into_make_service_with_connect_info::<UnixConnection>()).await
/// # }
/// ```
///
/// # Deployment caveat
///
/// Any process that may write to the socket can name any client. Put the socket into a directory that only the system
/// accounts of the service and the proxy can enter.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnixPeer;

impl UnixPeer {
    pub(super) fn is_peer(extensions: &Extensions) -> bool {
        #[cfg(feature = "axum")]
        {
            use axum::extract::ConnectInfo;

            if extensions.get::<ConnectInfo<UnixConnection>>().is_some() {
                return true;
            }
        }
        extensions.get::<UnixConnection>().is_some()
    }
}

/// Mark, in the extensions of a request, that the request arrived over a Unix socket. See [`UnixPeer`] for an example.
#[derive(Clone, Copy, Debug)]
pub struct UnixConnection(());

impl UnixConnection {
    /// Creates the mark. Tests, and servers without axum, put it into the extensions of each request that arrives over
    /// a Unix socket.
    #[expect(
        clippy::new_without_default,
        reason = "it is a statement about a connection, not an empty value"
    )]
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

#[cfg(all(unix, feature = "unix-socket"))]
impl
    axum::extract::connect_info::Connected<
        axum::serve::IncomingStream<'_, tokio::net::UnixListener>,
    > for UnixConnection
{
    fn connect_info(_: axum::serve::IncomingStream<'_, tokio::net::UnixListener>) -> Self {
        Self::new()
    }
}
