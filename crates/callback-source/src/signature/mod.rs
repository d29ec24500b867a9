//! The callback's own proof: its signature, or the merchant's token, and both locks together.
//!
//! A listed address can be shared with strangers; [`VerifySourceLayer`](crate::verify::VerifySourceLayer)
//! is one lock. The message's own proof is the other: [`VerifySignatureLayer`] for the Webhooks API,
//! [`VerifyTokenLayer`] for eCom, Checkout and Express. Both refuse what is not proven
//! (`rejecting`), or let it through with a mark (`tagging`).
//!
//! # Signatures
//!
//! 1. `x-ms-date`, `x-ms-content-sha256` and the signature must each be there once, in their form:
//!    `HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature=<base64>`, in
//!    `Authorization`, or in `X-Vipps-Authorization` where the former is missing or of another scheme (a
//!    proxy's own). If both are signatures, they must be the same.
//! 2. The date is at most five minutes from now, before or after. A retry is signed anew, so that this
//!    loses none.
//! 3. The [source](SecretSource) gives the secrets for the `webhook-id`, or by what
//!    [`select_by`](VerifySignatureLayer::select_by) says. Each is tried, and no comparison ends early.
//!    The signature is over `{method}\n{path and query}\n{date};{host};{hash}`, path and host byte for
//!    byte as they were sent, or as they are pinned. None at all refuses everything.
//! 4. Only then is the body read, up to a limit of bytes and of time, and must have the hash.
//!    It is handed on byte for byte; trailers are dropped.
//! 5. With a [`ReplayGuard`] the very same request is refused when it comes again. A delivery counts as
//!    accepted when the inner service is called; it does not if that fails, or a layer or extractor of this
//!    crate further inside refuses it.
//!
//! Right: [`MessageVerdict::Allow`](crate::MessageVerdict::Allow) is put into the request's extensions, and the inner service is
//! called. Otherwise [`RejectionResponse`](crate::RejectionResponse) makes the response: 401, 409,
//! 413, 408, 400, or 503 with `Retry-After` where the secrets cannot be had; never 2xx, and never with
//! anything of the request in it. When tagging, the inner service is called in both cases; only a body
//! that cannot be handed on is still refused.
//!
//! # Tokens
//!
//! `Authorization` must be there once and be one of the tokens, verbatim. The body is not read.
//!
//! # Both locks
//!
//! Two rejecting layers ask for both. [`RequireVerifiedLayer`](crate::require::RequireVerifiedLayer) joins the verdicts of two tagging layers by
//! a [`Policy`](crate::Policy), whose default is [`Both`](crate::Policy::Both); [`VerifiedCallback`](crate::VerifiedCallback) tells the handler. One message layer
//! counts for a route: where two are stacked, both must be right.
//!
//! # Deployment caveat
//!
//! Host and path are those of the URL that was registered. A proxy must keep them, or they must be
//! pinned with [`host`](VerifySignatureLayer::host) and [`path`](VerifySignatureLayer::path). Layers outside
//! must not change the body (decompress it, say). Put the source layer outermost: strangers then
//! cost no look-up of secrets. The clock must be right to minutes.
//!
//! # What the operator sees
//!
//! Of a message that is not proven an event at WARN, limited like those of the source (by peer, if a
//! source layer stands outside), with the reason, and the cause where a source of secrets failed; of
//! one that is proven an event at DEBUG. With the feature `metrics` the counter
//! `callback_source_proofs_total` by `verdict`. No secret, token or signature is ever printed.
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
//!     let proof = request.extensions().get::<VerifiedCallback>().expect("only what is proven comes here");
//!     assert!(proof.allowed().is_some() && proof.message().is_some());
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
mod replay;
mod signature_check;
mod token_check;

pub use {
    layer::{IntoBody, SameBody, VerifySignature, VerifySignatureLayer},
    replay::ReplayGuard,
    secret::{Secret, SecretError, Secrets, Token},
    signature_check::HandOn,
    source::{CachedSecrets, SecretSource, SecretUnavailable},
    token_check::{VerifyToken, VerifyTokenLayer},
};

#[cfg(test)]
mod tests;
