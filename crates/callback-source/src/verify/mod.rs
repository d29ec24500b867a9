//! The check of each request's peer against an [`AllowList`](crate::AllowList).
//!
//! [`VerifySourceLayer`] admits a request when its peer is in the list, and otherwise refuses it
//! ([`rejecting`](VerifySourceLayer::rejecting)) or hands it on with a tag
//! ([`tagging`](VerifySourceLayer::tagging)):
//!
//! 1. The request headers `x-callback-source`, `x-callback-host` and `x-callback-reason` are removed, so that a client
//!    cannot send a tag. In the comparison of names, any byte that is not a letter or digit is treated as `-`, since
//!    some upstreams fold all such bytes. For example, `x.callback.source` is removed, too. The layer does not read the
//!    body, so it does not remove tags from the trailers. If an upstream reads trailers, the proxy in front of that
//!    upstream must drop the trailers.
//! 2. A [`PeerIp`] determines the client's address. In this module, only [`ForwardedPeer`] reads headers such as
//!    `X-Forwarded-For`, and only when the connection's peer is a trusted proxy.
//! 3. The list returns its [`Verdict`](crate::Verdict) without waiting. Only an unlisted peer may have to wait for an
//!    on-demand refresh, by default for at most a second
//!    ([`verdict_after_refresh`](crate::AllowList::verdict_after_refresh)).
//! 4. Allowed: the [`Verdict`](crate::Verdict) is put into the request's extensions, and the inner service is called.
//!    Rejected: the inner service is not called, and [`RejectionResponse`](crate::RejectionResponse) builds the
//!    response. By default, its status is 403, 503 with `Retry-After`, 400 or 500, but never 2xx. The response never
//!    repeats any part of the request. A tagging layer calls the inner service in both cases, with the verdict in the
//!    extensions.
//!
//! The layer judges every request, whatever its method, including later requests of a connection. It does not read the
//! body. Readiness and errors are those of the inner service. A refused request uses no permit of an inner concurrency
//! limit. The response to a refused request has the [`Rejection`](crate::Rejection) in its extensions. Over HTTP/1,
//! that response has the header `Connection: close` if the request's body was left unread.
//!
//! # In an axum service
//!
//! The feature `axum` provides `CallbackRoutes`, which combines the routes with their checks. If you put the plain
//! layer on a `Router`, note the following:
//!
//! - A route that is added after `.layer(…)` is outside of the layer, and open to everyone.
//! - `.layer(…)` also wraps the router's 404. A `merge` copies that 404 into the app. Unlisted peers then get 403 on
//!   every unknown path of the app. Use `route_layer`, or `nest` the router.
//! - Put the routes of health probes outside of the layer. The first refused `GET` or `HEAD` request from the service's
//!   own machine or network is logged at ERROR.
//! - As a second safeguard, let the handler extract `Allowed`. If the route is outside of the layer, every request then
//!   gets 500, and the cause is logged once at ERROR.
//!
//! # Deployment caveat
//!
//! Behind an HTTP proxy, the connection's peer is the proxy, and with [`ConnectInfoPeer`] every callback is refused.
//! Use [`ForwardedPeer`] there. Listing the proxy's address instead would admit every client of the proxy.
//!
//! # Examples
//!
//! ```
//! use std::{convert::Infallible, net::{IpAddr, SocketAddr}};
//! use callback_source::{AllowList, Verdict};
//! use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
//! use http::{Request, Response, StatusCode};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Infallible> {
//! let merchant = service_fn(async |request: Request<()>| {
//!     let allowed = request.extensions().get::<Verdict>().and_then(Verdict::allowed);
//!     let allowed = allowed.expect("only callbacks come here");
//!     Ok::<_, Infallible>(Response::new(format!("hello, {}", allowed.peer())))
//! });
//! let list = AllowList::fixed(["192.0.2.1".parse::<IpAddr>().unwrap()]);
//! let service = VerifySourceLayer::rejecting(list, SocketAddrPeer).layer(merchant);
//!
//! let callback = |peer: &str| {
//!     let mut request = Request::new(());
//!     request.extensions_mut().insert(peer.parse::<SocketAddr>().unwrap());
//!     request
//! };
//! let response = service.clone().oneshot(callback("192.0.2.1:4711")).await?;
//! assert_eq!(response.into_body(), "hello, 192.0.2.1");
//! let response = service.oneshot(callback("192.0.2.2:4711")).await?;
//! assert_eq!(response.status(), StatusCode::FORBIDDEN);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "axum")]
mod extract;
mod forwarded;
mod log;
mod peer;
#[cfg(feature = "proxy-protocol")]
pub mod proxy_protocol;
mod source_check;
mod tag;
mod unix;

#[cfg(feature = "axum")]
pub use {extract::NotVerified, peer::ConnectInfoPeer};
pub use {
    forwarded::{ForwardedPeer, TrustedProxies},
    peer::{PeerIp, SocketAddrPeer},
    source_check::{VerifySource, VerifySourceLayer},
    tag::{TAG_HEADERS, is_tag_header, tag_headers},
    unix::{UnixConnection, UnixPeer},
};
