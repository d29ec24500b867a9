//! The check of each request's peer against an [`AllowList`](crate::AllowList).
//!
//! [`VerifySourceLayer`] admits a request when its peer is in the list, and otherwise refuses it
//! ([`rejecting`](VerifySourceLayer::rejecting)) or lets it through with a mark
//! ([`tagging`](VerifySourceLayer::tagging)):
//!
//! 1. The request headers `x-callback-source`, `x-callback-host` and `x-callback-reason` are removed, so
//!    that a client cannot send a tag. A byte that is not a letter or digit counts as `-`, since some upstreams
//!    fold them all: `x.callback.source` is removed too. Trailers of the request are part of the body, which
//!    the layer does not touch: the proxy in front of such an upstream must drop them.
//! 2. The [`PeerIp`] source says whose address counts. Headers such as `X-Forwarded-For` are read only by
//!    [`ForwardedPeer`], and only when the connection's peer is a trusted proxy.
//! 3. The list gives its [`Verdict`](crate::Verdict) without waiting. Only an unlisted peer may wait,
//!    for at most a second, for an on-demand refresh
//!    ([`verdict_after_refresh`](crate::AllowList::verdict_after_refresh)).
//! 4. Allowed: the [`Verdict`](crate::Verdict) is put into the request's extensions, and the inner service
//!    is called. Rejected: the inner service is not called, and
//!    [`RejectionResponse`](crate::RejectionResponse) makes the response: 403, 503 with `Retry-After`, 400 or
//!    500, never 2xx, and never with anything of the request in it. When tagging, the inner service is called
//!    in both cases, with the verdict in the extensions.
//!
//! Every request is judged, whatever its method, and also on a connection that was used before. The
//! body is not read; readiness and errors are those of the inner service, and a refused request keeps no
//! place of a concurrency limit inside. A refusal over HTTP/1 that leaves a body unread says
//! `Connection: close`.
//!
//! # Deployment caveat
//!
//! Behind a proxy the peer is the proxy. With [`ConnectInfoPeer`] every callback is then refused; do
//! not "fix" that by listing the proxy's address, which would admit everybody, but use
//! [`ForwardedPeer`].
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
    tag::tag_headers,
    unix::{UnixConnection, UnixPeer},
};
