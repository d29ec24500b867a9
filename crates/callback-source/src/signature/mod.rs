//! The message checks: webhook signatures and tokens.
//!
//! Other customers of the provider's cloud may share a listed address, so the source check,
//! [`VerifySourceLayer`](crate::verify::VerifySourceLayer), is not sufficient by itself. The message check is the
//! second check. Its layer is [`VerifySignatureLayer`] for the Webhooks API, and [`VerifyTokenLayer`] for eCom,
//! Checkout and Express. Both layers either refuse a message that is not verified (`rejecting`), or hand it on with its
//! verdict (`tagging`).
//!
//! # Signatures
//!
//! 1. `x-ms-date`, `x-ms-content-sha256` and the signature must be present and well-formed, and none of their headers
//!    may be repeated. The signature is
//!    `HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=<base64>`, in `Authorization`. If that
//!    header is missing or has another scheme (for example a proxy's own credentials), the signature is read from
//!    `X-Vipps-Authorization`. If both headers contain signatures, the two headers must be equal.
//! 2. The date may differ from the clock by at most the window (default: five minutes). The provider signs each retry
//!    anew, so with a correct clock, no retry is refused because of its date.
//! 3. The [source](SecretSource) returns the secrets for the `webhook-id`, or for the id that
//!    [`select_by`](VerifySignatureLayer::select_by) reads. Each secret is tried, and no comparison ends early. The
//!    signature covers `{method}\n{path and query}\n{date};{host};{hash}`, with path and host byte for byte as they
//!    were sent, or as they are pinned. Without any secret, every request is refused.
//! 4. Only then is the body read, up to a limit of bytes and of time. The body must have the signed hash. The body is
//!    handed on byte for byte, without trailers.
//! 5. With a [`ReplayGuard`], a repetition of the same request is refused. A delivery is marked as accepted right
//!    before the inner service is called. The mark is withdrawn if, for example, that service fails, or a layer or
//!    extractor of this crate further inside refuses the delivery.
//!
//! A verified request has [`MessageVerdict::Allow`](crate::MessageVerdict::Allow) in its extensions, and the inner
//! service is called. Otherwise, in a rejecting layer, [`RejectionResponse`](crate::RejectionResponse) builds the
//! response: 401, 409, 413, 408, 400, or 503 with `Retry-After` if the secrets or a required replay store are not
//! available. By default, the status is never 2xx. The response never repeats any part of the request. A tagging layer
//! also calls the inner service for a message that is not verified. It refuses a request only if it cannot hand on the
//! whole body.
//!
//! # Tokens
//!
//! `Authorization` must be present exactly once and equal one of the tokens, verbatim. The body is not read.
//!
//! # Both checks
//!
//! With two rejecting layers, a request must pass both checks.
//! [`RequireVerifiedLayer`](crate::require::RequireVerifiedLayer) joins the verdicts of two tagging layers by a
//! [`Policy`](crate::Policy), whose default is [`Both`](crate::Policy::Both). If two message layers are stacked, both
//! must verify the message.
//!
//! # Deployment caveat
//!
//! Host and path must be those of the URL that was registered. A proxy must preserve them, or they must be pinned with
//! [`host`](VerifySignatureLayer::host) and [`path`](VerifySignatureLayer::path). Outer layers must not change the
//! body, for example by decompressing it. Put the source layer outermost. If it is a rejecting layer, unlisted peers
//! cause no lookup of secrets. The clock may be wrong by at most a few minutes.
//!
//! # Events and metrics
//!
//! A message that is not verified causes an event at WARN with the reason, and with the cause if the source of secrets
//! or a required replay store failed. Each layer limits the rate of these events: one event per peer and minute, and
//! ten per second in all. The peer is known only if a source layer is outside. Otherwise, all these events share the
//! limit of one peer. A verified message causes an event at DEBUG. With the feature `metrics`, the counter
//! `callback_source_proofs_total` counts verdicts, with the label `verdict`. Secrets, tokens and signatures are never
//! printed.
//!
//! # Examples
//!
//! ```
//! use std::{convert::Infallible, net::{IpAddr, SocketAddr}, time::SystemTime};
//! use bytes::Bytes;
//! use callback_source::{AllowList, Policy, VerifiedCallback};
//! use callback_source::require::RequireVerifiedLayer;
//! use callback_source::signature::{Secret, VerifySignatureLayer, webhook};
//! use callback_source::verify::{SocketAddrPeer, VerifySourceLayer};
//! use http::{Request, Response, StatusCode, Uri};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let merchant = service_fn(async |request: Request<Full<Bytes>>| {
//!     let callback = request.extensions().get::<VerifiedCallback>().expect("both checks admit it");
//!     assert!(callback.allowed().is_some() && callback.message().is_some());
//!     Ok::<_, Infallible>(Response::new(request.into_body()))
//! });
//! let secret = Secret::new("the secret of the registration")?;
//! let list = AllowList::fixed(["192.0.2.1".parse::<IpAddr>()?]);
//! let service = RequireVerifiedLayer::new(Policy::Both).layer(merchant);
//! let service = VerifySignatureLayer::tagging(secret.clone()).layer(service);
//! let service = VerifySourceLayer::tagging(list, SocketAddrPeer).layer(service);
//!
//! let url = Uri::from_static("https://shop.example/webhooks");
//! let delivery = |peer: &str, body: &'static str| -> Result<_, Box<dyn std::error::Error>> {
//!     let mut request = Request::post("/webhooks").body(Full::from(body))?;
//!     *request.headers_mut() = webhook::sign(&secret, &url, b"paid", SystemTime::now())?;
//!     request.extensions_mut().insert(peer.parse::<SocketAddr>()?);
//!     Ok(request)
//! };
//! let response = service.clone().oneshot(delivery("192.0.2.1:4711", "paid")?).await?;
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "paid");
//! let response = service.clone().oneshot(delivery("192.0.2.1:4711", "forged")?).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! let response = service.oneshot(delivery("192.0.2.2:4711", "paid")?).await?;
//! assert_eq!(response.status(), StatusCode::FORBIDDEN);
//! # Ok(())
//! # }
//! ```

mod secret;
mod source;

pub mod webhook;

mod body;
#[cfg(feature = "axum")]
mod extract;
mod layer;
pub(crate) mod log;
mod message_check;
#[cfg(feature = "redis")]
mod redis_store;
mod replay;
mod replay_store;
mod signature_check;
mod token_check;

#[cfg(feature = "redis")]
pub use redis_store::{RedisReplayStore, RedisUrlError};
pub use {
    layer::{IntoBody, SameBody, VerifySignature, VerifySignatureLayer},
    replay::ReplayGuard,
    replay_store::{ReplayMark, ReplayStore, ReplayStoreError},
    secret::{Secret, SecretError, Secrets, Token},
    signature_check::HandOn,
    source::{CachedSecrets, SecretSource, SecretUnavailable},
    token_check::{VerifyToken, VerifyTokenLayer},
};

#[cfg(test)]
mod tests;
